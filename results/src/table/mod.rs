//! Score tables: one row a variant, one column a data set, category averages, average, entries and bytes really held.
//!
//! Scores are percent. Which data sets a mean is over, and how scores and means are rounded, is the caller's to say: it
//! knows the suite's own scripts.

mod layout;
mod notes;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

pub use layout::{Column, Mean, TableLayout};
pub(crate) use notes::group_part;
use notes::{notes, part, title};

use crate::Result;
use crate::budget::Budget;
use crate::error::ResultsError;
use crate::merge::{Group, Merged};
use crate::record::{CacheSize, ExampleInfo};
use crate::stats::{Bootstrap, Estimate, Stratum};

/// A full cache whose interval reaches down to this many percent cannot be told from a model that does not answer.
pub(crate) const FLOOR: f64 = 5.0;

/// What a column of the finished table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ColumnKind {
    /// One data set.
    Dataset,
    /// The mean of a category's data sets.
    Category,
    /// The overall average.
    Average,
}

/// A column of the finished table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CellScope {
    /// What stands above it.
    pub title: String,
    /// What it is.
    pub kind: ColumnKind,
    /// The full cache's interval reaches down to 5 or less: a higher score of a compressed cache is no merit of its method.
    pub near_floor: bool,
}

/// One number.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Percent.
    pub score: f64,
    /// Lower end of the interval, percent; none where there are too few examples.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Examples it is the mean of.
    pub n: usize,
    /// Contexts these are about: the units that are resampled.
    pub contexts: usize,
}

/// One variant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreRow {
    /// Model and protocol, where the table has several; else empty.
    pub group: String,
    /// Method with its profile.
    pub method: String,
    /// Id of the resolved parameters.
    pub params: String,
    /// The budget asked for; none for a method without one.
    pub budget: Option<Budget>,
    /// `kv-head` or `query-head`: what each selection is stored per.
    pub granularity: String,
    /// Examples.
    pub n: usize,
    /// Mean entries per head and layer really held, over all examples.
    pub entries_mean: f64,
    /// Most entries in any head.
    pub entries_max: u32,
    /// Mean of what the budget allows.
    pub entries_nominal: f64,
    /// Mean bytes of keys and values really held.
    pub bytes: f64,
    /// Entries really held, of all that were compressed, 0 to 1.
    pub share_held: f64,
    /// One entry a column; none where there is no record.
    pub cells: Vec<Option<Cell>>,
}

/// A finished table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreTable {
    /// What it shows; says so where that is a part.
    pub title: String,
    /// Why it shows only a part of its data sets: a limit, missing shards, an unfinished run. Empty for the whole.
    pub part: Vec<String>,
    /// What a reader must know: several commits, truncated prompts, means that are not there.
    pub notes: Vec<String>,
    /// How intervals were made.
    pub bootstrap: Bootstrap,
    /// See [`TableLayout::counts_removed`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub counts_removed: bool,
    /// The columns.
    pub columns: Vec<CellScope>,
    /// The rows.
    pub rows: Vec<ScoreRow>,
}

/// A mean whose columns have been found.
struct FoundMean {
    scope: CellScope,
    /// Index into the columns with records, and weight.
    parts: Vec<(usize, f64)>,
    percent: fn(&[(f64, f64)]) -> f64,
}

/// One variant's rows in one column.
struct MeasuredColumn {
    stratum: Stratum,
    /// The official scripts' `100 * sum / n`, unrounded.
    exact: f64,
    printed: f64,
}

/// A column's rows with the column's weight in a mean.
type WeightedColumn<'a> = (f64, &'a MeasuredColumn);

impl MeasuredColumn {
    fn of(
        group: &Group,
        variant: &crate::VariantKey,
        column: &Column,
        bootstrap: &Bootstrap,
    ) -> Option<Self> {
        let samples = group.samples(variant, &column.dataset, column.bucket.as_deref());
        let scores: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
        (!scores.is_empty()).then(|| Self {
            stratum: bootstrap.stratum(&column.key(), &samples),
            exact: exact_percent(&scores),
            printed: (column.percent)(&scores),
        })
    }
}

/// `100 * sum / n` in this order, as the official scripts take it before they round.
pub(crate) fn exact_percent(scores: &[f64]) -> f64 {
    100.0 * scores.iter().fold(0.0, |total, score| total + score) / scores.len() as f64
}

impl ScoreTable {
    /// Computes the table.
    ///
    /// # Errors
    /// No record falls into any column.
    pub fn new(merged: &Merged, layout: &TableLayout, bootstrap: &Bootstrap) -> Result<Self> {
        let has_records = |column: &Column| {
            merged.groups.iter().any(|group| {
                group.examples.iter().any(|(key, example)| {
                    key.dataset == column.dataset
                        && (column.bucket.is_none() || column.bucket == example.info.bucket)
                })
            })
        };
        let present: Vec<&Column> = layout.columns.iter().filter(|column| has_records(column)).collect();
        if present.is_empty() {
            return Err(ResultsError::Empty("no finished example to make a table of".to_owned()));
        }
        let means = means(layout, &present);
        let mut columns: Vec<CellScope> =
            present.iter().map(|column| scope(column.title.clone(), ColumnKind::Dataset)).collect();
        columns.extend(means.iter().map(|mean| mean.scope.clone()));
        let mut rows = Vec::new();
        for group in &merged.groups {
            for variant in &group.variants {
                let measured: Vec<Option<MeasuredColumn>> = present
                    .iter()
                    .map(|column| MeasuredColumn::of(group, variant, column, bootstrap))
                    .collect();
                if measured.iter().all(Option::is_none) {
                    continue;
                }
                let cell = |parts: &[(usize, f64)], print: &dyn Fn(&[WeightedColumn<'_>]) -> f64| {
                    let weighted =
                        |(index, weight): &(usize, f64)| Some((*weight, measured[*index].as_ref()?));
                    let parts: Vec<WeightedColumn<'_>> = parts.iter().map(weighted).collect::<Option<_>>()?;
                    let strata: Vec<(f64, &Stratum)> = parts.iter().map(|(w, m)| (*w, &m.stratum)).collect();
                    Some(percent(&bootstrap.combine_scores(&strata), print(&parts)))
                };
                let mut cells: Vec<Option<Cell>> = (0..present.len())
                    .map(|index| cell(&[(index, 1.0)], &|parts| parts.iter().map(|(_, m)| m.printed).sum()))
                    .collect();
                cells.extend(means.iter().map(|mean| {
                    cell(&mean.parts, &|parts| {
                        (mean.percent)(
                            &parts.iter().map(|(weight, m)| (*weight, m.exact)).collect::<Vec<_>>(),
                        )
                    })
                }));
                rows.push(row(group, variant, cells, merged.groups.len() > 1));
            }
        }
        distinguish_params(&mut rows);
        for (index, column) in columns.iter_mut().enumerate() {
            let full = rows.iter().filter(|row| row.budget.is_none());
            let low = |row: &ScoreRow| row.cells[index].and_then(|cell| cell.low);
            column.near_floor = full.filter_map(low).any(|low| low <= FLOOR);
        }
        let part = part(merged, &columns, &rows);
        Ok(Self {
            title: title(merged, layout, &part),
            part,
            notes: notes(merged, layout, &present),
            bootstrap: *bootstrap,
            counts_removed: layout.counts_removed,
            columns,
            rows,
        })
    }
}

fn scope(title: String, kind: ColumnKind) -> CellScope {
    CellScope { title, kind, near_floor: false }
}

/// The means that can be shown: categories where there are several, and the average or what stands in for it.
fn means(layout: &TableLayout, present: &[&Column]) -> Vec<FoundMean> {
    let find = |mean: &Mean| -> Vec<(usize, f64)> {
        let place = |key: &String| present.iter().position(|column| column.key() == *key);
        mean.parts.iter().filter_map(|(key, weight)| Some((place(key)?, *weight))).collect()
    };
    let mut all: Vec<FoundMean> = Vec::new();
    for mean in &layout.categories {
        let mut parts = find(mean);
        let (have, want) = (parts.len(), mean.parts.len());
        if have == 0 {
            continue;
        }
        let title =
            if have < want { format!("{} ({have} of {want})", mean.title) } else { mean.title.clone() };
        let total: f64 = parts.iter().map(|(_, weight)| weight).sum();
        parts.iter_mut().for_each(|(_, weight)| *weight /= total);
        all.push(FoundMean { scope: scope(title, ColumnKind::Category), parts, percent: mean.percent });
    }
    // A single category says nothing that the average does not say.
    if all.len() == 1 {
        all.clear();
    }
    let (weights, whole) = layout.weights(present);
    let title = if whole { layout.average.title.clone() } else { format!("Mean of {}", present.len()) };
    all.push(FoundMean {
        scope: scope(title, ColumnKind::Average),
        parts: if whole { find(&layout.average) } else { weights.into_iter().enumerate().collect() },
        percent: layout.average.percent,
    });
    all
}

/// An estimate as a cell that prints `score`.
pub(crate) fn percent(estimate: &Estimate, score: f64) -> Cell {
    Cell {
        score,
        low: estimate.interval.map(|(low, _)| 100.0 * low),
        high: estimate.interval.map(|(_, high)| 100.0 * high),
        n: estimate.n,
        contexts: estimate.contexts,
    }
}

fn row(group: &Group, variant: &crate::VariantKey, cells: Vec<Option<Cell>>, several: bool) -> ScoreRow {
    let answered =
        || group.examples.values().filter_map(|e| Some((&e.info, &e.answers.get(variant)?.record)));
    let n = answered().count();
    let mean = |value: &dyn Fn(&ExampleInfo, &CacheSize) -> f64| {
        answered().map(|(info, record)| value(info, &record.kept)).sum::<f64>() / n.max(1) as f64
    };
    let entries_mean = mean(&|_, kept| kept.entries_mean);
    ScoreRow {
        group: if several { group.label() } else { String::new() },
        method: variant.method.to_string(),
        params: variant.params.to_string(),
        budget: variant.budget,
        granularity: variant.granularity.to_string(),
        n,
        entries_mean,
        entries_max: answered().map(|(_, record)| record.kept.entries_max).max().unwrap_or(0),
        entries_nominal: mean(&|_, kept| kept.entries_nominal),
        bytes: mean(&|_, kept| kept.bytes as f64),
        share_held: entries_mean / mean(&|info, _| f64::from(info.compressed())).max(1.0),
        cells,
    }
}

/// Two rows that differ only in their parameters get the parameters' id behind the method.
fn distinguish_params(rows: &mut [ScoreRow]) {
    let name = |row: &ScoreRow| (row.group.clone(), row.method.clone(), row.budget, row.granularity.clone());
    let mut params: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for row in rows.iter() {
        params.entry(name(row)).or_default().insert(row.params.clone());
    }
    for row in rows {
        if params.get(&name(row)).is_some_and(|params| params.len() > 1) {
            row.method = format!("{}#{}", row.method, row.params);
        }
    }
}
