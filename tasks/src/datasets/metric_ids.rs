//! The ids of the metrics that data sets name: what is measured, then whose implementation.

/// Token F1 of LongBench's `qa_f1_score`.
pub const QA_F1: &str = "qa-f1/longbench";
/// The same on jieba's tokens.
pub const QA_F1_ZH: &str = "qa-f1-zh/jieba-0.42.1";
/// ROUGE-L of PyPI `rouge` (pltrdy).
pub const ROUGE: &str = "rouge-l/pltrdy";
/// The same on jieba's tokens.
pub const ROUGE_ZH: &str = "rouge-l-zh/pltrdy";
/// LongBench's `classification_score`.
pub const CLASSIFICATION: &str = "classification/longbench";
/// LongBench's `count_score`.
pub const COUNT: &str = "count/longbench";
/// LongBench's `retrieval_score`.
pub const RETRIEVAL: &str = "retrieval/longbench";
/// LongBench's `retrieval_zh_score`.
pub const RETRIEVAL_ZH: &str = "retrieval-zh/longbench";
/// LongBench's `code_sim_score` where python-Levenshtein is not installed (the official requirements).
pub const CODE_SIM: &str = "code-sim/difflib";
/// LongBench's `code_sim_score` where python-Levenshtein is installed.
pub const CODE_SIM_LEVENSHTEIN: &str = "code-sim/levenshtein";
/// Recall of ROUGE-L as LooGLE's `automatic_metrics.py` takes it from PyPI `rouge`.
pub const LOOGLE_ROUGE_L: &str = "rouge-l-recall/pltrdy";
/// LooGLE's partial match of a cloze answer.
pub const LOOGLE_CLOZE: &str = "cloze-partial/loogle";
/// RULER's `string_match_all`, as kvpress computes it.
pub const RULER_ALL: &str = "ruler-all/kvpress";
/// RULER's `string_match_part`, as kvpress computes it.
pub const RULER_PART: &str = "ruler-part/kvpress";
/// [`ROUGE`] where the script runs as `python -m` (CompressKV): three frames less for its recursion.
pub const ROUGE_MODULE: &str = "rouge-l/pltrdy-module";
