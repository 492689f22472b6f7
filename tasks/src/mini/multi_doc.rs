//! Multi-document question answering: numbered passages, and two facts in two of them.
//!
//! The answer names the bridge as well as what it leads to, so that a small model can take the
//! two steps one after the other.

use rand::Rng;
use rand::seq::SliceRandom;

use super::grammar::{Author, Document, Extent, Item, Relation};
use super::words::{NAMES, estimate_tokens, town};

/// Passages of two to four sentences each, numbered from 1.
fn passages(author: &mut Author, sentences: &[String]) -> String {
    let mut text = String::new();
    let mut rest = sentences;
    let mut number = 0;
    while !rest.is_empty() {
        let (passage, tail) = rest.split_at(author.rng.random_range(2..5).min(rest.len()));
        number += 1;
        let line_feed = if number == 1 { "" } else { "\n" };
        text.push_str(&format!("{line_feed}Passage {number}: {}", passage.join(" ")));
        rest = tail;
    }
    text
}

/// Tokens a sentence takes, its share of a passage's heading included.
fn cost(sentence: &str) -> usize {
    estimate_tokens(sentence) + 3
}

/// A person's friend, and where the friend lives.
pub(super) fn friends(author: &mut Author, extent: Extent) -> Document {
    let (mut sentences, mut items) = (Vec::new(), Vec::new());
    let mut left = extent.tokens;
    loop {
        let new = if author.rng.random_bool(extent.filler) && !items.is_empty() {
            vec![author.filler()]
        } else {
            let (person, friend, home) = (author.person(), author.person(), author.town());
            let input = format!("Who is the friend of {person}, and where does this friend live?");
            items.push(Item { input, answer: format!("{friend}, {home}") });
            vec![
                Relation::Friend.state(&mut author.rng, &person, &friend),
                Relation::Home.state(&mut author.rng, &friend, &home),
            ]
        };
        let needed: usize = new.iter().map(|sentence| cost(sentence)).sum();
        if needed > left && !sentences.is_empty() {
            if new.len() == 2 {
                items.pop();
            }
            break;
        }
        left = left.saturating_sub(needed);
        sentences.extend(new);
    }
    finish(author, extent, sentences, items)
}

/// The town a person lives in, and what is made there.
pub(super) fn towns(author: &mut Author, extent: Extent) -> Document {
    let mut numbers: Vec<usize> = (0..NAMES).collect();
    numbers.shuffle(&mut author.rng);
    // About two people a town, and as many tokens for filler as the extent wants.
    let made = (extent.tokens as f64 * (1.0 - extent.filler) / 32.0) as usize;
    numbers.truncate(made.clamp(2, NAMES));
    let makes: Vec<(String, String)> =
        numbers.into_iter().map(|number| (town(number), author.thing())).collect();
    let mut sentences: Vec<String> =
        makes.iter().map(|(place, thing)| Relation::Make.state(&mut author.rng, place, thing)).collect();
    let mut items: Vec<Item> = Vec::new();
    let mut left = extent.tokens.saturating_sub(sentences.iter().map(|s| cost(s)).sum());
    loop {
        let place = makes.get(author.rng.random_range(0..makes.len()));
        let (sentence, item) = match place {
            Some((place, thing)) if items.is_empty() || !author.rng.random_bool(extent.filler) => {
                let person = author.person();
                let input = format!("In which town does {person} live, and what is made there?");
                let sentence = Relation::Home.state(&mut author.rng, &person, place);
                (sentence, Some(Item { input, answer: format!("{place}, {thing}") }))
            }
            _ => (author.filler(), None),
        };
        if cost(&sentence) > left && !items.is_empty() {
            break;
        }
        left = left.saturating_sub(cost(&sentence));
        sentences.push(sentence);
        items.extend(item);
    }
    finish(author, extent, sentences, items)
}

fn finish(author: &mut Author, extent: Extent, mut sentences: Vec<String>, mut items: Vec<Item>) -> Document {
    sentences.shuffle(&mut author.rng);
    items.shuffle(&mut author.rng);
    items.truncate(extent.questions.max(1));
    Document { context: passages(author, &sentences), items, classes: None }
}
