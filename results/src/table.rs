//! Score tables: one row a variant, one column a data set, category averages, average, entries and bytes really held.
//!
//! Scores are percent. A data set's score is `round(100 * sum / n, 2)` as the official scorer computes it; the caller
//! says which data sets form a category and how averages are taken.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::Result;
use crate::error::ResultsError;
use crate::merge::{Group, Merged};
use crate::stats::{Bootstrap, Estimate, Stratum};

/// One data set's column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// What stands above it.
    pub title: String,
    /// The data set.
    pub dataset: String,
    /// Only the examples of this length bucket; none for all.
    pub bucket: Option<String>,
    /// The category it counts into; columns of one category follow each other.
    pub category: String,
}

impl Column {
    /// What is resampled together: the data set and its bucket, whatever the title.
    pub(crate) fn stratum(&self) -> String {
        self.bucket
            .as_ref()
            .map_or_else(|| self.dataset.clone(), |bucket| format!("{} {bucket}", self.dataset))
    }
}

/// How the overall average is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Averaging {
    /// The plain mean of the data sets.
    Datasets,
    /// The plain mean of the data sets, each rounded to two decimals first (CompressKV's script).
    DatasetsRounded,
    /// The mean of the categories, each the mean of its data sets (the official leaderboard).
    Categories,
}

/// What the caller knows about the suite.
#[derive(Clone, Debug)]
pub struct TableLayout {
    /// What the table shows; model, protocol and split are added.
    pub title: String,
    /// The columns, in order. Columns without any record are left out.
    pub columns: Vec<Column>,
    /// How the average is taken.
    pub averaging: Averaging,
}

impl TableLayout {
    /// The weight of every column with records in `present` in the overall average.
    pub(crate) fn weights(&self, present: &[&Column]) -> Vec<f64> {
        let categories: BTreeSet<&str> = present.iter().map(|c| c.category.as_str()).collect();
        let weight = |column: &&Column| match self.averaging {
            Averaging::Datasets | Averaging::DatasetsRounded => 1.0 / present.len() as f64,
            Averaging::Categories => {
                let members = present.iter().filter(|other| other.category == column.category).count();
                1.0 / members as f64 / categories.len() as f64
            }
        };
        present.iter().map(weight).collect()
    }
}

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
}

/// One variant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Model and protocol, where the table has several; else empty.
    pub group: String,
    /// Method with its profile.
    pub method: String,
    /// Id of the resolved parameters.
    pub params: String,
    /// KV entries per KV head asked for; none for a method without a budget.
    pub budget: Option<u32>,
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
    /// One entry a column; none where there is no record.
    pub cells: Vec<Option<Cell>>,
}

/// A finished table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreTable {
    /// What it shows.
    pub title: String,
    /// What a reader must know: rehearsal, several commits, missing examples.
    pub notes: Vec<String>,
    /// How intervals were made.
    pub bootstrap: Bootstrap,
    /// The columns.
    pub columns: Vec<CellScope>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Rounds to two decimals as Python's `round` does: the exact binary value, ties to even.
pub(crate) fn round2(value: f64) -> f64 {
    format!("{value:.2}").parse().unwrap_or(value)
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
        let mut categories: Vec<(&str, Vec<usize>)> = Vec::new();
        for (index, column) in present.iter().enumerate() {
            match categories.iter_mut().find(|(name, _)| *name == column.category) {
                Some((_, members)) => members.push(index),
                None => categories.push((&column.category, vec![index])),
            }
        }
        // A single category says nothing that the average does not say.
        let shown_categories: &[_] = if categories.len() > 1 { &categories } else { &[] };
        let weights = layout.weights(&present);
        let mut columns: Vec<CellScope> =
            present.iter().map(|c| CellScope { title: c.title.clone(), kind: ColumnKind::Dataset }).collect();
        for (name, _) in shown_categories {
            columns.push(CellScope { title: (*name).to_owned(), kind: ColumnKind::Category });
        }
        columns.push(CellScope { title: "Average".to_owned(), kind: ColumnKind::Average });

        let mut rows = Vec::new();
        for group in &merged.groups {
            for variant in &group.variants {
                let strata: Vec<Option<Stratum>> = present
                    .iter()
                    .map(|column| {
                        let scores = group.scores(variant, &column.dataset, column.bucket.as_deref());
                        (!scores.is_empty()).then(|| bootstrap.stratum(&column.stratum(), &scores))
                    })
                    .collect();
                if strata.iter().all(Option::is_none) {
                    continue;
                }
                let all: Vec<usize> = (0..present.len()).collect();
                let mean = |members: &[usize], weight: &dyn Fn(usize) -> f64| -> Option<Cell> {
                    let parts: Option<Vec<(f64, &Stratum)>> =
                        members.iter().map(|m| Some((weight(*m), strata[*m].as_ref()?))).collect();
                    let parts = parts?;
                    let mut cell = percent(&bootstrap.combine_scores(&parts));
                    if layout.averaging == Averaging::DatasetsRounded {
                        cell.score = parts.iter().map(|(w, s)| w * round2(100.0 * s.mean())).sum();
                    }
                    Some(cell)
                };
                let mut cells: Vec<Option<Cell>> = all
                    .iter()
                    .map(|index| {
                        let mut cell = mean(&[*index], &|_| 1.0)?;
                        cell.score = round2(cell.score);
                        Some(cell)
                    })
                    .collect();
                cells.extend(
                    shown_categories
                        .iter()
                        .map(|(_, members)| mean(members, &|_| 1.0 / members.len() as f64)),
                );
                cells.push(mean(&all, &|index| weights[index]));
                rows.push(row(group, variant, cells, merged.groups.len() > 1));
            }
        }
        distinguish_params(&mut rows);
        Ok(Self {
            title: title(merged, layout),
            notes: notes(merged, layout, &present),
            bootstrap: *bootstrap,
            columns,
            rows,
        })
    }
}

pub(crate) fn percent(estimate: &Estimate) -> Cell {
    Cell {
        score: 100.0 * estimate.mean,
        low: estimate.interval.map(|(low, _)| 100.0 * low),
        high: estimate.interval.map(|(_, high)| 100.0 * high),
        n: estimate.n,
    }
}

fn row(group: &Group, variant: &crate::VariantKey, cells: Vec<Option<Cell>>, several: bool) -> Row {
    let records: Vec<_> =
        group.examples.values().filter_map(|e| e.variants.get(variant)).map(|v| &v.record.kept).collect();
    let mean = |value: &dyn Fn(&crate::Kept) -> f64| {
        records.iter().map(|kept| value(kept)).sum::<f64>() / records.len().max(1) as f64
    };
    Row {
        group: if several { group.label() } else { String::new() },
        method: variant.method.clone(),
        params: variant.params.clone(),
        budget: variant.budget,
        granularity: variant.granularity.clone(),
        n: records.len(),
        entries_mean: mean(&|kept| kept.entries_mean),
        entries_max: records.iter().map(|kept| kept.entries_max).max().unwrap_or(0),
        entries_nominal: mean(&|kept| kept.entries_nominal),
        bytes: mean(&|kept| kept.bytes as f64),
        cells,
    }
}

/// Two rows that differ only in their parameters get the parameters' id behind the method.
fn distinguish_params(rows: &mut [Row]) {
    let name = |row: &Row| (row.group.clone(), row.method.clone(), row.budget, row.granularity.clone());
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

fn title(merged: &Merged, layout: &TableLayout) -> String {
    let mut title = layout.title.clone();
    if let [group] = merged.groups.as_slice() {
        title.push_str(&format!(" · {}", group.caption()));
    } else if merged.groups.iter().any(|group| group.manifest.model.embedded) {
        title.push_str(" · embedded tiny model: a check of the pipeline, not of any real model");
    }
    title
}

fn notes(merged: &Merged, layout: &TableLayout, present: &[&Column]) -> Vec<String> {
    let mut notes = Vec::new();
    for group in &merged.groups {
        let named = if merged.groups.len() > 1 { format!("{}: ", group.label()) } else { String::new() };
        if let Some(limit) = group.manifest.limit {
            // A needle's limit is one of trials or cells, by its variant.
            let needles = group.manifest.suite == "needle";
            notes.push(match limit {
                _ if needles => format!("{named}rehearsal, limited to {limit}"),
                1 => format!("{named}rehearsal on the first row of each data set"),
                _ => format!("{named}rehearsal on the first {limit} rows of each data set"),
            });
        }
        if group.commits.len() > 1 {
            notes.push(format!("{named}records of several commits: {}", group.commits.join(", ")));
        }
        let missing: Vec<String> = group
            .datasets
            .iter()
            .filter_map(|dataset| {
                let have = group.finished(&dataset.name);
                (have < dataset.examples).then(|| format!("{} {have} of {}", dataset.name, dataset.examples))
            })
            .collect();
        if !missing.is_empty() {
            notes.push(format!("{named}not finished: {}", missing.join(", ")));
        }
        let skipped: Vec<String> = group
            .datasets
            .iter()
            .filter_map(|dataset| {
                let mut rows = group.skipped.iter().filter(|(key, _)| key.dataset == dataset.name);
                let (key, why) = rows.next()?;
                let (count, of) = (1 + rows.count(), dataset.examples);
                Some(format!("{} {count} of {of} (`{}`: {why})", dataset.name, key.example))
            })
            .collect();
        if !skipped.is_empty() {
            notes.push(format!("{named}skipped, cannot be graded: {}", skipped.join(", ")));
        }
        let truncated: Vec<String> = group
            .datasets
            .iter()
            .filter_map(|dataset| {
                let rows = || group.examples.iter().filter(|(key, _)| key.dataset == dataset.name);
                let cut = rows().filter(|(_, example)| example.info.truncated_tokens > 0).count();
                (cut > 0).then(|| format!("{} {cut} of {}", dataset.name, rows().count()))
            })
            .collect();
        if !truncated.is_empty() {
            notes.push(format!("{named}truncated prompts: {}", truncated.join(", ")));
        }
    }
    if present.len() < layout.columns.len() {
        notes.push(format!("average over {} of the suite's {} columns", present.len(), layout.columns.len()));
    }
    notes
}
