//! Which variants of two runs are the same.

use crate::budget::Budget;
use crate::merge::Group;
use crate::record::VariantKey;

/// A variant of the base and the same one of the head.
pub(super) type Pair<'a> = (&'a VariantKey, &'a VariantKey);

/// The variants of base and head that are the same: same method, budget and granularity; where several are, same
/// parameters too.
pub(super) fn pair_variants<'a>(base: &'a Group, head: &'a Group) -> Vec<Pair<'a>> {
    let alike = |a: &VariantKey, b: &VariantKey| {
        (&a.method, a.budget, &a.granularity) == (&b.method, b.budget, &b.granularity)
    };
    let only = |group: &'a Group, key: &VariantKey| -> Option<&'a VariantKey> {
        let mut all = group.variants.iter().filter(|other| alike(other, key));
        all.next().filter(|_| all.next().is_none())
    };
    let partner = |key: &'a VariantKey| {
        let exact = base.variants.iter().find(|other| *other == key);
        exact.or_else(|| only(head, key).and_then(|_| only(base, key)))
    };
    head.variants.iter().filter_map(|key| Some((partner(key)?, key))).collect()
}

/// A variant for people: the parameters' id only where it is needed.
pub(super) fn name(key: &VariantKey, among: &[Pair<'_>]) -> String {
    let budget = key.budget.map(Budget::suffix).unwrap_or_default();
    let short = |key: &VariantKey| (key.method.clone(), key.budget);
    let mut text = format!("{}{budget}", key.method);
    if among.iter().filter(|(_, other)| short(other) == short(key)).count() > 1 {
        text.push_str(&format!(" {}#{}", key.granularity, key.params));
    }
    text
}
