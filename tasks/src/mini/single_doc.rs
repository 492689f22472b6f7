//! Single-document question answering: facts in prose.

use super::grammar::{Document, Item, Plan, Relation, Source, lines};

fn prose(source: &mut Source, plan: Plan, relations: &[Relation]) -> Document {
    let (sentences, items) = source.facts(plan, relations);
    Document { context: lines(&mut source.rng, &sentences), items, classes: None }
}

/// People: what they keep, what they sell, and their friends.
pub(super) fn people(source: &mut Source, plan: Plan) -> Document {
    prose(source, plan, &[Relation::Keep, Relation::Sell, Relation::Friend])
}

/// Things and the people who have them.
pub(super) fn things(source: &mut Source, plan: Plan) -> Document {
    prose(source, plan, &[Relation::Owner])
}

/// Facts of all relations but [`Relation::Make`]; for training only.
pub(super) fn mixed_facts(source: &mut Source, plan: Plan) -> (Vec<String>, Vec<Item>) {
    let all = [
        Relation::Home,
        Relation::Keep,
        Relation::Sell,
        Relation::Password,
        Relation::Owner,
        Relation::Friend,
    ];
    source.facts(plan, &all)
}

/// A text of such facts; for training only.
pub(super) fn mixed(source: &mut Source, plan: Plan) -> Document {
    let (sentences, items) = mixed_facts(source, plan);
    Document { context: lines(&mut source.rng, &sentences), items, classes: None }
}
