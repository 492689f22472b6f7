//! Builds needle prompts: trim the haystack, insert the needle, put both into the variant's prompt, encode.

use std::collections::BTreeMap;
use std::ops::Range;

use super::variants::{BUFFER, EXPECTED, NEEDLE, NeedlePrompt, NeedleVariant, Periods};
use super::{Essays, insert};
use crate::error::TaskError;
use crate::metrics::exact::Exact;
use crate::metrics::needle_overlap::WORDS;
use crate::metrics::{Metric, MetricError};
use crate::mini;
use crate::protocol::{ModelFacts, StopRule, python_format, stop_ids};
use crate::tokenizer::{ChatTemplate, Tokenizer};

/// One cell of the heatmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeedleCase {
    /// Stable key: `needle#<length>-<depth>`.
    pub key: String,
    /// The nominal context length in tokens.
    pub length: usize,
    /// The depth in percent.
    pub depth: u32,
    /// The prompt's text.
    pub text: String,
    /// The prompt's ids, BOS included.
    pub ids: Vec<u32>,
    /// The tokens of `ids` that hold the needle, where they can be told.
    pub needle: Option<Range<usize>>,
    /// The reference of result files: the whole needle sentence, newlines included.
    pub answer: String,
    /// The part of the needle that answers the question.
    pub expected: String,
    /// When to stop.
    pub stop: StopRule,
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
    tokenizer: &dyn Tokenizer,
    chat: Option<&dyn ChatTemplate>,
) -> Result<Vec<NeedleCase>, TaskError> {
    let builder = Builder { variant, model, tokenizer, chat };
    builder.all(lengths, depths, essays).map_err(TaskError::Needle)
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
    tokenizer: &dyn Tokenizer,
    chat: Option<&dyn ChatTemplate>,
) -> Result<NeedleCase, TaskError> {
    let mini::NeedleTrial { length, depth, number, .. } = trial;
    let variant = &super::variants::VARIANTS[0];
    let builder = Builder { variant, model, tokenizer, chat };
    let count = |text: &str| tokenizer.encode(text, false).map_or(0, |ids| ids.len());
    // Two more for tokens that do not merge where prompt and template meet.
    let around = builder.chat_prompt("").map_err(TaskError::Needle)?.1.len() + MINI_ANSWER_TOKENS + 2;
    let of_length = |length| mini::needle(mini::NeedleTrial { length, ..trial }, &count);
    let made = of_length(length.saturating_sub(around));
    let needed = around + count(&of_length(0).prompt);
    if length < needed {
        return Err(TaskError::Needle(too_short(length, needed)));
    }
    let build = || {
        let mut stop = stop_ids(variant.stop, model, tokenizer)?;
        stop.max_new = MINI_ANSWER_TOKENS;
        let prompt =
            if without_context { made.prompt.replace(&made.context, "") } else { made.prompt.clone() };
        let (text, ids) = builder.chat_prompt(&prompt)?;
        builder.check(&ids, length, &stop)?;
        let needle = if without_context { None } else { builder.span(&ids, &made.needle)? };
        Ok(NeedleCase {
            key: format!("needle#{length}-{depth}-{number}"),
            length,
            depth: depth as u32,
            text,
            ids,
            needle,
            answer: made.needle.clone(),
            expected: made.answer.clone(),
            stop,
        })
    };
    build().map_err(TaskError::Needle)
}

/// New tokens for an answer of the mini suite: two words and the end.
const MINI_ANSWER_TOKENS: usize = 16;

/// Why a context length makes no test: its smallest prompt takes `needed` tokens. Other trials have other needles, of
/// about that length: the advice leaves room for them.
fn too_short(length: usize, needed: usize) -> String {
    format!(
        "length {length} leaves no context: question, needle and answer take {needed} tokens; the smallest sensible \
         length is {}",
        needed.next_multiple_of(32)
    )
}

struct Builder<'a> {
    variant: &'a NeedleVariant,
    model: &'a ModelFacts,
    tokenizer: &'a dyn Tokenizer,
    chat: Option<&'a dyn ChatTemplate>,
}

/// How an answer becomes the number of the heatmap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NeedleGrading {
    /// All or nothing, for the mini suite, whose answer is two random words.
    Exact,
    /// As the variant's figures (word overlap also where the repository asks a language model).
    Variant(&'static NeedleVariant),
}

impl NeedleGrading {
    /// The metric's id.
    pub fn metric(&self) -> &'static str {
        self.implementation().id()
    }

    fn implementation(&self) -> &'static dyn Metric {
        match self {
            Self::Exact => &Exact,
            Self::Variant(_) => &WORDS,
        }
    }

    /// The score of an answer, 0 to 1.
    ///
    /// # Errors
    /// The metric's.
    pub fn score(&self, prediction: &str, case: &NeedleCase) -> Result<f64, TaskError> {
        let failed = |e: MetricError| TaskError::Score {
            key: case.key.clone(),
            metric: self.metric().to_owned(),
            problem: e.to_string(),
        };
        self.implementation().score_answer(prediction, &case.expected, &[]).map_err(failed)
    }

    /// Further scores, 0 to 1, by metric id: the one the repository's result files carry.
    ///
    /// # Errors
    /// The metric's.
    pub fn others(&self, prediction: &str, case: &NeedleCase) -> Result<BTreeMap<String, f64>, TaskError> {
        let Self::Variant(variant) = self else { return Ok(BTreeMap::new()) };
        let Some((id, factor)) = variant.scoring.json.filter(|(id, _)| *id != self.metric()) else {
            return Ok(BTreeMap::new());
        };
        let score = variant.json_score(prediction, &case.answer).map_err(|e| TaskError::Score {
            key: case.key.clone(),
            metric: id.to_owned(),
            problem: e.to_string(),
        })?;
        Ok(score.map(|score| (id.to_owned(), score / factor)).into_iter().collect())
    }
}

impl Builder<'_> {
    fn all(&self, lengths: &[usize], depths: &[u32], essays: &Essays) -> Result<Vec<NeedleCase>, String> {
        let longest = lengths.iter().copied().max().unwrap_or_default();
        if let Some(depth) = depths.iter().find(|depth| **depth > 100) {
            return Err(format!("depth {depth} is above 100 percent"));
        }
        let mut stop = stop_ids(self.variant.stop, self.model, self.tokenizer)?;
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
                let (text, ids) = self.prompt(&context, &periods, length, depth)?;
                self.check(&ids, length, &stop)?;
                let needle = self.span(&ids, NEEDLE)?;
                cases.push(NeedleCase {
                    key: format!("needle#{length}-{depth}"),
                    length,
                    depth,
                    text,
                    ids,
                    needle,
                    answer: NEEDLE.to_owned(),
                    expected: EXPECTED.to_owned(),
                    stop: stop.clone(),
                });
            }
        }
        Ok(cases)
    }

    fn check(&self, ids: &[u32], length: usize, stop: &StopRule) -> Result<(), String> {
        let (tokens, answer, positions) = (ids.len(), stop.max_new, self.model.max_positions);
        if tokens + answer <= positions {
            return Ok(());
        }
        Err(format!(
            "the prompt of length {length} has {tokens} tokens: with {answer} for the answer it exceeds the model's \
             {positions} positions; choose shorter lengths"
        ))
    }

    fn decode(&self, ids: &[u32]) -> Result<String, String> {
        let text = self.tokenizer.decode(ids, !self.variant.keeps_special)?;
        Ok(if self.variant.is_ours() { text } else { self.model.transformers_text(text) })
    }

    /// The ids of the essays, the whole set repeated until it has `longest` tokens. Only as much text is encoded as
    /// surely holds that many: the rest cannot change the first tokens.
    fn haystack(&self, essays: &Essays, longest: usize) -> Result<Vec<u32>, String> {
        const BYTES_A_TOKEN: usize = 8;
        let encode = |text: &str| self.tokenizer.encode(text, self.variant.keeps_special);
        let wanted = longest.saturating_mul(BYTES_A_TOKEN);
        if let Some(end) = essays.text.get(wanted..).and_then(|rest| rest.find('\n')) {
            let ids = encode(&essays.text[..wanted + end])?;
            if ids.len() >= longest {
                return Ok(ids);
            }
        }
        let once = encode(&essays.text)?;
        if once.is_empty() {
            return Err("the haystack has no tokens".to_owned());
        }
        if once.len() >= longest {
            return Ok(once);
        }
        encode(&essays.text.repeat(longest.div_ceil(once.len()) + 1))
    }

    /// The haystack trimmed to `length` tokens and, as every repository does, encoded again.
    fn context(&self, haystack: &[u32], length: usize) -> Result<Vec<u32>, String> {
        let trimmed = haystack.get(..length).unwrap_or(haystack);
        if self.variant.is_ours() {
            return Ok(trimmed.to_vec());
        }
        self.tokenizer.encode(&self.decode(trimmed)?, self.variant.keeps_special)
    }

    fn periods(&self, context: &[u32]) -> Result<Vec<u32>, String> {
        let encoded = || self.tokenizer.encode(".", self.variant.keeps_special);
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
                        let text = self.tokenizer.decode(&[*id], false)?;
                        ends.insert(*id, text.trim_end().ends_with('.'));
                    }
                }
                Ok(ends.into_iter().filter_map(|(id, is_end)| is_end.then_some(id)).collect())
            }
        }
    }

    fn prompt(
        &self,
        context: &[u32],
        periods: &[u32],
        length: usize,
        depth: u32,
    ) -> Result<(String, Vec<u32>), String> {
        if self.variant.is_ours() {
            return self.exact_prompt(context, periods, length, depth);
        }
        let needle = self.tokenizer.encode(NEEDLE, self.variant.keeps_special)?;
        if length <= BUFFER + needle.len() {
            return Err(too_short(length, BUFFER + needle.len() + 1));
        }
        let with_needle = insert::insert_needle(context, &needle, periods, f64::from(depth), length, BUFFER);
        self.finish(&self.decode(&with_needle)?)
    }

    /// Our own construction: the finished prompt has at most `length` tokens, and as many as the seams allow.
    fn exact_prompt(
        &self,
        context: &[u32],
        periods: &[u32],
        length: usize,
        depth: u32,
    ) -> Result<(String, Vec<u32>), String> {
        let around = self.finish(NEEDLE)?.1.len();
        let short = || too_short(length, around + 1);
        let mut room = length.checked_sub(around).filter(|room| *room > 0).ok_or_else(short)?;
        loop {
            let kept = context.get(..room).unwrap_or(context);
            let at = insert::position(kept, periods, f64::from(depth));
            let (before, after) = kept.split_at(at);
            let (text, ids) = self.finish(&(self.decode(before)? + NEEDLE + &self.decode(after)?))?;
            let excess = ids.len().saturating_sub(length);
            if excess == 0 {
                return Ok((text, ids));
            }
            room = room.checked_sub(excess).filter(|room| *room > 0).ok_or_else(short)?;
        }
    }

    /// The variant's prompt around a context, as text and ids.
    fn finish(&self, context: &str) -> Result<(String, Vec<u32>), String> {
        let fill = |template: &str| {
            python_format(template, &[("context", context), ("question", self.variant.question)])
        };
        match self.variant.prompt {
            NeedlePrompt::Text(template) => {
                let text = fill(template);
                let ids = self.tokenizer.encode(&text, true)?;
                Ok((text, ids))
            }
            NeedlePrompt::Chat(template) => self.chat_prompt(&fill(template)),
            NeedlePrompt::Messages { system, after_question } => {
                let user = format!("{system}\n\n{context}\n\n{}{after_question}", self.variant.question);
                self.chat_prompt(&user)
            }
        }
    }

    fn chat_prompt(&self, user: &str) -> Result<(String, Vec<u32>), String> {
        let text = match self.chat {
            Some(chat) => chat.render_user(user).map_err(|e| format!("the chat template fails: {e}"))?,
            None => user.to_owned(),
        };
        let mut ids = self.tokenizer.encode(&text, true)?;
        if let Some(bos) = self.tokenizer.bos_id() {
            let extra = ids.iter().take_while(|id| **id == bos).count().saturating_sub(1);
            ids.drain(..extra);
        }
        Ok((text, ids))
    }

    /// Finds the needle's tokens: its inner ones are the same in every surrounding, the outer ones may merge.
    fn span(&self, ids: &[u32], needle: &str) -> Result<Option<Range<usize>>, String> {
        let sentence = needle.trim();
        let alone = self.tokenizer.encode(sentence, false)?;
        let Some(inner) = alone.get(2..alone.len().saturating_sub(2)).filter(|inner| !inner.is_empty())
        else {
            return Ok(None);
        };
        let Some(at) = ids.windows(inner.len()).position(|window| window == inner) else { return Ok(None) };
        let (mut start, mut end) = (at, at + inner.len());
        for _ in 0..8 {
            let text = self.tokenizer.decode(ids.get(start..end).unwrap_or_default(), true)?;
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
