//! From an example to token ids: fill the prompt, wrap it, cut its middle, encode it.

use super::{ChatRule, ModelFacts, Protocol, QuestionView, TruncationRule, WrapTime};
use crate::datasets::DatasetInfo;
use crate::error::{PromptError, TaskError};
use crate::example::Example;
use crate::prompt::{Prompt, Truncation, question_at};
use crate::python::format::python_format;
use crate::text::{ModelText, TextError};

impl Protocol {
    /// Builds the prompt of an example, its question seen or not as the protocol has it.
    ///
    /// # Errors
    /// See [`Protocol::render_as`].
    pub fn render(
        &self,
        example: &Example,
        dataset: &DatasetInfo,
        model: &ModelFacts,
        text: &dyn ModelText,
    ) -> Result<Prompt, TaskError> {
        self.render_as(example, dataset, model, text, self.question)
    }

    /// Builds the prompt of an example. The view moves only where a protocol's context ends
    /// ([`Prompt::context_tokens`]), and only in one that encodes the two apart.
    ///
    /// # Errors
    /// The tokenizer or the template fails, the protocol needs a template that the model lacks, or the prompt and its
    /// answer do not fit the model's positions.
    pub fn render_as(
        &self,
        example: &Example,
        dataset: &DatasetInfo,
        model: &ModelFacts,
        text: &dyn ModelText,
        view: QuestionView,
    ) -> Result<Prompt, TaskError> {
        self.render_raw(example, dataset, model, text, view).map_err(|problem| TaskError::Render {
            key: example.key.clone(),
            protocol: self.name.clone(),
            problem,
        })
    }

    fn render_raw(
        &self,
        example: &Example,
        dataset: &DatasetInfo,
        model: &ModelFacts,
        text: &dyn ModelText,
        view: QuestionView,
    ) -> Result<Prompt, PromptError> {
        let raw = Raw {
            text: python_format(dataset.prompt, &[("context", &example.context), ("input", &example.input)]),
            question: dataset.question(&example.input),
            answer_prefix: &example.answer_prefix,
        };
        let (raw, answers) = (&raw, &example.answers);
        let stop = self.stop_rule(dataset, model, text)?;
        let (answer, positions) = (stop.max_new, model.max_positions);
        let (limit, _) = self.limit(model, answer);
        if limit < 2 {
            return Err(PromptError::NoRoom { limit, answer, positions });
        }
        let mut rule = self.chat_rule(dataset, model);
        if let Some(own) = rule.filter(|r| r.template == "model" && !text.has_chat_template()) {
            if own.model.any.is_empty() && own.model.all.is_empty() {
                // Our own protocol: a base model without a template gets the plain prompt.
                rule = None;
            } else {
                return Err(PromptError::NoTemplate);
            }
        }
        let cut = match self.truncation {
            TruncationRule::MiddleIds => self.cut_ids(raw, rule, limit, text)?,
            TruncationRule::MiddleText => {
                // Without a limit of the protocol's own, wrapper and seam must fit beside the prompt, too.
                let full = limit == positions.saturating_sub(answer);
                let around = if full { around(rule, raw.answer_prefix, text)? } else { 0 };
                let limit = limit
                    .checked_sub(around)
                    .filter(|limit| *limit >= 2)
                    .ok_or(PromptError::TemplateTooLong { around, limit })?;
                self.cut_text(raw, rule, limit, model, text)?
            }
            TruncationRule::ContextRight => {
                let room = positions.saturating_sub(answer);
                self.apart(example, dataset, (room, model.max_prompt), view, text)?
            }
        };
        let Cut { ids, text: whole, question_at, untruncated_tokens, removed, context_tokens } = cut;
        if ids.len() + answer > positions {
            return Err(PromptError::TooLong { tokens: ids.len(), answer, positions });
        }
        let occurs = |text: &str| answers.iter().any(|a| !a.trim().is_empty() && text.contains(a.trim()));
        let truncated = match &removed {
            Some(removed) => Some(Truncation {
                removed_tokens: removed.len(),
                answer_was_in_removed: occurs(&text.decode(removed, true)?),
                answer_still_in_prompt: occurs(&whole),
            }),
            None => None,
        };
        Ok(Prompt {
            ids,
            text: whole,
            question_at,
            apart: context_tokens,
            untruncated_tokens,
            truncated,
            stop,
            needle: None,
        })
    }

    /// Wraps, encodes once, and removes ids from the middle: the count is exact and the seam is the only change.
    fn cut_ids(
        &self,
        raw: &Raw<'_>,
        rule: Option<&ChatRule>,
        limit: usize,
        text: &dyn ModelText,
    ) -> Result<Cut, PromptError> {
        let mut whole = match rule {
            Some(rule) => wrap(rule, &raw.text, text)?,
            None => raw.text.clone(),
        };
        let question_at = raw.question_in(&whole);
        whole.push_str(raw.answer_prefix);
        let mut ids = text.encode(&whole, rule.is_none_or(|r| r.add_special_tokens))?;
        if self.one_bos {
            keep_one_bos(&mut ids, text.bos_id());
        }
        let untruncated_tokens = ids.len();
        if ids.len() <= limit {
            return Ok(Cut {
                ids,
                text: whole,
                question_at,
                untruncated_tokens,
                removed: None,
                context_tokens: None,
            });
        }
        let tail = limit / 2;
        let head = limit - tail;
        let removed: Vec<u32> = ids.drain(head..untruncated_tokens - tail).collect();
        let (front, back) = ids.split_at(head);
        let left = text.decode(front, false)? + &text.decode(back, false)?;
        let question_at = end_of(&left, question_at.and_then(|at| whole.get(at..)));
        Ok(Cut {
            ids,
            text: left,
            question_at,
            untruncated_tokens,
            removed: Some(removed),
            context_tokens: None,
        })
    }

    /// The official way (THUDM/LongBench, `pred.py`): both halves are decoded on their own, joined without separator,
    /// and the text is encoded again, so the token count may differ from the limit. An odd limit loses one token.
    fn cut_text(
        &self,
        raw: &Raw<'_>,
        rule: Option<&ChatRule>,
        limit: usize,
        model: &ModelFacts,
        text: &dyn ModelText,
    ) -> Result<Cut, PromptError> {
        let mut whole = match rule {
            Some(rule) if rule.wrap == WrapTime::BeforeTruncation => wrap(rule, &raw.text, text)?,
            _ => raw.text.clone(),
        };
        // Behind the wrapper; where that comes later, the beginning of the answer does, too.
        let wrapped_later = rule.is_some_and(|rule| rule.wrap == WrapTime::AfterTruncation);
        if !wrapped_later {
            whole.push_str(raw.answer_prefix);
        }
        let mut question = raw.question_in(&whole).and_then(|at| whole.get(at..)).map(str::to_owned);
        let ids = text.encode(&whole, true)?;
        let untruncated_tokens = ids.len();
        let mut removed = None;
        if ids.len() > limit {
            let half = limit / 2;
            let (front, rest) = ids.split_at(half);
            let (middle, back) = rest.split_at(rest.len() - half);
            let decode =
                |part: &[u32]| Ok::<_, TextError>(self.decoded_text(model, text.decode(part, true)?));
            whole = decode(front)? + &decode(back)?;
            removed = Some(middle.to_vec());
            // What decoding does to the text, it does to the question.
            question = question.map(|text_of| decode(&text.encode(&text_of, false)?)).transpose()?;
        }
        let mut at = end_of(&whole, question.as_deref());
        let ids = match rule {
            Some(rule) => {
                if rule.wrap == WrapTime::AfterTruncation {
                    let wrapped = wrap(rule, &whole, text)?;
                    at = at.and_then(|at| question_at(&wrapped, &whole, whole.get(at..)?));
                    whole = wrapped + raw.answer_prefix;
                }
                text.encode(&whole, rule.add_special_tokens)?
            }
            None if removed.is_some() => text.encode(&whole, true)?,
            None => ids,
        };
        Ok(Cut { ids, text: whole, question_at: at, untruncated_tokens, removed, context_tokens: None })
    }
}

/// Tokens that wrapping and encoding again may add to a truncated prompt.
fn around(rule: Option<&ChatRule>, prefix: &str, text: &dyn ModelText) -> Result<usize, PromptError> {
    const SEAM: usize = 8;
    match rule.filter(|rule| rule.wrap == WrapTime::AfterTruncation) {
        Some(rule) => {
            Ok(SEAM + text.encode(&(wrap(rule, "", text)? + prefix), rule.add_special_tokens)?.len())
        }
        None => Ok(SEAM),
    }
}

/// A filled prompt, neither wrapped nor cut.
struct Raw<'a> {
    text: String,
    /// What stands behind the context, if the question does not stand before it.
    question: Option<String>,
    /// Stands behind everything.
    answer_prefix: &'a str,
}

impl Raw<'_> {
    fn question_in(&self, wrapped: &str) -> Option<usize> {
        question_at(wrapped, &self.text, self.question.as_deref()?)
    }
}

pub(super) struct Cut {
    pub(super) ids: Vec<u32>,
    pub(super) text: String,
    pub(super) question_at: Option<usize>,
    pub(super) untruncated_tokens: usize,
    pub(super) removed: Option<Vec<u32>>,
    /// How many ids are the context's, where it was encoded apart.
    pub(super) context_tokens: Option<usize>,
}

/// Where `end` begins in a text that ends with it.
fn end_of(text: &str, end: Option<&str>) -> Option<usize> {
    text.strip_suffix(end?).map(str::len)
}

/// Cuts the BOS tokens at the front down to one.
pub fn keep_one_bos(ids: &mut Vec<u32>, bos: Option<u32>) {
    let extra = ids.iter().take_while(|id| Some(**id) == bos).count().saturating_sub(1);
    ids.drain(..extra);
}

fn wrap(rule: &ChatRule, prompt: &str, text: &dyn ModelText) -> Result<String, PromptError> {
    if rule.template != "model" {
        return Ok(python_format(&rule.template, &[("prompt", prompt)]));
    }
    text.render_user(prompt).map_err(PromptError::Template)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasets;
    use crate::protocol;

    /// One id a character; `^` is BOS, `$` is EOS, as a text, too.
    struct Letters {
        template: bool,
    }

    const PLAIN: Letters = Letters { template: false };
    const CHAT: Letters = Letters { template: true };

    impl ModelText for Letters {
        fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
            Ok(add_special_tokens.then_some('^').into_iter().chain(text.chars()).map(u32::from).collect())
        }
        fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
            let letters = ids.iter().filter_map(|id| char::from_u32(*id));
            Ok(letters.filter(|c| !skip_special_tokens || !['^', '$'].contains(c)).collect())
        }
        fn bos_id(&self) -> Option<u32> {
            Some(u32::from('^'))
        }
        fn eos_id(&self) -> Option<u32> {
            Some(u32::from('$'))
        }
        fn id_of(&self, _token: &str) -> Option<u32> {
            None
        }
        fn has_chat_template(&self) -> bool {
            self.template
        }
        fn render_user(&self, user: &str) -> Result<String, TextError> {
            Ok(format!("^[{user}]"))
        }
    }

    fn bos_count(prompt: &Prompt) -> usize {
        prompt.ids.iter().take_while(|id| Some(**id) == PLAIN.bos_id()).count()
    }

    fn example(context: &str) -> Example {
        Example {
            key: "multi_news#0-x".into(),
            dataset: "multi_news".into(),
            input: String::new(),
            answer_prefix: String::new(),
            context: context.into(),
            answers: vec!["NEEDLE".into()],
            all_classes: Vec::new(),
            length: 1,
            language: "en".into(),
        }
    }

    fn facts(name: &str, max_positions: usize) -> ModelFacts {
        ModelFacts { name: name.into(), max_positions, eos_ids: vec![36], ..ModelFacts::default() }
    }

    #[test]
    fn ours_has_one_bos_and_leaves_room_for_the_answer() {
        let protocol = protocol::by_name("kvsweep-1").unwrap();
        let dataset = datasets::by_name("multi_news").unwrap();
        let long = format!("{}NEEDLE{}", "a".repeat(2000), "b".repeat(2000));
        let model = facts("tiny", 1024);
        let rendered = protocol.render(&example(&long), dataset, &model, &CHAT).unwrap();
        assert_eq!(rendered.ids.len(), 512);
        assert_eq!(bos_count(&rendered), 1);
        assert!(rendered.text.starts_with("^[You are given") && rendered.text.ends_with("Summary:]"));
        let cut = rendered.truncated.unwrap();
        assert_eq!(cut.removed_tokens, rendered.untruncated_tokens - 512);
        assert!(cut.answer_was_in_removed && !cut.answer_still_in_prompt);
        // Without a template the prompt stays raw, still with one BOS.
        let raw = protocol.render(&example("short"), dataset, &model, &PLAIN).unwrap();
        assert_eq!((bos_count(&raw), raw.truncated), (1, None));
        assert_eq!(raw.stop.stop_ids, [36]);
        assert!(protocol.render(&example("short"), dataset, &facts("tiny", 512), &PLAIN).is_err());
    }

    proptest::proptest! {
        /// What is left is the front and the back of the whole prompt, within the limit, with one BOS.
        #[test]
        fn truncation_keeps_both_ends(context in ".{0,400}", limit in 2usize..600) {
            let protocol = protocol::by_name("kvsweep-1").unwrap();
            let dataset = datasets::by_name("multi_news").unwrap();
            let whole = protocol
                .render(&example(&context), dataset, &facts("m", 1 << 20), &CHAT)
                .unwrap();
            let model = ModelFacts { max_prompt: Some(limit), ..facts("m", 1 << 20) };
            let cut =
                protocol.render(&example(&context), dataset, &model, &CHAT).unwrap();
            let kept = cut.ids.len();
            proptest::prop_assert_eq!(kept, limit.min(whole.ids.len()));
            proptest::prop_assert_eq!(cut.untruncated_tokens, whole.ids.len());
            proptest::prop_assert!(cut.ids.starts_with(&whole.ids[..kept - kept / 2]));
            proptest::prop_assert!(cut.ids.ends_with(&whole.ids[whole.ids.len() - kept / 2..]));
            proptest::prop_assert_eq!(cut.truncated.map_or(0, |t| t.removed_tokens) + kept, whole.ids.len());
        }
    }

    #[test]
    fn the_official_way_wraps_after_the_halves_and_doubles_bos() {
        let protocol = protocol::by_name("adakv").unwrap();
        let dataset = datasets::by_name("multi_news").unwrap();
        let mut model = facts("meta-llama/Llama-3.1-8B-Instruct", 4096);
        model.max_prompt = Some(301);
        let context = "c".repeat(1000);
        let rendered = protocol.render(&example(&context), dataset, &model, &CHAT).unwrap();
        assert_eq!(bos_count(&rendered), 2);
        // Two halves of 150 ids; the BOS in the first is skipped by decoding, then two BOS and two brackets come.
        assert_eq!(rendered.ids.len(), 149 + 150 + 2 + 2);
        let removed = rendered.truncated.unwrap().removed_tokens;
        assert_eq!(removed, rendered.untruncated_tokens - 300);
        // Without a limit the wrapped prompt still fits the model's positions.
        let unlimited = ModelFacts { max_prompt: None, max_positions: 812, ..model.clone() };
        let rendered = protocol.render(&example(&context), dataset, &unlimited, &CHAT).unwrap();
        assert!((280..=300).contains(&rendered.ids.len()), "{}", rendered.ids.len());
        // Few-shot sets stay raw: one BOS.
        let samsum = datasets::by_name("samsum").unwrap();
        let rendered = protocol.render(&example("x"), samsum, &model, &CHAT).unwrap();
        assert_eq!(bos_count(&rendered), 1);
        assert_eq!(rendered.stop.newline, Some(10));
        assert_eq!(rendered.stop.stop_ids, [10, 36]);
        assert!(rendered.stop.ban_stop_on_first);
        assert!(protocol.render(&example("x"), dataset, &model, &PLAIN).is_err());
    }

    #[test]
    fn wrapping_before_truncation_cuts_the_wrapper() {
        let protocol = protocol::by_name("kvcache-factory").unwrap();
        let dataset = datasets::by_name("multi_news").unwrap();
        let mut model = facts("/models/llama2-7b", 4096);
        model.max_prompt = Some(100);
        let context = "c".repeat(1000);
        let rendered = protocol.render(&example(&context), dataset, &model, &PLAIN).unwrap();
        assert!(rendered.text.starts_with("[INST] You") && rendered.text.ends_with("[/INST]"));
        assert_eq!(rendered.ids.len(), 100);
        // The `llama2` test misses the hub's own name.
        let hub = ModelFacts { name: "meta-llama/Llama-2-7b-chat-hf".into(), ..model };
        let rendered = protocol.render(&example("x"), dataset, &hub, &PLAIN).unwrap();
        assert!(rendered.text.starts_with("You"));
    }
}
