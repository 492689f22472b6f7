//! FasterDecoding/SnapKV: `pred_e/{model}{config}/{dataset}.jsonl`, under `pred_e` even without `--e`.

use std::path::Path;

use super::longbench::LongBench;
use super::{ExportFile, ExportMeta, Layout, Prediction, PredictionFile, write};
use crate::error::TaskError;
use crate::path::last_component;

/// SnapKV's predictions; its scores are LongBench's.
pub(super) struct SnapKv;

impl Layout for SnapKv {
    fn name(&self) -> &'static str {
        "snapkv"
    }

    fn expected(&self) -> &'static str {
        LongBench.expected()
    }

    fn files(&self, dir: &Path) -> Result<Vec<PredictionFile>, TaskError> {
        LongBench.files(dir)
    }

    fn export(
        &self,
        root: &Path,
        meta: &ExportMeta,
        predictions: &[Prediction],
    ) -> Result<Vec<ExportFile>, TaskError> {
        let folder = format!("{}{}", last_component(&meta.model), write::method_suffix(meta));
        write::flat(&root.join("pred_e").join(folder), self, predictions)
    }
}
