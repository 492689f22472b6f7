//! Method against method inside one run: paired tests of the averages on the same examples, Holm-corrected over all
//! pairs of the table.

use serde::Serialize;

use crate::Result;
use crate::budget::Budget;
use crate::compare::{Change, p_value};
use crate::error::ResultsError;
use crate::json::versioned;
use crate::markup::markdown_text;
use crate::merge::Group;
use crate::record::{ExampleKey, VariantKey};
use crate::stats::{ALPHA, Bootstrap, PairedTest, Sample, Stratum, holm};
use crate::table::{Column, TableLayout, group_part};
use crate::text::{paragraph, visible};
use crate::text_table::TextTable;

/// Two methods at one budget, or a compressed variant and the full cache.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MethodPair {
    /// The budget of the first (and of the second, unless it is the full cache).
    pub budget: Option<Budget>,
    /// The first method.
    pub first: String,
    /// The second.
    pub second: String,
    /// The paired test of `first - second`, scores 0 to 1; `p_holm` is corrected over all pairs.
    pub test: PairedTest,
    /// How the first stands to the second.
    pub change: Change,
}

/// All pairs of one run or merge.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MethodPairs {
    /// Model and protocol; says so where the runs are a part.
    pub title: String,
    /// How intervals are made.
    pub bootstrap: Bootstrap,
    /// Level of the whole family.
    pub alpha: f64,
    /// The pairs, by budget; full-cache pairs last.
    pub pairs: Vec<MethodPair>,
}

/// Columns that name a pair: two methods and a budget.
const NAMES: usize = 3;

/// One example's score.
type Keyed<'a> = (&'a ExampleKey, Sample<'a>);

/// The scores of one variant in one column, resampled.
type ScoredColumn<'a> = (Vec<Keyed<'a>>, Stratum);

impl MethodPairs {
    /// Tests every two methods of the same budget, and every compressed variant against every variant without a budget,
    /// on the average over the columns both have with the same examples.
    ///
    /// # Errors
    /// No two variants share an example.
    pub fn new(group: &Group, layout: &TableLayout, bootstrap: &Bootstrap) -> Result<Self> {
        let scored = |variant: &VariantKey| -> Vec<ScoredColumn> {
            let column = |column: &Column| {
                let keyed = group.keyed_samples(variant, &column.dataset, column.bucket.as_deref());
                let samples: Vec<Sample<'_>> = keyed.iter().map(|(_, sample)| *sample).collect();
                (keyed, bootstrap.stratum(&column.key(), &samples))
            };
            layout.columns.iter().map(column).collect()
        };
        let all: Vec<(&VariantKey, Vec<ScoredColumn>)> =
            group.variants.iter().map(|key| (key, scored(key))).collect();
        let mut pairs = Vec::new();
        let mut budgets: Vec<Option<Budget>> = all.iter().map(|(key, _)| key.budget).collect();
        budgets.sort_unstable();
        budgets.dedup();
        let mut add = |(a, ours): &(&VariantKey, Vec<ScoredColumn>),
                       (b, theirs): &(&VariantKey, Vec<ScoredColumn>)| {
            if let Some(test) = test(ours, theirs, layout, bootstrap) {
                let (first, second) = (label(a, group), label(b, group));
                pairs.push(MethodPair { budget: a.budget, first, second, test, change: Change::Unchanged });
            }
        };
        for budget in budgets.iter().filter(|budget| budget.is_some()) {
            let same: Vec<_> = all.iter().filter(|(key, _)| key.budget == *budget).collect();
            for (place, first) in same.iter().enumerate() {
                for second in same.iter().skip(place + 1) {
                    add(first, second);
                }
            }
        }
        for budget in budgets.iter().filter(|budget| budget.is_some()) {
            for first in all.iter().filter(|(key, _)| key.budget == *budget) {
                for second in all.iter().filter(|(key, _)| key.budget.is_none()) {
                    add(first, second);
                }
            }
        }
        if pairs.is_empty() {
            return Err(ResultsError::Empty("no two variants share an example: nothing to test".to_owned()));
        }
        let adjusted = holm(&pairs.iter().map(|pair| pair.test.p).collect::<Vec<_>>());
        for (pair, p) in pairs.iter_mut().zip(adjusted) {
            pair.test.p_holm = p;
            pair.change = match (p < ALPHA, pair.test.estimate.mean < 0.0) {
                (false, _) => Change::Unchanged,
                (true, true) => Change::Worse,
                (true, false) => Change::Better,
            };
        }
        let part = group_part(group);
        let part = if part.is_empty() { String::new() } else { format!("partial: {} · ", part.join("; ")) };
        Ok(Self { title: format!("{part}{}", group.label()), bootstrap: *bootstrap, alpha: ALPHA, pairs })
    }

    /// The title and one line a pair.
    pub fn text(&self) -> String {
        format!("{}\n\n{}", visible(&self.title), self.table().text())
    }

    /// As [`MethodPairs::text`], in lines of at most `most` terminal columns, in blocks below each other where one is not
    /// enough.
    pub fn fitted_text(&self, most: usize) -> String {
        format!("{}\n{}", paragraph(&self.title, most), self.table().blocks(NAMES, most).join("\n"))
    }

    /// The title and one line a pair, in Markdown.
    pub fn markdown(&self) -> String {
        format!("**{}**\n\n{}", markdown_text(&self.title), self.table().markdown())
    }

    fn table(&self) -> TextTable {
        let rows = self.pairs.iter().map(|pair| {
            let points = |value: f64| format!("{:+.2}", 100.0 * value);
            let interval = pair.test.estimate.interval;
            vec![
                pair.first.clone(),
                pair.second.clone(),
                pair.budget.map_or_else(|| "-".to_owned(), |budget| budget.to_string()),
                points(pair.test.estimate.mean),
                interval.map_or_else(
                    || "-".to_owned(),
                    |(low, high)| format!("[{}, {}]", points(low), points(high)),
                ),
                pair.test.estimate.n.to_string(),
                format!("{}/{}/{}", pair.test.wins, pair.test.losses, pair.test.ties),
                p_value(pair.test.p_holm),
                p_value(pair.test.p_sign),
                pair.change.to_string(),
            ]
        });
        let head = [
            "method",
            "against",
            "budget",
            "difference",
            "95 %",
            "n",
            "won/lost/same",
            "p (Holm)",
            "p (sign)",
            "verdict",
        ];
        TextTable::of_rows(&head, &[0], &rows.collect::<Vec<_>>())
    }

    /// Writes everything as versioned JSON.
    ///
    /// # Errors
    /// Never for pairs made by [`MethodPairs::new`].
    pub fn to_json(&self) -> Result<String> {
        versioned("kvsweep-pairs", 1, "comparison", self)
    }
}

/// The method, with granularity and parameters where the group has it several ways.
fn label(key: &VariantKey, group: &Group) -> String {
    let ways =
        group.variants.iter().filter(|other| (&other.method, other.budget) == (&key.method, key.budget));
    if ways.count() > 1 {
        format!("{} {}#{}", key.method, key.granularity, key.params)
    } else {
        key.method.to_string()
    }
}

/// The paired test over the columns in which both have the same examples; none where there is no such column.
fn test(
    ours: &[ScoredColumn],
    theirs: &[ScoredColumn],
    layout: &TableLayout,
    bootstrap: &Bootstrap,
) -> Option<PairedTest> {
    let same = |((ours, _), (theirs, _)): &(&ScoredColumn, &ScoredColumn)| {
        !ours.is_empty()
            && ours.len() == theirs.len()
            && ours.iter().zip(theirs).all(|((a, _), (b, _))| a == b)
    };
    let shared: Vec<(&Column, &ScoredColumn, &ScoredColumn)> = layout
        .columns
        .iter()
        .zip(ours.iter().zip(theirs))
        .filter(|(_, pair)| same(pair))
        .map(|(column, (ours, theirs))| (column, ours, theirs))
        .collect();
    if shared.is_empty() {
        return None;
    }
    let (weights, _) = layout.weights(&shared.iter().map(|(column, ..)| *column).collect::<Vec<_>>());
    // Columns that the average leaves out say nothing about it.
    let counted = shared.into_iter().zip(weights).filter(|(_, weight)| *weight > 0.0);
    let strata: Vec<(f64, Stratum)> = counted
        .map(|((_, (ours, own), (theirs, other)), weight)| {
            let difference = |((_, a), (_, b)): (&Keyed<'_>, &Keyed<'_>)| a.value - b.value;
            let samples = ours.iter().zip(theirs).map(|pair| Sample { value: difference(pair), ..pair.0.1 });
            let differences: Vec<Sample<'_>> = samples.collect();
            (weight, own.minus(other, &differences))
        })
        .collect();
    Some(bootstrap.judge(&strata))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::layout;
    use crate::fixture::{manifest, write_run};
    use crate::merge::Merged;

    fn pairs(score: impl Fn(&str, u64, usize) -> f64) -> MethodPairs {
        let dir = tempfile::tempdir().unwrap();
        let mut m = manifest();
        let mut third = m.methods[1].clone();
        third.spec = "h2o".into();
        m.methods.push(third);
        m.datasets.iter_mut().for_each(|dataset| (dataset.examples, dataset.total) = (30, 30));
        // Variants: full, snapkv@64, snapkv@128, h2o@64, h2o@128.
        let merged = Merged::of(&[write_run(dir.path(), &m, score)], false).unwrap();
        MethodPairs::new(&merged.groups[0], &layout(), &Bootstrap::default()).unwrap()
    }

    #[test]
    fn a_real_difference_is_found_and_a_tie_is_none() {
        // h2o loses at 64 only.
        let all = pairs(|_, row, variant| {
            let loss = if variant == 3 { 0.1 + (row % 5) as f64 / 20.0 } else { 0.0 };
            0.9 - loss - (row % 7) as f64 / 20.0
        });
        let names: Vec<(Option<Budget>, &str, &str, Change)> =
            all.pairs.iter().map(|p| (p.budget, p.first.as_str(), p.second.as_str(), p.change)).collect();
        assert_eq!(
            names,
            [
                (Some(Budget::Entries(64)), "snapkv", "h2o", Change::Better),
                (Some(Budget::Entries(128)), "snapkv", "h2o", Change::Unchanged),
                (Some(Budget::Entries(64)), "snapkv", "full", Change::Unchanged),
                (Some(Budget::Entries(64)), "h2o", "full", Change::Worse),
                (Some(Budget::Entries(128)), "snapkv", "full", Change::Unchanged),
                (Some(Budget::Entries(128)), "h2o", "full", Change::Unchanged),
            ]
        );
        let first = &all.pairs[0].test;
        // The mean of 0.1, 0.15, 0.2, 0.25, 0.3.
        assert!((first.estimate.mean - 0.2).abs() < 1e-9, "{first:?}");
        assert_eq!((first.wins, first.losses, first.ties, first.estimate.n), (60, 0, 0, 60));
        assert!(first.p_holm >= first.p);
        let text = all.text();
        assert!(text.contains("+20.00") && text.contains("60/0/0"), "{text}");
        let fitted = all.fitted_text(80);
        assert!(fitted.lines().all(|line| line.chars().count() <= 80), "{fitted}");
        assert!(["60/0/0", "verdict", "95 %"].iter().all(|part| fitted.contains(part)), "{fitted}");
        let json: serde_json::Value = serde_json::from_str(&all.to_json().unwrap()).unwrap();
        assert_eq!(json["comparison"]["pairs"][3]["change"], "worse");
    }

    #[test]
    fn one_example_more_on_one_side_leaves_the_column_out() {
        let dir = tempfile::tempdir().unwrap();
        let m = manifest();
        let mut merged = Merged::of(&[write_run(dir.path(), &m, |_, _, v| v as f64 / 4.0)], false).unwrap();
        let group = &mut merged.groups[0];
        let snapkv = m.variants()[1].clone();
        for (key, example) in &mut group.examples {
            if key.dataset == "trec" && key.example.ends_with('0') {
                example.answers.remove(&snapkv);
            }
        }
        let all = MethodPairs::new(group, &layout(), &Bootstrap::default()).unwrap();
        let against_full =
            |budget| all.pairs.iter().find(|pair| pair.budget == Some(Budget::Entries(budget))).unwrap().test;
        assert_eq!((against_full(64).estimate.n, against_full(128).estimate.n), (3, 6));
    }
}
