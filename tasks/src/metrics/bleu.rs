//! LooGLE's BLEU1 and BLEU4: nltk's `sentence_bleu` of one reference with all the weight on one n-gram order.

use super::{Metric, MetricError, bag};
use crate::python::text::split;

/// `get_bleu_score` of bigai-nlco/LooGLE `automatic_metrics.py`.
///
/// BLEU4 here is the 4-gram precision alone, not the usual geometric mean over four orders. Without a 4-gram in common
/// nltk takes the smallest positive double for the precision, so the score is about 2.2e-308 rather than 0.
pub(crate) struct Bleu {
    id: &'static str,
    about: &'static str,
    order: usize,
}

/// Unigram precision with brevity penalty.
pub(crate) static BLEU1: Bleu = Bleu {
    id: "bleu1/loogle",
    about: "clipped unigram precision x brevity penalty (nltk sentence_bleu, weights 1 0 0 0)",
    order: 1,
};
/// 4-gram precision with brevity penalty.
pub(crate) static BLEU4: Bleu = Bleu {
    id: "bleu4/loogle",
    about: "clipped 4-gram precision x brevity penalty (nltk sentence_bleu, weights 0 0 0 1)",
    order: 4,
};

impl Metric for Bleu {
    fn id(&self) -> &'static str {
        self.id
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn score_answer(&self, prediction: &str, answer: &str, _: &[String]) -> Result<f64, MetricError> {
        let (prediction, answer): (Vec<_>, Vec<_>) = (split(prediction).collect(), split(answer).collect());
        if clipped(&prediction, &answer, 1) == 0 {
            return Ok(0.0);
        }
        let matches = clipped(&prediction, &answer, self.order);
        let possible = (prediction.len() + 1).saturating_sub(self.order).max(1);
        let precision = if matches == 0 { f64::MIN_POSITIVE } else { matches as f64 / possible as f64 };
        let brevity = if prediction.len() > answer.len() {
            1.0
        } else {
            (1.0 - answer.len() as f64 / prediction.len() as f64).exp()
        };
        Ok(brevity * precision.ln().exp())
    }
}

/// Matching n-grams, each at most as often as in the answer.
fn clipped(prediction: &[&str], answer: &[&str], n: usize) -> usize {
    bag::overlap(&bag::count(prediction.windows(n)), &bag::count(answer.windows(n)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_order_alone() {
        let both = |p: &str, a: &str| {
            (BLEU1.score(p, &[a.into()], &[]).unwrap(), BLEU4.score(p, &[a.into()], &[]).unwrap())
        };
        assert_eq!(both("a b c d e", "a b c d"), (0.8, 0.5));
        assert_eq!(both("x", ""), (0.0, 0.0));
        let (one, four) = both("a b c", "a b c");
        assert!(one == 1.0 && four > 0.0 && four < 1e-300);
    }
}
