//! The registry of data sets: one file a suite, one line a data set.

pub(crate) mod longbench;
pub mod longbench_e;
pub(crate) mod loogle;
pub mod metric_ids;
pub mod mini;
pub(crate) mod ruler;

use std::sync::LazyLock;

use crate::error::TaskError;
use crate::python::format::python_format;
use crate::suite::Suite;

/// What a data set tests; the official leaderboard averages by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// One document, one question.
    SingleDocQa,
    /// Several documents, one question.
    MultiDocQa,
    /// Summaries.
    Summarization,
    /// In-context learning.
    FewShot,
    /// Made-up tasks.
    Synthetic,
    /// Code completion.
    Code,
    /// LooGLE's questions within one passage.
    ShortDependency,
    /// LooGLE's questions across a document.
    LongDependency,
    /// RULER's needles.
    Retrieval,
    /// RULER's chains of variables.
    Tracing,
    /// RULER's frequent words.
    Aggregation,
    /// RULER's questions about one of many documents.
    QuestionAnswering,
}

impl Category {
    /// LongBench's six categories in the official order.
    pub const LONGBENCH: [Self; 6] = [
        Self::SingleDocQa,
        Self::MultiDocQa,
        Self::Summarization,
        Self::FewShot,
        Self::Synthetic,
        Self::Code,
    ];

    /// A stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::SingleDocQa => "single-doc QA",
            Self::MultiDocQa => "multi-doc QA",
            Self::Summarization => "summarization",
            Self::FewShot => "few-shot",
            Self::Synthetic => "synthetic",
            Self::Code => "code",
            Self::ShortDependency => "short dependency",
            Self::LongDependency => "long dependency",
            Self::Retrieval => "retrieval",
            Self::Tracing => "tracing",
            Self::Aggregation => "aggregation",
            Self::QuestionAnswering => "question answering",
        }
    }
}

/// The language of a data set as the official averages sort them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Language {
    /// English.
    English,
    /// Chinese.
    Chinese,
    /// Source code; counted with English.
    Code,
}

impl Language {
    /// `en`, `zh` or `code`.
    pub fn name(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh",
            Self::Code => "code",
        }
    }
}

/// What is fixed about a data set, whatever the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatasetInfo {
    /// Registry name, unique over all suites (LongBench-E: with `_e`). Also the file's stem.
    pub name: &'static str,
    /// The name in official result files (LongBench-E: without `_e`).
    pub base: &'static str,
    /// The suite it belongs to.
    pub suite: Suite,
    /// What it tests.
    pub category: Category,
    /// Its language.
    pub language: Language,
    /// The official metric's id.
    pub metric: &'static str,
    /// The official generation length.
    pub max_new_tokens: usize,
    /// The official prompt, with `{context}` and `{input}`, in Python's `str.format` syntax.
    pub prompt: &'static str,
    /// Only the first line of a prediction is scored.
    pub first_line_only: bool,
    /// Never wrapped in a chat template by the official code.
    pub raw: bool,
    /// Rows of the complete official file (LooGLE: questions).
    pub rows: usize,
    /// Mean of its rows' `length` (words, Chinese characters), where LongBench states it; LongBench-E: of the data set
    /// that it draws from.
    pub mean_length: Option<usize>,
    /// Column head of paper tables.
    pub short_name: &'static str,
}

impl DatasetInfo {
    /// What stands behind the context in the filled prompt: instructions and the question. `None` where the prompt has
    /// the question before the context.
    pub fn question(&self, input: &str) -> Option<String> {
        let (before, behind) = self.prompt.split_once("{context}")?;
        (!before.contains("{input}")).then(|| python_format(behind, &[("input", input)]))
    }
}

static ALL: LazyLock<Vec<DatasetInfo>> = LazyLock::new(|| {
    let longbench = longbench::DATASETS.into_iter().chain(longbench_e::datasets());
    longbench.chain(loogle::DATASETS).chain(ruler::DATASETS).collect()
});

/// Every data set, suite by suite, in the official orders.
pub fn all() -> &'static [DatasetInfo] {
    &ALL
}

/// The data sets of a suite, in the official order. The needle test is not made of data sets.
///
/// # Errors
/// An unknown name, with the nearest ones.
pub fn suite(name: &str) -> Result<Vec<&'static DatasetInfo>, TaskError> {
    let suites = Suite::ALL.into_iter().filter(|suite| *suite != Suite::Needle);
    let suite = suites
        .clone()
        .find(|suite| suite.name() == name)
        .ok_or_else(|| TaskError::unknown("suite", name, suites.map(Suite::name)))?;
    Ok(all().iter().filter(|d| d.suite == suite).collect())
}

/// A data set by its registry name, the mini suite's included.
///
/// # Errors
/// An unknown name, with the nearest ones.
pub fn by_name(name: &str) -> Result<&'static DatasetInfo, TaskError> {
    let known = || all().iter().chain(mini::all());
    known()
        .find(|d| d.name == name)
        .ok_or_else(|| TaskError::unknown("data set", name, known().map(|d| d.name)))
}

/// The data sets of a suite picked by name, each once, in the order given. For LongBench-E the plain LongBench name
/// is understood, too.
///
/// # Errors
/// A name the suite does not have, with the nearest ones.
pub fn pick(suite_name: &str, names: &[String]) -> Result<Vec<&'static DatasetInfo>, TaskError> {
    let suite = suite(suite_name)?;
    let mut picked: Vec<&'static DatasetInfo> = Vec::with_capacity(names.len());
    for name in names {
        let info = suite
            .iter()
            .find(|d| d.name == name || d.base == name)
            .ok_or_else(|| TaskError::unknown("data set", name, suite.iter().map(|d| d.name)))?;
        if !picked.contains(info) {
            picked.push(info);
        }
    }
    Ok(picked)
}

/// The 14 English and 2 code data sets in the column order of most paper tables.
pub fn english_16() -> Vec<&'static DatasetInfo> {
    all().iter().filter(|d| d.suite == Suite::LongBench && d.language != Language::Chinese).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_have_the_official_sizes() {
        assert_eq!(suite("longbench").unwrap().len(), 21);
        assert_eq!(suite("longbench").unwrap().iter().map(|d| d.rows).sum::<usize>(), 4750);
        assert_eq!(suite("longbench-e").unwrap().len(), 13);
        assert_eq!(english_16().len(), 16);
        let mut names: Vec<_> = all().iter().map(|d| d.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
        assert!(all().iter().all(|d| crate::metrics::by_id(d.metric).is_ok()));
    }

    #[test]
    fn wrong_names_get_suggestions() {
        let error = suite("longbnch").unwrap_err().to_string();
        assert!(error.contains("`longbench`"), "{error}");
        let error = pick("longbench", &["hotpot_qa".into()]).unwrap_err().to_string();
        assert!(error.contains("`hotpotqa`"), "{error}");
        assert_eq!(pick("longbench-e", &["lcc".into(), "lcc_e".into()]).unwrap().len(), 1);
    }
}
