//! TUDa-HWAI/CompressKV: `outputs/longbench/{model}/{method}/[{budget}/]{dataset}.jsonl`; the model keeps its slash and
//! the full cache has no budget level. `eval.py --eval_avg` adds `avg` when all 16 data sets are there.

use std::path::Path;

use super::longbench::LongBench;
use super::{ExportFile, ExportMeta, Layout, Prediction, PredictionFile, write};
use crate::averages::{Average, Scores};
use crate::datasets::DatasetInfo;
use crate::datasets::metric_ids::{ROUGE, ROUGE_MODULE};
use crate::error::TaskError;
use crate::path::component;

/// CompressKV's predictions.
pub(super) struct CompressKv;

impl Layout for CompressKv {
    fn name(&self) -> &'static str {
        "compresskv"
    }

    fn expected(&self) -> &'static str {
        LongBench.expected()
    }

    /// Its script runs as `python -m`: three frames deeper, so long walks score 0 three calls earlier.
    fn metric(&self, dataset: &DatasetInfo) -> &'static str {
        if dataset.metric == ROUGE { ROUGE_MODULE } else { dataset.metric }
    }

    fn files(&self, dir: &Path) -> Result<Vec<PredictionFile>, TaskError> {
        LongBench.files(dir)
    }

    fn average(&self, scores: &Scores) -> Option<(&'static str, f64)> {
        Some(("avg", Average::CompressKv.of(scores)?))
    }

    fn export(
        &self,
        root: &Path,
        meta: &ExportMeta,
        predictions: &[Prediction],
    ) -> Result<Vec<ExportFile>, TaskError> {
        let mut dir = root.join("outputs").join("longbench");
        dir.extend(meta.model.split('/').map(component));
        if meta.method == "full" {
            dir.push("fullkv");
        } else {
            dir.push(component(&meta.method));
            dir.extend(&meta.budget);
        }
        write::flat(&dir, self, predictions)
    }
}
