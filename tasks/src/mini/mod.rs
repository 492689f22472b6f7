//! The mini suite: twelve small data sets in LongBench's schema and a needle haystack, generated
//! from a seed in a language of our own that the embedded model knows.
//!
//! Every task states keys with values somewhere in the context and asks for the value of one key
//! at the end, so what it measures is retrieval. Keys and values are drawn at random: no question
//! gives its answer away. The same functions write the suite's rows and the model's training
//! text; the two draw from disjoint streams of chance.

mod code;
mod corpus;
mod few_shot;
mod grammar;
mod multi_doc;
mod needle;
pub mod ruler;
mod single_doc;
mod summary;
mod synthetic;
mod words;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use corpus::{KINDS, TrainingDocument, training_document};
pub(crate) use needle::hay;
pub use needle::{Haystack, NEEDLE_PROMPT, NeedleTrial, needle};
pub use words::estimate_tokens;

use grammar::{Author, Document, Extent};

/// Version of the generator. It changes whenever a row changes; a test pins each version's hash.
pub const MINI_VERSION: &str = "2";

/// Seed of the suite that tables show; other seeds give fresh rows of the same kind.
pub const SUITE_SEED: u64 = 0;

/// Rows of one data set.
pub const ROWS: usize = 50;

/// Prompt lengths of the rows in tokens, in turn: row `i` has length `LENGTHS[i % 4]`.
///
/// A prompt stays within its length, the chat template's few tokens and the answer included.
pub const LENGTHS: [usize; 4] = [512, 1024, 2048, 4096];

/// Tokens kept free of a row's length for instruction, question, chat template and answer.
const RESERVE: usize = 64;

/// Share of filler in the suite's texts.
const FILLER: f64 = 0.4;

/// One data set of the suite: what LongBench's own configuration files say of each of theirs.
#[derive(Clone, Copy, Debug)]
pub struct MiniDataset {
    /// Name, as on the command line and in tables.
    pub name: &'static str,
    /// LongBench category: `single-doc-qa`, `multi-doc-qa`, `summarization`, `few-shot`,
    /// `synthetic` or `code`.
    pub category: &'static str,
    /// Official metric of that category: `qa_f1`, `rouge`, `classification`, `retrieval`,
    /// `count` or `code_sim`.
    pub metric: &'static str,
    /// Tokens to generate, at most.
    pub max_new_tokens: usize,
    /// Prompt template with `{context}` and `{input}`.
    pub prompt: &'static str,
    build: fn(&mut Author, Extent) -> Document,
}

impl MiniDataset {
    /// The prompt of `row`, before any chat template.
    #[must_use]
    pub fn render(&self, row: &MiniRow) -> String {
        render(self.prompt, &row.context, &row.input)
    }
}

/// Fills a template; each placeholder is replaced where the template has it, and nowhere else.
fn render(template: &str, context: &str, input: &str) -> String {
    let (head, tail) = template.split_once("{context}").unwrap_or((template, ""));
    format!("{head}{context}{}", tail.replace("{input}", input))
}

const PEOPLE: &str = "Read the text and answer.\n{context}\n\nQuestion: {input}\nAnswer:";
const GATES: &str = "Read the text.\n{context}\n\nList what the gates report.\nAnswer:";
const PASSAGES: &str = "Read the passages and answer.\n{context}\n\nQuestion: {input}\nAnswer:";

/// The data sets, two for each category of LongBench.
const DATASETS: [MiniDataset; 12] = [
    MiniDataset {
        name: "mini_people",
        category: "single-doc-qa",
        metric: "qa_f1",
        max_new_tokens: 12,
        prompt: PEOPLE,
        build: single_doc::people,
    },
    MiniDataset {
        name: "mini_things",
        category: "single-doc-qa",
        metric: "qa_f1",
        max_new_tokens: 12,
        prompt: PEOPLE,
        build: single_doc::things,
    },
    MiniDataset {
        name: "mini_friends",
        category: "multi-doc-qa",
        metric: "qa_f1",
        max_new_tokens: 16,
        prompt: PASSAGES,
        build: multi_doc::friends,
    },
    MiniDataset {
        name: "mini_towns",
        category: "multi-doc-qa",
        metric: "qa_f1",
        max_new_tokens: 16,
        prompt: PASSAGES,
        build: multi_doc::towns,
    },
    MiniDataset {
        name: "mini_minutes",
        category: "summarization",
        metric: "rouge",
        max_new_tokens: 32,
        prompt: "Read the text.\n{context}\n\nList the decisions.\nAnswer:",
        build: summary::minutes,
    },
    MiniDataset {
        name: "mini_gates",
        category: "summarization",
        metric: "rouge",
        max_new_tokens: 32,
        prompt: GATES,
        build: summary::gates,
    },
    MiniDataset {
        name: "mini_types",
        category: "few-shot",
        metric: "classification",
        max_new_tokens: 8,
        prompt: "Learn from the examples.\n{context}\n{input}",
        build: few_shot::types,
    },
    MiniDataset {
        name: "mini_classes",
        category: "few-shot",
        metric: "classification",
        max_new_tokens: 8,
        prompt: "Learn from the examples.\n{context}\n{input}",
        build: few_shot::classes,
    },
    MiniDataset {
        name: "mini_passage_retrieval",
        category: "synthetic",
        metric: "retrieval",
        max_new_tokens: 12,
        prompt: "Read the paragraphs, each with a title and its number.\n{context}\n\nWhich paragraph has the title {input}?\nAnswer:",
        build: synthetic::passage_retrieval,
    },
    MiniDataset {
        name: "mini_count",
        category: "synthetic",
        metric: "count",
        max_new_tokens: 8,
        prompt: "Read the text and count.\n{context}\n\nQuestion: {input}\nAnswer:",
        build: synthetic::count,
    },
    MiniDataset {
        name: "mini_variables",
        category: "code",
        metric: "code_sim",
        max_new_tokens: 12,
        prompt: "Complete the code.\n{context}\n{input}",
        build: code::variables,
    },
    MiniDataset {
        name: "mini_functions",
        category: "code",
        metric: "code_sim",
        max_new_tokens: 12,
        prompt: "Complete the code.\n{context}\n{input}",
        build: code::functions,
    },
];

/// The data sets of the suite, in the order of LongBench's categories.
#[must_use]
pub fn datasets() -> &'static [MiniDataset] {
    &DATASETS
}

/// One row in LongBench's schema; serialises with the keys in the official order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MiniRow {
    /// What stands in for `{input}`.
    pub input: String,
    /// What stands in for `{context}`.
    pub context: String,
    /// The right answers (one).
    pub answers: Vec<String>,
    /// Words of the context.
    pub length: usize,
    /// Name of the data set.
    pub dataset: String,
    /// Always `en`.
    pub language: String,
    /// The labels to choose from, for classification.
    pub all_classes: Option<Vec<String>>,
    /// 48 hexadecimal digits, unique.
    pub _id: String,
}

/// The first `count` rows of `dataset` under `seed` ([`ROWS`] and [`SUITE_SEED`] for the suite itself).
#[must_use]
pub fn rows(dataset: &MiniDataset, seed: u64, count: usize) -> Vec<MiniRow> {
    (0_u64..)
        .zip(LENGTHS.iter().cycle())
        .take(count)
        .map(|(i, tokens)| row(dataset, seed, i, *tokens))
        .collect()
}

/// Row number `index` of `dataset` under `seed`, its prompt at most `tokens` long.
#[must_use]
pub fn row(dataset: &MiniDataset, seed: u64, index: u64, tokens: usize) -> MiniRow {
    let mut author = Author::new(rng("suite", dataset.name, seed, index), words::NAMES);
    let extent = Extent { tokens: tokens.saturating_sub(RESERVE), questions: 1, filler: FILLER };
    let document = (dataset.build)(&mut author, extent);
    let id = digest("suite", dataset.name, seed, index);
    let item = document.items.into_iter().next();
    let (input, answer) = item.map(|item| (item.input, item.answer)).unwrap_or_default();
    MiniRow {
        input,
        length: document.context.split_whitespace().count(),
        context: document.context,
        answers: vec![answer],
        dataset: dataset.name.to_owned(),
        language: "en".to_owned(),
        all_classes: document.classes,
        _id: id.iter().take(24).map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// Hash that names one document; `stream` keeps suite and training apart.
fn digest(stream: &str, name: &str, seed: u64, index: u64) -> [u8; 32] {
    digest_of(&format!("kvsweep-mini/{MINI_VERSION}/{stream}/{name}/{seed}/{index}"))
}

fn digest_of(name: &str) -> [u8; 32] {
    Sha256::digest(name).into()
}

/// The source of chance of one document.
fn rng(stream: &str, name: &str, seed: u64, index: u64) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(digest(stream, name, seed, index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Hash over every row of the suite, as JSON lines; a change needs a new [`MINI_VERSION`].
    const SUITE_HASH: &str = "14ddb2ca29229086334ce8649d3e366209825a2fed4d953bb5254d504432871f";

    #[test]
    fn the_suite_is_the_one_its_version_names() {
        let mut hash = Sha256::new();
        for dataset in datasets() {
            for row in rows(dataset, SUITE_SEED, ROWS) {
                hash.update(serde_json::to_string(&row).expect("a row serialises"));
                hash.update("\n");
            }
        }
        let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((MINI_VERSION, hash.as_str()), ("2", SUITE_HASH));
    }

    #[test]
    fn rows_keep_their_length_and_the_schema() {
        let keys = "input context answers length dataset language all_classes _id";
        let mut ids = BTreeSet::new();
        for dataset in datasets() {
            for (row, length) in rows(dataset, SUITE_SEED, ROWS).iter().zip(LENGTHS.iter().cycle()) {
                let tokens = estimate_tokens(&dataset.render(row)) + estimate_tokens(&row.answers[0]);
                assert!(tokens <= length - 8, "{}: {tokens} of {length}", dataset.name);
                assert!(tokens * 4 >= length * 3, "{}: {tokens} of {length}", dataset.name);
                let json = serde_json::to_string(row).expect("a row serialises");
                let mut from = 0;
                for key in keys.split(' ') {
                    let at = json[from..].find(&format!("\"{key}\":")).expect("keys in order");
                    from += at;
                }
                assert!(ids.insert(row._id.clone()));
                assert_eq!(row.all_classes.is_some(), dataset.metric == "classification");
            }
        }
        assert_eq!(ids.len(), 12 * ROWS);
    }

    #[test]
    fn every_answer_is_in_the_context() {
        for dataset in datasets().iter().filter(|d| d.metric != "count") {
            for row in rows(dataset, 7, ROWS) {
                let parts: Vec<&str> = match dataset.metric {
                    "rouge" => {
                        row.answers[0].split(", ").filter_map(|p| p.split_once(' ')).map(|p| p.1).collect()
                    }
                    "retrieval" => row.answers[0].split(' ').skip(1).collect(),
                    _ => row.answers[0].split(", ").collect(),
                };
                for part in parts {
                    assert!(row.context.contains(part), "{}: {part}", dataset.name);
                }
            }
        }
    }

    #[test]
    fn a_key_has_one_value() {
        for row in rows(&DATASETS[1], 3, ROWS) {
            let thing = row.input.trim_start_matches("Who has the ").trim_end_matches('?');
            let stated = row.context.matches(&format!("The {thing} belongs to ")).count()
                + row.context.matches(&format!("The {thing} went to ")).count();
            assert_eq!(stated, 1, "{thing}");
        }
    }

    #[test]
    fn questions_do_not_give_answers_away() {
        // The same kind of question has as many answers as there are rows, nearly.
        for dataset in datasets().iter().filter(|d| d.metric == "qa_f1") {
            let rows = rows(dataset, SUITE_SEED, ROWS);
            let answers: BTreeSet<&str> = rows.iter().map(|row| row.answers[0].as_str()).collect();
            assert!(answers.len() * 10 >= rows.len() * 6, "{}: {}", dataset.name, answers.len());
            assert!(rows.iter().all(|row| !row.input.contains(&row.answers[0])));
        }
    }
}
