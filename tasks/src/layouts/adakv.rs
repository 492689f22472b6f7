//! FFY0/AdaKV: `pred/{out_name}/{dataset}.jsonl`. Published scores come from an environment with python-Levenshtein.

use std::path::Path;

use super::longbench::LongBench;
use super::{ExportFile, ExportMeta, Layout, Prediction, PredictionFile, write};
use crate::datasets::DatasetInfo;
use crate::datasets::metric_ids::{CODE_SIM, CODE_SIM_LEVENSHTEIN};
use crate::error::TaskError;
use crate::path::last_component;

/// AdaKV's predictions.
pub(super) struct AdaKv;

impl Layout for AdaKv {
    fn name(&self) -> &'static str {
        "adakv"
    }

    fn expected(&self) -> &'static str {
        LongBench.expected()
    }

    fn metric(&self, dataset: &DatasetInfo) -> &'static str {
        if dataset.metric == CODE_SIM { CODE_SIM_LEVENSHTEIN } else { dataset.metric }
    }

    fn files(&self, dir: &Path) -> Result<Vec<PredictionFile>, TaskError> {
        LongBench.files(dir)
    }

    fn note(&self, file: &PredictionFile, rows: usize) -> Option<String> {
        let expected = file.dataset.rows;
        (rows != expected).then(|| {
            format!("{}: {rows} rows of {expected}; the official eval.py skips the file", file.dataset.name)
        })
    }

    fn export(
        &self,
        root: &Path,
        meta: &ExportMeta,
        predictions: &[Prediction],
    ) -> Result<Vec<ExportFile>, TaskError> {
        let folder = format!("{}{}", last_component(&meta.model), write::method_suffix(meta));
        write::flat(&root.join("pred").join(folder), self, predictions)
    }
}
