//! Bounds on what a page holds: untrusted texts are cut, with a notice, and the page keeps under its limit.

use super::render::embed;
use super::{Example, ReportData};

/// Characters of one answer, reference or prompt end that are shown.
const TEXT: usize = 2_000;
/// Bytes of examples as escaped JSON.
const EXAMPLES: usize = 2_800_000;
/// Bytes of pictures as SVG.
pub(super) const FIGURES: usize = 1_900_000;

/// The first `limit` characters, or the whole text; with the number of characters it had if it was cut.
fn head(text: &str, limit: usize) -> (String, Option<usize>) {
    match text.char_indices().nth(limit) {
        None => (text.to_owned(), None),
        Some((end, _)) => (text[..end].to_owned(), Some(text.chars().count())),
    }
}

/// The last `limit` characters after an ellipsis, or the whole text.
fn tail(text: &str, limit: usize) -> String {
    match text.char_indices().rev().nth(limit) {
        None => text.to_owned(),
        Some((at, c)) => format!("…{}", &text[at + c.len_utf8()..]),
    }
}

fn cut(example: &Example) -> Example {
    let mut example = example.clone();
    example.tail = tail(&example.tail, TEXT);
    for answer in &mut example.answers {
        if let (short, Some(whole)) = head(answer, TEXT) {
            *answer = format!("{short}… (cut, {whole} characters)");
        }
    }
    for result in &mut example.results {
        let (short, whole) = head(&result.prediction, TEXT);
        result.prediction = short;
        result.cut = whole;
    }
    example
}

/// The examples as JSON values that fit, taken in turn from every data set, in the order given; and a notice
/// if some had to stay out.
pub(crate) fn examples(
    data: &ReportData,
) -> Result<(Vec<serde_json::Value>, Option<String>), serde_json::Error> {
    // Rank: the place of an example inside its data set. Low ranks first, so that every data set is seen.
    let mut seen = std::collections::BTreeMap::new();
    let mut order: Vec<(usize, usize)> = Vec::new();
    for (index, example) in data.examples.iter().enumerate() {
        let rank: &mut usize = seen.entry(example.dataset.as_str()).or_default();
        order.push((*rank, index));
        *rank += 1;
    }
    order.sort_unstable();
    let (mut used, mut bare) = (0, 0);
    let mut fitting: Vec<(usize, serde_json::Value)> = Vec::new();
    for (_, index) in order {
        let mut example = cut(&data.examples[index]);
        let mut value = serde_json::to_value(&example)?;
        let mut size = embed(&value).len();
        // Tokens are the first to go: the strip still shows where a variant looked.
        if used + size > EXAMPLES / 2 && example.tokens.is_some() {
            bare += 1;
            example.tokens = None;
            example.results.iter_mut().for_each(|result| result.kept = None);
            value = serde_json::to_value(&example)?;
            size = embed(&value).len();
        }
        if used + size > EXAMPLES {
            continue;
        }
        used += size;
        fitting.push((index, value));
    }
    fitting.sort_by_key(|(index, _)| *index);
    let (shown, all) = (fitting.len(), data.examples.len());
    let mut notice = Vec::new();
    if shown < all {
        notice.push(format!("{shown} of {all} examples fit on this page, the first of every data set"));
    }
    if bare > 0 {
        notice.push(format!("{bare} examples show their prompt without token highlighting"));
    }
    let notice = (!notice.is_empty()).then(|| notice.join("; "));
    Ok((fitting.into_iter().map(|(_, value)| value).collect(), notice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Answer;

    #[test]
    fn long_texts_are_cut_at_a_character_and_say_so() {
        let long = "é".repeat(TEXT + 5);
        assert_eq!(head(&long, TEXT), ("é".repeat(TEXT), Some(TEXT + 5)));
        assert_eq!(head("short", TEXT), ("short".to_owned(), None));
        assert_eq!(tail("abcdef", 2), "…ef");
        assert_eq!(tail("ab", 2), "ab");
    }

    #[test]
    fn what_does_not_fit_stays_out_evenly_over_data_sets() {
        let example = |dataset: &str| Example {
            dataset: dataset.into(),
            results: vec![Answer { prediction: "x".repeat(TEXT), ..Answer::default() }; 100],
            ..Example::default()
        };
        let names = ["a"; 30].into_iter().chain(["b"; 30]);
        let data = ReportData { examples: names.map(example).collect(), ..ReportData::default() };
        let (kept, notice) = examples(&data).unwrap();
        let count = |name: &str| kept.iter().filter(|v| v["dataset"] == name).count();
        assert!(kept.len() < 60 && kept.len() > 8);
        assert!(count("a").abs_diff(count("b")) <= 1);
        assert!(notice.unwrap().contains("of 60 examples"));
    }
}
