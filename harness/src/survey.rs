//! Every prompt of a sweep, made once before the first one is read: what does not fit or cannot be graded is said before
//! any time is spent, and how much work is ahead is known.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use kvsweep_results::{ExampleKey, visible};
use kvsweep_tasks::{ModelFacts, ModelText, Prompt, Protocol, QuestionView, Renderer};
use rayon::prelude::*;

use crate::model::TextSide;
use crate::output;
use crate::questions::{DatasetPart, KeyedQuestion};

/// What prompts are made with.
#[derive(Clone, Copy)]
pub(crate) struct Surveyor<'a> {
    /// The protocol.
    pub protocol: &'a Protocol,
    /// Facts about the model that prompts depend on.
    pub facts: &'a ModelFacts,
    /// Its tokenizer and chat template.
    pub text: TextSide<'a>,
    /// Whether methods see the question.
    pub question: QuestionView,
}

/// One prompt of a sweep, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PromptLength {
    /// What is compressed of it.
    pub compressed: usize,
    /// What is read behind that: a question that stays unseen.
    pub follow: usize,
    /// New tokens at most.
    pub new: usize,
    /// The prompt before it has the same context, which is not read again.
    pub read_before: bool,
}

impl PromptLength {
    /// A prompt that is compressed whole.
    pub(crate) fn seen((tokens, new): (usize, usize)) -> Self {
        Self { compressed: tokens, follow: 0, new, read_before: false }
    }

    /// All its tokens.
    pub(crate) fn tokens(self) -> usize {
        self.compressed + self.follow
    }
}

/// What is ahead.
#[derive(Default)]
pub(crate) struct Survey {
    /// The prompts that will be read, in their order.
    pub prompts: Vec<(ExampleKey, PromptLength)>,
    /// The examples that no answer can be graded against, and why.
    pub ungradable: BTreeMap<ExampleKey, String>,
}

impl Surveyor<'_> {
    /// What prompts are made for.
    pub(crate) fn renderer(&self) -> Renderer<'_> {
        let Self { protocol, facts: model, ref text, question } = *self;
        Renderer { protocol, model, text, question }
    }

    /// Makes the prompts of all examples that are not `finished`, and says which of them cannot be graded. `check` sees
    /// every prompt.
    ///
    /// # Errors
    /// The first example whose prompt cannot be made or does not pass `check`.
    pub(crate) fn survey(
        &self,
        datasets: &[DatasetPart],
        finished: &BTreeSet<ExampleKey>,
        check: &(dyn Fn(&Prompt) -> anyhow::Result<()> + Sync),
    ) -> anyhow::Result<Survey> {
        let mut survey = Survey::default();
        for dataset in datasets {
            let asks: Vec<Vec<KeyedQuestion<'_>>> = dataset
                .questions_by_ask()
                .map(|ask| ask.filter(|asked| !finished.contains(&asked.key)).collect())
                .collect();
            let seen: Vec<_> = asks.par_iter().map(|ask| self.ask(ask, check)).collect();
            for seen in seen {
                let Survey { prompts, ungradable } = seen?;
                ungradable.values().for_each(|why| tell_skipped(why));
                survey.prompts.extend(prompts);
                survey.ungradable.extend(ungradable);
            }
        }
        Ok(survey)
    }

    /// The questions about one context.
    fn ask(
        &self,
        ask: &[KeyedQuestion<'_>],
        check: &(dyn Fn(&Prompt) -> anyhow::Result<()> + Sync),
    ) -> anyhow::Result<Survey> {
        let renderer = self.renderer();
        let mut survey = Survey::default();
        // What the prompt before had compressed, where it can be the same.
        let mut last: Option<Vec<u32>> = None;
        for asked in ask {
            if let Some(why) = asked.question.ungradable(self.protocol) {
                survey.ungradable.insert(asked.key.clone(), why.to_string());
                continue;
            }
            let prompt = || -> anyhow::Result<(Prompt, usize)> {
                let prompt = asked.question.prompt(&renderer)?;
                check(&prompt)?;
                let compressed = compressed_tokens(&prompt, self.question, self.protocol, &self.text)?;
                Ok((prompt, compressed))
            };
            let (prompt, compressed) = prompt().with_context(|| named(&asked.key))?;
            let (context, follow) = prompt.ids.split_at(compressed);
            let length = PromptLength {
                compressed,
                follow: follow.len(),
                new: prompt.stop.max_new,
                read_before: last.as_deref() == Some(context),
            };
            survey.prompts.push((asked.key.clone(), length));
            last = (!follow.is_empty()).then(|| context.to_vec());
        }
        Ok(survey)
    }
}

/// How many of a prompt's tokens are read before the methods compress; the others follow.
///
/// # Errors
/// A question that must stay unseen and cannot be told from its context.
pub(crate) fn compressed_tokens(
    prompt: &Prompt,
    question: QuestionView,
    protocol: &Protocol,
    text: &dyn ModelText,
) -> anyhow::Result<usize> {
    if question == QuestionView::Seen && prompt.apart.is_none() {
        return Ok(prompt.ids.len());
    }
    match prompt.context_tokens(text)? {
        Some(tokens) if tokens > 0 => Ok(tokens),
        _ => anyhow::bail!(
            "under protocol `{}` this prompt has no context in front of its question, so the question cannot stay unseen\n\
             hint: leave its data set out with --datasets, or ask with --question seen",
            protocol.name
        ),
    }
}

/// What messages call an example.
pub(crate) fn named(key: &ExampleKey) -> String {
    format!("example `{}`", key.example)
}

/// Says why an example is left out.
pub(crate) fn tell_skipped(why: &str) {
    output::note(&format!("skipped: {}", visible(why)));
}
