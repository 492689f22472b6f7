//! The score that the needle heat maps show: which words of the expected answer the response has.

use std::collections::BTreeSet;

use super::{Metric, MetricError};
use crate::python::text::{lower, split};

/// What the plotting scripts expect, whatever needle was used. Its last word keeps the full stop.
pub const EXPECTED: &str = "eat a sandwich and sit in Dolores Park on a sunny day.";

/// Share of the distinct words of the answer ([`EXPECTED`] in the scripts) that are words of the response.
pub struct WordOverlap {
    id: &'static str,
    about: &'static str,
    /// Whether the answer's words are counted with repeats below the line: the largest score is then below 1.
    repeats: bool,
}

/// KVCache-Factory, HeadKV and (times 100) CompressKV: 11 distinct words of [`EXPECTED`].
pub static WORDS: WordOverlap = WordOverlap {
    id: "needle-overlap/kvcache-factory",
    about: "distinct answer words found / distinct answer words (heat maps of KVCache-Factory, HeadKV, CompressKV)",
    repeats: false,
};
/// FranxYao's original: 12 words of [`EXPECTED`], `a` twice.
pub static FRANXYAO: WordOverlap = WordOverlap {
    id: "needle-overlap/franxyao",
    about: "distinct answer words found / all answer words; at most 11/12 (heat map of FranxYao)",
    repeats: true,
};

impl Metric for WordOverlap {
    fn id(&self) -> &'static str {
        self.id
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn score_answer(&self, prediction: &str, answer: &str, _: &[String]) -> Result<f64, MetricError> {
        let (prediction, answer) = (lower(prediction), lower(answer));
        let said: BTreeSet<&str> = split(&prediction).collect();
        let expected: BTreeSet<&str> = split(&answer).collect();
        let words = if self.repeats { split(&answer).count() } else { expected.len() };
        Ok(if words == 0 { 0.0 } else { expected.intersection(&said).count() as f64 / words as f64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_needs_its_stop() {
        let score = |m: &WordOverlap, p: &str| m.score_answer(p, EXPECTED, &[]).unwrap();
        assert_eq!(score(&WORDS, "Eat a sandwich and sit in Dolores Park on a sunny day"), 10.0 / 11.0);
        assert_eq!(score(&FRANXYAO, EXPECTED), 11.0 / 12.0);
    }
}
