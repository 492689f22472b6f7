//! How long the prompts of a sweep are, for `--dry-run`: rendered where rows and tokenizer are there, else estimated.

use std::collections::BTreeSet;

use kvsweep_engine::model::Card;
use kvsweep_tasks::datasets::Language;
use kvsweep_tasks::protocol::Protocol;
use kvsweep_tasks::{ModelFacts, Renderer, Suite, estimate};

use crate::cli::{QuestionView, Split};
use crate::model::{self, TextSide};
use crate::plan::check_window;
use crate::questions::{self, DatasetPart, Selected};
use crate::survey::Surveyor;

/// The prompts of a sweep.
pub(crate) struct Lengths {
    /// Data sets.
    pub datasets: usize,
    /// Tokens of each prompt, and new tokens at most.
    pub prompts: Vec<(usize, usize)>,
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
        if selected.has_rows() && (selected.split == Split::Mini || card.tokenizer().is_ok()) {
            let text = TextSide::new(card)?;
            let surveyor = Surveyor { protocol, facts: &facts, text, question };
            return Self::rendered(selected, &surveyor, card);
        }
        if selected.suite == Suite::Needle {
            return Self::grid(selected, protocol, &facts);
        }
        let vocabulary = card.config.vocab_size;
        let capped = |tokens: Option<usize>, new: usize| {
            let limit = protocol.limit(&facts, new).0;
            (tokens.map_or(limit, |tokens| tokens.min(limit)), new)
        };
        let mut this = Self { datasets: 0, prompts: Vec::new(), assumed: Vec::new() };
        let length = if selected.has_rows() {
            let datasets = questions::read_files(selected, protocol)?;
            this.datasets = datasets.len();
            for asked in datasets.iter().flat_map(DatasetPart::questions) {
                let (Some(info), Some(length)) =
                    (asked.question.dataset(), asked.question.description().length)
                else {
                    continue;
                };
                let tokens = estimate::tokens(length, info.language, vocabulary);
                this.prompts.push(capped(Some(tokens), info.max_new_tokens));
            }
            "every row's `length`"
        } else {
            let infos = selected.infos(protocol)?;
            this.datasets = infos.len();
            for info in infos {
                let tokens =
                    info.mean_length.map(|mean| estimate::tokens(mean as u64, info.language, vocabulary));
                let prompt = capped(tokens, info.max_new_tokens);
                this.prompts.extend(std::iter::repeat_n(prompt, selected.remaining(info.rows)));
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

    fn rendered(selected: &Selected, surveyor: &Surveyor<'_>, card: &Card) -> anyhow::Result<Self> {
        let Surveyor { protocol, facts, text, .. } = surveyor;
        let datasets = questions::read(selected, &Renderer { protocol, model: facts, text })?;
        check_window(card, protocol, facts, &datasets)?;
        let survey = surveyor.survey(&datasets, &BTreeSet::new(), &|_| Ok(()))?;
        let prompts = survey.prompts.iter().map(|(_, sizes)| (sizes.tokens(), sizes.new)).collect();
        Ok(Self { datasets: datasets.len(), prompts, assumed: Vec::new() })
    }

    fn grid(selected: &Selected, protocol: &Protocol, facts: &ModelFacts) -> anyhow::Result<Self> {
        let (variant, lengths, depths) = selected.grid(protocol, facts)?;
        let cells: Vec<usize> =
            lengths.iter().flat_map(|&length| std::iter::repeat_n(length, depths.len())).collect();
        let cells = selected.remaining_lengths(&cells).into_iter();
        Ok(Self {
            datasets: 1,
            prompts: cells.map(|length| (length, variant.max_new_tokens)).collect(),
            assumed: vec!["every needle prompt of its full context length".to_owned()],
        })
    }
}
