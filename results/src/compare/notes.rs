//! What a reader of a comparison must know: what differs beside the code, and what only one of the runs has.

use std::collections::BTreeSet;

use super::pairing::Pair;
use crate::merge::Group;
use crate::record::{ExampleKey, VariantKey};
use crate::table::group_part;

pub(super) fn notes(base: &Group, head: &Group, pairs: &[Pair<'_>], shared: &[&ExampleKey]) -> Vec<String> {
    let mut notes: Vec<String> = base
        .identity
        .differences_but_parts(&head.identity)
        .iter()
        .map(|difference| format!("differs {}", difference.to_string().trim_start()))
        .collect();
    for (side, group) in [("base", base), ("head", head)] {
        notes.extend(group_part(group).into_iter().map(|why| format!("the {side} is a part: {why}")));
        if group.manifests.iter().any(|manifest| manifest.schema == 1) {
            notes.push(format!(
                "the {side} is of schema 1, which states neither the model's configuration files nor the protocol's rules: \
                 whether they differ is unknown"
            ));
        }
    }
    let mut one_sided = |what: &str, only: Vec<String>| {
        if !only.is_empty() {
            let shown: Vec<&str> = only.iter().take(8).map(String::as_str).collect();
            let more = if only.len() > shown.len() { ", …" } else { "" };
            notes.push(format!("{} {what}: {}{more}", only.len(), shown.join(", ")));
        }
    };
    let unpaired = |group: &Group, paired: Vec<&VariantKey>| -> Vec<String> {
        group.variants.iter().filter(|key| !paired.contains(key)).map(ToString::to_string).collect()
    };
    one_sided("variants are in the base only", unpaired(base, pairs.iter().map(|pair| pair.0).collect()));
    one_sided("variants are in the head only", unpaired(head, pairs.iter().map(|pair| pair.1).collect()));
    let missing = |group: &Group| -> Vec<String> {
        let shared: BTreeSet<&&ExampleKey> = shared.iter().collect();
        group
            .examples
            .keys()
            .filter(|key| !shared.contains(key))
            .map(|key| format!("{}/{}", key.dataset, key.example))
            .collect()
    };
    one_sided("examples are in the base only", missing(base));
    one_sided("examples are in the head only", missing(head));
    let prompt =
        |group: &Group, key: &ExampleKey| group.examples.get(key).map(|e| e.info.prompt_sha256.clone());
    let prompts = shared.iter().filter(|key| prompt(base, key) != prompt(head, key)).count();
    if prompts > 0 {
        notes.push(format!("the prompts of {prompts} examples differ"));
    }
    notes
}
