//! `code_sim_score`: edit similarity of one line of code (lcc, repobench-p).
//!
//! fuzzywuzzy 0.18.0 takes its ratio from whatever is installed: `difflib` (LongBench, CompressKV, kvpress), or
//! python-Levenshtein (KVCache-Factory lists it). The second is several points higher on unlike lines.

use super::{Metric, MetricError};
use crate::python::{difflib, number::round_to_int};

/// `code_sim_score` without python-Levenshtein.
pub(crate) struct Difflib;

/// `code_sim_score` with python-Levenshtein 0.27.5.
pub(crate) struct Levenshtein;

impl Metric for Difflib {
    fn id(&self) -> &'static str {
        "code-sim/difflib"
    }

    fn about(&self) -> &'static str {
        "fuzzywuzzy ratio of the first code line, difflib back end (LongBench code_sim_score)"
    }

    fn score_answer(&self, prediction: &str, answer: &str, _: &[String]) -> Result<f64, MetricError> {
        Ok(fuzz_ratio(code_line(prediction), answer, difflib::ratio))
    }
}

impl Metric for Levenshtein {
    fn id(&self) -> &'static str {
        "code-sim/levenshtein"
    }

    fn about(&self) -> &'static str {
        "fuzzywuzzy ratio of the first code line, python-Levenshtein back end (KVCache-Factory's requirements)"
    }

    fn score_answer(&self, prediction: &str, answer: &str, _: &[String]) -> Result<f64, MetricError> {
        Ok(fuzz_ratio(code_line(prediction), answer, indel_ratio))
    }
}

/// The line that is scored: the first without backtick, `#` or `//`, or nothing.
///
/// Only leading newlines are stripped, and an empty line qualifies: a fenced answer with a blank second line scores
/// that blank line.
pub(crate) fn code_line(prediction: &str) -> &str {
    prediction
        .trim_start_matches('\n')
        .split('\n')
        .find(|line| !line.contains(['`', '#']) && !line.contains("//"))
        .unwrap_or("")
}

/// `fuzz.ratio(line, gold) / 100`: whole per cents.
fn fuzz_ratio(line: &str, gold: &str, ratio: fn(&str, &str) -> f64) -> f64 {
    if line == gold {
        1.0
    } else if line.is_empty() || gold.is_empty() {
        0.0
    } else {
        round_to_int(100.0 * ratio(line, gold)) / 100.0
    }
}

/// `1 - d / T` with the insert-and-delete distance `d = T - 2 * LCS`, in this order: `(T - d) / T` rounds otherwise.
fn indel_ratio(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let total = a.len() + b.len();
    let mut row = vec![0usize; b.len() + 1];
    for x in &a {
        let (mut diagonal, mut left) = (0, 0);
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let above = *cell;
            left = if x == y { diagonal + 1 } else { above.max(left) };
            diagonal = above;
            *cell = left;
        }
    }
    let distance = total - 2 * row.last().copied().unwrap_or(0);
    1.0 - distance as f64 / total as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_the_first_plain_line() {
        assert_eq!(code_line("\n\n```py\n# c\nurl = 'http://x'\n  x = 1\r\ny"), "  x = 1\r");
        assert_eq!(code_line("```\n\nx = 1\n```"), "");
        assert_eq!(code_line("# only"), "");
    }

    #[test]
    fn whole_per_cents_by_either_back_end() {
        let score = |metric: &dyn Metric, p: &str, a: &str| metric.score(p, &[a.into()], &[]).unwrap();
        assert_eq!(score(&Difflib, "", ""), 1.0);
        assert_eq!(score(&Difflib, "", "x"), 0.0);
        assert_eq!((score(&Difflib, "tide", "diet"), score(&Levenshtein, "tide", "diet")), (0.25, 0.5));
    }
}
