//! RULER's string match: which references occur in the prediction, case aside.

use super::{Metric, MetricError};
use crate::python::text::{lower, strip};

/// `string_match_all` or `string_match_part`, per row. A data set's score is `round(sum / rows * 100, 2)`.
pub(crate) struct StringMatch {
    id: &'static str,
    about: &'static str,
    /// kvpress deletes control characters from the prediction and strips it.
    cleans: bool,
    /// Whether one reference is enough.
    any: bool,
}

/// KVCache-Factory's `string_match_all`.
pub(crate) static ALL: StringMatch = StringMatch {
    id: "ruler-all/kvcache-factory",
    about: "share of the references contained in the prediction (KVCache-Factory string_match_all)",
    cleans: false,
    any: false,
};
/// kvpress's `string_match_all`.
pub(crate) static KVPRESS_ALL: StringMatch = StringMatch {
    id: "ruler-all/kvpress",
    about: "share of the references contained in the prediction without control characters (kvpress string_match_all)",
    cleans: true,
    any: false,
};
/// kvpress's `string_match_part`, for the two question-answering tasks.
pub(crate) static KVPRESS_PART: StringMatch = StringMatch {
    id: "ruler-part/kvpress",
    about: "whether any reference is contained in the prediction without control characters (kvpress string_match_part)",
    cleans: true,
    any: true,
};

impl Metric for StringMatch {
    fn id(&self) -> &'static str {
        self.id
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn score_answer(&self, prediction: &str, answer: &str, _: &[String]) -> Result<f64, MetricError> {
        let cleaned;
        let prediction = if self.cleans {
            cleaned = strip(prediction).replace(|c| c <= '\u{1f}', "");
            strip(&cleaned)
        } else {
            prediction
        };
        Ok(f64::from(u8::from(lower(prediction).contains(&lower(answer)))))
    }

    fn score(
        &self,
        prediction: &str,
        answers: &[String],
        all_classes: &[String],
    ) -> Result<f64, MetricError> {
        let mut hits = 0.0;
        for answer in answers {
            hits += self.score_answer(prediction, answer, all_classes)?;
        }
        Ok(if answers.is_empty() || hits == 0.0 {
            0.0
        } else if self.any {
            1.0
        } else {
            hits / answers.len() as f64
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_any() {
        let answers: Vec<String> = vec!["7EC".into(), "aB".into(), "x".into()];
        assert_eq!(ALL.score("7ec, a\u{1}b", &answers, &[]), Ok(1.0 / 3.0));
        assert_eq!(KVPRESS_ALL.score("7ec, a\u{1}b", &answers, &[]), Ok(2.0 / 3.0));
        assert_eq!(KVPRESS_PART.score("7ec", &answers, &[]), Ok(1.0));
        assert_eq!(ALL.score("x", &[], &[]), Ok(0.0));
    }
}
