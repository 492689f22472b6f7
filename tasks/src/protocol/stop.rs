//! When a generation ends: the stop ids of a data set under a protocol.

use super::{FirstTokenBan, ModelFacts, Protocol, StopSource};
use crate::datasets::DatasetInfo;
use crate::tokenizer::Tokenizer;

/// When to stop generating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopRule {
    /// At most so many new tokens.
    pub max_new: usize,
    /// Ids that end the generation, sorted; the newline's included where it is one of them.
    pub stop_ids: Vec<u32>,
    /// The newline id, where it ends the generation (samsum).
    pub newline: Option<u32>,
    /// The first generated token may not be a stop id (transformers' `min_length` of prompt + 1).
    pub ban_stop_on_first: bool,
}

impl Protocol {
    /// The stop rule of a data set for a model and its tokenizer.
    ///
    /// # Errors
    /// What the tokenizer says when it cannot encode a newline.
    pub fn stop_rule(
        &self,
        dataset: &DatasetInfo,
        model: &ModelFacts,
        tokenizer: &dyn Tokenizer,
    ) -> Result<StopRule, String> {
        let samsum = dataset.base == "samsum";
        let sources = if samsum { &self.stop.samsum } else { &self.stop.normal };
        let mut stop = stop_ids(sources, model, tokenizer)?;
        stop.max_new = dataset.max_new_tokens;
        stop.ban_stop_on_first = samsum || self.stop.ban_first == FirstTokenBan::All;
        Ok(stop)
    }
}

/// The union of the ids of `sources`.
pub(crate) fn stop_ids(
    sources: &[StopSource],
    model: &ModelFacts,
    tokenizer: &dyn Tokenizer,
) -> Result<StopRule, String> {
    let mut ids = Vec::new();
    let mut newline = None;
    for source in sources {
        match source {
            StopSource::GenerationConfig => ids.extend(&model.eos_ids),
            StopSource::TokenizerEos => ids.extend(tokenizer.eos_id()),
            StopSource::LlamaTurnEnds => {
                ids.extend(["<|eot_id|>", "<|end_of_text|>"].iter().filter_map(|t| tokenizer.id_of(t)));
            }
            StopSource::Newline => {
                // The last id: SentencePiece puts a word-initial piece before it.
                newline = tokenizer.encode("\n", false)?.last().copied();
                ids.extend(newline);
            }
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(StopRule { max_new: 0, stop_ids: ids, newline, ban_stop_on_first: false })
}
