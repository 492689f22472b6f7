//! Small versions of four RULER tasks, in the forms of question that the embedded model was trained on.
//!
//! | task | RULER's | here |
//! | --- | --- | --- |
//! | `mini_multikey` | one of many keys | one of as many passwords as fit, of people with like names |
//! | `mini_multivalue` | the four values of one key | what the four gates report |
//! | `mini_multiquery` | four keys in one question | four questions about one context |
//! | `mini_vt` | every variable of a chain | a person's friend, and where the friend lives |
//!
//! Asked for four passwords in one question, or for the four passwords of one person, the embedded model gives one: what
//! it was not trained on is not asked. All questions of a context share it.

use super::grammar::{Author, Document, Extent, Item, Relation, lines};
use super::words::{NAMES, estimate_tokens};
use super::{
    FILLER, LENGTHS, MiniDataset, MiniRow, NEEDLE_PROMPT, PASSAGES, RESERVE, digest_of, multi_doc, needle,
    summary,
};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Version of these tasks. It changes whenever a row changes; a test pins each version's hash.
pub const RULER_VERSION: &str = "1";

/// Rows of one task.
pub const RULER_ROWS: usize = 48;

/// The shortest context that holds every task's facts, in tokens.
pub const SHORTEST: usize = 256;

/// First and family names that the people of `mini_multikey` share: the fewer, the more alike are the keys.
const POOL: usize = 12;

/// A task: a data set whose contexts have several questions.
#[derive(Clone, Copy, Debug)]
pub struct MiniRuler {
    /// Name, prompt and answer length.
    pub set: MiniDataset,
    /// Questions about each context.
    pub questions: usize,
    /// The references that an answer is searched for.
    references: fn(&str) -> Vec<String>,
}

/// The tasks.
pub const TASKS: [MiniRuler; 4] = [
    MiniRuler {
        set: MiniDataset {
            name: "mini_multikey",
            category: "retrieval",
            metric: "string_match_all",
            max_new_tokens: 12,
            prompt: NEEDLE_PROMPT,
            build: passwords,
        },
        questions: 4,
        references: one,
    },
    MiniRuler {
        set: MiniDataset {
            name: "mini_multivalue",
            category: "retrieval",
            metric: "string_match_all",
            max_new_tokens: 32,
            prompt: super::GATES,
            build: summary::gates,
        },
        questions: 1,
        references: values,
    },
    MiniRuler {
        set: MiniDataset {
            name: "mini_multiquery",
            category: "retrieval",
            metric: "string_match_all",
            max_new_tokens: 12,
            prompt: NEEDLE_PROMPT,
            build: needle::haystack,
        },
        questions: 4,
        references: one,
    },
    MiniRuler {
        set: MiniDataset {
            name: "mini_vt",
            category: "tracing",
            metric: "string_match_all",
            max_new_tokens: 16,
            prompt: PASSAGES,
            build: multi_doc::friends,
        },
        questions: 4,
        references: all,
    },
];

fn one(answer: &str) -> Vec<String> {
    vec![answer.to_owned()]
}

fn all(answer: &str) -> Vec<String> {
    answer.split(", ").map(str::to_owned).collect()
}

/// The values of `north red cup, east blue hat`.
fn values(answer: &str) -> Vec<String> {
    answer.split(", ").filter_map(|part| part.split_once(' ')).map(|(_, value)| value.to_owned()).collect()
}

/// Nothing but passwords: every sentence is a needle, and all but one are the wrong one.
fn passwords(author: &mut Author, extent: Extent) -> Document {
    let (mut told, mut items) = (Vec::new(), Vec::new());
    let mut left = extent.tokens;
    loop {
        let (person, value) = (author.person(), author.thing());
        let sentence = Relation::Password.state(&mut author.rng, &person, &value);
        let cost = estimate_tokens(&sentence) + 1;
        if cost > left && !items.is_empty() {
            break;
        }
        left = left.saturating_sub(cost);
        told.push(sentence);
        items.push(Item { input: Relation::Password.ask(&person), answer: value });
    }
    items.shuffle(&mut author.rng);
    items.truncate(extent.questions.max(1));
    Document { context: lines(&mut author.rng, &told), items, classes: None }
}

/// The first `count` rows of `task` under `seed`: contexts of the `lengths` in turn, each with all its questions. The rows
/// of one length do not depend on the others.
#[must_use]
pub fn rows(task: &MiniRuler, seed: u64, lengths: &[usize], count: usize) -> Vec<MiniRow> {
    let contexts = (0_u64..).flat_map(|index| lengths.iter().map(move |&length| (index, length)));
    contexts.flat_map(|(index, length)| about(task, seed, index, length)).take(count).collect()
}

/// The suite's context lengths within `most` tokens.
pub fn lengths_within(most: usize) -> Vec<usize> {
    LENGTHS.into_iter().filter(|&length| length <= most).collect()
}

/// The rows about context number `index` of a length, their prompts at most `length` tokens long.
fn about(task: &MiniRuler, seed: u64, index: u64, length: usize) -> Vec<MiniRow> {
    let set = &task.set;
    let name = format!("kvsweep-mini-ruler/{RULER_VERSION}/{}/{length}/{seed}/{index}", set.name);
    let pool = if set.name == "mini_multikey" { POOL } else { NAMES };
    let mut author = Author::new(ChaCha8Rng::from_seed(digest_of(&name)), pool);
    let tokens = length.saturating_sub(RESERVE);
    let extent = Extent { tokens, questions: task.questions, filler: FILLER };
    let document = (set.build)(&mut author, extent);
    let row = |(number, item): (usize, Item)| {
        let id = digest_of(&format!("{name}/{number}"));
        MiniRow {
            input: item.input,
            context: document.context.clone(),
            answers: (task.references)(&item.answer),
            length,
            dataset: set.name.to_owned(),
            language: "en".to_owned(),
            all_classes: None,
            _id: id.iter().take(24).map(|byte| format!("{byte:02x}")).collect(),
        }
    };
    document.items.into_iter().take(task.questions).enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mini::SUITE_SEED;
    use sha2::{Digest, Sha256};
    use std::collections::BTreeSet;

    /// Hash over every row of the tasks, as JSON lines; a change needs a new [`RULER_VERSION`].
    const TASKS_HASH: &str = "6d472e72bfa5177c90ae80075730485462f9cf840f4b3cc49ce5f1b80ae2950f";

    #[test]
    fn the_tasks_are_those_their_version_names() {
        let mut hash = Sha256::new();
        for task in &TASKS {
            for row in rows(task, SUITE_SEED, &LENGTHS, RULER_ROWS) {
                hash.update(serde_json::to_string(&row).expect("a row serialises") + "\n");
            }
        }
        let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((RULER_VERSION, hash.as_str()), ("1", TASKS_HASH));
    }

    #[test]
    fn prompts_keep_their_length_and_contexts_hold_every_reference() {
        let mut ids = BTreeSet::new();
        for task in &TASKS {
            for row in rows(task, 3, &[SHORTEST, 512, 4096], 60) {
                let tokens = estimate_tokens(&task.set.render(&row)) + task.set.max_new_tokens;
                assert!(tokens + 8 <= row.length, "{}: {tokens} of {}", row.dataset, row.length);
                assert!(tokens * 2 >= row.length, "{}: {tokens} of {}", row.dataset, row.length);
                assert!(!row.answers.is_empty());
                for answer in &row.answers {
                    assert!(row.context.contains(answer) && !row.input.contains(answer), "{answer}");
                }
                assert!(ids.insert(row._id));
            }
        }
    }

    #[test]
    fn a_key_of_many_has_one_value_and_others_are_like_it() {
        for row in rows(&TASKS[0], 5, &[2048], 8) {
            let key = row.input.trim_start_matches("What is the password of ").trim_end_matches('?');
            assert_eq!(row.context.matches(&format!("The password of {key} is")).count(), 1);
            let family = key.split(' ').next_back().expect("a family name");
            assert!(row.context.matches(&format!(" {family} is ")).count() > 4, "{key}");
        }
    }

    #[test]
    fn questions_about_a_context_follow_each_other_whatever_the_lengths() {
        let four = rows(&TASKS[2], 0, &[512, 1024], 16);
        assert_eq!((four[0].context.as_str(), four[3].length), (four[3].context.as_str(), 512));
        assert_ne!(four[3].context, four[4].context);
        let questions: BTreeSet<&str> = four[..4].iter().map(|row| row.input.as_str()).collect();
        assert_eq!(questions.len(), 4);
        let of = |rows: &[MiniRow]| rows.iter().filter(|row| row.length == 1024).cloned().collect::<Vec<_>>();
        assert_eq!(of(&four), rows(&TASKS[2], 0, &[1024], 8));
    }
}
