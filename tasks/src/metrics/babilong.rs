//! BABILong's answer check, as HeadKV's reason-in-a-haystack uses it.

use std::collections::BTreeSet;

use crate::python::text::lower;

/// `compare_answers`: whether the labels named in the response, without those that the question names, are exactly the
/// target (or its comma-separated parts).
///
/// Only the text before the first `.`, `<context>` and `<example>` counts. The official cut at `Question` never
/// happens, as the text is lower-cased before. Labels are substrings: a room inside a longer word counts.
pub fn compare_answers(target: &str, response: &str, question: &str, labels: &[String]) -> bool {
    let response = lower(response);
    let response = [".", "<context>", "<example>"]
        .iter()
        .fold(response.as_str(), |text, mark| text.split_once(mark).map_or(text, |(before, _)| before));
    let (target, question) = (lower(target), lower(question));
    let labels: BTreeSet<String> = labels.iter().map(|label| lower(label)).collect();
    let said: BTreeSet<&str> = labels
        .iter()
        .map(String::as_str)
        .filter(|label| response.contains(label) && !question.contains(label))
        .collect();
    if target.contains(',') && target.chars().count() > 3 {
        let parts: Vec<&str> = target.split(',').collect();
        parts.iter().all(|part| said.contains(part)) && said.len() == parts.len()
    } else {
        said.len() == 1 && said.contains(target.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_target_is_named() {
        let labels: Vec<String> = ["garden", "office", "Mary", "milk", "apple"].map(String::from).into();
        let check = |target, response| compare_answers(target, response, "Where is mary?", &labels);
        assert!(check("office", "Mary is in the OFFICE. Not the garden"));
        assert!(!check("office", "office or garden"));
        assert!(check("apple,milk", "milk and apple"));
        assert!(!check("apple,milk", "milk"));
        assert!(!check("office", ""));
    }
}
