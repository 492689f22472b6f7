//! A needle in a haystack of the suite's own sentences.

use rand::seq::SliceRandom;

use super::grammar::{Author, Document, Extent, Item, Relation, lines};
use super::words::{NAMES, estimate_tokens};
use super::{FILLER, rng};

/// What a haystack's sentences tell: all but passwords.
const HAY: [Relation; 4] = [Relation::Home, Relation::Keep, Relation::Sell, Relation::Owner];

/// The prompt of a needle trial.
pub const NEEDLE_PROMPT: &str = "Read the notes and answer.\n{context}\n\nQuestion: {input}\nAnswer:";

/// A haystack with its needle and its question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Haystack {
    /// The haystack with the needle in it.
    pub context: String,
    /// The question at the end of the prompt.
    pub question: String,
    /// The sentence that answers it.
    pub needle: String,
    /// The answer: two words drawn at random.
    pub answer: String,
    /// The whole prompt, before any chat template.
    pub prompt: String,
}

/// Which needle trial: each has its own haystack, key and value, always the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedleTrial {
    /// Seed of the suite; [`super::SUITE_SEED`] for the suite itself.
    pub seed: u64,
    /// Tokens of the prompt, at most.
    pub length: usize,
    /// Percent of the haystack's tokens before the needle; more than 100 counts as 100.
    pub depth: usize,
    /// Number of the trial within its length and depth.
    pub number: u64,
}

/// Builds a needle trial.
///
/// The prompt has as many sentences as keep it within its length, counted by `count`.
pub fn needle(trial: NeedleTrial, count: &dyn Fn(&str) -> usize) -> Haystack {
    let NeedleTrial { seed, length, depth, number } = trial;
    let mut author = Author::new(rng("suite", &format!("needle/{length}/{depth}"), seed, number), NAMES);
    let (person, answer) = (author.person(), author.thing());
    let needle = Relation::Password.state(&mut author.rng, &person, &answer);
    let question = Relation::Password.ask(&person);
    let fixed = NEEDLE_PROMPT.replace("{context}", &needle).replace("{input}", &question);
    let room = length.saturating_sub(count(&fixed));
    // More than fits: what is over is cut below, by true counts.
    let extent = Extent { tokens: room + room / 8, questions: 1, filler: FILLER };
    let (mut hay, _) = author.facts(extent, &HAY);
    let breaks = author.rng.clone();
    loop {
        let costs: Vec<usize> = hay.iter().map(|sentence| count(sentence)).collect();
        let target = costs.iter().sum::<usize>() * depth.min(100);
        let mut passed = 0;
        let at = costs
            .iter()
            .position(|cost| {
                let here = passed * 100 >= target;
                passed += cost;
                here
            })
            .unwrap_or(hay.len());
        let mut sentences = hay.clone();
        sentences.insert(at, needle.clone());
        let context = lines(&mut breaks.clone(), &sentences);
        let prompt = NEEDLE_PROMPT.replace("{context}", &context).replace("{input}", &question);
        let over = count(&prompt).saturating_sub(length);
        if over == 0 || hay.is_empty() {
            return Haystack { context, question, needle, answer, prompt };
        }
        // A sentence takes at most about sixteen tokens.
        hay.truncate(hay.len() - (over / 16).clamp(1, hay.len()));
    }
}

/// A haystack alone, of `words` words or a few more.
pub(crate) fn hay(words: usize) -> String {
    // An author runs out of people: each page has its own.
    const PAGE: usize = 2048;
    let mut text = String::new();
    let mut told = 0;
    for page in 0.. {
        if told >= words {
            break;
        }
        let mut author = Author::new(rng("hay", "page", super::SUITE_SEED, page), NAMES);
        let extent = Extent { tokens: PAGE, questions: 1, filler: FILLER };
        for sentence in author.facts(extent, &HAY).0 {
            told += sentence.split(' ').count();
            text.push_str(&sentence);
            text.push(' ');
        }
    }
    text
}

/// A haystack with as many needles as there are questions; used for training.
pub(super) fn haystack(author: &mut Author, extent: Extent) -> Document {
    let needles: Vec<(String, String)> =
        (0..extent.questions.max(1)).map(|_| (author.person(), author.thing())).collect();
    let mut sentences: Vec<String> = needles
        .iter()
        .map(|(person, answer)| Relation::Password.state(&mut author.rng, person, answer))
        .collect();
    let taken: usize = sentences.iter().map(|sentence| estimate_tokens(sentence) + 1).sum();
    let rest = Extent { tokens: extent.tokens.saturating_sub(taken), ..extent };
    sentences.extend(author.facts(rest, &HAY).0);
    sentences.shuffle(&mut author.rng);
    let items = needles
        .into_iter()
        .map(|(person, answer)| Item { input: Relation::Password.ask(&person), answer })
        .collect();
    Document { context: lines(&mut author.rng, &sentences), items, classes: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_needle_stands_at_its_depth_and_the_prompt_fits() {
        for length in [128, 512, 4096] {
            for depth in [0, 30, 50, 100] {
                let trial = NeedleTrial { seed: 0, length, depth, number: 3 };
                let case = needle(trial, &estimate_tokens);
                let tokens = estimate_tokens(&case.prompt);
                assert!(tokens <= length && tokens + 40 > length, "{tokens} of {length}");
                let at = case.context.find(&case.needle).expect("the needle is in the context");
                let before = estimate_tokens(&case.context[..at]) * 100;
                let all = estimate_tokens(&case.context);
                assert!(before.abs_diff(all * depth) <= all * 3 + 1600, "{before} of {all}");
                assert_eq!(case.context.matches("password").count(), 1);
                assert!(case.needle.ends_with(&format!("{}.", case.answer)));
                assert_eq!(case, needle(trial, &estimate_tokens));
            }
        }
    }

    #[test]
    fn keys_and_values_change_with_the_trial_and_the_seed() {
        let ask = |seed, number| {
            let case = needle(NeedleTrial { seed, length: 256, depth: 50, number }, &estimate_tokens);
            (case.question, case.answer)
        };
        assert_ne!(ask(0, 0), ask(0, 1));
        assert_ne!(ask(0, 0), ask(1, 0));
    }
}
