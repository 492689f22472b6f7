//! Google's `rouge_score` 0.1.2 with stemming, which the needle testers use.

use super::{Metric, MetricError, bag, porter};
use crate::python::text::lower;

/// Precision, recall and F, 0..1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Share of the prediction's tokens.
    pub precision: f64,
    /// Share of the target's tokens.
    pub recall: f64,
    /// Their harmonic mean, 0 if both are 0.
    pub f: f64,
}

impl Score {
    fn of(hits: usize, prediction: usize, target: usize) -> Self {
        let precision = hits as f64 / prediction.max(1) as f64;
        let recall = hits as f64 / target.max(1) as f64;
        let sum = precision + recall;
        Self { precision, recall, f: if sum > 0.0 { 2.0 * precision * recall / sum } else { 0.0 } }
    }
}

/// Lower-cased runs of `[a-z0-9]`, stemmed if longer than three characters. An accented letter splits a word.
pub fn tokens(text: &str) -> Vec<String> {
    lower(text)
        .split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit())
        .filter(|token| !token.is_empty())
        .map(|token| if token.len() > 3 { porter::stem(token) } else { token.to_owned() })
        .collect()
}

/// `rouge1`: clipped unigram overlap.
pub fn rouge1(target: &str, prediction: &str) -> Score {
    let (target, prediction) = (tokens(target), tokens(prediction));
    Score::of(bag::overlap(&bag::count(&target), &bag::count(&prediction)), prediction.len(), target.len())
}

/// `rougeL`: one longest common subsequence over all tokens.
pub fn rouge_l(target: &str, prediction: &str) -> Score {
    let (target, prediction) = (tokens(target), tokens(prediction));
    let mut row = vec![0usize; prediction.len() + 1];
    for x in &target {
        let (mut diagonal, mut left) = (0, 0);
        for (cell, y) in row.iter_mut().skip(1).zip(&prediction) {
            let above = *cell;
            left = if x == y { diagonal + 1 } else { above.max(left) };
            diagonal = above;
            *cell = left;
        }
    }
    Score::of(row.last().copied().unwrap_or(0), prediction.len(), target.len())
}

/// One value of `RougeScorer(['rouge1', 'rougeL'], use_stemmer=True)`.
///
/// KVCache-Factory and HeadKV store rouge1 F times 10, CompressKV rouge1 recall times 100. The target is the whole
/// needle sentence, so a short right answer has a recall well below 1.
pub struct GoogleRouge {
    id: &'static str,
    about: &'static str,
    value: fn(&str, &str) -> f64,
}

/// rouge1 F.
pub static ROUGE1_F: GoogleRouge = GoogleRouge {
    id: "rouge1/google-porter",
    about: "rouge1 F with nltk's Porter stems (rouge_score 0.1.2; needle score of KVCache-Factory and HeadKV / 10)",
    value: |target, prediction| rouge1(target, prediction).f,
};
/// rouge1 recall.
pub static ROUGE1_RECALL: GoogleRouge = GoogleRouge {
    id: "rouge1-recall/google-porter",
    about: "rouge1 recall with nltk's Porter stems (rouge_score 0.1.2; needle score of CompressKV / 100)",
    value: |target, prediction| rouge1(target, prediction).recall,
};
/// rougeL F.
pub static ROUGE_L_F: GoogleRouge = GoogleRouge {
    id: "rouge-l/google-porter",
    about: "rougeL F with nltk's Porter stems (rouge_score 0.1.2)",
    value: |target, prediction| rouge_l(target, prediction).f,
};

impl Metric for GoogleRouge {
    fn id(&self) -> &'static str {
        self.id
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn score_answer(&self, prediction: &str, answer: &str, _: &[String]) -> Result<f64, MetricError> {
        Ok((self.value)(answer, prediction))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_ascii_stems() {
        assert_eq!(tokens("Łódź sitting-in Parks, day"), ["d", "sit", "in", "park", "day"]);
        assert_eq!(rouge1("", "x"), Score::default());
        assert_eq!(
            rouge_l("a b c d", "d a b"),
            Score { precision: 2.0 / 3.0, recall: 0.5, f: 0.571_428_571_428_571_5 }
        );
    }
}
