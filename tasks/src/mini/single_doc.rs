//! Single-document question answering: facts in prose.

use super::grammar::{Author, Document, Extent, Item, Relation, lines};

fn prose(author: &mut Author, extent: Extent, relations: &[Relation]) -> Document {
    let (sentences, items) = author.facts(extent, relations);
    Document { context: lines(&mut author.rng, &sentences), items, classes: None }
}

/// People: what they keep, what they sell, and their friends.
pub(super) fn people(author: &mut Author, extent: Extent) -> Document {
    prose(author, extent, &[Relation::Keep, Relation::Sell, Relation::Friend])
}

/// Things and the people who have them.
pub(super) fn things(author: &mut Author, extent: Extent) -> Document {
    prose(author, extent, &[Relation::Owner])
}

/// Facts of all relations but [`Relation::Make`]; for training only.
pub(super) fn mixed_facts(author: &mut Author, extent: Extent) -> (Vec<String>, Vec<Item>) {
    let all = [
        Relation::Home,
        Relation::Keep,
        Relation::Sell,
        Relation::Password,
        Relation::Owner,
        Relation::Friend,
    ];
    author.facts(extent, &all)
}

/// A text of such facts; for training only.
pub(super) fn mixed(author: &mut Author, extent: Extent) -> Document {
    let (sentences, items) = mixed_facts(author, extent);
    Document { context: lines(&mut author.rng, &sentences), items, classes: None }
}
