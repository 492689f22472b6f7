//! What a sweep asks: contexts, each with one or more questions, whatever they were made of.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::datasets::DatasetInfo;
use crate::error::TaskError;
use crate::example::hex;
use crate::prompt::Prompt;
use crate::protocol::{ModelFacts, Protocol, QuestionView};
use crate::text::ModelText;

/// What prompts are made for: a model under a protocol.
#[derive(Clone, Copy)]
pub struct Renderer<'a> {
    /// The protocol.
    pub protocol: &'a Protocol,
    /// Facts about the model that prompts depend on.
    pub model: &'a ModelFacts,
    /// The model's tokenizer and chat template.
    pub text: &'a dyn ModelText,
    /// Whether methods see the question.
    pub question: QuestionView,
}

/// Names a context by its text: sixteen hexadecimal digits of the SHA-256. Questions about one document share it,
/// whatever data set they belong to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextKey(String);

impl ContextKey {
    /// The key of a context; an empty one has none, since there is nothing to share.
    pub fn of(context: &str) -> Option<Self> {
        let digits = || hex(&Sha256::digest(context)).chars().take(16).collect();
        (!context.is_empty()).then(|| Self(digits()))
    }
}

impl fmt::Display for ContextKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A context with the questions that are asked about it, in the order of their rows.
#[derive(Clone)]
pub struct Ask {
    /// The context; `None` where it is no other question's.
    pub context: Option<ContextKey>,
    /// The questions; never empty.
    pub questions: Vec<Arc<dyn Question>>,
}

impl Ask {
    /// Puts questions that follow each other and share their context together.
    pub fn group(questions: impl IntoIterator<Item = Arc<dyn Question>>) -> Vec<Self> {
        let mut asks: Vec<Self> = Vec::new();
        for question in questions {
            let context = question.context().cloned();
            match asks.last_mut().filter(|last| context.is_some() && last.context == context) {
                Some(last) => last.questions.push(question),
                None => asks.push(Self { context, questions: vec![question] }),
            }
        }
        asks
    }
}

/// One question: how it is put to a model, and how an answer is graded.
pub trait Question: Send + Sync {
    /// Stable key of the example: `<data set>#…`.
    fn key(&self) -> &str;

    /// Row in its data set, from 0.
    fn row(&self) -> u64;

    /// The context that other questions may share.
    fn context(&self) -> Option<&ContextKey> {
        None
    }

    /// Builds the prompt.
    ///
    /// # Errors
    /// See [`Protocol::render`].
    fn prompt(&self, renderer: &Renderer<'_>) -> Result<Prompt, TaskError>;

    /// Scores an answer.
    ///
    /// # Errors
    /// The metric has no number for this answer.
    fn grade(&self, protocol: &Protocol, prediction: &str) -> Result<Grade, TaskError>;

    /// What is known of it besides.
    fn description(&self) -> Description<'_>;

    /// The registered data set that it is a row of, if it is.
    fn dataset(&self) -> Option<&DatasetInfo> {
        None
    }

    /// Its place in the needle's heatmap, if it has one.
    fn cell(&self) -> Option<NeedleCell> {
        None
    }

    /// Its nominal context length in tokens, in a suite that asks the same at several.
    fn context_length(&self) -> Option<usize> {
        self.cell().map(|cell| cell.length)
    }

    /// Why no answer to it can be graded, if so: an empty one and the reference's own are tried.
    fn ungradable(&self, protocol: &Protocol) -> Option<TaskError> {
        let reference = self.description().answers.first().map_or("", String::as_str);
        ["", reference].into_iter().find_map(|answer| self.grade(protocol, answer).err())
    }
}

/// One cell of the needle test's heatmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeedleCell {
    /// The nominal context length in tokens.
    pub length: usize,
    /// The depth in percent.
    pub depth: u32,
}

/// What is known of a question besides its prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description<'a> {
    /// The reference answers.
    pub answers: &'a [String],
    /// Class names of a classification set, else empty.
    pub all_classes: &'a [String],
    /// `en`, `zh` or, for the code sets, the programming language.
    pub language: &'a str,
    /// The row's own length, where the data set states one.
    pub length: Option<u64>,
    /// LongBench-E's bucket, or the context length of the needle test and of RULER: columns of a table.
    pub bucket: Option<String>,
}

/// A score with its metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Grade {
    /// The metric's id.
    pub metric: String,
    /// 0 to 1.
    pub score: f64,
    /// Further scores, 0 to 1, by metric id.
    pub others: BTreeMap<String, f64>,
}
