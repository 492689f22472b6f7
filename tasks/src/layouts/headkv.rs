//! FYYFU/HeadKV: KVCache-Factory's shape with the one method file `ReasonKV.json`. Its `eval.py` knows six LongBench QA
//! sets, multifieldqa_zh and four LooGLE sets; any other gets -1 there, and is left out here with a note.

use std::path::Path;

use super::kvcache_factory::KvCacheFactory;
use super::{ExportFile, ExportMeta, Layout, Prediction, PredictionFile, read, write};
use crate::datasets::DatasetInfo;
use crate::datasets::metric_ids::{QA_F1, QA_F1_ZH};
use crate::error::TaskError;

/// HeadKV's predictions.
pub(super) struct HeadKv;

impl Layout for HeadKv {
    fn name(&self) -> &'static str {
        "headkv"
    }

    fn expected(&self) -> &'static str {
        KvCacheFactory.expected()
    }

    fn files(&self, dir: &Path) -> Result<Vec<PredictionFile>, TaskError> {
        read::nested_files(dir)
    }

    fn has_metric(&self, dataset: &DatasetInfo) -> bool {
        [QA_F1, QA_F1_ZH].contains(&dataset.metric) && dataset.name != "triviaqa"
    }

    fn export(
        &self,
        root: &Path,
        meta: &ExportMeta,
        predictions: &[Prediction],
    ) -> Result<Vec<ExportFile>, TaskError> {
        write::nested(root, meta, "ReasonKV", self, predictions)
    }
}
