//! From row scores to the number of a table, as LongBench's `eval.py` computes it.

use super::longbench::first_line;
use super::{Metric, MetricError};
use crate::python::number::{numpy_mean, numpy_round2, round2};

/// The score of one row, 0..1, with the first-line rule applied if the data set has it.
///
/// # Errors
/// [`MetricError`] of the metric.
pub fn score_row(
    metric: &dyn Metric,
    first_line_only: bool,
    prediction: &str,
    answers: &[String],
    all_classes: &[String],
) -> Result<f64, MetricError> {
    let prediction = if first_line_only { first_line(prediction) } else { prediction };
    metric.score(prediction, answers, all_classes)
}

/// `scorer`: per cent with two decimals. Sums in row order, divides after the factor, rounds like Python.
///
/// `None` without rows, where the official script divides by zero.
pub fn dataset_score(row_scores: &[f64]) -> Option<f64> {
    // Not `sum()`, which starts from -0.0.
    let total = row_scores.iter().fold(0.0, |total, score| total + score);
    (!row_scores.is_empty()).then(|| round2(100.0 * total / row_scores.len() as f64))
}

/// LongBench-E's three scores, per cent with two decimals; NaN for a bucket without rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Buckets {
    /// `0-4k`: rows of length below 4000.
    pub short: f64,
    /// `4-8k`: below 8000.
    pub medium: f64,
    /// `8k+`: the rest.
    pub long: f64,
}

/// `scorer_e`: means by the stored `length` of the rows, in numpy's summation order and with numpy's rounding.
pub fn bucket_scores(rows: impl IntoIterator<Item = (f64, u64)>) -> Buckets {
    let mut buckets = [const { Vec::new() }; 3];
    let [short, medium, long] = &mut buckets;
    for (score, length) in rows {
        let bucket = match length {
            ..4000 => &mut *short,
            4000..8000 => &mut *medium,
            _ => &mut *long,
        };
        bucket.push(score);
    }
    let [short, medium, long] = buckets.map(|scores| numpy_round2(100.0 * numpy_mean(&scores)));
    Buckets { short, medium, long }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_once_at_the_end() {
        assert_eq!(dataset_score(&[1.0, 0.0, 0.0]), Some(33.33));
        assert_eq!(dataset_score(&[]), None);
        assert!(dataset_score(&[0.0]).unwrap().is_sign_positive());
    }

    #[test]
    fn an_empty_bucket_is_nan() {
        let Buckets { short, medium, long } = bucket_scores([(0.5, 3999), (1.0, 8000), (0.0, 9000)]);
        assert!(short == 50.0 && medium.is_nan() && long == 50.0);
    }
}
