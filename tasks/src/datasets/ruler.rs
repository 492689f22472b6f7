//! RULER: thirteen tasks, named and sized as in NVIDIA/RULER (`scripts/synthetic.yaml`,
//! `scripts/data/synthetic/constants.py`) and kvpress's data set of them.
//!
//! A row's context holds its instructions and its input its question, so the prompt is the two one after the other; how
//! the answer begins is the row's own (see [`crate::Example::answer_prefix`]).

use super::metric_ids::{RULER_ALL, RULER_PART};
use super::{Category, DatasetInfo, Language};
use crate::suite::Suite;

/// The thirteen tasks in the order of RULER's own list.
pub(crate) const DATASETS: [DatasetInfo; 13] = [
    needle("niah_single_1", "S1"),
    needle("niah_single_2", "S2"),
    needle("niah_single_3", "S3"),
    needle("niah_multikey_1", "MK1"),
    needle("niah_multikey_2", "MK2"),
    needle("niah_multikey_3", "MK3"),
    needle("niah_multivalue", "MV"),
    needle("niah_multiquery", "MQ"),
    task("vt", "VT", Category::Tracing, RULER_ALL, 30),
    task("cwe", "CWE", Category::Aggregation, RULER_ALL, 120),
    task("fwe", "FWE", Category::Aggregation, RULER_ALL, 50),
    task("qa_1", "QA1", Category::QuestionAnswering, RULER_PART, 32),
    task("qa_2", "QA2", Category::QuestionAnswering, RULER_PART, 32),
];

const fn needle(name: &'static str, short_name: &'static str) -> DatasetInfo {
    task(name, short_name, Category::Retrieval, RULER_ALL, 128)
}

const fn task(
    name: &'static str,
    short_name: &'static str,
    category: Category,
    metric: &'static str,
    max_new_tokens: usize,
) -> DatasetInfo {
    DatasetInfo {
        name,
        base: name,
        suite: Suite::Ruler,
        category,
        language: Language::English,
        metric,
        max_new_tokens,
        prompt: "{context}{input}",
        first_line_only: false,
        raw: false,
        rows: 500,
        mean_length: None,
        short_name,
    }
}
