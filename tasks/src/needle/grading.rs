//! How the answer to a needle test becomes the number of the heatmap.

use std::collections::BTreeMap;

use super::cases::NeedleCase;
use super::variants::NeedleVariant;
use crate::error::TaskError;
use crate::metrics::exact::Exact;
use crate::metrics::needle_overlap::WORDS;
use crate::metrics::{Metric, MetricError};

/// How an answer becomes the number of the heatmap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NeedleGrading {
    /// All or nothing, for the mini suite, whose answer is two random words.
    Exact,
    /// As the variant's figures (word overlap also where the repository asks a language model).
    Variant(&'static NeedleVariant),
}

impl NeedleGrading {
    /// The metric's id.
    pub fn metric(&self) -> &'static str {
        self.implementation().id()
    }

    fn implementation(&self) -> &'static dyn Metric {
        match self {
            Self::Exact => &Exact,
            Self::Variant(_) => &WORDS,
        }
    }

    /// The score of an answer, 0 to 1.
    ///
    /// # Errors
    /// The metric's.
    pub fn score(&self, prediction: &str, case: &NeedleCase) -> Result<f64, TaskError> {
        let failed = |e: MetricError| TaskError::Score {
            key: case.key.clone(),
            metric: self.metric().to_owned(),
            problem: e.to_string(),
        };
        self.implementation().score_answer(prediction, &case.expected, &[]).map_err(failed)
    }

    /// Further scores, 0 to 1, by metric id: the one the repository's result files carry.
    ///
    /// # Errors
    /// The metric's.
    pub fn others(&self, prediction: &str, case: &NeedleCase) -> Result<BTreeMap<String, f64>, TaskError> {
        let Self::Variant(variant) = self else { return Ok(BTreeMap::new()) };
        let Some((id, factor)) = variant.scoring.json.filter(|(id, _)| *id != self.metric()) else {
            return Ok(BTreeMap::new());
        };
        let score = variant.json_score(prediction, &case.answer).map_err(|e| TaskError::Score {
            key: case.key.clone(),
            metric: id.to_owned(),
            problem: e.to_string(),
        })?;
        Ok(score.map(|score| (id.to_owned(), score / factor)).into_iter().collect())
    }
}
