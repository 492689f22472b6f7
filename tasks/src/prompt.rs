//! A prompt as a model gets it, and where in it the context ends and the question begins.

use std::ops::Range;

use crate::text::{ModelText, TextError};

/// Tokens that are tried where context and question meet: what stands on both sides may have become one token.
const SEAM: usize = 8;

/// A prompt as the model gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids, BOS included.
    pub ids: Vec<u32>,
    /// The text they stand for, special tokens spelled out where the protocol put them into the text.
    pub text: String,
    /// The byte of `text` from which on the question's own part stands, its instructions and the end of the chat template
    /// included; `None` where that cannot be told.
    pub question_at: Option<usize>,
    /// How many of `ids` are the context's, in a protocol that encodes it apart from its question.
    pub apart: Option<usize>,
    /// Tokens of the prompt before anything was cut (in protocols that wrap after truncation: without the wrapper).
    pub untruncated_tokens: usize,
    /// What was cut, if anything.
    pub truncated: Option<Truncation>,
    /// When to stop.
    pub stop: StopRule,
    /// The tokens of `ids` that hold the needle, for needle prompts in which they can be told.
    pub needle: Option<Range<usize>>,
}

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

/// What truncation removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncation {
    /// Tokens removed, from the middle or from the end of the context as the protocol has it.
    pub removed_tokens: usize,
    /// A reference answer occurs in the removed text.
    pub answer_was_in_removed: bool,
    /// A reference answer still occurs in the prompt.
    pub answer_still_in_prompt: bool,
}

impl Prompt {
    /// Tokens removed by truncation.
    pub fn removed_tokens(&self) -> usize {
        self.truncated.as_ref().map_or(0, |cut| cut.removed_tokens)
    }

    /// Whether a reference answer stood in what was cut, and nowhere else.
    pub fn answer_lost(&self) -> bool {
        self.truncated.as_ref().is_some_and(|cut| cut.answer_was_in_removed && !cut.answer_still_in_prompt)
    }

    /// How many tokens of `ids` come before the question's own part: none of them holds anything of it. A token that
    /// stands on both sides of the border counts with the question. `None` where the border cannot be told.
    ///
    /// # Errors
    /// What the tokenizer says.
    pub fn context_tokens(&self, text: &dyn ModelText) -> Result<Option<usize>, TextError> {
        if self.apart.is_some() {
            return Ok(self.apart);
        }
        let Some(question) = self.question_at.and_then(|at| self.text.get(at..)) else { return Ok(None) };
        let alone = text.encode(question, false)?;
        let same = alone.iter().rev().zip(self.ids.iter().rev()).take_while(|(a, b)| a == b).count();
        for end in (0..=self.ids.len() - same).rev().take(SEAM) {
            if text.decode(self.ids.get(end..).unwrap_or_default(), false)?.ends_with(question) {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }
}

/// The byte of `wrapped` at which `question` begins, where `wrapped` holds `prompt`, white space around it trimmed or
/// not, and `prompt` ends with `question`.
pub(crate) fn question_at(wrapped: &str, prompt: &str, question: &str) -> Option<usize> {
    let (inner, question) = (prompt.trim(), question.trim_end());
    let before = inner.strip_suffix(question).filter(|_| !question.is_empty())?;
    Some(wrapped.rfind(inner)? + before.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_found_inside_its_wrapper() {
        let at = |wrapped: &str, prompt: &str, question: &str| {
            question_at(wrapped, prompt, question).map(|at| wrapped[at..].to_owned())
        };
        assert_eq!(at("c\nWho?", "c\nWho?", "\nWho?").as_deref(), Some("\nWho?"));
        assert_eq!(at("[c\nWho?]", " c\nWho? ", "\nWho? ").as_deref(), Some("\nWho?]"));
        // The wrapper's own end looks like the question.
        assert_eq!(at("[c:\nbot:\n]", "c:\n", ":\n").as_deref(), Some(":\nbot:\n]"));
        assert_eq!(at("[c]", "c", ""), None, "the context ends the prompt");
        assert_eq!(at("[other]", "c\nWho?", "\nWho?"), None);
        assert_eq!(at("[c\nWho?]", "c\nWho?", "\nWhat?"), None);
    }
}
