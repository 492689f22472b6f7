//! Code completion: the rest of the last line follows from a definition earlier in the file.
//!
//! The language is a small one of our own, in which a name is two words.

use rand::Rng;
use rand::seq::SliceRandom;

use super::grammar::{Document, Item, Plan, Source};
use super::words::estimate_tokens;

/// Definitions and comments up to `plan.tokens`.
fn file(source: &mut Source, plan: Plan, define: fn(&mut Source, &str) -> (String, Item)) -> Document {
    let mut left = plan.tokens;
    let (mut told, mut items) = (Vec::new(), Vec::new());
    loop {
        let (line, item) = if source.rng.random_bool(plan.filler * 0.5) && !items.is_empty() {
            (format!("note {}", source.filler()), None)
        } else {
            let name = source.key_thing();
            let (line, item) = define(source, &name);
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
    items.shuffle(&mut source.rng);
    items.truncate(plan.questions.max(1));
    Document { context: told.join("\n"), items, classes: None }
}

/// The value a variable was set to.
pub(super) fn variables(source: &mut Source, plan: Plan) -> Document {
    file(source, plan, |source, name| {
        let value = source.thing();
        let item = Item { input: format!("assert {name} ="), answer: value.clone() };
        (format!("let {name} = {value}"), item)
    })
}

/// The parameters a function was defined with.
pub(super) fn functions(source: &mut Source, plan: Plan) -> Document {
    file(source, plan, |source, name| {
        let parameters = format!("{} {} )", source.noun(), source.noun());
        let item = Item { input: format!("call {name} ("), answer: parameters.clone() };
        (format!("fn {name} ( {parameters}"), item)
    })
}
