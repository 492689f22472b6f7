//! `str.split`, `str.strip`, `str.lower`, `\d` and `\w` as CPython 3.11 defines them.

use std::sync::LazyLock;

use regex::Regex;

/// Whether `str.isspace` holds: Unicode white space plus the four separators U+001C to U+001F, which Rust leaves out.
pub(crate) fn is_space(c: char) -> bool {
    matches!(c, '\u{1c}'..='\u{1f}') || c.is_whitespace()
}

/// `text.split()`: the words between runs of white space.
pub(crate) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// `" ".join(text.split())`.
pub(crate) fn collapse_spaces(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in split(text) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

/// `text.strip()`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `text.lower()`: full Unicode lower-casing with the final-sigma rule, which is also Rust's.
pub(crate) fn lower(text: &str) -> String {
    text.to_lowercase()
}

/// Whether `c` is one of the 32 characters of `string.punctuation`.
pub(crate) fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
}

/// Compiles a constant class, limited to the characters that Unicode 14 (CPython 3.11) has assigned.
fn class(pattern: &str) -> Regex {
    #[expect(clippy::expect_used, reason = "constant patterns, compiled by the tests below")]
    Regex::new(pattern).expect("constant pattern")
}

fn matches_class(class: &Regex, c: char) -> bool {
    class.is_match(c.encode_utf8(&mut [0; 4]))
}

/// Whether `\d` matches `c`: a decimal digit of any script (full-width and Arabic-Indic digits, not `²` or `①`).
pub(crate) fn is_digit(c: char) -> bool {
    static CLASS: LazyLock<Regex> = LazyLock::new(|| class(r"[\p{Nd}&&\p{Age=14.0}]"));
    if c.is_ascii() { c.is_ascii_digit() } else { matches_class(&CLASS, c) }
}

/// Whether `\w` matches `c`: a letter, any numeric character or `_`; no combining mark.
///
/// Rust's `\w` differs: it takes marks and letter-like symbols and leaves out `²` and `½`.
pub(crate) fn is_word(c: char) -> bool {
    static CLASS: LazyLock<Regex> = LazyLock::new(|| class(r"[[\p{L}\p{N}]&&\p{Age=14.0}]"));
    if c.is_ascii() { c.is_ascii_alphanumeric() || c == '_' } else { matches_class(&CLASS, c) }
}

/// `re.findall(r"\d+", text)`.
pub(crate) fn digit_runs(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c| !is_digit(c)).filter(|run| !run.is_empty())
}

/// The first `\d+` that directly follows `prefix`: group 1 of `re.search(prefix + r"(\d+)", text)`.
pub(crate) fn digits_after<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    text.match_indices(prefix).find_map(|(at, found)| {
        let rest = &text[at + found.len()..];
        let end = rest.find(|c| !is_digit(c)).unwrap_or(rest.len());
        (end > 0).then(|| &rest[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_on_the_separators_that_rust_keeps() {
        assert_eq!(
            split("a\u{1c}b\u{1f} c\u{85}\u{a0}d\u{200b}e").collect::<Vec<_>>(),
            ["a", "b", "c", "d\u{200b}e"]
        );
        assert_eq!(collapse_spaces(" a \t b\n"), "a b");
        assert_eq!(strip("\u{1d} x\u{3000}"), "x");
    }

    #[test]
    fn word_characters_follow_isalnum() {
        for c in ['a', 'é', '²', '½', '①', '_', '９', '北', 'Ⅷ'] {
            assert!(is_word(c), "{c}");
        }
        // A combining mark, a circled letter, a joiner, a letter of Unicode 16, punctuation.
        for c in ['\u{301}', 'Ⓐ', '\u{200d}', '\u{1c89}', '-', '“'] {
            assert!(!is_word(c), "{c}");
        }
    }

    #[test]
    fn digits_are_decimal_digits_of_any_script() {
        assert_eq!(digit_runs("3.5 ３ ٣² 05").collect::<Vec<_>>(), ["3", "5", "３", "٣", "05"]);
        assert_eq!(digits_after("Paragraph x, Paragraph 12.", "Paragraph "), Some("12"));
        assert_eq!(digits_after("paragraph 12", "Paragraph "), None);
        // Kawi digits came with Unicode 15.
        assert!(!is_digit('\u{11f50}'));
    }

    #[test]
    fn lowers_with_final_sigma_and_dotted_i() {
        assert_eq!(lower("ΟΔΥΣΣΕΥΣ"), "οδυσσευς");
        assert_eq!(lower("İ"), "i\u{307}");
    }
}
