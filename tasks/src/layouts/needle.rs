//! Needle results: one JSON object a file (`*_results.json`), as gkamradt's tester and its descendants write, or files
//! of many such records (`.jsonl`, or a JSON list with `token_limit` for the length).

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::official::parse_with_nan;
use super::read::{entries, file_name};
use super::{ExportFile, ExportMeta, write};
use crate::error::TaskError;
use crate::metrics::MetricError;
use crate::needle::NeedleVariant;
use crate::needle::variants;
use crate::path::last_component;
use crate::reader::for_each_line;
use crate::row::{FileLine, Row};

/// Layout names and their variants' names.
pub const LAYOUTS: [(&str, &str); 4] = [
    ("needle-gkamradt", "gkamradt"),
    ("needle-kvcache-factory", "kvcache-factory"),
    ("needle-headkv", "headkv"),
    ("needle-compresskv", "compresskv"),
];

/// One result.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredCell {
    /// The file's name; in files of many records, with the record's number.
    pub name: String,
    /// `context_length` as stored: nominal, or (CompressKV) the real number of prompt tokens.
    pub length: u64,
    /// Depth in percent.
    pub depth: f64,
    /// The stored score.
    pub recorded: Option<f64>,
    /// The score this variant's script stores, computed from the response; `None` where a language model judges or no
    /// response is stored.
    pub score: Option<f64>,
    /// The number its figures show.
    pub plotted: Option<f64>,
}

/// A folder of results.
#[derive(Debug, Clone, PartialEq)]
pub struct NeedleScores {
    /// The variant's name.
    pub variant: &'static str,
    /// The results by file name.
    pub cells: Vec<ScoredCell>,
    /// Mean of the stored scores.
    pub mean_recorded: Option<f64>,
    /// Mean of the computed scores.
    pub mean_score: Option<f64>,
    /// Mean of the figures' numbers: what the repositories print as the average.
    pub mean_plotted: Option<f64>,
}

impl NeedleScores {
    /// The length under which CompressKV's figure shows a result: the nearest multiple of 8000 (Llama) or 500
    /// (Mistral), ties to even; other variants show the stored one.
    pub fn plotted_length(&self, cell: &ScoredCell, model: &str) -> u64 {
        let model = model.to_lowercase();
        let step = match self.variant {
            "compresskv" if model.contains("llama") => 8000.0,
            "compresskv" if model.contains("mistral") => 500.0,
            _ => return cell.length,
        };
        ((cell.length as f64 / step).round_ties_even() * step) as u64
    }
}

/// One needle result of ours with what other harnesses' files need.
#[derive(Debug, Clone, PartialEq)]
pub struct NeedleRecord {
    /// Nominal context length.
    pub length: u64,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Depth in percent.
    pub depth: f64,
    /// The needle.
    pub needle: String,
    /// The answer.
    pub response: String,
    /// Seconds the answer took.
    pub seconds: f64,
}

/// The needle testers' record, fields in their order.
#[derive(Serialize)]
struct Written<'a> {
    model: &'a str,
    context_length: u64,
    depth_percent: f64,
    version: u32,
    needle: &'a str,
    model_response: &'a str,
    score: Option<f64>,
    test_duration_seconds: f64,
    test_timestamp_utc: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_name: Option<&'a str>,
}

/// Results as a layout's tester keeps them, one file each, for [`super::write()`]. `timestamp` is put into every
/// record (`%Y-%m-%d %H:%M:%S%z`). Where a language model judges (gkamradt) the score is null.
///
/// # Errors
/// An unknown layout, a metric that fails.
pub fn export(
    root: &Path,
    layout: &str,
    meta: &ExportMeta,
    timestamp: &str,
    records: &[NeedleRecord],
) -> Result<Vec<ExportFile>, TaskError> {
    let variant = LAYOUTS
        .iter()
        .find(|l| l.0 == layout)
        .ok_or_else(|| TaskError::unknown("needle layout", layout, LAYOUTS.iter().map(|l| l.0)))?
        .1;
    let variant = variants::by_name(variant)?;
    let model = last_component(&meta.model).replace('.', "_");
    let version = format!("{}{}", last_component(&meta.model), write::method_suffix(meta));
    let folder = match variant.name {
        "compresskv" => root.join(version),
        "kvcache-factory" => root.join("results_needle").join("results").join(version),
        _ => root.join("results"),
    };
    let mut files = Vec::new();
    for record in records {
        // CompressKV stores the prompt's real length and whole percents; the others nominal lengths and percent x 100.
        let (length, depth) = match variant.name {
            "compresskv" => (record.prompt_tokens, record.depth as u64),
            _ => (record.length, (record.depth * 100.0) as u64),
        };
        let stem = format!("{model}_len_{length}_depth_{depth}");
        let score = variant.json_score(&record.response, &record.needle).map_err(|e| TaskError::Score {
            key: stem.clone(),
            metric: variant.name.to_owned(),
            problem: e.to_string(),
        })?;
        let line = write::python_json(&Written {
            model: &meta.model,
            context_length: length,
            depth_percent: record.depth,
            version: 1,
            needle: &record.needle,
            model_response: &record.response,
            score,
            test_duration_seconds: record.seconds,
            test_timestamp_utc: timestamp,
            file_name: (variant.name == "gkamradt").then_some(&stem),
        });
        let path = folder.join(format!("{stem}_results.json"));
        files.push(write::of_lines(path, std::iter::once(line.map(|line| write::ascii(&line))))?);
    }
    Ok(files)
}

pub(super) fn score(dir: &Path, variant: &'static str) -> Result<NeedleScores, TaskError> {
    let variant = variants::by_name(variant)?;
    let mut cells = Vec::new();
    for path in entries(dir)?.into_iter().filter(|path| path.is_file()) {
        let name = file_name(&path);
        if name.ends_with("_results.json") || name.ends_with("Results.json") {
            read_json(&path, name, variant, &mut cells)?;
        } else if name.ends_with(".jsonl") {
            for_each_line(&path, None, |place, line| {
                cells.push(cell(format!("{name}#{}", place.line), Row::parse(place, line)?, variant)?);
                Ok(())
            })?;
        }
    }
    if cells.is_empty() {
        let paths = entries(dir)?;
        let names: Vec<String> = paths.iter().take(5).map(|path| format!("`{}`", file_name(path))).collect();
        return Err(TaskError::Layout {
            dir: dir.to_path_buf(),
            layout: LAYOUTS.iter().find(|l| l.1 == variant.name).map_or("needle", |l| l.0),
            expected: "`*_results.json` files with the fields context_length, depth_percent, score"
                .to_owned(),
            found: if names.is_empty() { "an empty folder".to_owned() } else { names.join(", ") },
        });
    }
    let mean = |pick: fn(&ScoredCell) -> Option<f64>| {
        let values: Vec<f64> = cells.iter().filter_map(pick).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    Ok(NeedleScores {
        variant: variant.name,
        mean_recorded: mean(|c| c.recorded),
        mean_score: mean(|c| c.score),
        mean_plotted: mean(|c| c.plotted),
        cells,
    })
}

fn read_json(
    path: &Path,
    name: &str,
    variant: &NeedleVariant,
    cells: &mut Vec<ScoredCell>,
) -> Result<(), TaskError> {
    let text = fs_err::read_to_string(path).map_err(|e| TaskError::io("read", path, e))?;
    let place = FileLine { path, line: 1 };
    let value = parse_with_nan(&text).map_err(|e| {
        FileLine { path, line: e.line() }
            .error(format!("the file is not JSON: {e}"), "write the results again")
    })?;
    match value {
        Value::Array(values) => {
            for (index, value) in values.into_iter().enumerate() {
                cells.push(cell(format!("{name}#{}", index + 1), Row::of(place, value)?, variant)?);
            }
        }
        value => cells.push(cell(name.to_owned(), Row::of(place, value)?, variant)?),
    }
    Ok(())
}

fn cell(name: String, mut row: Row<'_>, variant: &NeedleVariant) -> Result<ScoredCell, TaskError> {
    let place = row.place();
    let length_field = if row.has("context_length") { "context_length" } else { "token_limit" };
    let length = row.optional_number(length_field)?.unwrap_or_default();
    let depth = row.optional_float("depth_percent")?;
    let depth =
        depth.ok_or_else(|| place.error("the row lacks the field `depth_percent`", "write it again"))?;
    let recorded = row.optional_float("score")?;
    let response = row.optional_text("model_response")?;
    let needle = row.optional_text("needle")?.unwrap_or_else(|| variants::NEEDLE.to_owned());
    let failed = |e: MetricError| TaskError::Score {
        key: name.clone(),
        metric: variant.name.to_owned(),
        problem: e.to_string(),
    };
    let judged = variant.scoring.plotted.is_none();
    let (score, plotted) = match &response {
        Some(response) => {
            let overlap = variant.plotted_score(response).map_err(failed)?;
            (
                variant.json_score(response, &needle).map_err(failed)?,
                if judged { recorded } else { Some(overlap) },
            )
        }
        None => (None, recorded.filter(|_| judged)),
    };
    Ok(ScoredCell { name, length, depth, recorded, score, plotted })
}
