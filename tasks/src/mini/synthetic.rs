//! Synthetic tasks: find a passage, count events.

use rand::Rng;
use rand::seq::SliceRandom;

use super::grammar::{Document, Item, Plan, Relation, Source, lines};
use super::words::estimate_tokens;

/// The number of the paragraph with a given title; numbers are drawn, not counted up.
pub(super) fn passage_retrieval(source: &mut Source, plan: Plan) -> Document {
    let mut numbers: Vec<usize> = (10..100).collect();
    numbers.shuffle(&mut source.rng);
    // Enough sentences in a paragraph that the numbers suffice.
    let sentences = 1 + plan.tokens / 1024;
    let relations = [Relation::Home, Relation::Keep, Relation::Sell];
    let mut left = plan.tokens;
    let (mut paragraphs, mut items) = (Vec::new(), Vec::new());
    for number in numbers {
        let title = source.person();
        let mut text = format!("Title: {title} ({number}).");
        for _ in 0..source.rng.random_range(sentences..sentences + 2) {
            text.push(' ');
            let sentence = if source.rng.random_bool(plan.filler) {
                source.filler()
            } else {
                let relation = relations[source.rng.random_range(0..relations.len())];
                let (person, value) = (source.person(), source.value(relation));
                relation.state(&mut source.rng, &person, &value)
            };
            text.push_str(&sentence);
        }
        let cost = estimate_tokens(&text) + 1;
        if cost > left && !items.is_empty() {
            break;
        }
        left = left.saturating_sub(cost);
        paragraphs.push(text);
        items.push(Item { input: title, answer: format!("Paragraph {number}") });
    }
    items.shuffle(&mut source.rng);
    items.truncate(plan.questions.max(1));
    Document { context: paragraphs.join("\n"), items, classes: None }
}

/// How often something was heard, one to five times.
pub(super) fn count(source: &mut Source, plan: Plan) -> Document {
    let mut told = Vec::new();
    let mut items = Vec::new();
    let mut events = ["bell", "horn", "gong", "alarm", "whistle", "siren", "cannon", "rattle"];
    events.shuffle(&mut source.rng);
    for event in events.iter().take((plan.tokens / 48).clamp(2, events.len())) {
        let times = source.rng.random_range(1..6);
        told.extend((0..times).map(|_| format!("The {event} was heard in {}.", source.town())));
        items.push(Item {
            input: format!("How many times was the {event} heard?"),
            answer: times.to_string(),
        });
    }
    let taken: usize = told.iter().map(|sentence| estimate_tokens(sentence) + 1).sum();
    let mut left = plan.tokens.saturating_sub(taken);
    loop {
        let sentence = source.filler();
        let cost = estimate_tokens(&sentence) + 1;
        if cost > left {
            break;
        }
        left -= cost;
        told.push(sentence);
    }
    told.shuffle(&mut source.rng);
    items.shuffle(&mut source.rng);
    items.truncate(plan.questions.max(1));
    Document { context: lines(&mut source.rng, &told), items, classes: None }
}
