//! LooGLE: the four official tasks (bigai-nlco/LooGLE, `config/task2prompt.json`, `config/task2maxlen.json`) and the
//! four long-dependency sets that HeadKV made of them (FYYFU/HeadKV, `run_longbench.py`).
//!
//! In the official prompts `{input}` is the document and `{Q}` the question; they are written `{context}` and
//! `{input}` here, as in every other data set. METEOR on sets, BERTScore with swapped arguments and the timeline
//! driver that returns maxima are official bugs that make a metric meaningless: they are left out.

use super::metric_ids::{LOOGLE_CLOZE, LOOGLE_ROUGE_L, QA_F1};
use super::{Category, DatasetInfo, Language, Suite};

/// The eight data sets: the official four, then HeadKV's four in its run order.
pub const DATASETS: [DatasetInfo; 8] = [
    DatasetInfo {
        name: "shortdep_qa",
        base: "shortdep_qa",
        suite: Suite::LooGle,
        category: Category::ShortDependency,
        language: Language::English,
        metric: LOOGLE_ROUGE_L,
        max_new_tokens: 300,
        prompt: "Please answer the question based on the long texts below. \n{context}\nQuestion: {input}\nAnswer: ",
        first_line_only: false,
        raw: false,
        rows: 1951,
        short_name: "ShortQA",
    },
    DatasetInfo {
        name: "longdep_qa",
        base: "longdep_qa",
        suite: Suite::LooGle,
        category: Category::LongDependency,
        language: Language::English,
        metric: LOOGLE_ROUGE_L,
        max_new_tokens: 500,
        prompt: "Please answer the question based on the long texts below. \n{context}\nQuestion: {input}\nAnswer: ",
        first_line_only: false,
        raw: false,
        rows: 1101,
        short_name: "LongQA",
    },
    DatasetInfo {
        name: "shortdep_cloze",
        base: "shortdep_cloze",
        suite: Suite::LooGle,
        category: Category::ShortDependency,
        language: Language::English,
        metric: LOOGLE_CLOZE,
        max_new_tokens: 50,
        prompt: "Please fill in the clozes based on the given long texts below. Each of the placeholder '<mask-n>' in the question could be an entity of Person, Location or Organiocation. The same masks represent the same entity. Output a json format answer, for example: {{'<mask-0>': 'Bob', '<mask-1>': 'Gorrosion Magazine','<mask-2>': 'Bethel Horizon'}}\n{context}\n Question: {input} What are the masked entities? \nAnswer:",
        first_line_only: false,
        raw: false,
        rows: 2880,
        short_name: "Cloze",
    },
    DatasetInfo {
        name: "longdep_summarization",
        base: "longdep_summarization",
        suite: Suite::LooGle,
        category: Category::LongDependency,
        language: Language::English,
        metric: LOOGLE_ROUGE_L,
        max_new_tokens: 500,
        prompt: "Please generate a summary of the below paper. \n{context}\n Summarization: ",
        first_line_only: false,
        raw: false,
        rows: 516,
        short_name: "Summ",
    },
    DatasetInfo {
        name: "comprehension_and_reasoning",
        base: "comprehension_and_reasoning",
        suite: Suite::LooGle,
        category: Category::LongDependency,
        language: Language::English,
        metric: QA_F1,
        max_new_tokens: 64,
        prompt: "Please answer the question based on the long texts below. \n{context}\nQuestion: {input}\nAnswer:",
        first_line_only: false,
        raw: false,
        rows: 406,
        short_name: "Doc.QA",
    },
    DatasetInfo {
        name: "computation",
        base: "computation",
        suite: Suite::LooGle,
        category: Category::LongDependency,
        language: Language::English,
        metric: QA_F1,
        max_new_tokens: 32,
        prompt: "Please answer the question based on the long texts below. \n{context}\nQuestion: {input}\nAnswer:",
        first_line_only: false,
        raw: false,
        rows: 100,
        short_name: "Computation",
    },
    DatasetInfo {
        name: "multiple_information_retrieval",
        base: "multiple_information_retrieval",
        suite: Suite::LooGle,
        category: Category::LongDependency,
        language: Language::English,
        metric: QA_F1,
        max_new_tokens: 64,
        prompt: "Please answer the question based on the long texts below. \n{context}\nQuestion: {input}\nAnswer:",
        first_line_only: false,
        raw: false,
        rows: 380,
        short_name: "Info. Retrieval",
    },
    DatasetInfo {
        name: "timeline_reorder",
        base: "timeline_reorder",
        suite: Suite::LooGle,
        category: Category::LongDependency,
        language: Language::English,
        metric: QA_F1,
        max_new_tokens: 32,
        prompt: "Please answer the question based on the long texts below. \n{context}\nQuestion: {input}\nAnswer:",
        first_line_only: false,
        raw: false,
        rows: 215,
        short_name: "Timeline",
    },
];

/// The names of HeadKV's four sets: they are the `type` values of `longdep_qa`'s questions.
pub fn is_longdep_type(name: &str) -> bool {
    DATASETS[4..].iter().any(|d| d.name == name)
}
