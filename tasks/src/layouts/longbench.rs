//! THUDM/LongBench: `pred/{model}/{dataset}.jsonl` and, for LongBench-E, `pred_e/{model}/{dataset}.jsonl`.

use std::path::Path;

use super::{ExportFile, ExportMeta, Layout, Prediction, PredictionFile, read, write};
use crate::error::TaskError;
use crate::path::last_component;
use crate::suite::Suite;

/// LongBench v1.
pub(super) struct LongBench;

/// LongBench-E: the same files, scored in three length buckets.
pub(super) struct LongBenchE;

impl Layout for LongBench {
    fn name(&self) -> &'static str {
        "longbench"
    }

    fn expected(&self) -> &'static str {
        "`<data set>.jsonl` files with the fields pred, answers, all_classes, length"
    }

    fn files(&self, dir: &Path) -> Result<Vec<PredictionFile>, TaskError> {
        read::flat_files(dir, self.suite())
    }

    fn export(
        &self,
        root: &Path,
        meta: &ExportMeta,
        predictions: &[Prediction],
    ) -> Result<Vec<ExportFile>, TaskError> {
        write::flat(&root.join("pred").join(last_component(&meta.model)), self, predictions)
    }
}

impl Layout for LongBenchE {
    fn name(&self) -> &'static str {
        "longbench-e"
    }

    fn expected(&self) -> &'static str {
        LongBench.expected()
    }

    fn suite(&self) -> Suite {
        Suite::LongBenchE
    }

    fn files(&self, dir: &Path) -> Result<Vec<PredictionFile>, TaskError> {
        read::flat_files(dir, self.suite())
    }

    fn export(
        &self,
        root: &Path,
        meta: &ExportMeta,
        predictions: &[Prediction],
    ) -> Result<Vec<ExportFile>, TaskError> {
        write::flat(&root.join("pred_e").join(last_component(&meta.model)), self, predictions)
    }
}
