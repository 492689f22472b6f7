//! From an example to token ids: fill the prompt, wrap it, cut its middle, encode it.

use super::{ChatRule, ModelFacts, Protocol, StopRule, TruncationRule, WrapTime};
use crate::datasets::DatasetInfo;
use crate::error::TaskError;
use crate::example::Example;
use crate::tokenizer::{ChatTemplate, Tokenizer};

/// A prompt as the model gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Token ids, BOS included.
    pub ids: Vec<u32>,
    /// The text they stand for, special tokens spelled out where the protocol put them into the text.
    pub text: String,
    /// Tokens of the prompt before anything was cut (in protocols that wrap after truncation: without the wrapper).
    pub untruncated_tokens: usize,
    /// What was cut, if anything.
    pub truncated: Option<Truncation>,
    /// When to stop.
    pub stop: StopRule,
    /// BOS tokens at the front of `ids`.
    pub bos_count: usize,
}

/// What truncation removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Truncation {
    /// Tokens removed from the middle.
    pub removed_tokens: usize,
    /// A reference answer occurs in the removed text.
    pub answer_was_in_removed: bool,
    /// A reference answer still occurs in the prompt.
    pub answer_still_in_prompt: bool,
}

impl Protocol {
    /// Builds the prompt of an example. `chat` is the model's own template, where it has one.
    ///
    /// # Errors
    /// The tokenizer or the template fails, the protocol needs a template that the model lacks, or the prompt and its
    /// answer do not fit the model's positions.
    pub fn render(
        &self,
        example: &Example,
        dataset: &DatasetInfo,
        model: &ModelFacts,
        tokenizer: &dyn Tokenizer,
        chat: Option<&dyn ChatTemplate>,
    ) -> Result<Rendered, TaskError> {
        let prompt =
            python_format(dataset.prompt, &[("context", &example.context), ("input", &example.input)]);
        self.render_prompt(&prompt, &example.answers, dataset, model, tokenizer, chat).map_err(|problem| {
            TaskError::Render { key: example.key.clone(), protocol: self.name.clone(), problem }
        })
    }

    fn render_prompt(
        &self,
        prompt: &str,
        answers: &[String],
        dataset: &DatasetInfo,
        model: &ModelFacts,
        tokenizer: &dyn Tokenizer,
        chat: Option<&dyn ChatTemplate>,
    ) -> Result<Rendered, String> {
        let stop = self.stop_rule(dataset, model, tokenizer)?;
        let (limit, _) = self.limit(model, stop.max_new);
        if limit < 2 {
            return Err(format!(
                "the limit of {limit} prompt tokens leaves no room beside an answer of {} in {} positions; \
                 use a model with more positions",
                stop.max_new, model.max_positions
            ));
        }
        let mut rule = self.chat_rule(dataset, model);
        if let Some(own) = rule.filter(|r| r.template == "model" && chat.is_none()) {
            if own.model.any.is_empty() && own.model.all.is_empty() {
                // Our own protocol: a base model without a template gets the plain prompt.
                rule = None;
            } else {
                return Err(
                    "it needs the model's chat template, and tokenizer_config.json has none".to_owned()
                );
            }
        }
        let cut = match self.truncation {
            TruncationRule::MiddleIds => self.cut_ids(prompt, rule, limit, tokenizer, chat)?,
            TruncationRule::MiddleText => {
                // Without a limit of the protocol's own, wrapper and seam must fit beside the prompt, too.
                let full = limit == model.max_positions.saturating_sub(stop.max_new);
                let around = if full { self.around(rule, tokenizer, chat)? } else { 0 };
                let limit = limit.checked_sub(around).filter(|limit| *limit >= 2).ok_or_else(|| {
                    format!(
                        "the chat template takes {around} tokens of {limit}; use a model with more positions"
                    )
                })?;
                self.cut_text(prompt, rule, limit, model, tokenizer, chat)?
            }
        };
        if cut.ids.len() + stop.max_new > model.max_positions {
            return Err(format!(
                "{} prompt tokens and {} for the answer exceed the model's {} positions; lower the prompt limit",
                cut.ids.len(),
                stop.max_new,
                model.max_positions
            ));
        }
        let bos = tokenizer.bos_id();
        let bos_count = cut.ids.iter().take_while(|id| Some(**id) == bos).count();
        let occurs = |text: &str| answers.iter().any(|a| !a.trim().is_empty() && text.contains(a.trim()));
        let truncated = match &cut.removed {
            Some(removed) => Some(Truncation {
                removed_tokens: removed.len(),
                answer_was_in_removed: occurs(&tokenizer.decode(removed, true)?),
                answer_still_in_prompt: occurs(&cut.text),
            }),
            None => None,
        };
        let Cut { ids, text, untruncated_tokens, .. } = cut;
        Ok(Rendered { ids, text, untruncated_tokens, truncated, stop, bos_count })
    }

    /// Wraps, encodes once, and removes ids from the middle: the count is exact and the seam is the only change.
    fn cut_ids(
        &self,
        prompt: &str,
        rule: Option<&ChatRule>,
        limit: usize,
        tokenizer: &dyn Tokenizer,
        chat: Option<&dyn ChatTemplate>,
    ) -> Result<Cut, String> {
        let text = match rule {
            Some(rule) => wrap(rule, prompt, chat)?,
            None => prompt.to_owned(),
        };
        let mut ids = tokenizer.encode(&text, rule.is_none_or(|r| r.add_special_tokens))?;
        if self.one_bos
            && let Some(bos) = tokenizer.bos_id()
        {
            let extra = ids.iter().take_while(|id| **id == bos).count().saturating_sub(1);
            ids.drain(..extra);
        }
        let untruncated_tokens = ids.len();
        if ids.len() <= limit {
            return Ok(Cut { ids, text, untruncated_tokens, removed: None });
        }
        let tail = limit / 2;
        let head = limit - tail;
        let removed: Vec<u32> = ids.drain(head..untruncated_tokens - tail).collect();
        let (front, back) = ids.split_at(head);
        let text = tokenizer.decode(front, false)? + &tokenizer.decode(back, false)?;
        Ok(Cut { ids, text, untruncated_tokens, removed: Some(removed) })
    }

    /// Tokens that wrapping and encoding again may add to a truncated prompt.
    fn around(
        &self,
        rule: Option<&ChatRule>,
        tokenizer: &dyn Tokenizer,
        chat: Option<&dyn ChatTemplate>,
    ) -> Result<usize, String> {
        const SEAM: usize = 8;
        match rule.filter(|rule| rule.wrap == WrapTime::AfterTruncation) {
            Some(rule) => Ok(SEAM + tokenizer.encode(&wrap(rule, "", chat)?, rule.add_special_tokens)?.len()),
            None => Ok(SEAM),
        }
    }

    /// The official way (THUDM/LongBench, `pred.py`): both halves are decoded on their own, joined without separator,
    /// and the text is encoded again, so the token count may differ from the limit. An odd limit loses one token.
    fn cut_text(
        &self,
        prompt: &str,
        rule: Option<&ChatRule>,
        limit: usize,
        model: &ModelFacts,
        tokenizer: &dyn Tokenizer,
        chat: Option<&dyn ChatTemplate>,
    ) -> Result<Cut, String> {
        let mut text = match rule {
            Some(rule) if rule.wrap == WrapTime::BeforeTruncation => wrap(rule, prompt, chat)?,
            _ => prompt.to_owned(),
        };
        let ids = tokenizer.encode(&text, true)?;
        let untruncated_tokens = ids.len();
        let mut removed = None;
        if ids.len() > limit {
            let half = limit / 2;
            let (front, rest) = ids.split_at(half);
            let (middle, back) = rest.split_at(rest.len() - half);
            let decode =
                |part: &[u32]| Ok::<_, String>(self.decoded_text(model, tokenizer.decode(part, true)?));
            text = decode(front)? + &decode(back)?;
            removed = Some(middle.to_vec());
        }
        let ids = match rule {
            Some(rule) => {
                if rule.wrap == WrapTime::AfterTruncation {
                    text = wrap(rule, &text, chat)?;
                }
                tokenizer.encode(&text, rule.add_special_tokens)?
            }
            None if removed.is_some() => tokenizer.encode(&text, true)?,
            None => ids,
        };
        Ok(Cut { ids, text, untruncated_tokens, removed })
    }
}

struct Cut {
    ids: Vec<u32>,
    text: String,
    untruncated_tokens: usize,
    removed: Option<Vec<u32>>,
}

fn wrap(rule: &ChatRule, prompt: &str, chat: Option<&dyn ChatTemplate>) -> Result<String, String> {
    match (rule.template.as_str(), chat) {
        ("model", Some(chat)) => {
            chat.render_user(prompt).map_err(|e| format!("the chat template fails: {e}"))
        }
        ("model", None) => {
            Err("it needs the model's chat template, and tokenizer_config.json has none".to_owned())
        }
        (template, _) => Ok(python_format(template, &[("prompt", prompt)])),
    }
}

/// Python's `str.format` for named text fields: one pass, so braces in the values are not special; `{{` and `}}` are
/// braces. Fields that are not given stay as they are.
pub fn python_format(template: &str, fields: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(template.len() + fields.iter().map(|f| f.1.len()).sum::<usize>());
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if from.starts_with("{{") || from.starts_with("}}") {
            out.push_str(&from[..1]);
            rest = &from[2..];
            continue;
        }
        let field = fields.iter().find_map(|(name, value)| {
            Some((from.strip_prefix('{')?.strip_prefix(name)?.strip_prefix('}')?, value))
        });
        match field {
            Some((after, value)) => {
                out.push_str(value);
                rest = after;
            }
            None => {
                out.push_str(&from[..1]);
                rest = &from[1..];
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasets;
    use crate::protocol;

    /// One id a character; `^` is BOS, `$` is EOS, as a text, too.
    struct Letters;

    impl Tokenizer for Letters {
        fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, String> {
            Ok(add_special_tokens.then_some('^').into_iter().chain(text.chars()).map(u32::from).collect())
        }
        fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, String> {
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
    }

    struct Brackets;

    impl ChatTemplate for Brackets {
        fn render_user(&self, user: &str) -> Result<String, String> {
            Ok(format!("^[{user}]"))
        }
    }

    fn example(context: &str) -> Example {
        Example {
            key: "multi_news#0-x".into(),
            dataset: "multi_news".into(),
            input: String::new(),
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
    fn format_is_single_pass() {
        let filled = python_format("{{a}} {context}{input}{x}", &[("context", "{input}"), ("input", "i")]);
        assert_eq!(filled, "{a} {input}i{x}");
        assert_eq!(python_format("é{context}}", &[("context", "ü")]), "éü}");
    }

    #[test]
    fn ours_has_one_bos_and_leaves_room_for_the_answer() {
        let protocol = protocol::by_name("kvsweep-1").unwrap();
        let dataset = datasets::by_name("multi_news").unwrap();
        let long = format!("{}NEEDLE{}", "a".repeat(2000), "b".repeat(2000));
        let model = facts("tiny", 1024);
        let rendered = protocol.render(&example(&long), dataset, &model, &Letters, Some(&Brackets)).unwrap();
        assert_eq!(rendered.ids.len(), 512);
        assert_eq!(rendered.bos_count, 1);
        assert!(rendered.text.starts_with("^[You are given") && rendered.text.ends_with("Summary:]"));
        let cut = rendered.truncated.unwrap();
        assert_eq!(cut.removed_tokens, rendered.untruncated_tokens - 512);
        assert!(cut.answer_was_in_removed && !cut.answer_still_in_prompt);
        // Without a template the prompt stays raw, still with one BOS.
        let raw = protocol.render(&example("short"), dataset, &model, &Letters, None).unwrap();
        assert_eq!((raw.bos_count, raw.truncated), (1, None));
        assert_eq!(raw.stop.stop_ids, [36]);
        assert!(protocol.render(&example("short"), dataset, &facts("tiny", 512), &Letters, None).is_err());
    }

    proptest::proptest! {
        /// What is left is the front and the back of the whole prompt, within the limit, with one BOS.
        #[test]
        fn truncation_keeps_both_ends(context in ".{0,400}", limit in 2usize..600) {
            let protocol = protocol::by_name("kvsweep-1").unwrap();
            let dataset = datasets::by_name("multi_news").unwrap();
            let whole = protocol
                .render(&example(&context), dataset, &facts("m", 1 << 20), &Letters, Some(&Brackets))
                .unwrap();
            let model = ModelFacts { max_prompt: Some(limit), ..facts("m", 1 << 20) };
            let cut =
                protocol.render(&example(&context), dataset, &model, &Letters, Some(&Brackets)).unwrap();
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
        let rendered =
            protocol.render(&example(&context), dataset, &model, &Letters, Some(&Brackets)).unwrap();
        assert_eq!(rendered.bos_count, 2);
        // Two halves of 150 ids; the BOS in the first is skipped by decoding, then two BOS and two brackets come.
        assert_eq!(rendered.ids.len(), 149 + 150 + 2 + 2);
        let removed = rendered.truncated.unwrap().removed_tokens;
        assert_eq!(removed, rendered.untruncated_tokens - 300);
        // Without a limit the wrapped prompt still fits the model's positions.
        let unlimited = ModelFacts { max_prompt: None, max_positions: 812, ..model.clone() };
        let rendered =
            protocol.render(&example(&context), dataset, &unlimited, &Letters, Some(&Brackets)).unwrap();
        assert!((280..=300).contains(&rendered.ids.len()), "{}", rendered.ids.len());
        // Few-shot sets stay raw: one BOS.
        let samsum = datasets::by_name("samsum").unwrap();
        let rendered = protocol.render(&example("x"), samsum, &model, &Letters, Some(&Brackets)).unwrap();
        assert_eq!(rendered.bos_count, 1);
        assert_eq!(rendered.stop.newline, Some(10));
        assert_eq!(rendered.stop.stop_ids, [10, 36]);
        assert!(rendered.stop.ban_stop_on_first);
        assert!(protocol.render(&example("x"), dataset, &model, &Letters, None).is_err());
    }

    #[test]
    fn wrapping_before_truncation_cuts_the_wrapper() {
        let protocol = protocol::by_name("kvcache-factory").unwrap();
        let dataset = datasets::by_name("multi_news").unwrap();
        let mut model = facts("/models/llama2-7b", 4096);
        model.max_prompt = Some(100);
        let context = "c".repeat(1000);
        let rendered = protocol.render(&example(&context), dataset, &model, &Letters, None).unwrap();
        assert!(rendered.text.starts_with("[INST] You") && rendered.text.ends_with("[/INST]"));
        assert_eq!(rendered.ids.len(), 100);
        // The `llama2` test misses the hub's own name.
        let hub = ModelFacts { name: "meta-llama/Llama-2-7b-chat-hf".into(), ..model };
        let rendered = protocol.render(&example("x"), dataset, &hub, &Letters, None).unwrap();
        assert!(rendered.text.starts_with("You"));
    }
}
