//! Builds needle prompts: trim the haystack, insert the needle, put both into the variant's prompt, encode.

use std::collections::BTreeMap;
use std::ops::Range;

use super::variants::{BUFFER, EXPECTED, NEEDLE, NeedlePrompt, NeedleVariant, Periods};
use super::{Essays, insert};
use crate::ask::NeedleCell;
use crate::error::{NeedleError, TaskError};
use crate::mini;
use crate::prompt::{Prompt, StopRule, question_at};
use crate::protocol::{ModelFacts, keep_one_bos, stop_ids};
use crate::python::format::python_format;
use crate::text::ModelText;

/// One needle test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeedleCase {
    /// Stable key: `needle#<length>-<depth>`.
    pub key: String,
    /// Where it stands in the heatmap.
    pub cell: NeedleCell,
    /// What the model gets.
    pub prompt: Prompt,
    /// The reference of result files: the whole needle sentence, newlines included.
    pub answer: String,
    /// The part of the needle that answers the question.
    pub expected: String,
}

/// Builds the prompts of a grid, lengths outer, depths inner.
///
/// # Errors
/// A length too short for question, needle and answer or beyond the model's positions, a depth above 100, what the
/// tokenizer says.
pub fn cases(
    variant: &NeedleVariant,
    model: &ModelFacts,
    lengths: &[usize],
    depths: &[u32],
    essays: &Essays,
    text: &dyn ModelText,
) -> Result<Vec<NeedleCase>, TaskError> {
    Builder { variant, model, text }.all(lengths, depths, essays).map_err(TaskError::Needle)
}

/// Builds one case of the mini suite: a password among the suite's own sentences, asked of in the model's own chat
/// template. Prompt, template and answer together have at most `trial.length` tokens. With `without_context`, only the
/// question is asked.
///
/// # Errors
/// What the tokenizer says; a length too short for question, needle and answer, or beyond the model's positions.
pub fn mini_case(
    trial: mini::NeedleTrial,
    without_context: bool,
    model: &ModelFacts,
    text: &dyn ModelText,
) -> Result<NeedleCase, TaskError> {
    let builder = Builder { variant: &super::variants::VARIANTS[0], model, text };
    builder.mini(trial, without_context).map_err(TaskError::Needle)
}

/// New tokens for an answer of the mini suite: two words and the end.
const MINI_ANSWER_TOKENS: usize = 16;

struct Builder<'a> {
    variant: &'a NeedleVariant,
    model: &'a ModelFacts,
    text: &'a dyn ModelText,
}

/// A prompt's text and ids, and the byte from which on the question's own part stands.
struct Written {
    text: String,
    ids: Vec<u32>,
    question_at: Option<usize>,
}

impl Written {
    fn prompt(self, stop: StopRule, needle: Option<Range<usize>>) -> Prompt {
        Prompt {
            untruncated_tokens: self.ids.len(),
            ids: self.ids,
            text: self.text,
            question_at: self.question_at,
            apart: None,
            truncated: None,
            stop,
            needle,
        }
    }
}

impl Builder<'_> {
    fn all(
        &self,
        lengths: &[usize],
        depths: &[u32],
        essays: &Essays,
    ) -> Result<Vec<NeedleCase>, NeedleError> {
        let longest = lengths.iter().copied().max().unwrap_or_default();
        if let Some(depth) = depths.iter().find(|depth| **depth > 100) {
            return Err(NeedleError::Depth(*depth));
        }
        let mut stop = stop_ids(self.variant.stop, self.model, self.text)?;
        stop.max_new = self.variant.max_new_tokens;
        // transformers' generate is called with min_length in KVCache-Factory and HeadKV.
        stop.ban_stop_on_first =
            matches!(self.variant.name, "kvcache-factory" | "kvcache-factory-before-46" | "headkv");
        let haystack = self.haystack(essays, longest)?;
        let mut cases = Vec::with_capacity(lengths.len() * depths.len());
        for &length in lengths {
            let context = self.context(&haystack, length)?;
            let periods = self.periods(&context)?;
            for &depth in depths {
                let written = self.written(&context, &periods, length, depth)?;
                self.check(&written.ids, length, &stop)?;
                let needle = self.span(&written.ids, NEEDLE)?;
                cases.push(NeedleCase {
                    key: format!("needle#{length}-{depth}"),
                    cell: NeedleCell { length, depth },
                    prompt: written.prompt(stop.clone(), needle),
                    answer: NEEDLE.to_owned(),
                    expected: EXPECTED.to_owned(),
                });
            }
        }
        Ok(cases)
    }

    fn mini(&self, trial: mini::NeedleTrial, without_context: bool) -> Result<NeedleCase, NeedleError> {
        let mini::NeedleTrial { length, depth, number, .. } = trial;
        let count = |part: &str| self.text.encode(part, false).map_or(0, |ids| ids.len());
        // Two more for tokens that do not merge where prompt and template meet.
        let around = self.chat_prompt("", "")?.ids.len() + MINI_ANSWER_TOKENS + 2;
        let of_length = |length| mini::needle(mini::NeedleTrial { length, ..trial }, &count);
        let made = of_length(length.saturating_sub(around));
        let needed = around + count(&of_length(0).prompt);
        if length < needed {
            return Err(NeedleError::TooShort { length, needed });
        }
        let mut stop = stop_ids(self.variant.stop, self.model, self.text)?;
        stop.max_new = MINI_ANSWER_TOKENS;
        let question = made.prompt.rsplit_once(&made.context).map_or("", |(_, question)| question);
        let written = if without_context {
            self.chat_prompt(&made.prompt.replace(&made.context, ""), question)?
        } else {
            self.chat_prompt(&made.prompt, question)?
        };
        self.check(&written.ids, length, &stop)?;
        let needle = if without_context { None } else { self.span(&written.ids, &made.needle)? };
        Ok(NeedleCase {
            key: format!("needle#{length}-{depth}-{number}"),
            cell: NeedleCell { length, depth: depth as u32 },
            prompt: written.prompt(stop, needle),
            answer: made.needle,
            expected: made.answer,
        })
    }

    fn check(&self, ids: &[u32], length: usize, stop: &StopRule) -> Result<(), NeedleError> {
        let (tokens, answer, positions) = (ids.len(), stop.max_new, self.model.max_positions);
        if tokens + answer <= positions {
            return Ok(());
        }
        Err(NeedleError::TooLong { length, tokens, answer, positions })
    }

    fn decode(&self, ids: &[u32]) -> Result<String, NeedleError> {
        let text = self.text.decode(ids, !self.variant.keeps_special)?;
        Ok(if self.variant.is_ours() { text } else { self.model.transformers_text(text) })
    }

    /// The ids of the essays, the whole set repeated until it has `longest` tokens. Only as much text is encoded as
    /// surely holds that many: the rest cannot change the first tokens.
    fn haystack(&self, essays: &Essays, longest: usize) -> Result<Vec<u32>, NeedleError> {
        const BYTES_A_TOKEN: usize = 8;
        let encode = |text: &str| self.text.encode(text, self.variant.keeps_special);
        let wanted = longest.saturating_mul(BYTES_A_TOKEN);
        if let Some(end) = essays.text.get(wanted..).and_then(|rest| rest.find('\n')) {
            let ids = encode(&essays.text[..wanted + end])?;
            if ids.len() >= longest {
                return Ok(ids);
            }
        }
        let once = encode(&essays.text)?;
        if once.is_empty() {
            return Err(NeedleError::EmptyHaystack);
        }
        if once.len() >= longest {
            return Ok(once);
        }
        Ok(encode(&essays.text.repeat(longest.div_ceil(once.len()) + 1))?)
    }

    /// The haystack trimmed to `length` tokens and, as every repository does, encoded again.
    fn context(&self, haystack: &[u32], length: usize) -> Result<Vec<u32>, NeedleError> {
        let trimmed = haystack.get(..length).unwrap_or(haystack);
        if self.variant.is_ours() {
            return Ok(trimmed.to_vec());
        }
        Ok(self.text.encode(&self.decode(trimmed)?, self.variant.keeps_special)?)
    }

    fn periods(&self, context: &[u32]) -> Result<Vec<u32>, NeedleError> {
        let encoded = || Ok(self.text.encode(".", self.variant.keeps_special)?);
        match self.variant.periods {
            Periods::Encoded => encoded(),
            Periods::Fixed(table) => {
                let name = self.model.name.to_lowercase();
                match table.iter().find(|(part, _)| name.contains(part)) {
                    Some((_, ids)) => Ok(ids.to_vec()),
                    None => encoded(),
                }
            }
            Periods::EndsInStop => {
                let mut ends = BTreeMap::new();
                for id in context {
                    if !ends.contains_key(id) {
                        let text = self.text.decode(&[*id], false)?;
                        ends.insert(*id, text.trim_end().ends_with('.'));
                    }
                }
                Ok(ends.into_iter().filter_map(|(id, is_end)| is_end.then_some(id)).collect())
            }
        }
    }

    fn written(
        &self,
        context: &[u32],
        periods: &[u32],
        length: usize,
        depth: u32,
    ) -> Result<Written, NeedleError> {
        if self.variant.is_ours() {
            return self.of_exact_length(context, periods, length, depth);
        }
        let needle = self.text.encode(NEEDLE, self.variant.keeps_special)?;
        if length <= BUFFER + needle.len() {
            return Err(NeedleError::TooShort { length, needed: BUFFER + needle.len() + 1 });
        }
        let with_needle = insert::insert_needle(context, &needle, periods, f64::from(depth), length, BUFFER);
        self.around(&self.decode(&with_needle)?)
    }

    /// Our own construction: the finished prompt has at most `length` tokens, and as many as the seams allow.
    fn of_exact_length(
        &self,
        context: &[u32],
        periods: &[u32],
        length: usize,
        depth: u32,
    ) -> Result<Written, NeedleError> {
        let around = self.around(NEEDLE)?.ids.len();
        let short = || NeedleError::TooShort { length, needed: around + 1 };
        let mut room = length.checked_sub(around).filter(|room| *room > 0).ok_or_else(short)?;
        loop {
            let kept = context.get(..room).unwrap_or(context);
            let at = insert::position(kept, periods, f64::from(depth));
            let (before, after) = kept.split_at(at);
            let written = self.around(&(self.decode(before)? + NEEDLE + &self.decode(after)?))?;
            let excess = written.ids.len().saturating_sub(length);
            if excess == 0 {
                return Ok(written);
            }
            room = room.checked_sub(excess).filter(|room| *room > 0).ok_or_else(short)?;
        }
    }

    /// The variant's prompt around a context.
    fn around(&self, context: &str) -> Result<Written, NeedleError> {
        let filled = |template: &str| {
            let (before, behind) = template.split_once("{context}").unwrap_or((template, ""));
            let question = python_format(behind, &[("question", self.variant.question)]);
            (python_format(before, &[]) + context + &question, question)
        };
        match self.variant.prompt {
            NeedlePrompt::Text(template) => {
                let (text, question) = filled(template);
                let ids = self.text.encode(&text, true)?;
                let question_at = question_at(&text, &text, &question);
                Ok(Written { text, ids, question_at })
            }
            NeedlePrompt::Chat(template) => {
                let (text, question) = filled(template);
                self.chat_prompt(&text, &question)
            }
            NeedlePrompt::Messages { system, after_question } => {
                let question = format!("\n\n{}{after_question}", self.variant.question);
                self.chat_prompt(&format!("{system}\n\n{context}{question}"), &question)
            }
        }
    }

    /// A user turn, which ends with `question`, in the model's own template, with one BOS.
    fn chat_prompt(&self, user: &str, question: &str) -> Result<Written, NeedleError> {
        let text = if self.text.has_chat_template() {
            self.text.render_user(user).map_err(NeedleError::Template)?
        } else {
            user.to_owned()
        };
        let mut ids = self.text.encode(&text, true)?;
        keep_one_bos(&mut ids, self.text.bos_id());
        let question_at = question_at(&text, user, question);
        Ok(Written { text, ids, question_at })
    }

    /// Finds the needle's tokens: its inner ones are the same in every surrounding, the outer ones may merge.
    fn span(&self, ids: &[u32], needle: &str) -> Result<Option<Range<usize>>, NeedleError> {
        let sentence = needle.trim();
        let alone = self.text.encode(sentence, false)?;
        let Some(inner) = alone.get(2..alone.len().saturating_sub(2)).filter(|inner| !inner.is_empty())
        else {
            return Ok(None);
        };
        let Some(at) = ids.windows(inner.len()).position(|window| window == inner) else { return Ok(None) };
        let (mut start, mut end) = (at, at + inner.len());
        for _ in 0..8 {
            let text = self.text.decode(ids.get(start..end).unwrap_or_default(), true)?;
            if text.contains(sentence) {
                return Ok(Some(start..end));
            }
            // Grow on the side that is still missing.
            if text.contains(
                sentence.get(..sentence.floor_char_boundary(sentence.len() / 2)).unwrap_or_default(),
            ) {
                end = (end + 1).min(ids.len());
            } else {
                start = start.saturating_sub(1);
            }
        }
        Ok(Some(start..end))
    }
}
