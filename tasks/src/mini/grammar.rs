//! Sentences of the mini suite: facts (a key stated with a value) and filler.
//!
//! Every task of the suite asks for the same thing, the value stated for a key somewhere in the
//! context; this file says how people, things, facts and filler read.

use std::collections::BTreeSet;

use rand::Rng;
use rand::seq::{IndexedMutRandom, IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::words::{ADJECTIVES, NAMES, NOUNS, estimate_tokens, first_name, last_name, town};

/// How large and how hard a document is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// Tokens of the context, at most (see [`estimate_tokens`]).
    pub(super) tokens: usize,
    /// Questions asked about the context, at most.
    pub(super) questions: usize,
    /// Share of sentences that state nothing one can ask for, 0 to 1.
    pub(super) filler: f64,
}

/// A question and its only right answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// What replaces `{input}` in the prompt.
    pub(super) input: String,
    /// The answer, as the model should write it.
    pub(super) answer: String,
}

/// A context and the questions that it answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Document {
    /// What replaces `{context}` in the prompt.
    pub(super) context: String,
    /// Questions, in random order; at least one.
    pub(super) items: Vec<Item>,
    /// The labels in use, for classification only.
    pub(super) classes: Option<Vec<String>>,
}

/// What a fact says about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Relation {
    /// A person lives in a town.
    Home,
    /// A person keeps a thing.
    Keep,
    /// A person sells a thing.
    Sell,
    /// A person has a password.
    Password,
    /// A thing belongs to a person.
    Owner,
    /// A person has a friend.
    Friend,
    /// A town makes a thing.
    Make,
}

impl Relation {
    /// One sentence that states `value` for `key`.
    ///
    /// At most two words stand between key and value: a small model looks back only so far.
    pub(super) fn state(self, rng: &mut ChaCha8Rng, key: &str, value: &str) -> String {
        let form = rng.random_range(0..2);
        match (self, form) {
            (Self::Home, 0) => format!("{key} lives in {value}."),
            (Self::Home, _) => format!("{key} stays in {value}."),
            (Self::Keep, 0) => format!("{key} keeps a {value}."),
            (Self::Keep, _) => format!("{key} owns a {value}."),
            (Self::Sell, 0) => format!("{key} sells a {value}."),
            (Self::Sell, _) => format!("{key} offers a {value}."),
            (Self::Password, _) => format!("The password of {key} is {value}."),
            (Self::Owner, 0) => format!("The {key} belongs to {value}."),
            (Self::Owner, _) => format!("The {key} went to {value}."),
            (Self::Friend, 0) => format!("The friend of {key} is {value}."),
            (Self::Friend, _) => format!("{key} befriended {value}."),
            (Self::Make, 0) => format!("People in {key} make the {value}."),
            (Self::Make, _) => format!("Workers in {key} make the {value}."),
        }
    }

    /// The question for the value of `key`.
    pub(super) fn ask(self, key: &str) -> String {
        match self {
            Self::Home => format!("Where does {key} live?"),
            Self::Keep => format!("What does {key} keep?"),
            Self::Sell => format!("What does {key} sell?"),
            Self::Password => format!("What is the password of {key}?"),
            Self::Owner => format!("Who has the {key}?"),
            Self::Friend => format!("Who is the friend of {key}?"),
            Self::Make => format!("What is made in {key}?"),
        }
    }
}

/// Draws names, things and sentences; no key is drawn twice.
pub(super) struct Author {
    /// The one source of chance of a document.
    pub(super) rng: ChaCha8Rng,
    firsts: Vec<usize>,
    lasts: Vec<usize>,
    adjectives: Vec<&'static str>,
    taken: BTreeSet<String>,
}

impl Author {
    /// An author whose people share `pool` first and `pool` family names, 1 to [`NAMES`]: the fewer,
    /// the more alike.
    pub(super) fn new(mut rng: ChaCha8Rng, pool: usize) -> Self {
        let mut pick = || {
            let mut all: Vec<usize> = (0..NAMES).collect();
            all.shuffle(&mut rng);
            all.truncate(pool.clamp(1, NAMES));
            all
        };
        let (firsts, lasts) = (pick(), pick());
        Self { rng, firsts, lasts, adjectives: ADJECTIVES.to_vec(), taken: BTreeSet::new() }
    }

    /// The same author with at most `count` adjectives in values: the fewer, the less the first
    /// word of a value says about the second.
    pub(super) fn with_adjectives(mut self, count: usize) -> Self {
        self.adjectives.shuffle(&mut self.rng);
        self.adjectives.truncate(count.max(1));
        self
    }

    fn any<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list.choose(&mut self.rng).copied().unwrap_or_default()
    }

    /// A person nobody has mentioned yet: first and family name.
    pub(super) fn person(&mut self) -> String {
        for attempt in 0.. {
            // A used-up pool opens to all the names there are.
            let (first, last) = if attempt < 24 {
                (self.firsts.choose(&mut self.rng), self.lasts.choose(&mut self.rng))
            } else {
                (None, None)
            };
            let first = first.copied().unwrap_or_else(|| self.rng.random_range(0..NAMES));
            let last = last.copied().unwrap_or_else(|| self.rng.random_range(0..NAMES));
            let name = format!("{} {}", first_name(first), last_name(last));
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
        String::new()
    }

    /// A thing, as a value: adjective and noun.
    pub(super) fn thing(&mut self) -> String {
        let adjective = self.adjectives.choose(&mut self.rng).copied().unwrap_or_default();
        format!("{adjective} {}", self.any(&NOUNS))
    }

    /// A thing that no other key is.
    pub(super) fn key_thing(&mut self) -> String {
        loop {
            let thing = format!("{} {}", self.any(&ADJECTIVES), self.any(&NOUNS));
            if self.taken.insert(thing.clone()) {
                return thing;
            }
        }
    }

    /// A noun.
    pub(super) fn noun(&mut self) -> &'static str {
        self.any(&NOUNS)
    }

    /// A town.
    pub(super) fn town(&mut self) -> String {
        town(self.rng.random_range(0..NAMES))
    }

    /// The value that `relation` states: a town, a person or a thing.
    pub(super) fn value(&mut self, relation: Relation) -> String {
        match relation {
            Relation::Home => self.town(),
            Relation::Friend | Relation::Owner => self.person(),
            _ => self.thing(),
        }
    }

    /// A sentence that answers no question; whom and what it names is no key.
    pub(super) fn filler(&mut self) -> String {
        match self.rng.random_range(0..10) {
            0 => format!("{} walked to {} in the morning.", self.person(), self.town()),
            1 => format!("Nobody saw the {} near {}.", self.key_thing(), self.town()),
            2 => format!("It rained in {} for a week.", self.town()),
            3 => format!("{} met {} on the road.", self.person(), self.person()),
            4 => format!("The market in {} opened late.", self.town()),
            5 => format!("{} talked about the {}.", self.person(), self.key_thing()),
            6 => format!("A letter came from {}.", self.town()),
            7 => format!("The {} was too heavy for {}.", self.key_thing(), self.person()),
            8 => format!("{} waited for the boat.", self.person()),
            _ => format!("The road to {} is closed.", self.town()),
        }
    }

    /// Facts and filler up to `extent.tokens`, in random order, and the question of each fact.
    ///
    /// Keys are drawn anew, or are people met before of whom `relations` tell something else.
    pub(super) fn facts(&mut self, extent: Extent, relations: &[Relation]) -> (Vec<String>, Vec<Item>) {
        let mut known: Vec<(String, Vec<Relation>)> = Vec::new();
        let (mut lines, mut items) = (Vec::new(), Vec::new());
        let mut left = extent.tokens;
        loop {
            let (sentence, item) = if self.rng.random_bool(extent.filler) && !items.is_empty() {
                (self.filler(), None)
            } else {
                let relation = relations.choose(&mut self.rng).copied().unwrap_or(Relation::Home);
                let again = relation != Relation::Owner && self.rng.random_bool(0.3);
                let met =
                    known.choose_mut(&mut self.rng).filter(|(_, told)| again && !told.contains(&relation));
                let key = if let Some((person, told)) = met {
                    told.push(relation);
                    person.clone()
                } else if relation == Relation::Owner {
                    self.key_thing()
                } else {
                    let person = self.person();
                    known.push((person.clone(), vec![relation]));
                    person
                };
                let value = self.value(relation);
                let sentence = relation.state(&mut self.rng, &key, &value);
                (sentence, Some(Item { input: relation.ask(&key), answer: value }))
            };
            let cost = estimate_tokens(&sentence) + 1;
            if cost > left && !items.is_empty() {
                break;
            }
            left = left.saturating_sub(cost);
            lines.push(sentence);
            items.extend(item);
        }
        lines.shuffle(&mut self.rng);
        items.shuffle(&mut self.rng);
        items.truncate(extent.questions.max(1));
        (lines, items)
    }
}

/// Sentences as lines of three to five, each line begun with a dash: no word follows a line feed,
/// so that each keeps the one token it has within a line.
pub(super) fn lines(rng: &mut ChaCha8Rng, sentences: &[String]) -> String {
    let mut text = String::new();
    let mut left = 0;
    for sentence in sentences {
        if left == 0 {
            left = rng.random_range(3..6);
            text.push_str(if text.is_empty() { "-" } else { "\n-" });
        }
        left -= 1;
        text.push(' ');
        text.push_str(sentence);
    }
    text
}
