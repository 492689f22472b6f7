//! LooGLE's cloze: how many masks of a question are filled right.
//!
//! The official code calls `eval` on the prediction. Here it is parsed, and of the expressions that may stand beside
//! literals only those of [`literal::expression`] count as dicts.

use std::collections::BTreeMap;

use super::{Metric, MetricError};
use crate::python::literal::{self, Literal};
use crate::python::number::round4;
use crate::python::text::split;

/// Masks filled right and masks asked for, of one question or ([`std::iter::Sum`]) of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hits {
    /// Masks filled right.
    pub hits: usize,
    /// Masks of the reference.
    pub keys: usize,
}

impl Hits {
    /// A data set's score: the share of all masks, rounded to four decimals; `None` without masks.
    pub fn total(self) -> Option<f64> {
        (self.keys > 0).then(|| round4(self.hits as f64 / self.keys as f64))
    }
}

impl std::iter::Sum for Hits {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, next| Self { hits: sum.hits + next.hits, keys: sum.keys + next.keys })
    }
}

/// `get_exact_match`: values equal to the reference, case included. A prediction that is no dict has no hit.
pub fn exact(prediction: &str, reference: &BTreeMap<String, String>) -> Hits {
    let dict = literal::expression(prediction).ok();
    let right = |(key, value): &(&String, &String)| {
        dict.as_ref().and_then(|dict| dict.get(key)).and_then(Literal::as_str) == Some(value)
    };
    Hits { hits: reference.iter().filter(right).count(), keys: reference.len() }
}

/// `get_partial_match`: values that share a word with the reference.
///
/// # Errors
/// [`MetricError::NotAString`] for a value that cannot be split, on which the official code raises.
pub fn partial(prediction: &str, reference: &BTreeMap<String, String>) -> Result<Hits, MetricError> {
    let mut hits = 0;
    if let Ok(dict) = literal::expression(prediction) {
        for (key, value) in reference {
            let Some(found) = dict.get(key) else { continue };
            // `bytes.split` works in Python, and no bytes equal a word.
            if matches!(found, Literal::Bytes(_)) {
                continue;
            }
            let found = found.as_str().ok_or_else(|| MetricError::NotAString { key: key.clone() })?;
            hits += usize::from(split(found).any(|word| split(value).any(|other| word == other)));
        }
    }
    Ok(Hits { hits, keys: reference.len() })
}

/// The reference of a question, written as a Python dict of strings (as LooGLE's `qa_pairs` has it).
///
/// # Errors
/// [`MetricError::BadClozeAnswer`] for anything else.
pub fn reference(answer: &str) -> Result<BTreeMap<String, String>, MetricError> {
    let bad =
        |reason: &str| MetricError::BadClozeAnswer { answer: answer.to_owned(), reason: reason.to_owned() };
    match literal::parse(answer).map_err(|error| bad(&error.to_string()))? {
        Literal::Dict(pairs) => pairs
            .into_iter()
            .map(|pair| match pair {
                (Literal::Str(key), Literal::Str(value)) => Ok((key, value)),
                _ => Err(bad("a key or value is no string")),
            })
            .collect(),
        _ => Err(bad("it is another literal")),
    }
}

/// Share of the masks of one question, with the reference dict written as a Python literal.
pub struct Cloze {
    id: &'static str,
    about: &'static str,
    partial: bool,
}

/// Exact match.
pub static EXACT: Cloze = Cloze {
    id: "cloze-exact/loogle",
    about: "share of the masks filled exactly, of a prediction that is a Python dict (LooGLE get_exact_match)",
    partial: false,
};
/// Partial match.
pub static PARTIAL: Cloze = Cloze {
    id: "cloze-partial/loogle",
    about: "share of the masks filled with a word of the answer (LooGLE get_partial_match)",
    partial: true,
};

impl Metric for Cloze {
    fn id(&self) -> &'static str {
        self.id
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn score_answer(&self, prediction: &str, answer: &str, _: &[String]) -> Result<f64, MetricError> {
        let reference = reference(answer)?;
        let Hits { hits, keys } =
            if self.partial { partial(prediction, &reference)? } else { exact(prediction, &reference) };
        Ok(if keys == 0 { 0.0 } else { hits as f64 / keys as f64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_masks() {
        let gold = reference("{'<mask-0>': 'Lufti', '<mask-1>': 'Sam Lufti'}").unwrap();
        let prediction = "{'<mask-0>': 'Lufti', '<mask-1>': 'Sam', '<mask-2>': 'x'}";
        assert_eq!(exact(prediction, &gold), Hits { hits: 1, keys: 2 });
        assert_eq!(partial(prediction, &gold), Ok(Hits { hits: 2, keys: 2 }));
        assert_eq!(exact("Answer: {}", &gold).hits, 0);
        for dict in ["dict({'<mask-0>': 'Lufti'})", "{'<mask-1>': 'Sam'} | {'<mask-0>': 'Luf' + 'ti'}"] {
            assert_eq!(exact(dict, &gold).hits, 1, "{dict}");
        }
        let both: Hits = [exact(prediction, &gold), exact("", &gold), exact("", &gold)].into_iter().sum();
        assert_eq!((both.total(), Hits::default().total()), (Some(0.1667), None));
    }

    #[test]
    fn other_values_are_errors_where_python_raises() {
        let gold = reference("{'k': '5'}").unwrap();
        assert_eq!(exact("{'k': 5}", &gold).hits, 0);
        assert_eq!(partial("{'k': 5}", &gold), Err(MetricError::NotAString { key: "k".into() }));
        assert!(reference("['k']").unwrap_err().to_string().contains("not a python dict"));
        assert_eq!(EXACT.score_answer("{'k': '5'}", "{'k': '5'}", &[]), Ok(1.0));
    }
}
