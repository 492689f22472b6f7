//! One question with its context and reference answers, in the shape every data set is read into.

use std::sync::Arc;

use sha2::{Digest, Sha256};

/// One example of one data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Stable key: `<dataset>#<row from 0>-<official _id, or hash of the content>`.
    pub key: String,
    /// The data set's registry name (LongBench-E: with its `_e`).
    pub dataset: String,
    /// The question, instruction or last lines; empty where the prompt has none.
    pub input: String,
    /// How the answer begins, behind the chat template: the model goes on from there. Empty but in RULER.
    pub answer_prefix: String,
    /// The long text; questions about one document share it.
    pub context: Arc<str>,
    /// Reference answers; the best match counts. Never empty.
    pub answers: Vec<String>,
    /// Class names of a classification set, else empty.
    pub all_classes: Vec<String>,
    /// The data set's own length (words in English and code, characters in Chinese; in RULER the context length in
    /// tokens). Decides LongBench-E's buckets.
    pub length: u64,
    /// `en`, `zh` or, for the code sets, the programming language.
    pub language: String,
}

/// Builds an example's key. An `_id` that is not short and plain is replaced by a hash of the content, so that no
/// file's text gets into keys.
pub(crate) fn key(
    dataset: &str,
    row: usize,
    id: Option<&str>,
    input: &str,
    context: &str,
    answers: &[String],
) -> String {
    let plain = |id: &&str| {
        (1..=64).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    match id.filter(plain) {
        Some(id) => format!("{dataset}#{row}-{id}"),
        None => {
            let mut hash = Sha256::new();
            for part in [input, context].into_iter().chain(answers.iter().map(String::as_str)) {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part.as_bytes());
            }
            format!("{dataset}#{row}-{}", &hex(&hash.finalize())[..16])
        }
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_stable_and_safe() {
        assert_eq!(key("lcc", 3, Some("28ce5c"), "", "x", &[]), "lcc#3-28ce5c");
        let odd = key("lcc", 3, Some("../../x"), "", "x", &[]);
        assert!(!odd.contains(".."), "{odd}");
        assert_eq!(odd, key("lcc", 3, None, "", "x", &[]));
        assert_ne!(key("lcc", 3, None, "ab", "c", &[]), key("lcc", 3, None, "a", "bc", &[]));
    }
}
