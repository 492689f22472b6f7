//! How long the prompts of a sweep are, for `--dry-run`: rendered where rows and tokenizer are there, else estimated.

use anyhow::Context;
use kvsweep_engine::model::Card;
use kvsweep_tasks::datasets::Language;
use kvsweep_tasks::protocol::Protocol;
use kvsweep_tasks::{ModelFacts, QuestionView, Renderer, Suite, estimate};

use crate::cli::Split;
use crate::model::{self, TextSide};
use crate::plan;
use crate::questions::{self, Selected};

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
    fn seen((tokens, new): (usize, usize)) -> Self {
        Self { compressed: tokens, follow: 0, new, read_before: false }
    }

    /// All its tokens.
    pub(crate) fn tokens(self) -> usize {
        self.compressed + self.follow
    }
}

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
            return Self::rendered(selected, protocol, &facts, &TextSide::new(card)?, question);
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

    fn rendered(
        selected: &Selected,
        protocol: &'static Protocol,
        facts: &ModelFacts,
        text: &TextSide<'_>,
        question: QuestionView,
    ) -> anyhow::Result<Self> {
        let renderer = Renderer { protocol, model: facts, text, question };
        let datasets = questions::read(selected, &renderer)?;
        let mut prompts = Vec::new();
        for ask in datasets.iter().flat_map(|dataset| &dataset.asks) {
            // What the prompt before had compressed, where it can be the same.
            let mut last: Option<Vec<u32>> = None;
            for one in &ask.questions {
                let prompt = one.prompt(&renderer)?;
                let compressed = plan::compressed_tokens(question, protocol, &prompt, text)
                    .with_context(|| format!("example `{}`", one.key()))?;
                let (context, follow) = prompt.ids.split_at(compressed);
                prompts.push(PromptLength {
                    compressed,
                    follow: follow.len(),
                    new: prompt.stop.max_new,
                    read_before: last.as_deref() == Some(context),
                });
                last = (!follow.is_empty()).then(|| context.to_vec());
            }
        }
        Ok(Self { datasets: datasets.len(), prompts, assumed: Vec::new() })
    }

    fn grid(selected: &Selected, protocol: &Protocol, facts: &ModelFacts) -> anyhow::Result<Self> {
        let (variant, lengths, depths) = selected.grid(protocol, facts)?;
        let cell = |length| PromptLength::seen((length, variant.max_new_tokens));
        let cells = lengths.iter().flat_map(|&length| depths.iter().map(move |_| cell(length)));
        Ok(Self {
            datasets: 1,
            prompts: cells.take(selected.remaining(lengths.len() * depths.len())).collect(),
            assumed: vec!["every needle prompt of its full context length".to_owned()],
        })
    }
}
