//! `kvsweep score DIR --layout NAME`: predictions of another harness, scored as its own script does.

use std::collections::BTreeMap;

use kvsweep_tasks::datasets::longbench_e::BUCKETS;
use kvsweep_tasks::layouts::{self, OfficialScore, Scored};
use serde_json::{Value, json};

use crate::cli::ScoreArgs;
use crate::exit::Exit;
use crate::output;

/// Runs the command.
pub(crate) fn run(args: &ScoreArgs) -> anyhow::Result<Exit> {
    match layouts::score(&args.dir, &args.layout, args.metric.as_deref())? {
        Scored::Datasets(tree) => {
            for note in &tree.notes {
                output::note(note);
            }
            let official = |scores: &BTreeMap<String, layouts::DatasetScore>| -> BTreeMap<String, Value> {
                scores.iter().map(|(name, scored)| (name.clone(), number(&scored.score))).collect()
            };
            if args.json {
                let methods: BTreeMap<&String, _> =
                    tree.methods.iter().map(|(method, scores)| (method, official(scores))).collect();
                let mut object = json!({"scores": official(&tree.scores)});
                if !methods.is_empty() {
                    object["methods"] = json!(methods);
                }
                if let Some((name, average)) = tree.average {
                    object["scores"][name] = json!(average);
                }
                output::json(&object)?;
                return Ok(Exit::Done);
            }
            let print = |scores: &BTreeMap<String, layouts::DatasetScore>| -> anyhow::Result<()> {
                for (name, scored) in scores {
                    output::line(&format!(
                        "{name:32} {:>24}  {:5} rows  {}",
                        plain(&scored.score),
                        scored.per_row.len(),
                        scored.metric
                    ))?;
                }
                Ok(())
            };
            if tree.methods.is_empty() {
                print(&tree.scores)?;
            }
            for (method, scores) in &tree.methods {
                output::line(method)?;
                print(scores)?;
            }
            if let Some((name, average)) = tree.average {
                output::line(&format!("{name:32} {average:>24.2}"))?;
            }
        }
        Scored::Needle(needle) => {
            if args.json {
                let scores: BTreeMap<&String, Option<f64>> =
                    needle.cells.iter().map(|cell| (&cell.name, cell.score)).collect();
                output::json(&json!({
                    "scores": scores,
                    "cells": needle.cells.iter().map(|cell| json!({
                        "name": cell.name,
                        "length": cell.length,
                        "depth": cell.depth,
                        "recorded": cell.recorded,
                        "score": cell.score,
                        "plotted": cell.plotted,
                    })).collect::<Vec<_>>(),
                    "mean_recorded": needle.mean_recorded,
                    "mean_score": needle.mean_score,
                    "mean_plotted": needle.mean_plotted,
                }))?;
            } else {
                for cell in &needle.cells {
                    output::line(&format!(
                        "{:>8} {:>7} {:>10} {:>10}",
                        cell.length,
                        cell.depth,
                        text(cell.score),
                        text(cell.plotted)
                    ))?;
                }
                output::line(&format!(
                    "mean of {}: recorded {}, score {}, plotted {}",
                    needle.cells.len(),
                    text(needle.mean_recorded),
                    text(needle.mean_score),
                    text(needle.mean_plotted)
                ))?;
            }
        }
    }
    Ok(Exit::Done)
}

fn text(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}

fn number(score: &OfficialScore) -> Value {
    match score {
        OfficialScore::Plain(score) => json!(score),
        OfficialScore::Buckets(buckets) => {
            BUCKETS.iter().zip(buckets).map(|(name, score)| ((*name).to_owned(), json!(score))).collect()
        }
    }
}

fn plain(score: &OfficialScore) -> String {
    match score {
        OfficialScore::Plain(score) => format!("{score:.2}"),
        OfficialScore::Buckets(buckets) => buckets
            .iter()
            .map(|score| score.map_or_else(|| "NaN".to_owned(), |score| format!("{score:.2}")))
            .collect::<Vec<_>>()
            .join(" "),
    }
}
