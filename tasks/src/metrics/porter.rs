//! nltk's `PorterStemmer()` in its default mode, NLTK_EXTENSIONS.
//!
//! Differs from plain Porter by a list of irregular forms, `y` to `i` only after a consonant, `ies` and `ied` after one
//! letter, and the rules `alli`, `bli`, `fulli` and `logi`.

const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// Rules of step 2, all for stems of positive measure; `logi` measures one letter more.
const STEP2: [(&str, &str); 22] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
    ("logi", "log"),
];

const STEP3: [(&str, &str); 7] = [
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

const STEP4: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism",
    "ate", "iti", "ous", "ive", "ize",
];

/// The stem of a word, lower-cased.
pub fn stem(word: &str) -> String {
    // nltk looks the word up as given but answers for its lower-case form.
    if let Some((_, stem)) = IRREGULAR.iter().find(|(form, _)| *form == word) {
        return (*stem).to_owned();
    }
    let lower = word.to_lowercase();
    if word.chars().count() <= 2 {
        return lower;
    }
    let mut word: Vec<char> = lower.chars().collect();
    for step in [step1a, step1b, step1c, step2, step3, step4, step5a, step5b] {
        word = step(word);
    }
    word.into_iter().collect()
}

/// The word without `suffix`, if it ends with it.
fn strip<'a>(word: &'a [char], suffix: &str) -> Option<&'a [char]> {
    let start = word.len().checked_sub(suffix.chars().count())?;
    let (stem, end) = word.split_at(start);
    end.iter().copied().eq(suffix.chars()).then_some(stem)
}

fn join(stem: &[char], suffix: &str) -> Vec<char> {
    stem.iter().copied().chain(suffix.chars()).collect()
}

/// Applies the first rule whose suffix the word has, if `condition` holds for the stem; no later rule is tried.
fn first_rule<'r>(
    word: Vec<char>,
    rules: impl IntoIterator<Item = &'r (&'r str, &'r str)>,
    condition: impl Fn(&[char]) -> bool,
) -> Vec<char> {
    for (suffix, replacement) in rules {
        if let Some(stem) = strip(&word, suffix) {
            return if condition(stem) { join(stem, replacement) } else { word };
        }
    }
    word
}

/// For each letter whether it is a consonant: `y` is one unless it follows another.
fn consonants(word: &[char]) -> Vec<bool> {
    let mut out: Vec<bool> = Vec::with_capacity(word.len());
    for &c in word {
        out.push(match c {
            'a' | 'e' | 'i' | 'o' | 'u' => false,
            'y' => !out.last().copied().unwrap_or(false),
            _ => true,
        });
    }
    out
}

/// Porter's measure: vowel-to-consonant changes.
fn measure(stem: &[char]) -> usize {
    consonants(stem).windows(2).filter(|pair| matches!(pair, [false, true])).count()
}

fn ends_double_consonant(word: &[char]) -> bool {
    matches!(word, [.., a, b] if a == b) && consonants(word).last() == Some(&true)
}

/// Consonant, vowel, consonant other than w, x, y; in this mode also the whole word vowel, consonant.
fn ends_cvc(word: &[char]) -> bool {
    match consonants(word).as_slice() {
        [.., true, false, true] => !matches!(word.last(), Some('w' | 'x' | 'y')),
        [false, true] => true,
        _ => false,
    }
}

fn step1a(word: Vec<char>) -> Vec<char> {
    if word.len() == 4
        && let Some(stem) = strip(&word, "ies")
    {
        return join(stem, "ie");
    }
    first_rule(word, &[("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")], |_| true)
}

fn step1b(word: Vec<char>) -> Vec<char> {
    if let Some(stem) = strip(&word, "ied") {
        return join(stem, if word.len() == 4 { "ie" } else { "i" });
    }
    if let Some(stem) = strip(&word, "eed") {
        return if measure(stem) > 0 { join(stem, "ee") } else { word };
    }
    let stem = ["ed", "ing"]
        .iter()
        .find_map(|suffix| strip(&word, suffix).filter(|stem| consonants(stem).contains(&false)));
    let Some(stem) = stem else { return word };
    let stem = stem.to_vec();
    if ["at", "bl", "iz"].iter().any(|suffix| strip(&stem, suffix).is_some()) {
        return join(&stem, "e");
    }
    match stem.as_slice() {
        [rest @ .., last] if ends_double_consonant(&stem) => {
            if matches!(last, 'l' | 's' | 'z') {
                stem
            } else {
                rest.to_vec()
            }
        }
        _ if measure(&stem) == 1 && ends_cvc(&stem) => join(&stem, "e"),
        _ => stem,
    }
}

fn step1c(word: Vec<char>) -> Vec<char> {
    first_rule(word, &[("y", "i")], |stem| stem.len() > 1 && consonants(stem).last() == Some(&true))
}

fn step2(word: Vec<char>) -> Vec<char> {
    if let Some(stem) = strip(&word, "alli").filter(|stem| measure(stem) > 0) {
        return step2(join(stem, "al"));
    }
    if let Some(stem) = strip(&word, "logi") {
        let with_l = join(stem, "l");
        return if measure(&with_l) > 0 { join(stem, "log") } else { word };
    }
    first_rule(word, &STEP2, |stem| measure(stem) > 0)
}

fn step3(word: Vec<char>) -> Vec<char> {
    first_rule(word, &STEP3, |stem| measure(stem) > 0)
}

fn step4(word: Vec<char>) -> Vec<char> {
    for suffix in STEP4 {
        if let Some(stem) = strip(&word, suffix) {
            let fits = measure(stem) > 1 && (suffix != "ion" || matches!(stem.last(), Some('s' | 't')));
            return if fits { stem.to_vec() } else { word };
        }
    }
    word
}

fn step5a(word: Vec<char>) -> Vec<char> {
    match strip(&word, "e") {
        Some(stem) if measure(stem) > 1 || (measure(stem) == 1 && !ends_cvc(stem)) => stem.to_vec(),
        _ => word,
    }
}

fn step5b(mut word: Vec<char>) -> Vec<char> {
    if strip(&word, "ll").is_some() && word.split_last().is_some_and(|(_, stem)| measure(stem) > 1) {
        word.pop();
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_like_nltk() {
        for (word, expected) in [
            ("sky", "sky"),
            ("dies", "die"),
            ("flies", "fli"),
            ("spied", "spi"),
            ("happy", "happi"),
            ("enjoy", "enjoy"),
            ("hopping", "hop"),
            ("filing", "file"),
            ("falling", "fall"),
            ("radically", "radic"),
            ("geologi", "geolog"),
            ("relational", "relat"),
            ("Adoption", "adopt"),
            ("controll", "control"),
            ("us", "us"),
        ] {
            assert_eq!(stem(word), expected, "{word}");
        }
    }
}
