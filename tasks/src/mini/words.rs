//! The vocabulary of the mini suite: names put together from syllables, and two word lists.
//!
//! Every content word is one token of the embedded model's tokenizer, and every list is short, so
//! that a model of a few million parameters can learn to copy any of them.

/// First halves of first names.
const FIRST_HEADS: [&str; 8] = ["Ba", "De", "Fi", "Go", "Ka", "Lu", "Mi", "To"];
/// Second halves of first names.
const FIRST_TAILS: [&str; 8] = ["lo", "ran", "nek", "vis", "dra", "mon", "sel", "tu"];
/// First halves of family names.
const LAST_HEADS: [&str; 8] = ["Har", "Ven", "Pol", "Ost", "Quin", "Sab", "Wil", "Zan"];
/// Second halves of family names.
const LAST_TAILS: [&str; 8] = ["der", "ford", "ick", "mar", "nell", "stow", "ty", "wick"];
/// First halves of town names.
const TOWN_HEADS: [&str; 8] = ["Nor", "Esk", "Ram", "Cal", "Tor", "Bru", "Lin", "Ap"];
/// Second halves of town names.
const TOWN_TAILS: [&str; 8] = ["ham", "bury", "mere", "gate", "holm", "dale", "port", "well"];
/// First halves of labels.
const LABEL_HEADS: [&str; 4] = ["zu", "ki", "pa", "mo"];
/// Second halves of labels.
const LABEL_TAILS: [&str; 6] = ["rix", "bel", "tan", "gop", "fen", "lam"];

/// Adjectives; none begins with a vowel, so that "a" is always right.
pub(super) const ADJECTIVES: [&str; 48] = [
    "red", "blue", "green", "black", "white", "grey", "brown", "pink", "golden", "silver", "wooden", "paper",
    "stone", "glass", "copper", "cotton", "large", "small", "tall", "short", "round", "flat", "broken",
    "clean", "dusty", "shiny", "heavy", "light", "fresh", "cold", "warm", "soft", "hard", "sharp", "plain",
    "striped", "spotted", "hollow", "wet", "dry", "quiet", "loud", "rare", "cheap", "bright", "dark",
    "sweet", "bitter",
];

/// Nouns.
pub(super) const NOUNS: [&str; 64] = [
    "lantern", "basket", "hammer", "ladder", "mirror", "kettle", "barrel", "bottle", "candle", "carpet",
    "chair", "clock", "coat", "cup", "drum", "feather", "flute", "fork", "hat", "helmet", "key", "knife",
    "lamp", "mask", "needle", "pencil", "pillow", "plate", "pot", "ring", "rope", "saddle", "scarf", "shell",
    "shovel", "spoon", "table", "thread", "towel", "trumpet", "vase", "wagon", "wheel", "whip", "bear",
    "camel", "cat", "dog", "donkey", "duck", "falcon", "fox", "frog", "goat", "goose", "hen", "horse",
    "lizard", "mouse", "pigeon", "rabbit", "sheep", "snail", "wolf",
];

/// Number of first names, of family names and of towns.
pub(super) const NAMES: usize = 64;
/// Number of labels.
pub(super) const LABELS: usize = 24;

fn join(heads: &[&str], tails: &[&str], index: usize) -> String {
    let head = heads.get(index / tails.len() % heads.len()).copied();
    let tail = tails.get(index % tails.len()).copied();
    format!("{}{}", head.unwrap_or_default(), tail.unwrap_or_default())
}

/// First name number `index` (taken modulo [`NAMES`]).
pub(super) fn first_name(index: usize) -> String {
    join(&FIRST_HEADS, &FIRST_TAILS, index)
}

/// Family name number `index` (taken modulo [`NAMES`]).
pub(super) fn last_name(index: usize) -> String {
    join(&LAST_HEADS, &LAST_TAILS, index)
}

/// Town number `index` (taken modulo [`NAMES`]).
pub(super) fn town(index: usize) -> String {
    join(&TOWN_HEADS, &TOWN_TAILS, index)
}

/// Label number `index` (taken modulo [`LABELS`]).
pub(super) fn label(index: usize) -> String {
    join(&LABEL_HEADS, &LABEL_TAILS, index)
}

/// Tokens of `text` under the embedded model's tokenizer, estimated without it: a word is one
/// token (its leading space included), and so are a digit, a blank before a digit, a line feed
/// and any other sign.
#[must_use]
pub fn estimate_tokens(text: &str) -> usize {
    let mut tokens = 0;
    let mut previous = ' ';
    for c in text.chars() {
        tokens += match c {
            ' ' => 0,
            _ if c.is_ascii_digit() => 1 + usize::from(previous == ' '),
            _ if c.is_alphabetic() => usize::from(!previous.is_alphabetic()),
            _ => 1,
        };
        previous = c;
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn all_words_are_distinct() {
        let mut words: Vec<String> = ADJECTIVES.iter().chain(&NOUNS).map(|w| (*w).to_owned()).collect();
        words.extend((0..NAMES).flat_map(|i| [first_name(i), last_name(i), town(i)]));
        words.extend((0..LABELS).map(label));
        let distinct: BTreeSet<&String> = words.iter().collect();
        assert_eq!(distinct.len(), words.len());
    }

    #[test]
    fn no_adjective_needs_another_article() {
        assert!(ADJECTIVES.iter().all(|w| !w.starts_with(['a', 'e', 'i', 'o', 'u'])));
    }

    #[test]
    fn words_digits_and_signs_count_one_each() {
        assert_eq!(estimate_tokens("Balo Harder lives in Norham."), 6);
        assert_eq!(estimate_tokens(" Paragraph 47"), 4);
        assert_eq!(estimate_tokens("- a\n- b"), 5);
    }
}
