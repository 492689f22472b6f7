//! kvpress's way from an example to token ids: the context alone stands in the chat template's user turn, and what
//! follows it, question and all, is encoded apart.
//!
//! Source: `kvpress/pipeline.py`, `preprocess`, and `evaluation/evaluate.py`, `_load_and_prepare_dataset`.

use super::render::Cut;
use super::{Part, Protocol, QuestionView};
use crate::datasets::DatasetInfo;
use crate::error::PromptError;
use crate::example::Example;
use crate::python::format::python_format;
use crate::text::ModelText;

/// What of an example stands where.
struct Parts {
    context: String,
    question: String,
    answer_prefix: String,
}

/// Fills the prompt of an example in its three parts.
fn parts(example: &Example, dataset: &DatasetInfo, part: Option<&Part>) -> Parts {
    let fill = |template: &str, input: &str| {
        python_format(template, &[("context", &example.context), ("input", input)])
    };
    let Some(part) = part else {
        // The row's own parts, or what stands before and behind the official prompt's context.
        let question = dataset.question(&example.input).unwrap_or_default();
        let whole = fill(dataset.prompt, &example.input);
        let context = whole.strip_suffix(question.as_str()).unwrap_or(&whole).to_owned();
        return Parts { context, question, answer_prefix: example.answer_prefix.clone() };
    };
    let behind = [part.question.as_str(), &part.answer_prefix].concat();
    // The few-shot rows end with the prefix themselves: there the prompt does not.
    let before = dataset.prompt.strip_suffix(behind.as_str());
    let (template, input) = match before {
        Some(before) => (before, example.input.as_str()),
        None => (
            dataset.prompt.strip_suffix(part.question.as_str()).unwrap_or(dataset.prompt),
            example.input.strip_suffix(part.answer_prefix.as_str()).unwrap_or(&example.input),
        ),
    };
    Parts {
        context: fill(part.context.as_deref().unwrap_or(template), ""),
        question: fill(&part.question, input),
        answer_prefix: part.answer_prefix.clone(),
    }
}

impl Protocol {
    /// Context ids, cut from the right to what question and answer of `room` positions leave and to the user's own
    /// `limit`, with the question's ids behind them. Where methods see the question, it is part of the context.
    pub(super) fn apart(
        &self,
        example: &Example,
        dataset: &DatasetInfo,
        (room, limit): (usize, Option<usize>),
        view: QuestionView,
        text: &dyn ModelText,
    ) -> Result<Cut, PromptError> {
        let Parts { mut context, mut question, answer_prefix } =
            parts(example, dataset, self.parts.get(dataset.base));
        if view == QuestionView::Seen {
            context.push_str(&std::mem::take(&mut question));
        }
        let (context, suffix) = if text.has_chat_template() {
            // Longer than any run of the same sign in the context.
            let separator = "#".repeat(context.chars().count() + 10);
            let turn =
                text.render_user_without_thinking(&(context + &separator)).map_err(PromptError::Template)?;
            let (before, behind) = turn.split_once(&separator).ok_or(PromptError::TemplateChangesText)?;
            (before.to_owned(), behind.to_owned())
        } else {
            let bos = text.bos_id().map(|bos| text.decode(&[bos], false)).transpose()?;
            (bos.unwrap_or_default() + &context, "\n".to_owned())
        };
        let question = question + &suffix + &answer_prefix;
        let mut ids = text.encode(&context, false)?;
        let behind = text.encode(&question, false)?;
        let untruncated_tokens = ids.len() + behind.len();
        let most = room.saturating_sub(behind.len()).min(limit.unwrap_or(usize::MAX));
        if most == 0 {
            return Err(PromptError::QuestionTooLong { question: behind.len(), room });
        }
        let removed = (ids.len() > most).then(|| ids.split_off(most));
        let context = if removed.is_some() { text.decode(&ids, false)? } else { context };
        let context_tokens = ids.len();
        ids.extend(behind);
        Ok(Cut {
            ids,
            question_at: Some(context.len()),
            text: context + &question,
            untruncated_tokens,
            removed,
            context_tokens: Some(context_tokens),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ModelFacts, datasets, protocol};

    fn example(dataset: &str, context: &str, input: &str, answer_prefix: &str) -> Example {
        Example {
            key: format!("{dataset}#0-x"),
            dataset: dataset.into(),
            input: input.into(),
            answer_prefix: answer_prefix.into(),
            context: context.into(),
            answers: vec!["x".into()],
            all_classes: Vec::new(),
            length: 0,
            language: "en".into(),
        }
    }

    fn cut(dataset: &str, context: &str, input: &str) -> (String, String, String) {
        let kvpress = protocol::by_name("kvpress").unwrap();
        let info = datasets::by_name(dataset).unwrap();
        let part = kvpress.parts.get(info.base);
        let Parts { context, question, answer_prefix } =
            parts(&example(dataset, context, input, ""), info, part);
        (context, question, answer_prefix)
    }

    /// As `create_huggingface_dataset.py` of LongBench and LooGLE writes them.
    #[test]
    fn prompts_are_cut_as_kvpress_cuts_them() {
        let (context, question, prefix) = cut("gov_report", "C", "");
        assert!(context.ends_with("Report:\nC\n\n"), "{context}");
        assert_eq!(
            (question.as_str(), prefix.as_str()),
            ("Now, write a one-page summary of the report.\n\n", "Summary:")
        );
        let (context, question, prefix) = cut("trec", "C", "Question: why?\nType:");
        assert!(context.ends_with("\n\nC\n"), "{context}");
        assert_eq!((question.as_str(), prefix.as_str()), ("Question: why?\n", "Type:"));
        let (context, question, prefix) = cut("repobench-p_e", "C", "x = 1\n");
        assert_eq!(context, "Please complete the code given below. \nC");
        assert_eq!((question.as_str(), prefix.as_str()), ("x = 1\n", "Next line of code:\n"));
        let (context, question, prefix) = cut("lcc", "C", "");
        assert_eq!(
            (context.ends_with("\nC"), question.as_str(), prefix.as_str()),
            (true, "", "Next line of code:\n")
        );
        let (context, question, prefix) = cut("longdep_summarization", "C", "");
        assert!(context.ends_with("below paper. \nC"), "{context}");
        assert_eq!((question.as_str(), prefix.as_str()), ("\n", "Summarization: "));
        let (context, question, prefix) = cut("shortdep_cloze", "{C}", "Q");
        assert!(context.ends_with("'Bethel Horizon'}\n{C}"), "{context}");
        assert_eq!(
            (question.as_str(), prefix.as_str()),
            ("\n Question: Q What are the masked entities?\n", "Answer:")
        );
        // Every set that kvpress has: nothing of the official prompt is lost but a blank of LooGLE's.
        let kvpress = protocol::by_name("kvpress").unwrap();
        for (base, part) in &kvpress.parts {
            let info = datasets::by_name(base).unwrap();
            let few_shot =
                info.prompt.ends_with(&part.question) && !info.prompt.ends_with(&part.answer_prefix);
            let input = if few_shot { format!("I{}", part.answer_prefix) } else { "I".to_owned() };
            let (context, question, prefix) = cut(base, "C", &input);
            let official = python_format(info.prompt, &[("context", "C"), ("input", &input)]);
            let blank = |text: &str| text.replace([' ', '\n'], "");
            assert_eq!(blank(&[context, question, prefix].concat()), blank(&official), "{base}");
        }
    }

    /// One id a character; the template trims, as most do.
    struct Letters;

    impl ModelText for Letters {
        fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, crate::TextError> {
            assert!(!add_special_tokens, "the template spells what is special");
            Ok(text.chars().map(u32::from).collect())
        }
        fn decode(&self, ids: &[u32], _: bool) -> Result<String, crate::TextError> {
            Ok(ids.iter().filter_map(|id| char::from_u32(*id)).collect())
        }
        fn bos_id(&self) -> Option<u32> {
            Some(u32::from('^'))
        }
        fn eos_id(&self) -> Option<u32> {
            None
        }
        fn id_of(&self, _: &str) -> Option<u32> {
            None
        }
        fn has_chat_template(&self) -> bool {
            true
        }
        fn render_user(&self, user: &str) -> Result<String, crate::TextError> {
            Ok(format!("^[{}]:", user.trim()))
        }
    }

    #[test]
    fn the_context_is_cut_from_the_right_and_the_question_never() {
        let kvpress = protocol::by_name("kvpress").unwrap();
        let info = datasets::by_name("niah_single_1").unwrap();
        let row = example("niah_single_1", " needles ## ", "Which? ", "It is");
        let model =
            |max_prompt, max_positions| ModelFacts { max_prompt, max_positions, ..ModelFacts::default() };
        let render = |model: &ModelFacts, view| kvpress.render_as(&row, info, model, &Letters, view).unwrap();
        let whole = render(&model(None, 4096), QuestionView::Unseen);
        assert_eq!(whole.text, "^[needles ## Which? ]:It is");
        // The blank before the separator is no end of the turn: it stays.
        assert_eq!(whole.context_tokens(&Letters).unwrap(), Some("^[needles ## ".len()));
        assert_eq!(whole.question_at, Some("^[needles ## ".len()));
        let seen = render(&model(None, 4096), QuestionView::Seen);
        assert_eq!(seen.ids, whole.ids);
        assert_eq!(seen.context_tokens(&Letters).unwrap(), Some("^[needles ## Which? ".len()));
        let cut = render(&model(Some(5), 4096), QuestionView::Unseen);
        assert_eq!((cut.text.as_str(), cut.removed_tokens()), ("^[neeWhich? ]:It is", 8));
        // Question and answer must fit behind the context.
        let tight = render(&model(None, 128 + 20), QuestionView::Unseen);
        assert_eq!(tight.ids.len(), 20);
        assert!(tight.text.ends_with("Which? ]:It is"));
        let none = kvpress.render_as(&row, info, &model(None, 128 + 10), &Letters, QuestionView::Unseen);
        assert!(none.unwrap_err().to_string().contains("leaves no room"), "a question longer than the model");
    }
}
