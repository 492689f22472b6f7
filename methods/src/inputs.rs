//! Per-model inputs that some methods need: head scores, head rankings, layer scores.

use std::fmt;

/// Which input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InputKind {
    /// Retrieval scores of query heads (HeadKV-R).
    RetrievalScores,
    /// Retrieval-reasoning scores of query heads (HeadKV-R2).
    ReasoningScores,
    /// Semantic retrieval heads of each layer, best first (CompressKV).
    HeadRanking,
    /// Eviction error of each layer (CompressKV).
    LayerScores,
}

impl InputKind {
    /// The command that makes it.
    #[must_use]
    pub fn command(self) -> &'static str {
        match self {
            Self::RetrievalScores => "kvsweep calibrate heads --kind retrieval",
            Self::ReasoningScores => "kvsweep calibrate heads --kind reasoning",
            Self::HeadRanking => "kvsweep calibrate heads --kind semantic",
            Self::LayerScores => "kvsweep calibrate layers",
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
        })
    }
}

/// The inputs at hand for one model. The caller makes sure that they belong to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    /// Mean score of each query head, `[layer][head]`, for HeadKV-R.
    pub retrieval: Option<Vec<Vec<f64>>>,
    /// The same for HeadKV-R2.
    pub reasoning: Option<Vec<Vec<f64>>>,
    /// Query heads of each layer, best first, for CompressKV.
    pub ranking: Option<Vec<Vec<usize>>>,
    /// Share of each layer in the eviction error, for CompressKV.
    pub layers: Option<Vec<f64>>,
}

impl Inputs {
    /// Whether an input is at hand.
    #[must_use]
    pub fn has(&self, kind: InputKind) -> bool {
        match kind {
            InputKind::RetrievalScores => self.retrieval.is_some(),
            InputKind::ReasoningScores => self.reasoning.is_some(),
            InputKind::HeadRanking => self.ranking.is_some(),
            InputKind::LayerScores => self.layers.is_some(),
        }
    }
}
