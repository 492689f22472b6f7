//! Synthetic tasks: find a passage, count events.

use rand::Rng;
use rand::seq::SliceRandom;

use super::grammar::{Author, Document, Extent, Item, Relation, lines};
use super::words::estimate_tokens;

/// The number of the paragraph with a given title; numbers are drawn, not counted up.
pub(super) fn passage_retrieval(author: &mut Author, extent: Extent) -> Document {
    let mut numbers: Vec<usize> = (10..100).collect();
    numbers.shuffle(&mut author.rng);
    // Enough sentences in a paragraph that the numbers suffice.
    let sentences = 1 + extent.tokens / 1024;
    let relations = [Relation::Home, Relation::Keep, Relation::Sell];
    let mut left = extent.tokens;
    let (mut paragraphs, mut items) = (Vec::new(), Vec::new());
    for number in numbers {
        let title = author.person();
        let mut text = format!("Title: {title} ({number}).");
        for _ in 0..author.rng.random_range(sentences..sentences + 2) {
            text.push(' ');
            let sentence = if author.rng.random_bool(extent.filler) {
                author.filler()
            } else {
                let relation = relations[author.rng.random_range(0..relations.len())];
                let (person, value) = (author.person(), author.value(relation));
                relation.state(&mut author.rng, &person, &value)
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
    items.shuffle(&mut author.rng);
    items.truncate(extent.questions.max(1));
    Document { context: paragraphs.join("\n"), items, classes: None }
}

/// How often something was heard, one to five times.
pub(super) fn count(author: &mut Author, extent: Extent) -> Document {
    let mut told = Vec::new();
    let mut items = Vec::new();
    let mut events = ["bell", "horn", "gong", "alarm", "whistle", "siren", "cannon", "rattle"];
    events.shuffle(&mut author.rng);
    for event in events.iter().take((extent.tokens / 48).clamp(2, events.len())) {
        let times = author.rng.random_range(1..6);
        told.extend((0..times).map(|_| format!("The {event} was heard in {}.", author.town())));
        items.push(Item {
            input: format!("How many times was the {event} heard?"),
            answer: times.to_string(),
        });
    }
    let taken: usize = told.iter().map(|sentence| estimate_tokens(sentence) + 1).sum();
    let mut left = extent.tokens.saturating_sub(taken);
    loop {
        let sentence = author.filler();
        let cost = estimate_tokens(&sentence) + 1;
        if cost > left {
            break;
        }
        left -= cost;
        told.push(sentence);
    }
    told.shuffle(&mut author.rng);
    items.shuffle(&mut author.rng);
    items.truncate(extent.questions.max(1));
    Document { context: lines(&mut author.rng, &told), items, classes: None }
}
