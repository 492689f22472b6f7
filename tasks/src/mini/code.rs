//! Code completion: the rest of the last line follows from a definition earlier in the file.
//!
//! The language is a small one of our own, in which a name is two words.

use rand::Rng;
use rand::seq::SliceRandom;

use super::grammar::{Author, Document, Extent, Item};
use super::words::estimate_tokens;

/// Definitions and comments up to `extent.tokens`.
fn file(author: &mut Author, extent: Extent, define: fn(&mut Author, &str) -> (String, Item)) -> Document {
    let mut left = extent.tokens;
    let (mut told, mut items) = (Vec::new(), Vec::new());
    loop {
        let (line, item) = if author.rng.random_bool(extent.filler * 0.5) && !items.is_empty() {
            (format!("note {}", author.filler()), None)
        } else {
            let name = author.key_thing();
            let (line, item) = define(author, &name);
            (line, Some(item))
        };
        let cost = estimate_tokens(&line) + 1;
        if cost > left && !items.is_empty() {
            break;
        }
        left = left.saturating_sub(cost);
        told.push(line);
        items.extend(item);
    }
    items.shuffle(&mut author.rng);
    items.truncate(extent.questions.max(1));
    Document { context: told.join("\n"), items, classes: None }
}

/// The value a variable was set to.
pub(super) fn variables(author: &mut Author, extent: Extent) -> Document {
    file(author, extent, |author, name| {
        let value = author.thing();
        let item = Item { input: format!("assert {name} ="), answer: value.clone() };
        (format!("let {name} = {value}"), item)
    })
}

/// The parameters a function was defined with.
pub(super) fn functions(author: &mut Author, extent: Extent) -> Document {
    file(author, extent, |author, name| {
        let parameters = format!("{} {} )", author.noun(), author.noun());
        let item = Item { input: format!("call {name} ("), answer: parameters.clone() };
        (format!("fn {name} ( {parameters}"), item)
    })
}
