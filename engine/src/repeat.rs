//! How a model is asked to repeat its prompt, and what the rows of that second pass see.

use std::ops::Range;

/// Tokens of the part before that a later part's request ends with.
const HINT: usize = 8;

/// What asks a model to repeat its prompt, in tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepeatRequest {
    /// Tokens at the front of the prompt that are not repeated: the head of the chat template.
    pub head: usize,
    /// Asks for the prompt from its beginning.
    pub whole: Vec<u32>,
    /// Asks for a later part; the last tokens of the part before it follow.
    pub part: Vec<u32>,
    /// Ends either: the tail of the chat template.
    pub tail: Vec<u32>,
}

impl RepeatRequest {
    /// Each part of a prompt, and what is read to repeat it.
    pub(crate) fn parts(&self, ids: &[u32], chunk: usize) -> Vec<(Range<usize>, Vec<u32>)> {
        let starts = (self.head..ids.len()).step_by(chunk.max(1));
        starts
            .map(|start| {
                let part = start..(start + chunk.max(1)).min(ids.len());
                let request = match start == self.head {
                    true => self.whole.clone(),
                    false => [&self.part, &ids[start - HINT.min(chunk)..start]].concat(),
                };
                let tokens = [&request, &self.tail, &ids[part.clone()]].concat();
                (part, tokens)
            })
            .collect()
    }
}

/// The entries of a prompt that rows of a second pass see beside the tokens of that pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// First entries.
    pub sinks: usize,
    /// The part that is repeated, behind them.
    pub part: Range<usize>,
}
