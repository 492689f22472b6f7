//! Trees of predictions as other harnesses write them: scored as their own scripts do, and written for those scripts.
//!
//! One file a layout; [`score`] reads, [`export`] writes. The official files hold no row ids, and rows of several
//! processes are interleaved in them, so nothing here relies on row order but the sums that the official scripts take
//! in file order.

mod adakv;
mod compresskv;
mod csv;
mod headkv;
mod kvcache_factory;
mod kvpress;
mod longbench;
pub mod needle;
pub mod official;
mod read;
mod snapkv;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::averages::Scores;
use crate::datasets::DatasetInfo;
use crate::error::TaskError;
use crate::suite::Suite;

pub use needle::{NeedleRecord, NeedleScores, ScoredCell};
pub use write::{ExportFile, ExportMeta, Prediction, write};

/// The score of one data set as the official script writes it.
#[derive(Debug, Clone, PartialEq)]
pub enum OfficialScore {
    /// Per cent with two decimals.
    Plain(f64),
    /// LongBench-E: one number for each of [`crate::datasets::longbench_e::BUCKETS`]; `None` is the script's NaN.
    Buckets([Option<f64>; 3]),
}

/// A scored prediction file.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetScore {
    /// The official number.
    pub score: OfficialScore,
    /// The rows' own scores, 0 to 1, in file order.
    pub per_row: Vec<f64>,
    /// The metric used.
    pub metric: &'static str,
    /// The file.
    pub path: PathBuf,
}

/// A scored tree of data sets.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeScores {
    /// What `result.json` (`metrics.json`) says, by official data set name. Where a tree holds several methods, this is
    /// the one the official script writes last.
    pub scores: BTreeMap<String, DatasetScore>,
    /// Every method of the tree by its own name; empty for layouts without methods.
    pub methods: BTreeMap<String, BTreeMap<String, DatasetScore>>,
    /// The average the official script writes, with its name.
    pub average: Option<(&'static str, f64)>,
    /// What a reader should know: files the official script would skip, …
    pub notes: Vec<String>,
}

/// What [`score`] found.
#[derive(Debug, Clone, PartialEq)]
pub enum Scored {
    /// Data sets.
    Datasets(TreeScores),
    /// Needle results.
    Needle(NeedleScores),
}

/// One prediction file of a tree.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictionFile {
    /// The data set.
    pub dataset: &'static DatasetInfo,
    /// The method, where file names carry it.
    pub method: Option<String>,
    /// The file.
    pub path: PathBuf,
}

/// A layout of data set predictions.
pub trait Layout: Sync {
    /// The name on the command line.
    fn name(&self) -> &'static str;

    /// Its files in words, for messages.
    fn expected(&self) -> &'static str;

    /// The suite its data sets belong to.
    fn suite(&self) -> Suite {
        Suite::LongBench
    }

    /// The metric that the repository's environment implies for a data set.
    fn metric(&self, dataset: &DatasetInfo) -> &'static str {
        dataset.metric
    }

    /// Whether the official script can score a data set at all.
    fn has_metric(&self, _dataset: &DatasetInfo) -> bool {
        true
    }

    /// The prediction files in `dir`, in the order the official script takes them.
    ///
    /// # Errors
    /// The folder cannot be read.
    fn files(&self, dir: &Path) -> Result<Vec<PredictionFile>, TaskError>;

    /// The average the official script writes.
    fn average(&self, _scores: &Scores) -> Option<(&'static str, f64)> {
        None
    }

    /// A remark on a file, e.g. that the official script would skip it.
    fn note(&self, _file: &PredictionFile, _rows: usize) -> Option<String> {
        None
    }

    /// The files with these predictions, under `root`.
    ///
    /// # Errors
    /// A data set the layout does not have.
    fn export(
        &self,
        root: &Path,
        meta: &ExportMeta,
        predictions: &[Prediction],
    ) -> Result<Vec<ExportFile>, TaskError>;
}

/// The layouts of data set predictions.
pub const LAYOUTS: [&dyn Layout; 8] = [
    &longbench::LongBench,
    &longbench::LongBenchE,
    &compresskv::CompressKv,
    &kvcache_factory::KvCacheFactory,
    &headkv::HeadKv,
    &adakv::AdaKv,
    &snapkv::SnapKv,
    &kvpress::KvPress,
];

/// Every layout's name, the needle ones included.
pub fn names() -> Vec<&'static str> {
    LAYOUTS.iter().map(|l| l.name()).chain(needle::LAYOUTS.iter().map(|l| l.0)).collect()
}

fn layout(name: &str) -> Result<&'static dyn Layout, TaskError> {
    LAYOUTS.into_iter().find(|l| l.name() == name).ok_or_else(|| TaskError::unknown("layout", name, names()))
}

/// Scores the tree in `dir` as the layout's own script does. `metric` replaces the metric of every data set whose
/// metric measures the same (`code-sim/difflib` that of `code-sim/levenshtein`).
///
/// # Errors
/// An unknown layout or metric, a folder of another layout, malformed rows, a file without rows, an answer on which the
/// official metric stops.
pub fn score(dir: &Path, layout_name: &str, metric: Option<&str>) -> Result<Scored, TaskError> {
    if let Some((_, variant)) = needle::LAYOUTS.iter().find(|l| l.0 == layout_name) {
        return needle::score(dir, variant).map(Scored::Needle);
    }
    let layout = layout(layout_name)?;
    if layout.name() == kvpress::KvPress.name() {
        return kvpress::score(dir, metric).map(Scored::Datasets);
    }
    read::score_tree(dir, layout, metric).map(Scored::Datasets)
}

/// The files under `root` in which the layout's own harness keeps such predictions; [`write()`] puts them on disk.
///
/// # Errors
/// An unknown layout, a data set the layout does not have.
pub fn export(
    root: &Path,
    layout_name: &str,
    meta: &ExportMeta,
    predictions: &[Prediction],
) -> Result<Vec<ExportFile>, TaskError> {
    layout(layout_name)?.export(root, meta, predictions)
}

/// The plain scores of a tree, for averages.
fn plain(scores: &BTreeMap<String, DatasetScore>) -> Scores {
    scores
        .iter()
        .filter_map(|(name, scored)| match scored.score {
            OfficialScore::Plain(score) => Some((name.clone(), score)),
            OfficialScore::Buckets(_) => None,
        })
        .collect()
}
