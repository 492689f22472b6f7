//! `count_score`: LongBench's passage counting.

use super::retrieval::share_equal;
use super::{Metric, MetricError};

/// `count_score` of THUDM/LongBench `metrics.py`: the whole answer is the gold number.
pub(crate) struct Count;

impl Metric for Count {
    fn id(&self) -> &'static str {
        "count/longbench"
    }

    fn about(&self) -> &'static str {
        "share of the numbers in the prediction that equal the answer (LongBench count_score)"
    }

    fn score_answer(&self, prediction: &str, answer: &str, _: &[String]) -> Result<f64, MetricError> {
        Ok(share_equal(prediction, answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_splits_a_number() {
        assert_eq!(Count.score("13,1600", &["13".into()], &[]), Ok(0.5));
    }
}
