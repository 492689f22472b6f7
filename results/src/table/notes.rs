//! What a table says of itself: its title, what it is a part of, what a reader must know.

use std::collections::BTreeSet;

use super::layout::{Column, TableLayout};
use super::{CellScope, ColumnKind, ScoreRow};
use crate::budget::Budget;
use crate::merge::{Group, Merged};

pub(super) fn title(merged: &Merged, layout: &TableLayout, part: &[String]) -> String {
    let mut title = layout.title.clone();
    if !part.is_empty() {
        title.push_str(&format!(" · partial: {}", part.join("; ")));
    }
    if let [group] = merged.groups.as_slice() {
        title.push_str(&format!(" · {}", group.caption_beside_parts()));
    } else if merged.groups.iter().any(|group| group.manifest.model.embedded) {
        title.push_str(" · embedded tiny model: a check of the pipeline, not of any real model");
    }
    title
}

/// Why a table shows only a part of its data sets' examples.
pub(super) fn part(merged: &Merged, columns: &[CellScope], rows: &[ScoreRow]) -> Vec<String> {
    let mut part = Vec::new();
    for group in &merged.groups {
        let named = if merged.groups.len() > 1 { format!("{}: ", group.label()) } else { String::new() };
        part.extend(group_part(group).into_iter().map(|why| format!("{named}{why}")));
    }
    for (index, column) in columns.iter().enumerate().filter(|(_, column)| column.kind == ColumnKind::Dataset)
    {
        let counts: BTreeSet<usize> = rows.iter().filter_map(|row| Some(row.cells[index]?.n)).collect();
        if let (Some(least), Some(most)) = (counts.first(), counts.last())
            && least < most
        {
            part.push(format!("rows of {least} to {most} examples in {}", column.title));
        }
    }
    part
}

/// Why the records of a group are only a part of its data sets: row limits, missing shards, unfinished runs.
pub(crate) fn group_part(group: &Group) -> Vec<String> {
    let mut part = Vec::new();
    let limits: BTreeSet<(Option<u64>, String)> =
        group.manifests.iter().filter_map(|manifest| Some((manifest.limit, manifest.limited()?))).collect();
    part.extend(limits.into_iter().map(|(_, limited)| limited));
    part.extend(group.parts());
    let missing: Vec<String> = group
        .datasets
        .iter()
        .filter_map(|dataset| {
            let have = group.finished(&dataset.name);
            (have < dataset.examples).then(|| format!("{} {have} of {}", dataset.name, dataset.examples))
        })
        .collect();
    if !missing.is_empty() {
        part.push(format!("not finished: {}", missing.join(", ")));
    }
    part
}

pub(super) fn notes(merged: &Merged, layout: &TableLayout, present: &[&Column]) -> Vec<String> {
    let mut notes = Vec::new();
    for group in &merged.groups {
        let named = if merged.groups.len() > 1 { format!("{}: ", group.label()) } else { String::new() };
        if group.commits.len() > 1 {
            notes.push(format!("{named}records of several commits: {}", group.commits.join(", ")));
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
        let last_only: Vec<String> = group
            .variants
            .iter()
            .filter_map(|variant| {
                let answers = || group.examples.values().filter_map(|example| example.answers.get(variant));
                let count = answers().filter(|answer| answer.record.kept.last_only).count();
                let name = || {
                    format!("{}{}", variant.method, variant.budget.map(Budget::suffix).unwrap_or_default())
                };
                (count > 0).then(|| format!("{} {count} of {}", name(), answers().count()))
            })
            .collect();
        if !last_only.is_empty() {
            notes.push(format!(
                "{named}no room for the method's window in its share of a short prompt, the last entries kept: {}",
                last_only.join(", ")
            ));
        }
    }
    let lacking = |(key, _): &&(String, f64)| present.iter().all(|column| column.key() != *key);
    let missing: Vec<&str> =
        layout.average.parts.iter().filter(lacking).map(|(key, _)| key.as_str()).collect();
    if !missing.is_empty() {
        notes.push(format!(
            "no {}: it is over {} columns and these are missing: {}",
            layout.average.title.to_lowercase(),
            layout.average.parts.len(),
            missing.join(", ")
        ));
    }
    notes
}
