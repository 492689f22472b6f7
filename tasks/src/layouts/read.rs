//! What the layouts share: finding prediction files, reading their rows, scoring them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{DatasetScore, Layout, OfficialScore, PredictionFile, TreeScores, plain};
use crate::datasets::{self, DatasetInfo, mini};
use crate::error::TaskError;
use crate::metrics::{self, Metric, scorer};
use crate::reader::for_each_line;
use crate::row::Row;
use crate::suite::Suite;

/// Sorted entries of a folder.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, TaskError> {
    let mut paths: Vec<PathBuf> = fs_err::read_dir(dir)
        .map_err(|e| TaskError::io("list", dir, e))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    Ok(paths)
}

pub(super) fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// `<data set>.jsonl` files. Other files (README, result.json, …) are not predictions.
pub(super) fn flat_files(dir: &Path, suite: Suite) -> Result<Vec<PredictionFile>, TaskError> {
    let mut files = Vec::new();
    for path in entries(dir)? {
        let Some(stem) = file_name(&path).strip_suffix(".jsonl") else { continue };
        let dataset = datasets::all().iter().chain(mini::all()).find(|d| d.suite == suite && d.base == stem);
        if let Some(dataset) = dataset.filter(|_| path.is_file()) {
            files.push(PredictionFile { dataset, method: None, path });
        }
    }
    Ok(files)
}

/// `<data set>/<method>.json` files, `metrics.json` apart.
pub(super) fn nested_files(dir: &Path) -> Result<Vec<PredictionFile>, TaskError> {
    let mut files = Vec::new();
    for folder in entries(dir)?.into_iter().filter(|path| path.is_dir()) {
        let named = |d: &&DatasetInfo| d.suite != Suite::LongBenchE && d.name == file_name(&folder);
        let Some(dataset) = datasets::all().iter().chain(mini::all()).find(named) else { continue };
        for path in entries(&folder)? {
            match file_name(&path).strip_suffix(".json") {
                Some(method) if method != "metrics" && method != "run_meta" => {
                    files.push(PredictionFile { dataset, method: Some(method.to_owned()), path });
                }
                _ => {}
            }
        }
    }
    Ok(files)
}

/// What is in a folder that has not the files asked for.
pub(super) fn found(dir: &Path, layout: &dyn Layout) -> String {
    let flat = flat_files(dir, Suite::LongBench).unwrap_or_default();
    let nested = nested_files(dir).unwrap_or_default();
    if let Some(file) = flat.first() {
        return format!("`{}` (a file of layout longbench, compresskv or adakv)", file_name(&file.path));
    }
    if let Some(file) = nested.first() {
        if matches!(layout.name(), "kvcache-factory" | "headkv") {
            return format!("only data sets its script has no metric for, as `{}`", file.dataset.name);
        }
        let shown = file.path.strip_prefix(dir).unwrap_or(&file.path);
        return format!("`{}` (a file of layout kvcache-factory or headkv)", shown.display());
    }
    let names = entries(dir).unwrap_or_default();
    if names.iter().any(|path| file_name(path) == "predictions.csv") {
        return "`predictions.csv` (the file of layout kvpress)".to_owned();
    }
    if names.iter().any(|path| file_name(path).ends_with("_results.json")) {
        return "needle results (`*_results.json`: the needle-* layouts)".to_owned();
    }
    if let Some(below) = below(dir, layout, 6) {
        return format!("no such file here, but in `{}`", below.display());
    }
    let shown: Vec<&str> = names.iter().take(5).map(|path| file_name(path)).collect();
    if shown.is_empty() { "an empty folder".to_owned() } else { format!("`{}`", shown.join("`, `")) }
}

/// The nearest folder below that has files of the layout.
fn below(dir: &Path, layout: &dyn Layout, depth: usize) -> Option<PathBuf> {
    if depth == 0 {
        return None;
    }
    let folders: Vec<PathBuf> =
        entries(dir).ok()?.into_iter().filter(|path| path.is_dir()).take(200).collect();
    let fits = |folder: &&PathBuf| layout.files(folder).is_ok_and(|files| !files.is_empty());
    folders.iter().find(fits).cloned().or_else(|| folders.iter().find_map(|f| below(f, layout, depth - 1)))
}

struct Predictions {
    rows: Vec<PredictionRow>,
    all_classes: Vec<String>,
}

struct PredictionRow {
    pred: String,
    answers: Vec<String>,
    length: Option<u64>,
}

/// Reads the rows of a prediction file. Only `pred` and `answers` are needed outside LongBench-E.
fn read_file(file: &PredictionFile) -> Result<Predictions, TaskError> {
    let mut rows = Vec::new();
    let mut all_classes = Vec::new();
    for_each_line(&file.path, None, |place, line| {
        let mut row = Row::parse(place, line)?;
        if !row.has("pred") {
            let problem = format!("the row lacks the field `pred`; it has {}", row.names().join(", "));
            return Err(place.error(problem, "score predictions, not data or another harness's records"));
        }
        if let Some(named) = row.optional_text("dataset")?
            && named != file.dataset.name
            && named != file.dataset.base
        {
            let problem = format!("expected a row of data set `{}`, found `{named}`", file.dataset.base);
            return Err(place.error(problem, "the file lies in the wrong folder: move it"));
        }
        // The official scripts score every row with the classes of the last one (harmless for real data, kept).
        all_classes = if row.has("all_classes") { row.optional_texts("all_classes")? } else { Vec::new() };
        let length = if row.has("length") { row.optional_number("length")? } else { None };
        if length.is_none() && file.dataset.suite == Suite::LongBenchE {
            let problem = "field `length` is missing, which decides the bucket";
            return Err(place.error(problem, "write the predictions anew"));
        }
        rows.push(PredictionRow { pred: row.text("pred")?, answers: row.texts("answers")?, length });
        Ok(())
    })?;
    if rows.is_empty() {
        return Err(TaskError::File {
            path: file.path.clone(),
            problem: "holds no predictions (the official script divides by zero)".to_owned(),
            remedy: "remove the file or finish the run".to_owned(),
        });
    }
    Ok(Predictions { rows, all_classes })
}

fn score_file(file: &PredictionFile, metric: &'static dyn Metric) -> Result<DatasetScore, TaskError> {
    let Predictions { rows, all_classes } = read_file(file)?;
    let mut per_row = Vec::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let first_line = file.dataset.first_line_only;
        let score = scorer::score_row(metric, first_line, &row.pred, &row.answers, &all_classes);
        per_row.push(score.map_err(|e| TaskError::Score {
            key: format!("{} row {}", file.path.display(), index + 1),
            metric: metric.id().to_owned(),
            problem: e.to_string(),
        })?);
    }
    let score = if file.dataset.suite == Suite::LongBenchE {
        let lengths = rows.iter().map(|row| row.length.unwrap_or_default());
        OfficialScore::Buckets(scorer::bucket_scores(per_row.iter().copied().zip(lengths)))
    } else {
        OfficialScore::Plain(scorer::plain_percent(&per_row))
    };
    Ok(DatasetScore { score, per_row, metric: metric.id(), path: file.path.clone() })
}

fn measured(id: &str) -> &str {
    id.split('/').next().unwrap_or(id)
}

pub(super) fn score_tree(
    dir: &Path,
    layout: &'static dyn Layout,
    replacement: Option<&str>,
) -> Result<TreeScores, TaskError> {
    let by_id = |id: &str| {
        metrics::by_id(id)
            .map_err(|_| TaskError::unknown("metric", id, metrics::all().iter().map(|m| m.id())))
    };
    let replacement = replacement.map(by_id).transpose()?;
    let (files, unknown): (Vec<_>, Vec<_>) =
        layout.files(dir)?.into_iter().partition(|file| layout.has_metric(file.dataset));
    if files.is_empty() {
        return Err(TaskError::Layout {
            dir: dir.to_path_buf(),
            layout: layout.name(),
            expected: layout.expected().to_owned(),
            found: found(dir, layout),
        });
    }
    let mut tree =
        TreeScores { scores: BTreeMap::new(), methods: BTreeMap::new(), average: None, notes: Vec::new() };
    for file in &unknown {
        tree.notes.push(format!("{}: left out, the official script has no metric for it", file.dataset.base));
    }
    for file in &files {
        let own = layout.metric(file.dataset);
        let metric = match replacement.filter(|m| measured(m.id()) == measured(own)) {
            Some(metric) => metric,
            None => by_id(own)?,
        };
        let scored = score_file(file, metric)?;
        tree.notes.extend(layout.note(file, scored.per_row.len()));
        if let Some(method) = &file.method {
            let of_method = tree.methods.entry(method.clone()).or_default();
            of_method.insert(file.dataset.base.to_owned(), scored.clone());
        }
        tree.scores.insert(file.dataset.base.to_owned(), scored);
    }
    if tree.methods.len() > 1 {
        let count = tree.methods.len();
        tree.notes.push(format!("{count} methods: `scores` has the last of each data set, as metrics.json"));
    }
    tree.average = layout.average(&plain(&tree.scores));
    Ok(tree)
}
