//! Our number for a published cell, and what it lacks to bear a verdict.

use std::collections::BTreeMap;

use super::Original;
use super::verdict::WIDEST;
use crate::merge::Group;
use crate::published::{PaperColumn, PaperRow, PaperTable};
use crate::record::VariantKey;
use crate::stats::{Bootstrap, Stratum};
use crate::table::{Cell, exact_percent, percent};

/// The variant of ours that a published row is.
pub(super) fn variant_of<'a>(paper: &PaperTable, row: &PaperRow, group: &'a Group) -> Option<&'a VariantKey> {
    let method = paper.method(&row.method)?;
    let fits =
        |variant: &&VariantKey| {
            variant.method == method.spec
                && variant.budget == row.budget
                && (paper.granularity.as_ref().is_none_or(|wanted| variant.granularity == *wanted)
                // The full cache is stored once a KV head whatever the methods do.
                || row.budget.is_none())
                && group.methods.iter().any(|info| {
                    variant.method == info.spec
                        && variant.granularity == info.granularity
                        && variant.params == info.params_id()
                        && method.params.iter().chain(&row.params).all(|(key, value)| {
                            info.params.get(key).is_some_and(|own| same_value(own, value))
                        })
                })
        };
    group.variants.iter().find(fits)
}

/// `2` and `2.0` are the same number.
fn same_value(a: &str, b: &str) -> bool {
    a == b || matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(a), Ok(b)) if a == b)
}

/// Our number for a column.
pub(super) struct OurNumber {
    pub(super) cell: Cell,
    /// By data set: examples measured, and examples of the paper where known.
    examples: BTreeMap<String, (u64, Option<u64>)>,
}

impl OurNumber {
    /// What keeps it from bearing a verdict, if anything.
    pub(super) fn lacks(&self) -> Option<String> {
        let incomplete: Vec<String> = self
            .examples
            .iter()
            .filter_map(|(dataset, (have, want))| match want {
                Some(want) if have == want => None,
                Some(want) => Some(format!("{dataset} {have} of {want} examples")),
                None => Some(format!("{dataset} {have} examples of an unknown number")),
            })
            .collect();
        match (incomplete.as_slice(), self.cell.low.zip(self.cell.high)) {
            ([], Some((low, high))) if high - low <= WIDEST => None,
            ([], Some((low, high))) => Some(format!("interval {:.0} points wide", high - low)),
            ([], None) => Some("no interval".to_owned()),
            ([first], _) => Some(first.clone()),
            ([first, rest @ ..], _) => Some(format!("{first}, and {} more data sets in part", rest.len())),
        }
    }
}

/// Our number for a column; none unless all its data sets are measured.
pub(super) fn measure(
    group: &Group,
    variant: &VariantKey,
    column: &PaperColumn,
    original: &Original<'_>,
    bootstrap: &Bootstrap,
) -> Option<OurNumber> {
    let mut strata: Vec<(f64, Stratum)> = Vec::new();
    let mut percents: Vec<(f64, f64)> = Vec::new();
    let mut examples = BTreeMap::new();
    for (dataset, weight) in &column.parts {
        let samples = group.samples(variant, dataset, None);
        let scores: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
        if scores.is_empty() {
            return None;
        }
        strata.push((*weight, bootstrap.stratum(dataset, &samples)));
        percents.push((*weight, exact_percent(&scores)));
        examples.insert(dataset.clone(), (scores.len() as u64, (original.examples)(dataset)));
    }
    let parts: Vec<(f64, &Stratum)> = strata.iter().map(|(weight, stratum)| (*weight, stratum)).collect();
    let cell = percent(&bootstrap.combine_scores(&parts), (original.mean)(&percents));
    (!parts.is_empty()).then_some(OurNumber { cell, examples })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_however_they_are_written() {
        assert!(same_value("2", "2.0") && same_value("x", "x") && !same_value("2", "2.1"));
    }
}
