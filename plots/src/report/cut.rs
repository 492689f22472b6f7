//! Bounds on what a page holds: untrusted texts are cut, with a notice, and the page keeps under its limit.

use super::embed::embed;
use super::{Example, ReportData, Tokens};
use serde_json::{Value, json};

/// Characters of one answer, reference or prompt end that are shown.
const TEXT: usize = 2_000;
/// Bytes of examples as escaped JSON.
const EXAMPLES: usize = 2_800_000;
/// Tokens of a prompt's beginning and end where a page has no room for more.
const SHORT_ENDS: (usize, usize) = (64, 256);
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
        if let (short, Some(whole)) = head(&result.prediction, TEXT) {
            result.prediction = short.into();
            result.cut = Some(whole);
        }
    }
    example
}

/// The example with at most [`SHORT_ENDS`] of its tokens; none if it has no more than that already.
fn shortened(example: &Example) -> Option<Example> {
    let tokens = example.tokens.as_ref()?;
    let count = tokens.pieces.len();
    let first = SHORT_ENDS.0.min(tokens.head);
    let last = count - SHORT_ENDS.1.min(count - tokens.head);
    if first == tokens.head && last == tokens.head {
        return None;
    }
    let mut short = example.clone();
    short.tokens = Some(Tokens {
        pieces: tokens.pieces[..first].iter().chain(&tokens.pieces[last..]).cloned().collect(),
        head: first,
        gap: tokens.gap + last - first,
    });
    for result in &mut short.results {
        // One digit a token, all ASCII.
        result.kept = result
            .kept
            .take()
            .filter(|kept| kept.len() == count)
            .map(|kept| [&kept[..first], &kept[last..]].concat());
    }
    Some(short)
}

fn without_tokens(example: &Example) -> Example {
    let mut bare = Example { tokens: None, ..example.clone() };
    bare.results.iter_mut().for_each(|result| result.kept = None);
    bare
}

/// The form in which the page's script reads an example: answers that several variants gave stand once.
fn compact(example: &Example) -> Value {
    let mut said: Vec<(&str, Option<usize>)> = Vec::new();
    let rounded = |value: f64| (value * 100.0).round() / 100.0;
    let results: Vec<Value> = example
        .results
        .iter()
        .map(|result| {
            let text = (result.prediction.as_str(), result.cut);
            let place = said.iter().position(|known| *known == text).unwrap_or_else(|| {
                said.push(text);
                said.len() - 1
            });
            let mut row = vec![
                json!(result.variant),
                json!(place),
                json!(rounded(result.score)),
                json!(rounded(result.entries)),
            ];
            if result.strip.is_some() || result.kept.is_some() {
                row.push(json!(result.strip));
                row.push(json!(result.kept));
            }
            Value::Array(row)
        })
        .collect();
    let tokens = example.tokens.as_ref().map(|t| json!({ "pieces": t.pieces, "head": t.head, "gap": t.gap }));
    json!({
        "dataset": example.dataset,
        "name": example.name,
        "key": example.key,
        "about": example.about,
        "tail": example.tail,
        "tokens": tokens,
        "answers": example.answers,
        "said": said.iter().map(|(text, cut)| cut.map_or(json!(text), |cut| json!([text, cut]))).collect::<Vec<_>>(),
        "results": results,
    })
}

/// The examples that fit as JSON that can stand in the page, taken in turn from every data set, in the order given; and a
/// notice if some had to stay out.
pub(crate) fn examples(data: &ReportData) -> (Vec<String>, Option<String>) {
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
    let mut fitting: Vec<(usize, String)> = Vec::new();
    for (_, index) in order {
        let example = cut(&data.examples[index]);
        let json = |example: &Example| embed(&compact(example));
        let mut text = json(&example);
        // Tokens are the first to go: the strip still shows where a variant looked.
        if used + text.len() > EXAMPLES / 2 && example.tokens.is_some() {
            if let Some(short) = shortened(&example) {
                text = json(&short);
            }
            if used + text.len() > EXAMPLES / 2 {
                bare += 1;
                text = json(&without_tokens(&example));
            }
        }
        if used + text.len() > EXAMPLES {
            continue;
        }
        used += text.len();
        fitting.push((index, text));
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
    (fitting.into_iter().map(|(_, text)| text).collect(), notice)
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
        let answer = |variant| Answer {
            variant,
            prediction: format!("{variant:03}{}", "x".repeat(TEXT - 3)).into(),
            ..Answer::default()
        };
        let example = |dataset: &str| Example {
            dataset: dataset.into(),
            results: (0..100).map(answer).collect(),
            ..Example::default()
        };
        let names = ["a"; 30].into_iter().chain(["b"; 30]);
        let data = ReportData { examples: names.map(example).collect(), ..ReportData::default() };
        let (kept, notice) = examples(&data);
        let of = |text: &String, name: &str| serde_json::from_str::<Value>(text).unwrap()["dataset"] == name;
        let count = |name: &str| kept.iter().filter(|text| of(text, name)).count();
        assert!(kept.len() < 60 && kept.len() > 8);
        assert!(count("a").abs_diff(count("b")) <= 1);
        assert!(notice.unwrap().contains("of 60 examples"));
    }

    #[test]
    fn answers_that_are_the_same_stand_once() {
        let answer = |variant, prediction: &str| Answer {
            variant,
            prediction: prediction.into(),
            score: 100.0 / 3.0,
            ..Answer::default()
        };
        let mut example =
            Example { results: vec![answer(0, "a"), answer(1, "b"), answer(2, "a")], ..Example::default() };
        example.results[1].cut = Some(9000);
        example.results[2].strip = Some("09".into());
        let value = compact(&example);
        assert_eq!(value["said"], json!(["a", ["b", 9000]]));
        assert_eq!(
            value["results"],
            json!([[0, 0, 33.33, 0.0], [1, 1, 33.33, 0.0], [2, 0, 33.33, 0.0, "09", null]])
        );
    }

    #[test]
    fn a_prompt_is_shortened_to_its_ends() {
        let example = Example {
            tokens: Some(Tokens { pieces: (0..1000).map(|i| format!("t{i} ")).collect(), head: 300, gap: 7 }),
            results: vec![Answer {
                kept: Some((0..1000).map(|i| char::from(b'0' + (i % 10) as u8)).collect()),
                ..Answer::default()
            }],
            ..Example::default()
        };
        let short = shortened(&example).unwrap();
        let tokens = short.tokens.as_ref().unwrap();
        assert_eq!((tokens.pieces.len(), tokens.head, tokens.gap), (320, 64, 7 + 680));
        assert_eq!((tokens.pieces[63].as_str(), tokens.pieces[64].as_str()), ("t63 ", "t744 "));
        let kept = short.results[0].kept.as_ref().unwrap();
        assert_eq!((kept.len(), &kept[62..66]), (320, "2345"));
        assert_eq!(shortened(&short), None, "no shorter than that");
    }
}
