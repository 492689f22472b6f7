//! Every prompt of a sweep, made once before the first one is read: what does not fit or cannot be graded is said before
//! any time is spent, and how much work is ahead is known.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use kvsweep_results::{ExampleKey, visible};
use kvsweep_tasks::{ModelFacts, ModelText, Prompt, Protocol, Renderer};
use rayon::prelude::*;

use crate::cli::QuestionView;
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

/// The sizes of one prompt, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Read before the methods compress.
    pub compressed: usize,
    /// Read behind what is compressed.
    pub follow: usize,
    /// The answer's at most.
    pub new: usize,
    /// The question before has the same context, so that it is read already.
    pub shared: bool,
}

impl Sizes {
    /// The whole prompt.
    pub(crate) fn tokens(&self) -> usize {
        self.compressed + self.follow
    }
}

/// What is ahead.
#[derive(Default)]
pub(crate) struct Survey {
    /// The prompts that will be read, in their order.
    pub prompts: Vec<(ExampleKey, Sizes)>,
    /// The examples that no answer can be graded against, and why.
    pub ungradable: BTreeMap<ExampleKey, String>,
}

impl Surveyor<'_> {
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
        let renderer = Renderer { protocol: self.protocol, model: self.facts, text: &self.text };
        let mut survey = Survey::default();
        let mut before: Option<Vec<u32>> = None;
        for asked in ask {
            if let Some(why) = asked.question.ungradable(self.protocol) {
                survey.ungradable.insert(asked.key.clone(), why.to_string());
                continue;
            }
            let sizes = || -> anyhow::Result<(Sizes, Vec<u32>)> {
                let mut prompt = asked.question.prompt(&renderer)?;
                check(&prompt)?;
                let compressed = compressed_tokens(&prompt, self.question, self.protocol, &self.text)?;
                let follow = prompt.ids.split_off(compressed).len();
                let shared = follow > 0 && before.as_ref() == Some(&prompt.ids);
                Ok((Sizes { compressed, follow, new: prompt.stop.max_new, shared }, prompt.ids))
            };
            let (sizes, ids) = sizes().with_context(|| named(&asked.key))?;
            survey.prompts.push((asked.key.clone(), sizes));
            before = Some(ids);
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
    if question == QuestionView::Seen {
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
