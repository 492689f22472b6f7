//! Metrics, each a port of one published implementation and named after it.
//!
//! A score depends on the code that computed it, so an id names the implementation: `rouge-l/pltrdy` is the PyPI
//! package `rouge`, `code-sim/difflib` is fuzzywuzzy without python-Levenshtein. [`all`] lists them and [`by_id`] finds
//! one. Scores are fractions, 0..1; the scripts' factors (100, 10) belong to what reports them ([`scorer`]).
//!
//! Left out on purpose:
//! - LooGLE's METEOR: computed on Python sets, so its chunk penalty follows the string hash seed and changes from run
//!   to run; it also needs the WordNet corpus. No port could agree with a published number.
//! - LooGLE's BERTScore: candidates and references are swapped in the call, so the reported "recall" is a precision;
//!   it also needs the weights of another model.
//! - LooGLE's timeline driver: it replaces every deviation that can be computed by the largest possible one. The
//!   deviations themselves are in [`reorder`].

use thiserror::Error;

pub mod babilong;
mod bag;
pub(crate) mod bleu;
pub(crate) mod classification;
pub mod cloze;
pub(crate) mod code_sim;
pub(crate) mod count;
pub(crate) mod exact;
pub mod google_rouge;
pub mod jieba;
pub mod longbench;
pub(crate) mod loogle_rouge;
pub mod needle_overlap;
pub(crate) mod pltrdy;
pub mod porter;
pub(crate) mod qa_f1;
pub(crate) mod qa_f1_zh;
pub mod reorder;
pub(crate) mod retrieval;
pub mod rouge_l;
pub(crate) mod ruler;
pub mod scorer;

/// One implementation of one metric.
pub trait Metric: Sync {
    /// The id, `name/implementation`.
    fn id(&self) -> &'static str;

    /// One line: what is computed and which code it ports.
    fn about(&self) -> &'static str;

    /// The score of a prediction against one reference answer, 0..1.
    ///
    /// # Errors
    /// [`MetricError`] where the official code raises.
    fn score_answer(
        &self,
        prediction: &str,
        answer: &str,
        all_classes: &[String],
    ) -> Result<f64, MetricError>;

    /// The score of a prediction against all reference answers, 0..1: the largest, and 0 if there is none, as in
    /// every LongBench script.
    ///
    /// # Errors
    /// [`MetricError`] where the official code raises for one of the answers.
    fn score(
        &self,
        prediction: &str,
        answers: &[String],
        all_classes: &[String],
    ) -> Result<f64, MetricError> {
        answers.iter().try_fold(0.0f64, |best, answer| {
            let score = self.score_answer(prediction, answer, all_classes)?;
            Ok(if score > best { score } else { best })
        })
    }
}

/// A score that cannot be computed: the official code raises here, which stops its whole run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MetricError {
    /// The reference answer has no paragraph number.
    #[error(
        "answer `{answer}` has no number after `{prefix}`: is the data set the right one for this metric?"
    )]
    NoGoldNumber {
        /// The reference answer.
        answer: String,
        /// What should stand before the number.
        prefix: &'static str,
    },
    /// One side has no sentence left after splitting at full stops.
    #[error("the {side} `{text}` has no words for rouge")]
    NoSentences {
        /// `prediction` or `answer`.
        side: &'static str,
        /// The text.
        text: String,
    },
    /// The reference of a cloze question is not a dict of strings.
    #[error("cloze answer `{answer}` is not a python dict of strings: {reason}")]
    BadClozeAnswer {
        /// The reference answer.
        answer: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A predicted cloze value is no string.
    #[error("the predicted value for `{key}` is not a string")]
    NotAString {
        /// The mask.
        key: String,
    },
}

/// An id that no metric has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no metric has the id `{id}`{}", nearest.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
pub struct UnknownMetric {
    /// The id asked for.
    pub id: String,
    /// The most similar id, if one is similar at all.
    pub nearest: Option<&'static str>,
}

static ALL: &[&dyn Metric] = &[
    &qa_f1::QaF1,
    &qa_f1_zh::QaF1Zh,
    &rouge_l::SCRIPT,
    &rouge_l::MODULE,
    &rouge_l::NO_LIMIT,
    &rouge_l::ZH_SCRIPT,
    &rouge_l::ZH_MODULE,
    &rouge_l::ZH_NO_LIMIT,
    &classification::Classification,
    &retrieval::EN,
    &retrieval::ZH,
    &count::Count,
    &code_sim::Difflib,
    &code_sim::Levenshtein,
    &bleu::BLEU1,
    &bleu::BLEU4,
    &loogle_rouge::ROUGE1,
    &loogle_rouge::ROUGE2,
    &loogle_rouge::ROUGE_L,
    &cloze::EXACT,
    &cloze::PARTIAL,
    &google_rouge::ROUGE1_F,
    &google_rouge::ROUGE1_RECALL,
    &google_rouge::ROUGE_L_F,
    &needle_overlap::WORDS,
    &needle_overlap::FRANXYAO,
    &exact::Exact,
    &ruler::ALL,
    &ruler::KVPRESS_ALL,
    &ruler::KVPRESS_PART,
];

/// Every metric, grouped by benchmark.
pub fn all() -> &'static [&'static dyn Metric] {
    ALL
}

/// The metric with this id.
///
/// ```
/// let f1 = kvsweep_tasks::metrics::by_id("qa-f1/longbench")?;
/// let answers = ["Eiffel tower".to_owned(), "the tower in Paris".to_owned()];
/// assert_eq!(f1.score("The Eiffel Tower.", &answers, &[])?, 1.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`UnknownMetric`], with the nearest id.
pub fn by_id(id: &str) -> Result<&'static dyn Metric, UnknownMetric> {
    ALL.iter().copied().find(|metric| metric.id() == id).ok_or_else(|| UnknownMetric {
        id: id.to_owned(),
        nearest: ALL
            .iter()
            .map(|metric| (strsim::jaro_winkler(id, metric.id()), metric.id()))
            .filter(|(similarity, _)| *similarity > 0.7)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, id)| id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_found() {
        for metric in all() {
            assert_eq!(by_id(metric.id()).map(|m| m.about()), Ok(metric.about()));
            assert_eq!(all().iter().filter(|other| other.id() == metric.id()).count(), 1, "{}", metric.id());
            assert!(metric.id().contains('/') && !metric.about().ends_with('.'), "{}", metric.id());
        }
    }

    #[test]
    fn the_reference_page_has_every_id() {
        let page = include_str!("../../../docs/metrics.md");
        for metric in all() {
            assert!(page.contains(&format!("`{}`", metric.id())), "docs/metrics.md lacks `{}`", metric.id());
        }
    }

    #[test]
    fn unknown_ids_name_the_nearest() {
        let error = by_id("qa-f1/longbensh").err().unwrap();
        assert_eq!(error.nearest, Some("qa-f1/longbench"));
        assert_eq!(
            error.to_string(),
            "no metric has the id `qa-f1/longbensh`; did you mean `qa-f1/longbench`?"
        );
        assert_eq!(by_id("").err().unwrap().to_string(), "no metric has the id ``");
    }
}
