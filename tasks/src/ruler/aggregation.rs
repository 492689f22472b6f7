//! Frequent words: ten common ones in a numbered list, three in a coded text.

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{Texts, words};

/// Common words of a list.
const COMMON: usize = 10;
/// Different words of the smallest list.
pub(super) const LEAST_COMMON: usize = COMMON + 5;
/// Words of the smallest coded text: enough for three words of different frequency behind the dots.
pub(super) const LEAST_FREQUENT: usize = 120;
/// Context length below which lists are made with fewer repetitions.
const SHORT: usize = 4096;

/// How often words stand in a list.
#[derive(Clone, Copy)]
struct Repeats {
    common: usize,
    others: usize,
}

const BEFORE: &str = "Below is a numbered list of words. In these words, some appear more often than others. Memorize the \
                      ones that appear most often.\n";
const QUESTION: &str = "Question: What are the 10 most common words in the above list? ";
const ANSWER: &str = "Answer: The top 10 words that appear most often in the list are:";

/// A list of words, behind a solved example of one.
pub(crate) struct Common {
    /// Every word there is, in the row's order: the first ones are its common ones.
    words: Vec<String>,
    example: String,
    repeats: Repeats,
    chance: ChaCha8Rng,
}

impl Common {
    pub(super) fn new(rng: &mut ChaCha8Rng, chance: ChaCha8Rng, length: usize) -> Self {
        let (repeats, small, different) = if length < SHORT {
            (Repeats { common: 6, others: 1 }, Repeats { common: 3, others: 1 }, 20)
        } else {
            (Repeats { common: 30, others: 3 }, Repeats { common: 10, others: 3 }, 40)
        };
        let mut all = words::all();
        all.shuffle(rng);
        let solved: Vec<String> = all.iter().take(different).cloned().collect();
        let answer = numbered(solved.iter().take(COMMON));
        let example =
            format!("{BEFORE}{}\n{QUESTION}{ANSWER} {answer}\n", list(&solved, small, &mut chance.clone()));
        all.shuffle(rng);
        Self { words: all, example, repeats, chance }
    }

    pub(super) fn answers(&self) -> Vec<String> {
        self.words.iter().take(COMMON).cloned().collect()
    }

    pub(super) fn texts(&self) -> Texts {
        Texts {
            before: format!("{}{BEFORE}", self.example),
            after: "\n",
            question: QUESTION.to_owned(),
            answer_prefix: ANSWER.to_owned(),
        }
    }

    pub(super) fn haystack(&self, units: usize) -> String {
        let mut chance = self.chance.clone();
        // Not the order of the example.
        chance.set_stream(1);
        let used = units.min(self.words.len());
        list(&self.words[..used], self.repeats, &mut chance)
    }
}

fn list(words: &[String], repeats: Repeats, chance: &mut ChaCha8Rng) -> String {
    let (common, others) = words.split_at(COMMON.min(words.len()));
    let often = common.iter().flat_map(|word| std::iter::repeat_n(word, repeats.common));
    let seldom = others.iter().flat_map(|word| std::iter::repeat_n(word, repeats.others));
    let mut all: Vec<&String> = often.chain(seldom).collect();
    all.shuffle(chance);
    numbered(all.into_iter())
}

fn numbered<'a>(words: impl Iterator<Item = &'a String>) -> String {
    let words: Vec<String> = words.enumerate().map(|(at, word)| format!("{}. {word}", at + 1)).collect();
    words.join(" ")
}

/// A text of coded words whose frequencies fall as the square of their rank.
pub(crate) struct Frequent {
    /// Words by rank; the most frequent is the dots.
    words: Vec<String>,
    chance: ChaCha8Rng,
}

/// New tokens, which RULER takes from the length before it sizes the vocabulary.
const ANSWER_TOKENS: usize = 50;
/// Context tokens a word of the vocabulary.
const TOKENS_A_WORD: usize = 50;

impl Frequent {
    pub(super) fn new(rng: &mut ChaCha8Rng, chance: ChaCha8Rng, length: usize) -> Self {
        let count = (length.saturating_sub(ANSWER_TOKENS) / TOKENS_A_WORD).max(4);
        let mut words = vec!["...".to_owned()];
        while words.len() < count {
            let word: String = (0..6).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect();
            if !words.contains(&word) {
                words.push(word);
            }
        }
        Self { words, chance }
    }

    pub(super) fn answers(&self) -> Vec<String> {
        self.words.iter().skip(1).take(3).cloned().collect()
    }

    pub(super) fn texts(&self) -> Texts {
        Texts {
            before: "Read the following coded text and track the frequency of each coded word. Find the three most \
                     frequently appeared coded words. "
                .to_owned(),
            after: "\n",
            question: "Question: Do not provide any explanation. Please ignore the dots '....'. What are the three most \
                       frequently appeared words in the above coded text? "
                .to_owned(),
            answer_prefix: "Answer: According to the coded text above, the three most frequently appeared words are:"
                .to_owned(),
        }
    }

    pub(super) fn haystack(&self, units: usize) -> String {
        let mut chance = self.chance.clone();
        let zeta = std::f64::consts::PI.powi(2) / 6.0;
        let times = |rank: usize| (units as f64 / (rank * rank) as f64 / zeta) as usize;
        let ranked = self.words.iter().zip(1..);
        let mut all: Vec<&str> =
            ranked.flat_map(|(word, rank)| std::iter::repeat_n(word.as_str(), times(rank))).collect();
        all.shuffle(&mut chance);
        all.join(" ")
    }
}
