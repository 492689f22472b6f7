//! Summarization: report the salient items of a text, in order.

use rand::Rng;

use super::grammar::{Document, Item, Plan, Relation, Source, lines};
use super::words::estimate_tokens;

/// Facts and filler with `salient` sentences spread among them; the summary lists their values.
fn report(source: &mut Source, plan: Plan, names: &[&str], state: fn(&str, &str) -> String) -> Document {
    let salient: Vec<(&str, String)> = names.iter().map(|name| (*name, source.thing())).collect();
    let told: Vec<String> = salient.iter().map(|(name, thing)| state(name, thing)).collect();
    let taken: usize = told.iter().map(|sentence| estimate_tokens(sentence) + 1).sum();
    let rest = Plan { tokens: plan.tokens.saturating_sub(taken), ..plan };
    let (mut sentences, _) =
        source.facts(rest, &[Relation::Home, Relation::Keep, Relation::Sell, Relation::Owner]);
    for sentence in told {
        let at = source.rng.random_range(0..=sentences.len());
        sentences.insert(at, sentence);
    }
    let summary: Vec<String> = salient.iter().map(|(name, thing)| format!("{name} {thing}")).collect();
    let item = Item { input: String::new(), answer: summary.join(", ") };
    Document { context: lines(&mut source.rng, &sentences), items: vec![item], classes: None }
}

/// The four decisions of a meeting.
pub(super) fn minutes(source: &mut Source, plan: Plan) -> Document {
    report(source, plan, &["first", "second", "third", "fourth"], |name, thing| {
        format!("The {name} decision is the {thing}.")
    })
}

/// What the four gates of a town report.
pub(super) fn gates(source: &mut Source, plan: Plan) -> Document {
    report(source, plan, &["north", "east", "south", "west"], |name, thing| {
        format!("The {name} gate reports a {thing}.")
    })
}
