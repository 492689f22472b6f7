//! Text to token ids and back, with the ids and the text of the model's Python tokenizer.

use serde::Deserialize;
use serde_json::Value;
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
        let mut inner = Inner::from_bytes(tokenizer.read()?).map_err(fail)?;
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

    /// Text of token ids; where `tokenizer_config.json` says `clean_up_tokenization_spaces`, without the spaces
    /// before punctuation, as transformers gives it.
    ///
    /// # Errors
    /// Ids that the decoder refuses.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        let text = self.inner.decode(ids, skip_special_tokens).map_err(|error| self.error(&error))?;
        Ok(if self.clean_up_spaces { clean_up_spaces(&text) } else { text })
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

/// transformers `tokenization_utils_base.py: clean_up_tokenization`, in its order.
fn clean_up_spaces(text: &str) -> String {
    const RULES: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    RULES.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}
