//! Text to token ids and back, with the ids of the model's Python tokenizer.

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer as Inner;

use crate::{
    error::{EngineError, Result},
    model::parse_json,
    source::Blob,
};

/// The tokenizer of one model.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    clean_up_spaces: bool,
    bos_id: Option<u32>,
    eos_id: Option<u32>,
    path: std::path::PathBuf,
    sha256: String,
}

#[derive(Default, Deserialize)]
struct RawConfig {
    clean_up_tokenization_spaces: Option<bool>,
    bos_token: Option<Value>,
    eos_token: Option<Value>,
}

/// A special token of `tokenizer_config.json`: its text, or an object with the text as `content`.
pub(crate) fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

impl Tokenizer {
    /// Loads `tokenizer.json`. Truncation and padding that it may ask for are off, as transformers has it when a text
    /// is encoded without asking for them. `config_bos` stands in where `tokenizer_config.json` names no BOS token.
    ///
    /// # Errors
    /// A file that does not parse.
    pub fn load(tokenizer: &Blob, config: Option<&Blob>, config_bos: Option<u32>) -> Result<Self> {
        let path = tokenizer.path().to_path_buf();
        let fail = |error: tokenizers::Error| EngineError::Tokenizer {
            path: path.clone(),
            reason: error.to_string(),
        };
        let bytes = tokenizer.read()?;
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut inner = Inner::from_bytes(bytes).map_err(fail)?;
        inner.with_truncation(None).map_err(fail)?;
        inner.with_padding(None);
        let config = match config {
            Some(blob) => parse_json(&blob.read()?, blob.path())?,
            None => RawConfig::default(),
        };
        let id = |token: &Option<Value>| {
            token.as_ref().and_then(token_text).and_then(|text| inner.token_to_id(text))
        };
        Ok(Self {
            sha256,
            bos_id: id(&config.bos_token).or(config_bos),
            eos_id: id(&config.eos_token),
            // transformers 5, and what transformers 4 warned it would become.
            clean_up_spaces: config.clean_up_tokenization_spaces.unwrap_or(false),
            inner,
            path,
        })
    }

    /// Token ids of a text. `add_special_tokens` adds what the model's tokenizer adds by itself, mostly BOS.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding =
            self.inner.encode_fast(text, add_special_tokens).map_err(|error| self.error(&error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of token ids, as it stands: [`Tokenizer::cleans_up_spaces`] says whether transformers would change it.
    ///
    /// # Errors
    /// Ids that the decoder refuses.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.inner.decode(ids, skip_special_tokens).map_err(|error| self.error(&error))
    }

    /// `clean_up_tokenization_spaces` of `tokenizer_config.json`: whether transformers' decoding drops the spaces before
    /// punctuation. Whose text is meant to be transformers', drops them; see `ModelFacts::transformers_text` of the tasks.
    #[must_use]
    pub fn cleans_up_spaces(&self) -> bool {
        self.clean_up_spaces
    }

    /// Hex sha256 of `tokenizer.json`.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Begin-of-sequence id.
    #[must_use]
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// End-of-sequence id of the tokenizer; [`crate::model::GenerationConfig`] has those that end an answer.
    #[must_use]
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_id
    }

    /// Id of one token, as spelt in the vocabulary.
    #[must_use]
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Tokens in the vocabulary, added ones included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    fn error(&self, error: &tokenizers::Error) -> EngineError {
        EngineError::Tokenizer { path: self.path.clone(), reason: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENIZER: &[u8] = br#"{"version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "<unk>"},
        "added_tokens": [
            {"id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
             "special": true},
            {"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
             "special": true}],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "<unk>",
                  "vocab": {"<unk>": 0, "<s>": 1, "we": 2, "do": 3, "n't": 4, ".": 5}}}"#;

    fn load(tokenizer: &'static [u8], config: &'static str) -> Result<Tokenizer> {
        let blob = |path: &str, bytes| Blob::Embedded { path: path.into(), bytes };
        Tokenizer::load(
            &blob("m/tokenizer.json", tokenizer),
            Some(&blob("m/tc.json", config.as_bytes())),
            Some(7),
        )
    }

    #[test]
    fn encodes_whole_texts_and_decodes_as_configured() {
        let plain = load(TOKENIZER, r#"{"bos_token": {"content": "<s>"}, "eos_token": "."}"#).unwrap();
        assert_eq!(
            (plain.bos_id(), plain.eos_id(), plain.id_of("we"), plain.id_of("us")),
            (Some(1), Some(5), Some(2), None)
        );
        let ids = plain.encode("we do n't .", true).unwrap();
        assert_eq!(ids, [1, 2, 3, 4, 5], "the truncation and padding of tokenizer.json are off");
        assert_eq!(plain.encode("we", false).unwrap(), [2]);
        assert_eq!(plain.decode(&ids, false).unwrap(), "<s> we do n't .");
        assert_eq!(plain.decode(&ids, true).unwrap(), "we do n't .");
        let clean = load(TOKENIZER, r#"{"clean_up_tokenization_spaces": true}"#).unwrap();
        assert!(clean.cleans_up_spaces() && !plain.cleans_up_spaces());
        assert_eq!(
            clean.decode(&ids, true).unwrap(),
            "we do n't .",
            "who wants transformers' text cleans it"
        );
        assert_eq!(clean.bos_id(), Some(7), "config.json stands in");
    }

    #[test]
    fn names_the_file_that_does_not_parse() {
        let message = load(b"{", "{}").unwrap_err().to_string();
        assert!(message.starts_with("tokenizer `m/tokenizer.json`: "), "{message}");
        let message = load(TOKENIZER, "[").unwrap_err().to_string();
        assert!(message.starts_with("`m/tc.json` is not the JSON expected: "), "{message}");
    }
}
