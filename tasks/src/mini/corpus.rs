//! Training text for the embedded model: the suite's documents with many questions behind each.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::grammar::{Author, Document, Extent, lines};
use super::words::{ADJECTIVES, NAMES, estimate_tokens};
use super::{NEEDLE_PROMPT, PEOPLE, datasets, needle, render, rng, single_doc};

/// Kinds of training documents beside the data sets of the suite, which go by their names.
pub const KINDS: [&str; 3] = ["recall", "mixed", "needle"];

/// A conversation about one context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TrainingDocument {
    /// A data set's name or one of [`KINDS`].
    pub kind: String,
    /// What the user says and what is answered. The first turn is a whole prompt; the others
    /// repeat the part of it that follows the context.
    pub turns: Vec<(String, String)>,
}

/// Training document number `index` under `seed`, about `tokens` long with its questions.
///
/// `None` for an unknown `kind`. The stream of chance is not the suite's, whatever the seed.
#[must_use]
pub fn training_document(kind: &str, seed: u64, index: u64, tokens: usize) -> Option<TrainingDocument> {
    if kind == "recall" {
        return Some(recall(rng("training", kind, seed, index), tokens));
    }
    type Build = fn(&mut Author, Extent) -> Document;
    let (template, build): (&str, Build) = match kind {
        "mixed" => (PEOPLE, single_doc::mixed),
        "needle" => (NEEDLE_PROMPT, needle::haystack),
        _ => datasets().iter().find(|d| d.name == kind).map(|d| (d.prompt, d.build))?,
    };
    let mut rng = rng("training", kind, seed, index);
    // A summary is one question, counts are few; of the others, as many as there is room for.
    let asked = match kind {
        "mini_minutes" | "mini_gates" => 40,
        "mini_count" => (tokens / 3).min(160),
        _ => (tokens as f64 * rng.random_range(0.3..0.6)) as usize,
    };
    let pool = [6, 12, NAMES].choose(&mut rng).copied().unwrap_or(NAMES);
    let extent = Extent {
        tokens: tokens.saturating_sub(asked).saturating_sub(24),
        // As many needles; of other questions as many as fit below.
        questions: if kind == "needle" { asked / 20 } else { asked / 8 },
        filler: rng.random_range(0.0..0.6),
    };
    let adjectives = [3, 8, ADJECTIVES.len()].choose(&mut rng).copied().unwrap_or(ADJECTIVES.len());
    let document = build(&mut Author::new(rng, pool).with_adjectives(adjectives), extent);
    let (_, tail) = template.split_once("{context}").unwrap_or((template, ""));
    let mut turns = Vec::new();
    let mut left = tokens;
    for item in document.items {
        let asks = if turns.is_empty() {
            render(template, &document.context, &item.input)
        } else {
            tail.trim_start().replace("{input}", &item.input)
        };
        let cost = estimate_tokens(&asks) + estimate_tokens(&item.answer) + 3;
        if cost > left && !turns.is_empty() {
            break;
        }
        left = left.saturating_sub(cost);
        turns.push((asks, item.answer));
    }
    Some(TrainingDocument { kind: kind.to_owned(), turns })
}

/// Facts told twice more, each time in another order: nearly every word follows from the words
/// before it and the first telling. Models learn to look things up soonest from this.
fn recall(rng: ChaCha8Rng, tokens: usize) -> TrainingDocument {
    let mut author = Author::new(rng, NAMES);
    let extent = Extent { tokens: tokens.saturating_sub(24) / 3, questions: 0, filler: 0.0 };
    let (mut sentences, _) = single_doc::mixed_facts(&mut author, extent);
    let told = lines(&mut author.rng, &sentences);
    let mut again = || {
        sentences.shuffle(&mut author.rng);
        sentences.join(" ")
    };
    let turns = vec![
        (format!("Read the text and repeat.\n{told}\n\nAnswer:"), again()),
        ("Answer:".to_owned(), again()),
    ];
    TrainingDocument { kind: "recall".to_owned(), turns }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mini::{ROWS, SUITE_SEED, rows};
    use std::collections::BTreeSet;

    /// Any six lines of a text that follow one another.
    fn runs(text: &str) -> impl Iterator<Item = String> {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (0..lines.len().saturating_sub(5)).map(move |i| lines[i..i + 6].join("\n"))
    }

    #[test]
    fn no_row_of_the_suite_is_in_the_training_text() {
        for dataset in datasets() {
            let rows = rows(dataset, SUITE_SEED, ROWS);
            let suite: BTreeSet<String> = rows.iter().flat_map(|row| runs(&row.context)).collect();
            assert!(suite.len() >= rows.len());
            for index in 0..200 {
                // The suite's own seed: the streams differ all the same.
                let document =
                    training_document(dataset.name, SUITE_SEED, index, 512).expect("a data set is a kind");
                let (asked, _) = document.turns.first().expect("at least one turn");
                assert!(runs(asked).all(|run| !suite.contains(&run)), "{} {index}", dataset.name);
            }
        }
    }

    #[test]
    fn documents_keep_their_length_and_ask_much() {
        for kind in datasets().iter().map(|d| d.name).chain(KINDS) {
            for tokens in [192, 768, 4096] {
                let mut turns = 0;
                for index in 0..20 {
                    let document = training_document(kind, 1, index, tokens).expect("a known kind");
                    let all: usize =
                        document.turns.iter().map(|(a, b)| estimate_tokens(a) + estimate_tokens(b) + 3).sum();
                    assert!(all <= tokens + 32, "{kind}: {all} of {tokens}");
                    turns += document.turns.len();
                }
                assert!(turns >= 20, "{kind}");
            }
        }
        assert_eq!(training_document("unknown", 0, 0, 192), None);
    }
}
