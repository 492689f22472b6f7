//! From row scores to the number of a table, as LongBench's `eval.py` computes it.

use super::longbench::first_line;
use super::{Metric, MetricError};
use crate::datasets::DatasetInfo;
use crate::datasets::longbench_e::{BUCKETS, bucket};
use crate::python::number::{numpy_mean, numpy_round2, round2};
use crate::suite::Suite;

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

/// `scorer_e`, one bucket: the mean in numpy's summation order, per cent, with numpy's rounding. `None` without rows,
/// where the official script writes NaN.
pub fn bucket_score(row_scores: &[f64]) -> Option<f64> {
    (!row_scores.is_empty()).then(|| numpy_round2(100.0 * numpy_mean(row_scores)))
}

/// RULER's `string_match_all` and `string_match_part`: divides before the factor, rounds like Python. `None` without
/// rows, where the official script divides by zero.
pub fn ruler_score(row_scores: &[f64]) -> Option<f64> {
    let total = row_scores.iter().fold(0.0, |total, score| total + score);
    (!row_scores.is_empty()).then(|| round2(total / row_scores.len() as f64 * 100.0))
}

/// LongBench-E's scores in the order of [`BUCKETS`], from rows of score and stored `length`.
pub fn bucket_scores(rows: impl IntoIterator<Item = (f64, u64)>) -> [Option<f64>; 3] {
    let mut scores = [const { Vec::new() }; 3];
    for (score, length) in rows {
        for (scores, name) in scores.iter_mut().zip(BUCKETS) {
            if bucket(length) == name {
                scores.push(score);
            }
        }
    }
    scores.map(|scores| bucket_score(&scores))
}

/// The printed score of some rows of a data set, per cent: the scorer of its suite. NaN without rows.
pub fn percent(dataset: &DatasetInfo) -> fn(&[f64]) -> f64 {
    match dataset.suite {
        Suite::LongBenchE => |rows| bucket_score(rows).unwrap_or(f64::NAN),
        Suite::Ruler => |rows| ruler_score(rows).unwrap_or(f64::NAN),
        Suite::LongBench | Suite::LooGle | Suite::Needle => plain_percent,
    }
}

/// [`dataset_score`], NaN without rows: the scorer of LongBench, LooGLE and the needle test.
pub fn plain_percent(row_scores: &[f64]) -> f64 {
    dataset_score(row_scores).unwrap_or(f64::NAN)
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
    fn an_empty_bucket_has_no_score() {
        let scores = bucket_scores([(0.5, 3999), (1.0, 8000), (0.0, 9000)]);
        assert_eq!(scores, [Some(50.0), None, Some(50.0)]);
    }

    #[test]
    fn the_suite_decides_the_rounding() {
        // 40 rows that sum to 0.43: 1.075 per cent, which numpy rounds up and Python, from the binary value, down.
        let mut rows = [0.0; 40];
        rows[0] = 0.43;
        let score = |name: &str| percent(crate::datasets::by_name(name).unwrap())(&rows);
        assert_eq!((score("lcc"), score("lcc_e")), (1.07, 1.08));
        // 23 of 160 rows: `100 * 23 / 160` is a tie, 14.38 rounded to even; `23 / 160 * 100` is just below it.
        let mut rows = [0.0; 160];
        rows[..23].fill(1.0);
        assert_eq!(percent(crate::datasets::by_name("vt").unwrap())(&rows), 14.37);
    }
}
