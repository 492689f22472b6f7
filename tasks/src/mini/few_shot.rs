//! Few-shot classification: a mapping to labels that only the examples of the context tell.

use rand::Rng;
use rand::seq::SliceRandom;

use super::grammar::{Author, Document, Extent, Item};
use super::words::{LABELS, NAMES, NOUNS, estimate_tokens, label, town};

/// First words of the labels of one document.
const FIRSTS: usize = 2;
/// Second words of the labels of one document; each goes with each first word.
const SECONDS: usize = 3;
/// Examples of each cue, about.
const SHOTS: usize = 4;

/// Examples, each a text with a cue and the label of that cue.
fn examples(
    author: &mut Author,
    extent: Extent,
    cues: Vec<String>,
    text: fn(&mut Author, &str) -> String,
) -> Document {
    let mut numbers: Vec<usize> = (0..LABELS).collect();
    numbers.shuffle(&mut author.rng);
    let (firsts, seconds) = numbers[..FIRSTS + SECONDS].split_at(FIRSTS);
    // Two words, so that the second has to be looked up once the cache is compressed.
    let labels: Vec<String> = firsts
        .iter()
        .flat_map(|first| seconds.iter().map(|second| format!("{} {}", label(*first), label(*second))))
        .collect();
    let probe = text(author, cues.first().map_or("", String::as_str));
    let shots = (extent.tokens / (estimate_tokens(&probe) + 3)).max(2);
    let mut cues: Vec<(String, &str)> = cues
        .into_iter()
        .take((shots / SHOTS).clamp(2, 48))
        .map(|cue| (cue, labels.get(author.rng.random_range(0..labels.len())).map_or("", String::as_str)))
        .collect();
    let mut told: Vec<String> = Vec::new();
    while told.len() < shots {
        cues.shuffle(&mut author.rng);
        for (cue, class) in cues.iter().take(shots - told.len()) {
            told.push(format!("{} {class}", text(author, cue)));
        }
    }
    cues.shuffle(&mut author.rng);
    let items = cues
        .iter()
        .cycle()
        .take(extent.questions.max(1))
        .map(|(cue, class)| Item { input: text(author, cue), answer: (*class).to_owned() })
        .collect();
    Document { context: told.join("\n"), items, classes: Some(labels) }
}

/// The noun of a thing decides its type.
pub(super) fn types(author: &mut Author, extent: Extent) -> Document {
    let mut nouns: Vec<String> = NOUNS.iter().map(|noun| (*noun).to_owned()).collect();
    nouns.shuffle(&mut author.rng);
    examples(author, extent, nouns, |author, noun| {
        let thing = author.thing();
        let adjective = thing.split(' ').next().unwrap_or_default();
        format!("Text: a {adjective} {noun}\nType")
    })
}

/// The town of a message decides its class.
pub(super) fn classes(author: &mut Author, extent: Extent) -> Document {
    let mut numbers: Vec<usize> = (0..NAMES).collect();
    numbers.shuffle(&mut author.rng);
    let towns = numbers.into_iter().map(town).collect();
    examples(author, extent, towns, |author, place| {
        format!("Message: {} went to {place}\nClass", author.person())
    })
}
