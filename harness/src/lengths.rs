//! How long the prompts of a sweep are, for `--dry-run`: rendered where rows and tokenizer are there, else estimated.

use std::collections::BTreeSet;

use kvsweep_engine::model::Card;
use kvsweep_tasks::datasets::Language;
use kvsweep_tasks::protocol::Protocol;
use kvsweep_tasks::{ModelFacts, QuestionView, Suite, estimate};

use crate::cli::Split;
use crate::model::{self, TextSide};
use crate::questions::{self, Selected};
use crate::survey::{PromptLength, Surveyor};

/// The prompts of a sweep.
pub(crate) struct Lengths {
    /// Data sets.
    pub datasets: usize,
    /// The prompts, in the order in which they are read.
    pub prompts: Vec<PromptLength>,
    /// What was assumed.
    pub assumed: Vec<String>,
}

impl Lengths {
    /// The prompts that a sweep would render, or as good an estimate as what is on this machine allows.
    ///
    /// # Errors
    /// Rows that were named and are missing or malformed; generated rows without a tokenizer.
    pub(crate) fn of(
        selected: &Selected,
        protocol: &'static Protocol,
        card: &Card,
        question: QuestionView,
    ) -> anyhow::Result<Self> {
        let facts = model::facts(card);
        let is_whole = selected.is_generated() || card.tokenizer().is_err();
        if selected.suite == Suite::Ruler && selected.split == Split::Full && is_whole {
            let (datasets, prompts) = selected.ruler_lengths(protocol)?;
            return Ok(Self {
                datasets,
                prompts: prompts.into_iter().map(PromptLength::seen).collect(),
                assumed: vec!["every RULER prompt of its full length".to_owned()],
            });
        }
        if selected.has_rows() && (selected.split == Split::Mini || card.tokenizer().is_ok()) {
            let surveyor = Surveyor { protocol, facts: &facts, text: TextSide::new(card)?, question };
            return Self::rendered(selected, &surveyor);
        }
        if selected.suite == Suite::Needle {
            return Self::grid(selected, protocol, &facts);
        }
        let vocabulary = card.config.vocab_size;
        let capped = |tokens: Option<usize>, new: usize| {
            let limit = protocol.limit(&facts, new).0;
            (tokens.map_or(limit, |tokens| tokens.min(limit)), new)
        };
        let question_is_unseen = question == QuestionView::Unseen;
        let mut this = Self { datasets: 0, prompts: Vec::new(), assumed: Vec::new() };
        if question_is_unseen {
            this.assumed.push("a question's own tokens count as its context's".to_owned());
        }
        let length = if selected.has_rows() {
            let datasets = questions::read_files(selected, protocol)?;
            this.datasets = datasets.len();
            for (place, question) in
                datasets.iter().flat_map(|d| &d.asks).flat_map(|ask| ask.questions.iter().enumerate())
            {
                let (Some(info), Some(length)) = (question.dataset(), question.description().length) else {
                    continue;
                };
                let tokens = estimate::tokens(length, info.language, vocabulary);
                let read_before = question_is_unseen && place > 0;
                let seen = PromptLength::seen(capped(Some(tokens), info.max_new_tokens));
                this.prompts.push(PromptLength { read_before, ..seen });
            }
            "every row's `length`"
        } else {
            let infos = selected.infos(protocol)?;
            this.datasets = infos.len();
            for info in infos {
                let tokens =
                    info.mean_length.map(|mean| estimate::tokens(mean as u64, info.language, vocabulary));
                let prompt = capped(tokens, info.max_new_tokens);
                let prompts = std::iter::repeat_n(PromptLength::seen(prompt), selected.remaining(info.rows));
                this.prompts.extend(prompts);
                if tokens.is_none() {
                    this.assumed
                        .push(format!("`{}`: every prompt at the limit of {} tokens", info.name, prompt.0));
                }
            }
            "the official number of rows, each of the data set's mean `length`"
        };
        let [word, character, code] = [Language::English, Language::Chinese, Language::Code]
            .map(|language| estimate::tokens_per_unit(language, vocabulary));
        this.assumed.insert(
            0,
            format!(
                "{length}, at {word} tokens an English word, {character} a Chinese character, {code} a word of code, cut \
                 to the protocol's limit"
            ),
        );
        Ok(this)
    }

    fn rendered(selected: &Selected, surveyor: &Surveyor<'_>) -> anyhow::Result<Self> {
        let datasets = questions::read(selected, &surveyor.renderer())?;
        let survey = surveyor.survey(&datasets, &BTreeSet::new(), &|_| Ok(()))?;
        let prompts = survey.prompts.into_iter().map(|(_, length)| length).collect();
        Ok(Self { datasets: datasets.len(), prompts, assumed: Vec::new() })
    }

    fn grid(selected: &Selected, protocol: &Protocol, facts: &ModelFacts) -> anyhow::Result<Self> {
        let (variant, lengths, depths) = selected.grid(protocol, facts)?;
        let cells: Vec<usize> =
            lengths.iter().flat_map(|&length| std::iter::repeat_n(length, depths.len())).collect();
        let cells = selected.remaining_lengths(&cells).into_iter();
        Ok(Self {
            datasets: 1,
            prompts: cells.map(|length| PromptLength::seen((length, variant.max_new_tokens))).collect(),
            assumed: vec!["every needle prompt of its full context length".to_owned()],
        })
    }
}
