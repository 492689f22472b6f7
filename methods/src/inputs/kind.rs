//! Which inputs there are, who makes them, and how their published files are called.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputKind {
    /// Retrieval scores of query heads (HeadKV-R).
    RetrievalScores,
    /// Retrieval-reasoning scores of query heads (HeadKV-R2).
    ReasoningScores,
    /// Semantic retrieval heads of each layer, best first (CompressKV).
    HeadRanking,
    /// Eviction error of each layer (CompressKV).
    LayerScores,
    /// Which KV heads need the whole cache (DuoAttention).
    FullHeads,
}

impl InputKind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::RetrievalScores, Self::ReasoningScores, Self::HeadRanking, Self::LayerScores, Self::FullHeads];

    /// The command that makes it; `None` for what its authors trained and published.
    #[must_use]
    pub fn command(self) -> Option<&'static str> {
        match self {
            Self::RetrievalScores => Some("kvsweep calibrate heads --kind retrieval"),
            Self::ReasoningScores => Some("kvsweep calibrate heads --kind reasoning"),
            Self::HeadRanking => Some("kvsweep calibrate heads --kind semantic"),
            Self::LayerScores => Some("kvsweep calibrate layers"),
            Self::FullHeads => None,
        }
    }

    /// How to get it, as a message goes on.
    #[must_use]
    pub fn remedy(self) -> String {
        match self.command() {
            Some(command) => format!("make them with `{command}`"),
            None => format!(
                "name their published file `MODEL{}` (mit-han-lab/duo-attention, attn_patterns)",
                self.published_suffix()
            ),
        }
    }

    /// How published files are called: the model's name and this.
    #[must_use]
    pub fn published_suffix(self) -> &'static str {
        match self {
            Self::RetrievalScores => "_retrieval_heads.json",
            Self::ReasoningScores => "_retrieval_reasoning_heads.json",
            Self::HeadRanking => "_head_idx.json",
            Self::LayerScores => "_layer_score.jsonl",
            Self::FullHeads => "_full_attention_heads.tsv",
        }
    }
}

impl fmt::Display for InputKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RetrievalScores => "retrieval head scores",
            Self::ReasoningScores => "retrieval-reasoning head scores",
            Self::HeadRanking => "a semantic head ranking",
            Self::LayerScores => "layer eviction errors",
            Self::FullHeads => "full-attention head scores",
        })
    }
}
