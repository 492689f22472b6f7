//! LooGLE's ROUGE: the recall of the PyPI package `rouge`.

use super::pltrdy::{rouge_l, rouge_n, sentences};
use super::{Metric, MetricError};

/// `get_rouge_score` of bigai-nlco/LooGLE `automatic_metrics.py`, one of its three values.
///
/// The script replaces an empty prediction by the text `None` before it calls this.
pub(crate) struct RougeRecall {
    id: &'static str,
    about: &'static str,
    variant: Variant,
}

enum Variant {
    Ngrams(usize),
    Lcs,
}

/// Recall over sets of words.
pub(crate) static ROUGE1: RougeRecall = RougeRecall {
    id: "rouge1-recall/pltrdy",
    about: "recall over the sets of words (PyPI rouge 1.0.1, LooGLE get_rouge_score)",
    variant: Variant::Ngrams(1),
};
/// Recall over sets of word pairs.
pub(crate) static ROUGE2: RougeRecall = RougeRecall {
    id: "rouge2-recall/pltrdy",
    about: "recall over the sets of word pairs (PyPI rouge 1.0.1, LooGLE get_rouge_score)",
    variant: Variant::Ngrams(2),
};
/// Recall of the union of longest common subsequences.
pub(crate) static ROUGE_L: RougeRecall = RougeRecall {
    id: "rouge-l-recall/pltrdy",
    about: "recall of set-based ROUGE-L (PyPI rouge 1.0.1, LooGLE get_rouge_score)",
    variant: Variant::Lcs,
};

impl Metric for RougeRecall {
    fn id(&self) -> &'static str {
        self.id
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn score_answer(&self, prediction: &str, answer: &str, _: &[String]) -> Result<f64, MetricError> {
        let (p, a) = (sentences(prediction), sentences(answer));
        let score = match self.variant {
            Variant::Ngrams(n) => rouge_n(&p, &a, n),
            Variant::Lcs => rouge_l(&p, &a, usize::MAX).map(|(score, _)| score),
        };
        score.map(|score| score.r).ok_or_else(|| {
            let (side, text) = if p.is_empty() { ("prediction", prediction) } else { ("answer", answer) };
            MetricError::NoSentences { side, text: text.to_owned() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_over_sets() {
        let score = |metric: &RougeRecall, p: &str| metric.score_answer(p, "a b a c", &[]);
        assert_eq!(score(&ROUGE1, "a x"), Ok(1.0 / 3.0));
        assert_eq!(score(&ROUGE2, "b a"), Ok(1.0 / 3.0));
        assert_eq!(score(&ROUGE_L, "b c"), Ok(2.0 / 3.0));
        assert_eq!(
            score(&ROUGE1, "."),
            Err(MetricError::NoSentences { side: "prediction", text: ".".into() })
        );
    }
}
