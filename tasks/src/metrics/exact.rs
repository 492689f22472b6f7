//! The score of the embedded needle test: the whole answer or nothing.

use super::{Metric, MetricError};

/// 1 if the first line of the response, blanks and a final full stop aside, is the answer.
pub(crate) struct Exact;

impl Metric for Exact {
    fn id(&self) -> &'static str {
        "exact/kvsweep"
    }

    fn about(&self) -> &'static str {
        "first line of the response equals the answer, blanks and a final full stop aside (embedded needle test)"
    }

    fn score_answer(&self, prediction: &str, answer: &str, _: &[String]) -> Result<f64, MetricError> {
        let plain =
            |text: &str| text.trim().lines().next().unwrap_or("").trim().trim_end_matches('.').to_owned();
        Ok(f64::from(u8::from(plain(prediction) == plain(answer))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_or_nothing() {
        let score = |prediction: &str| Exact.score_answer(prediction, "red kite", &[]).unwrap();
        assert_eq!(score(" red kite.\nmore"), 1.0);
        assert_eq!(score("red kites"), 0.0);
        assert_eq!(score(""), 0.0);
    }
}
