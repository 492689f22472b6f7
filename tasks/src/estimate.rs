//! Prompt lengths on paper, where there is no tokenizer or no row to encode.

use crate::datasets::Language;

/// Vocabularies from this size on encode as Llama 3's does, smaller ones as those of Llama 2 and Mistral.
const LARGE_VOCABULARY: usize = 100_000;

/// Tokens of one unit of a row's `length`: an English word, a Chinese character, a word of source code. Means over
/// LongBench rows, with the tokenizers of Llama 3 and of Mistral.
pub fn tokens_per_unit(language: Language, vocabulary: usize) -> f64 {
    let (large, small) = match language {
        Language::English => (1.4, 1.6),
        Language::Chinese => (0.8, 1.1),
        Language::Code => (2.3, 3.1),
    };
    if vocabulary >= LARGE_VOCABULARY { large } else { small }
}

/// Tokens of a text of `length` units, rounded up.
pub fn tokens(length: u64, language: Language, vocabulary: usize) -> usize {
    (length as f64 * tokens_per_unit(language, vocabulary)).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_vocabularies_need_fewer_tokens() {
        assert_eq!(tokens(1000, Language::English, 128_256), 1400);
        assert_eq!(tokens(1000, Language::English, 32_000), 1600);
        assert_eq!(tokens(1001, Language::Chinese, 128_256), 801);
        assert_eq!(tokens(0, Language::Code, 32_000), 0);
    }
}
