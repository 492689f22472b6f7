//! Summarization: report the salient items of a text, in order.

use rand::Rng;

use super::grammar::{Author, Document, Extent, Item, Relation, lines};
use super::words::estimate_tokens;

/// Facts and filler with `salient` sentences spread among them; the summary lists their values.
fn report(author: &mut Author, extent: Extent, names: &[&str], state: fn(&str, &str) -> String) -> Document {
    let salient: Vec<(&str, String)> = names.iter().map(|name| (*name, author.thing())).collect();
    let told: Vec<String> = salient.iter().map(|(name, thing)| state(name, thing)).collect();
    let taken: usize = told.iter().map(|sentence| estimate_tokens(sentence) + 1).sum();
    let rest = Extent { tokens: extent.tokens.saturating_sub(taken), ..extent };
    let (mut sentences, _) =
        author.facts(rest, &[Relation::Home, Relation::Keep, Relation::Sell, Relation::Owner]);
    for sentence in told {
        let at = author.rng.random_range(0..=sentences.len());
        sentences.insert(at, sentence);
    }
    let summary: Vec<String> = salient.iter().map(|(name, thing)| format!("{name} {thing}")).collect();
    let item = Item { input: String::new(), answer: summary.join(", ") };
    Document { context: lines(&mut author.rng, &sentences), items: vec![item], classes: None }
}

/// The four decisions of a meeting.
pub(super) fn minutes(author: &mut Author, extent: Extent) -> Document {
    report(author, extent, &["first", "second", "third", "fourth"], |name, thing| {
        format!("The {name} decision is the {thing}.")
    })
}

/// What the four gates of a town report.
pub(super) fn gates(author: &mut Author, extent: Extent) -> Document {
    report(author, extent, &["north", "east", "south", "west"], |name, thing| {
        format!("The {name} gate reports a {thing}.")
    })
}
