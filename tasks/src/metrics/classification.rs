//! `classification_score`: LongBench's few-shot classification (trec, lsht).

use super::{Metric, MetricError};

/// `classification_score` of THUDM/LongBench `metrics.py`.
pub(crate) struct Classification;

impl Metric for Classification {
    fn id(&self) -> &'static str {
        "classification/longbench"
    }

    fn about(&self) -> &'static str {
        "1 / number of class names found in the prediction, if the right one is among them (LongBench classification_score)"
    }

    fn score_answer(
        &self,
        prediction: &str,
        answer: &str,
        all_classes: &[String],
    ) -> Result<f64, MetricError> {
        let mut found: Vec<&str> =
            all_classes.iter().map(String::as_str).filter(|class| prediction.contains(*class)).collect();
        // Python removes from the list that it iterates over: the element after a removed one is skipped, and `remove`
        // takes the first equal element, not the current one. Published scores depend on both.
        let mut at = 0;
        while let Some(&class) = found.get(at) {
            if answer.contains(class)
                && class != answer
                && let Some(first) = found.iter().position(|&other| other == class)
            {
                found.remove(first);
            }
            at += 1;
        }
        Ok(if found.contains(&answer) { 1.0 / found.len() as f64 } else { 0.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_the_element_after_a_removed_one() {
        let classes: Vec<String> = ["a", "b", "c", "d", "e", "abcde"].map(String::from).into();
        assert_eq!(Classification.score("abcde", &["abcde".into()], &classes), Ok(1.0 / 3.0));
        assert_eq!(Classification.score("ABCDE", &["abcde".into()], &classes), Ok(0.0));
        assert_eq!(Classification.score("abcde", &["abcde".into()], &[]), Ok(0.0));
    }
}
