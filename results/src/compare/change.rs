//! The paired tests: every number of both runs, and what happened to it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::Serialize;

use super::Comparison;
use super::pairing::{Pair, name};
use crate::merge::Group;
use crate::record::{ExampleKey, VariantKey};
use crate::stats::{PairedTest, Sample, holm};
use crate::table::{Column, TableLayout, exact_percent};

/// What happened to a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Significantly higher.
    Better,
    /// Significantly lower.
    Worse,
    /// No significant difference.
    Unchanged,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Unchanged => "unchanged",
        })
    }
}

/// What a number is the mean of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// One method over all its budgets and data sets.
    Method,
    /// One variant over all data sets.
    Variant,
    /// One variant on one data set.
    Cell,
}

/// One number of both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CellChange {
    /// What it is the mean of.
    pub scope: Scope,
    /// The method or variant.
    pub variant: String,
    /// The data set's column, or `average`.
    pub column: String,
    /// Percent in the base, over the shared examples.
    pub base: f64,
    /// Percent in the head.
    pub head: f64,
    /// The paired test of `head - base`, scores 0 to 1; its `p_holm` is corrected for the whole comparison.
    pub test: PairedTest,
    /// The verdict.
    pub change: Change,
}

/// Paired differences by stratum (data set and bucket), with the weight of the column.
type Differences<'a> = BTreeMap<String, (f64, Vec<Sample<'a>>)>;

/// Sums over the budgets of one method.
#[derive(Default)]
struct MethodSums<'a> {
    /// Averages of base and head, one a budget.
    totals: Vec<(f64, f64)>,
    /// By column: number of budgets, weight, summed differences of every example.
    columns: BTreeMap<String, (usize, f64, Vec<Sample<'a>>)>,
}

impl Comparison {
    pub(super) fn test_all(
        &mut self,
        base: &Group,
        head: &Group,
        pairs: &[Pair<'_>],
        shared: &[&ExampleKey],
        layout: &TableLayout,
    ) {
        let in_column = |column: &Column, key: &ExampleKey| {
            let bucket = head.examples.get(key).and_then(|example| example.info.bucket.as_deref());
            key.dataset == column.dataset && (column.bucket.is_none() || column.bucket.as_deref() == bucket)
        };
        let present: Vec<&Column> =
            layout.columns.iter().filter(|column| shared.iter().any(|key| in_column(column, key))).collect();
        let (weights, whole) = layout.weights(&present);
        if !whole {
            self.notes.push(format!(
                "the average is the plain mean of the {} columns that both have, not the protocol's average",
                present.len()
            ));
        }
        // Scores of the shared examples by column: base, head, and their difference, for every pair of variants.
        let scores = |column: &Column, (old, new): Pair<'_>| {
            let score = |group: &Group, key: &ExampleKey, variant: &VariantKey| {
                Some(group.examples.get(key)?.answers.get(variant)?.record.score)
            };
            let (mut before, mut after, mut differences) = (Vec::new(), Vec::new(), Vec::new());
            for key in shared.iter().filter(|key| in_column(column, key)) {
                let (Some(old), Some(new)) = (score(base, key, old), score(head, key, new)) else { continue };
                let context = head.examples.get(*key).and_then(|example| example.info.context.as_deref());
                before.push(old);
                after.push(new);
                differences.push(Sample { value: new - old, context });
            }
            (before, after, differences)
        };
        let mut methods: BTreeMap<String, MethodSums<'_>> = BTreeMap::new();
        let mut order: Vec<String> = Vec::new();
        let (mut by_method, mut by_variant, mut by_cell) = (Vec::new(), Vec::new(), Vec::new());
        for (old, new) in pairs {
            let variant = name(new, pairs);
            let method = format!("{} {}", new.method, new.granularity);
            if !order.contains(&method) {
                order.push(method.clone());
            }
            let mut all: Differences<'_> = BTreeMap::new();
            let (mut before, mut after) = (Vec::new(), Vec::new());
            for (column, weight) in present.iter().zip(&weights) {
                let (old, new, differences) = scores(column, (old, new));
                if differences.is_empty() {
                    continue;
                }
                let printed = ((column.percent)(&old), (column.percent)(&new));
                let alone = BTreeMap::from([(column.key(), (1.0, differences.clone()))]);
                by_cell.push(self.change(Scope::Cell, &variant, &column.title, printed, &alone));
                // A column that the average leaves out is a cell only.
                if *weight > 0.0 {
                    before.push((*weight, exact_percent(&old)));
                    after.push((*weight, exact_percent(&new)));
                    all.insert(column.key(), (*weight, differences));
                }
            }
            let total = ((layout.average.percent)(&before), (layout.average.percent)(&after));
            by_variant.push(self.change(Scope::Variant, &variant, "average", total, &all));
            // A method's difference on an example is the mean over its budgets: one value an example, so that the
            // examples stay the units that are resampled.
            let sums = methods.entry(method).or_default();
            sums.totals.push(total);
            for (title, (weight, differences)) in all {
                match sums.columns.entry(title) {
                    Entry::Vacant(place) => drop(place.insert((1, weight, differences))),
                    Entry::Occupied(mut place) => {
                        let (count, _, sum) = place.get_mut();
                        // A budget with other examples than the first (a merge of unlike runs) stays out.
                        if sum.len() == differences.len() {
                            *count += 1;
                            sum.iter_mut().zip(differences).for_each(|(sum, other)| sum.value += other.value);
                        }
                    }
                }
            }
        }
        for method in order {
            // One budget: the variant says it all.
            let Some(MethodSums { totals, columns }) =
                methods.remove(&method).filter(|sums| sums.totals.len() > 1)
            else {
                continue;
            };
            let mut differences: Differences<'_> = BTreeMap::new();
            for (title, (count, weight, mut sum)) in columns {
                sum.iter_mut().for_each(|sample| sample.value /= count as f64);
                differences.insert(title, (weight, sum));
            }
            let n = totals.len() as f64;
            let total = totals.iter().fold((0.0, 0.0), |sum, t| (sum.0 + t.0 / n, sum.1 + t.1 / n));
            by_method.push(self.change(Scope::Method, &method, "average", total, &differences));
        }
        let families: Vec<Vec<CellChange>> =
            [by_method, by_variant, by_cell].into_iter().filter(|family| !family.is_empty()).collect();
        let shares = families.len() as f64;
        for family in families {
            let adjusted = holm(&family.iter().map(|change| change.test.p).collect::<Vec<_>>());
            for (mut change, p) in family.into_iter().zip(adjusted) {
                change.test.p_holm = (p * shares).min(1.0);
                change.change = if change.test.p_holm >= self.alpha {
                    Change::Unchanged
                } else if change.test.estimate.mean < 0.0 {
                    Change::Worse
                } else {
                    Change::Better
                };
                self.changes.push(change);
            }
        }
    }

    fn change(
        &self,
        scope: Scope,
        variant: &str,
        column: &str,
        (base, head): (f64, f64),
        differences: &Differences<'_>,
    ) -> CellChange {
        CellChange {
            scope,
            variant: variant.to_owned(),
            column: column.to_owned(),
            base,
            head,
            test: self.bootstrap.paired(differences),
            change: Change::Unchanged,
        }
    }
}
