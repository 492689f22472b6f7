//! `qa_f1_score`: token F1 of LongBench's English question answering.

use super::{Metric, MetricError, bag};
use crate::python::text::{is_punctuation, is_word, lower, split};

/// `qa_f1_score` of THUDM/LongBench `metrics.py`; the KV-cache repositories carry it unchanged.
pub(crate) struct QaF1;

impl Metric for QaF1 {
    fn id(&self) -> &'static str {
        "qa-f1/longbench"
    }

    fn about(&self) -> &'static str {
        "token F1 after lower-casing and deleting ASCII punctuation and articles (LongBench qa_f1_score)"
    }

    fn score_answer(&self, prediction: &str, answer: &str, _: &[String]) -> Result<f64, MetricError> {
        let (prediction, answer) = (normalize(prediction), normalize(answer));
        Ok(bag::f1(split(&prediction).collect(), split(&answer).collect()))
    }
}

/// `normalize_answer` without its final join: lower-case, delete punctuation, blank out articles.
///
/// Punctuation leaves no gap: `2,1,3` becomes the one token `213`. An article is a whole run of word characters as
/// Python's `\b` sees it, so the `a` before a combining accent goes and the one of `a½` stays.
pub(crate) fn normalize(text: &str) -> String {
    let kept: String = lower(text).chars().filter(|&c| !is_punctuation(c)).collect();
    let mut out = String::with_capacity(kept.len());
    let mut rest = kept.as_str();
    while let Some(start) = rest.find(is_word) {
        let (before, from) = rest.split_at(start);
        let (word, after) = from.split_at(from.find(|c| !is_word(c)).unwrap_or(from.len()));
        out.push_str(before);
        out.push_str(if matches!(word, "a" | "an" | "the") { " " } else { word });
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<String> {
        split(&normalize(text)).map(str::to_owned).collect()
    }

    #[test]
    fn normalizes_like_python() {
        assert_eq!(tokens("The well-known, 1,000 A.N. other"), ["wellknown", "1000", "other"]);
        assert_eq!(tokens("a\u{301} a½ a² an_x"), ["\u{301}", "a½", "a²", "anx"]);
        assert_eq!(tokens("Then theatre “the” x"), ["then", "theatre", "“", "”", "x"]);
    }

    #[test]
    fn empty_texts_score_zero() {
        assert_eq!(QaF1.score("", &[String::new()], &[]), Ok(0.0));
        assert_eq!(QaF1.score("x", &[], &[]), Ok(0.0));
        assert_eq!(QaF1.score("cat dog cat", &["cat cat dog".into()], &[]), Ok(1.0));
    }
}
