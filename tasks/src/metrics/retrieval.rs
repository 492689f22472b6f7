//! `retrieval_score` and `retrieval_zh_score`: LongBench's passage retrieval.

use super::{Metric, MetricError};
use crate::python::text::{digit_runs, digits_after};

/// `retrieval_score` and `retrieval_zh_score` of THUDM/LongBench `metrics.py`.
pub(crate) struct Retrieval {
    id: &'static str,
    about: &'static str,
    /// What stands before the number in the reference answer.
    prefix: &'static str,
}

/// `Paragraph 12`.
pub(crate) static EN: Retrieval = Retrieval {
    id: "retrieval/longbench",
    about: "share of the numbers in the prediction that equal the gold paragraph number (LongBench retrieval_score)",
    prefix: "Paragraph ",
};
/// `段落12`.
pub(crate) static ZH: Retrieval = Retrieval {
    id: "retrieval-zh/longbench",
    about: "share of the numbers in the prediction that equal the gold paragraph number (LongBench retrieval_zh_score)",
    prefix: "段落",
};

impl Metric for Retrieval {
    fn id(&self) -> &'static str {
        self.id
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn score_answer(&self, prediction: &str, answer: &str, _: &[String]) -> Result<f64, MetricError> {
        let gold = digits_after(answer, self.prefix)
            .ok_or_else(|| MetricError::NoGoldNumber { answer: answer.to_owned(), prefix: self.prefix })?;
        Ok(share_equal(prediction, gold))
    }
}

/// Share of the digit runs that equal `gold` as strings, 0 without any: `05` is not `5`.
pub(super) fn share_equal(prediction: &str, gold: &str) -> f64 {
    let (mut right, mut all) = (0u32, 0u32);
    for number in digit_runs(prediction) {
        all += 1;
        right += u32::from(number == gold);
    }
    if all == 0 { 0.0 } else { f64::from(right) / f64::from(all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_numbers_as_strings() {
        assert_eq!(EN.score("3.5 or 05", &["Paragraph 5".into()], &[]), Ok(1.0 / 3.0));
        assert_eq!(ZH.score("段落 27", &["段落27".into()], &[]), Ok(1.0));
        assert_eq!(EN.score("none", &["Paragraph 5".into()], &[]), Ok(0.0));
    }

    #[test]
    fn an_answer_without_number_is_an_error() {
        let error = EN.score("5", &["paragraph 5".into()], &[]).unwrap_err();
        assert!(error.to_string().contains("`paragraph 5` has no number after `Paragraph `"), "{error}");
    }
}
