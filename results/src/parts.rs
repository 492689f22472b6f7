//! The parts of a sharded run: which rows each has, and which parts are missing.

use std::collections::BTreeMap;
use std::fmt;

use crate::identity::Identity;
use crate::manifest::{Manifest, Shard};

/// Missing parts that are named one by one.
const NAMED: usize = 8;

impl Shard {
    /// How many of `total` rows are in this part: the one at place `p`, from 0, is in part `p mod count + 1`.
    pub fn rows(self, total: u64) -> u64 {
        let (index, count) = (u64::from(self.index), u64::from(self.count));
        if total < index { 0 } else { (total - index) / count + 1 }
    }
}

/// A run of which parts are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MissingParts {
    /// The methods of the run, as typed.
    pub(crate) methods: Vec<String>,
    /// How many parts it has.
    pub(crate) count: u32,
    /// The parts that are there, ascending, from 1.
    pub(crate) present: Vec<u32>,
    /// Examples of the missing parts. At least so many where the run is of schema 1, which did not state the whole.
    pub(crate) examples: u64,
}

impl fmt::Display for MissingParts {
    /// `parts 1, 2, 4 of 4; part 3 missing: 150 examples`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |parts: &[u32]| parts.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let part = |n: usize| if n == 1 { "part" } else { "parts" };
        let mut missing: Vec<u32> = (1..=self.count)
            .filter(|part| self.present.binary_search(part).is_err())
            .take(NAMED + 1)
            .collect();
        let more = if missing.len() > NAMED { ", …" } else { "" };
        missing.truncate(NAMED);
        write!(
            f,
            "{} {} of {}; {} {}{more} missing: {} example{}",
            part(self.present.len()),
            list(&self.present),
            self.count,
            part(missing.len()),
            list(&missing),
            self.examples,
            if self.examples == 1 { "" } else { "s" }
        )
    }
}

/// The runs among `manifests` of which parts are missing, in the order met. Parts belong together where they are one
/// measurement in as many parts; a run that is there whole, or in all parts of one count, misses nothing.
pub(crate) fn missing_parts<'a>(manifests: impl IntoIterator<Item = &'a Manifest>) -> Vec<MissingParts> {
    let mut order: Vec<String> = Vec::new();
    let mut runs: BTreeMap<String, BTreeMap<u32, BTreeMap<u32, &Manifest>>> = BTreeMap::new();
    for manifest in manifests {
        let run = Identity::of(manifest).sweep();
        if !runs.contains_key(&run) {
            order.push(run.clone());
        }
        let Shard { index, count } = manifest.shard.unwrap_or(Shard { index: 1, count: 1 });
        runs.entry(run).or_default().entry(count).or_default().insert(index, manifest);
    }
    let missing = |run: &String| {
        let by_count = runs.get(run)?;
        if by_count.iter().any(|(count, parts)| parts.len() as u64 == u64::from(*count)) {
            return None;
        }
        let of = |(count, parts): (&u32, &BTreeMap<u32, &Manifest>)| {
            let first = parts.values().next()?;
            let total: u64 = first.datasets.iter().map(|dataset| dataset.total).sum();
            let present: u64 = parts.values().map(|part| part.examples()).sum();
            Some(MissingParts {
                methods: first.methods.iter().map(|method| method.spec.clone()).collect(),
                count: *count,
                present: parts.keys().copied().collect(),
                examples: total.saturating_sub(present),
            })
        };
        by_count.iter().filter_map(of).min_by_key(|missing| missing.examples)
    };
    order.iter().filter_map(missing).collect()
}

/// Examples that `manifests` together should have of a data set: the most that any run has, all its given parts counted.
pub(crate) fn expected_examples(manifests: &[Manifest], dataset: &str) -> u64 {
    let mut runs: BTreeMap<(String, u32), BTreeMap<u32, u64>> = BTreeMap::new();
    for manifest in manifests {
        let Some(of) = manifest.datasets.iter().find(|of| of.name == dataset) else { continue };
        let Shard { index, count } = manifest.shard.unwrap_or(Shard { index: 1, count: 1 });
        let run = (Identity::of(manifest).sweep(), count);
        runs.entry(run).or_default().insert(index, of.examples);
    }
    runs.values()
        .map(|parts| parts.values().fold(0, |sum: u64, part| sum.saturating_add(*part)))
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{manifest, part};

    #[test]
    fn parts_have_every_row_once() {
        for (total, count) in [(0, 3), (1, 3), (7, 3), (9, 3), (600, 4), (3, 5)] {
            let rows: Vec<u64> = (1..=count).map(|index| Shard { index, count }.rows(total)).collect();
            let expected: Vec<u64> = (0..u64::from(count))
                .map(|part| (0..total).filter(|row| row % u64::from(count) == part).count() as u64)
                .collect();
            assert_eq!(rows, expected, "{total} rows in {count} parts");
        }
        assert_eq!(Shard { index: 1, count: 1 }.rows(u64::MAX), u64::MAX);
    }

    #[test]
    fn parts_are_expected_to_add_up_and_other_runs_are_not() {
        let parts: Vec<Manifest> = [1, 3, 3].map(|index| part(&manifest(), index, 3)).into();
        assert_eq!(expected_examples(&parts, "qasper"), 2);
        let mut more = manifest();
        more.budgets = vec![crate::Budget::Entries(64)];
        assert_eq!(expected_examples(&[more, manifest()], "qasper"), 3);
        assert_eq!(expected_examples(&parts, "other"), 0);
    }

    #[test]
    fn missing_parts_are_named_with_their_examples() {
        let parts = |indices: &[u32], count| -> Vec<Manifest> {
            indices.iter().map(|index| part(&manifest(), *index, count)).collect()
        };
        let text = |manifests: &[Manifest]| -> Vec<String> {
            missing_parts(manifests).iter().map(ToString::to_string).collect()
        };
        // Two data sets of three rows: each part of three has one row of each.
        assert_eq!(text(&parts(&[3, 1], 3)), ["parts 1, 3 of 3; part 2 missing: 2 examples"]);
        assert_eq!(text(&parts(&[2], 3)), ["part 2 of 3; parts 1, 3 missing: 4 examples"]);
        assert_eq!(text(&parts(&[1, 2, 3], 3)), [""; 0]);
        assert_eq!(text(&[parts(&[1], 3), vec![manifest()]].concat()), [""; 0]);
        assert_eq!(text(&[manifest()]), [""; 0]);
        let many = text(&parts(&[1], 1_000_000_000));
        assert_eq!(many, ["part 1 of 1000000000; parts 2, 3, 4, 5, 6, 7, 8, 9, … missing: 4 examples"]);
        // Another measurement's parts do not complete it; the program that ran does not matter.
        let mut other = parts(&[2], 2);
        other[0].budgets = vec![crate::Budget::Entries(64)];
        assert_eq!(text(&[parts(&[1], 2), other].concat()).len(), 2);
        let mut other = parts(&[2], 2);
        other[0].program.commit = "def".into();
        assert_eq!(text(&[parts(&[1], 2), other].concat()), [""; 0]);
    }
}
