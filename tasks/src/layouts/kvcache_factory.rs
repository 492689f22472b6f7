//! Zefan-Cai/KVCache-Factory: `{save_dir}/{model}_{budget}/{dataset}/{method}.json`, JSON lines in spite of the name.
//!
//! Its `eval.py` overwrites `{dataset}/metrics.json` with every method and fills `results.csv` with CAM's scores in
//! the row L2Norm and the reverse; here every method keeps its own name. Its environment has python-Levenshtein.

use std::path::Path;

use super::{ExportFile, ExportMeta, Layout, Prediction, PredictionFile, read, write};
use crate::datasets::DatasetInfo;
use crate::datasets::metric_ids::{CODE_SIM, CODE_SIM_LEVENSHTEIN};
use crate::error::TaskError;

/// The methods in the order in which `eval.py` scores them; the last one present is what `metrics.json` keeps.
const METHODS: [&str; 9] =
    ["FullKV", "random", "SnapKV", "StreamingLLM", "H2O", "PyramidKV", "L2Norm", "CAM", "ThinK"];

/// KVCache-Factory's predictions.
pub(super) struct KvCacheFactory;

impl Layout for KvCacheFactory {
    fn name(&self) -> &'static str {
        "kvcache-factory"
    }

    fn expected(&self) -> &'static str {
        "`<data set>/<method>.json` files with the fields pred, answers, length, dataset, all_classes"
    }

    fn metric(&self, dataset: &DatasetInfo) -> &'static str {
        if dataset.metric == CODE_SIM { CODE_SIM_LEVENSHTEIN } else { dataset.metric }
    }

    fn files(&self, dir: &Path) -> Result<Vec<PredictionFile>, TaskError> {
        let mut files = read::nested_files(dir)?;
        // Methods the script does not know come first, so that they never stand for `metrics.json` beside one it knows.
        let place = |file: &PredictionFile| {
            METHODS.iter().position(|m| Some(*m) == file.method.as_deref()).map_or(0, |place| place + 1)
        };
        files.sort_by_key(place);
        Ok(files)
    }

    fn export(
        &self,
        root: &Path,
        meta: &ExportMeta,
        predictions: &[Prediction],
    ) -> Result<Vec<ExportFile>, TaskError> {
        let method = match meta.method.as_str() {
            "full" => "FullKV",
            "snapkv" => "SnapKV",
            "streamingllm" => "StreamingLLM",
            "h2o" => "H2O",
            "pyramidkv" => "PyramidKV",
            "adakv" => "AdaKV",
            "headkv" => "HeadKV",
            other => other,
        };
        write::nested(root, meta, method, self, predictions)
    }
}
