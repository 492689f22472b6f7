//! When a generation ends: the stop ids of a data set under a protocol.

use super::{FirstTokenBan, ModelFacts, Protocol, StopSource};
use crate::datasets::DatasetInfo;
use crate::prompt::StopRule;
use crate::text::{ModelText, TextError};

impl Protocol {
    /// The stop rule of a data set for a model and its tokenizer.
    ///
    /// # Errors
    /// What the tokenizer says when it cannot encode a newline.
    pub fn stop_rule(
        &self,
        dataset: &DatasetInfo,
        model: &ModelFacts,
        text: &dyn ModelText,
    ) -> Result<StopRule, TextError> {
        let samsum = dataset.base == "samsum";
        let sources = if samsum { &self.stop.samsum } else { &self.stop.normal };
        let mut stop = stop_ids(sources, model, text)?;
        stop.max_new =
            dataset.max_new_tokens + self.more_new_tokens.get(dataset.suite.name()).copied().unwrap_or(0);
        stop.ban_stop_on_first = match self.stop.ban_first {
            FirstTokenBan::Samsum => samsum,
            FirstTokenBan::All => true,
            FirstTokenBan::Nowhere => false,
        };
        Ok(stop)
    }

    /// What ends an answer to a prompt of no data set, its length left open.
    ///
    /// # Errors
    /// What the tokenizer says when it cannot encode a newline.
    pub fn turn_stop_rule(&self, model: &ModelFacts, text: &dyn ModelText) -> Result<StopRule, TextError> {
        stop_ids(&self.stop.normal, model, text)
    }
}

/// The union of the ids of `sources`.
pub(crate) fn stop_ids(
    sources: &[StopSource],
    model: &ModelFacts,
    text: &dyn ModelText,
) -> Result<StopRule, TextError> {
    let mut ids = Vec::new();
    let mut newline = None;
    for source in sources {
        match source {
            StopSource::GenerationConfig => ids.extend(&model.eos_ids),
            StopSource::TokenizerEos => ids.extend(text.eos_id()),
            StopSource::LlamaTurnEnds => {
                ids.extend(["<|eot_id|>", "<|end_of_text|>"].iter().filter_map(|t| text.id_of(t)));
            }
            StopSource::Newline => {
                // The last id: SentencePiece puts a word-initial piece before it.
                newline = text.encode("\n", false)?.last().copied();
                ids.extend(newline);
            }
        }
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(StopRule { max_new: 0, stop_ids: ids, newline, ban_stop_on_first: false })
}
