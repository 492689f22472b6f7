//! Chinese word segmentation as Python's jieba 0.42.1: `jieba.cut(text, cut_all=False)`.
//!
//! The dictionary and the hidden Markov model come from the crate `jieba-rs`; the splitting of mixed text is done here,
//! because the crate splits other blocks, and so are the decisions between the two. The crate's emission
//! probabilities carry six decimals where Python's carry all.

use std::sync::LazyLock;

use jieba_rs::Jieba;

/// The dictionary, with Python's total frequency.
static DICTIONARY: LazyLock<Jieba> = LazyLock::new(|| {
    let mut jieba = Jieba::new();
    // Python's dict.txt has the line `B超 3 n` twice and counts both in the total that every log probability is taken
    // over. A private-use character, which never reaches the dictionary, makes up for the missing 3.
    jieba.add_word("\u{e000}", Some(3), None);
    jieba
});

/// Without a dictionary every run of Chinese goes to the hidden Markov model whole.
static MODEL: LazyLock<Jieba> = LazyLock::new(Jieba::empty);

/// The words of a text; joined they give the text back.
pub fn cut(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if is_block(first) {
            let end = rest.find(|c| !is_block(c)).unwrap_or(rest.len());
            cut_block(&rest[..end], &mut words);
            end
        } else {
            // Everything else is emitted by character; `\r\n` is the one pair that stays together.
            let end = if rest.starts_with("\r\n") { 2 } else { first.len_utf8() };
            words.push(&rest[..end]);
            end
        };
        rest = &rest[length..];
    }
    words
}

fn is_han(c: char) -> bool {
    matches!(c, '\u{4e00}'..='\u{9fd5}')
}

/// `re_han_default`: what goes through the dictionary.
fn is_block(c: char) -> bool {
    is_han(c) || c.is_ascii_alphanumeric() || matches!(c, '+' | '#' | '&' | '.' | '_' | '%' | '-')
}

/// `__cut_DAG`: dictionary words of the most probable path; runs of single characters between them are decided apart.
fn cut_block<'a>(block: &'a str, words: &mut Vec<&'a str>) {
    let (mut at, mut singles) = (0, 0);
    for piece in DICTIONARY.cut(block, false) {
        let end = at + piece.len();
        // The crate joins neighbouring Latin characters here. The dictionary has no purely Latin word, so such a piece
        // is a run of single characters.
        let single = piece.chars().nth(1).is_none() || piece.bytes().all(|b| b.is_ascii_alphanumeric());
        if !single {
            cut_singles(&block[singles..at], words);
            words.push(piece);
            singles = end;
        }
        at = end;
    }
    cut_singles(&block[singles..], words);
}

/// A run of single characters: kept apart if the run is itself a (rarer) dictionary word, else left to `finalseg.cut`.
fn cut_singles<'a>(run: &'a str, words: &mut Vec<&'a str>) {
    if run.chars().nth(1).is_none() {
        words.extend((!run.is_empty()).then_some(run));
    } else if DICTIONARY.has_word(run) {
        words.extend(run.split_inclusive(|_| true));
    } else {
        let mut rest = run;
        while let Some(first) = rest.chars().next() {
            let han = is_han(first);
            let (block, after) = rest.split_at(rest.find(|c| is_han(c) != han).unwrap_or(rest.len()));
            if han {
                words.extend(MODEL.cut(block, true));
            } else {
                cut_latin(block, words);
            }
            rest = after;
        }
    }
}

/// Splits by `[a-zA-Z0-9]+(?:\.\d+)?%?`, keeping what lies between the matches whole.
fn cut_latin<'a>(block: &'a str, words: &mut Vec<&'a str>) {
    let length = |text: &str, keep: fn(&u8) -> bool| text.bytes().take_while(keep).count();
    let mut rest = block;
    while !rest.is_empty() {
        let mut end = length(rest, u8::is_ascii_alphanumeric);
        if end == 0 {
            end = length(rest, |b| !b.is_ascii_alphanumeric());
        } else {
            if let Some(after) = rest[end..].strip_prefix('.') {
                let digits = length(after, u8::is_ascii_digit);
                end += if digits > 0 { 1 + digits } else { 0 };
            }
            end += usize::from(rest[end..].starts_with('%'));
        }
        let (word, after) = rest.split_at(end);
        words.push(word);
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_frequency_is_that_of_python() {
        assert!(format!("{:?}", *DICTIONARY).contains("total_freq: 60101967"), "{:?}", *DICTIONARY);
    }

    #[test]
    fn segments_mixed_text() {
        assert_eq!(cut("9.1%。"), ["9.1%", "。"]);
        assert_eq!(
            cut("a_b x-y\r\n\u{3000}𠀀"),
            ["a", "_", "b", " ", "x", "-", "y", "\r\n", "\u{3000}", "𠀀"]
        );
        assert_eq!(cut("小明硕士毕业于中国科学院计算所").join("/"), "小明/硕士/毕业/于/中国科学院/计算所");
        assert_eq!(cut(""), [""; 0]);
    }
}
