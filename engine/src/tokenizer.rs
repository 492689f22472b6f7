//! Text to token ids and back, with the ids of the model's Python tokenizer.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer as Inner};

use crate::{
    error::{EngineError, Result},
    files::{Blob, sha256_hex},
    tokenizer_config::TokenizerConfig,
};

/// Bytes of a text that are tokenised at most: each takes some 150 bytes of memory and a microsecond.
const MOST_TEXT: usize = 16 << 20;

/// Normalisers that make more bytes of one count as growing a text: usual ones write three for a space.
const USUAL_GROWTH: usize = 4;

/// The tokenizer of one model.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    clean_up_spaces: bool,
    bos_id: Option<u32>,
    eos_id: Option<u32>,
    path: PathBuf,
    sha256: String,
    /// Bytes that the normaliser makes of one at most.
    growth: usize,
}

/// What bounds are read from in `tokenizer.json`.
#[derive(Deserialize)]
struct RawTokenizer {
    normalizer: Option<Value>,
}

/// Bytes that a normaliser makes of one at most, by its replacements.
///
/// # Errors
/// A replacement of the empty text, on which the tokenizer library panics.
fn growth(normalizer: &Value) -> Result<usize, String> {
    let nested = normalizer.get("normalizers").and_then(Value::as_array);
    let mut all = nested.into_iter().flatten().map(growth);
    let nested = all.try_fold(1, |product: usize, one| Ok::<_, String>(product.saturating_mul(one?)))?;
    if normalizer.get("type").and_then(Value::as_str) != Some("Replace") {
        return Ok(nested);
    }
    let content = normalizer.get("content").and_then(Value::as_str).unwrap_or_default();
    let pattern = normalizer.get("pattern").and_then(|pattern| pattern.get("String")?.as_str());
    match pattern.map(str::len) {
        Some(0) => Err("its normaliser replaces the empty text".to_owned()),
        // A regular expression may match a single byte.
        length => Ok(content.len().div_ceil(length.unwrap_or(1)).max(1)),
    }
}

/// Ids of the two special tokens that prompts and answers are made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpecialIds {
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
}

impl Tokenizer {
    /// Loads `tokenizer.json`. Truncation and padding that it may ask for are off, as transformers has it when a text
    /// is encoded without asking for them. Tokens that only `config` knows are added. `config_bos` stands in where no
    /// BOS token is named.
    ///
    /// # Errors
    /// A file that does not parse; one that gives a token another id than `tokenizer_config.json`.
    pub fn load(tokenizer: &Blob, config: &TokenizerConfig, config_bos: Option<u32>) -> Result<Self> {
        let path = tokenizer.path().to_path_buf();
        let fail = |error: tokenizers::Error| EngineError::Tokenizer {
            path: path.clone(),
            reason: error.to_string(),
        };
        let bytes = tokenizer.read()?;
        let growth = match serde_json::from_slice::<RawTokenizer>(&bytes) {
            Ok(RawTokenizer { normalizer: Some(normalizer) }) => {
                growth(&normalizer).map_err(|reason| fail(reason.into()))?
            }
            // What does not parse is told by the library.
            _ => 1,
        };
        let sha256 = sha256_hex(&bytes);
        let mut inner = Inner::from_bytes(bytes).map_err(fail)?;
        inner.with_truncation(None).map_err(fail)?;
        inner.with_padding(None);
        add_tokens(&mut inner, config)?;
        inner.set_encode_special_tokens(config.is_on("split_special_tokens"));
        let named = config.named();
        let id = |name: &str| named.get(name).and_then(|token| inner.token_to_id(&token.content));
        let ids = SpecialIds { bos: id("bos_token").or(config_bos), eos: id("eos_token") };
        // transformers 5, and what transformers 4 warned it would become.
        let clean_up_spaces = config.is_on("clean_up_tokenization_spaces");
        Ok(Self { growth, clean_up_spaces, ..Self::new(inner, ids, path, sha256) })
    }

    /// A tokenizer that was put together from what `path` says.
    pub(crate) fn new(inner: Inner, ids: SpecialIds, path: PathBuf, sha256: String) -> Self {
        Self { inner, clean_up_spaces: false, bos_id: ids.bos, eos_id: ids.eos, path, sha256, growth: 1 }
    }

    /// Token ids of a text. `add_special_tokens` adds what the model's tokenizer adds by itself, mostly BOS.
    ///
    /// # Errors
    /// A text that the tokenizer refuses, or one of more than 16 MiB.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let growth = if self.growth > USUAL_GROWTH { self.growth } else { 1 };
        if text.len().saturating_mul(growth) > MOST_TEXT {
            let grown = if growth > 1 {
                format!(", each of which its normaliser may turn into {growth},")
            } else {
                String::new()
            };
            return Err(self.error(&format!(
                "a text of {} bytes{grown} is too long: at most {} MiB are tokenised at once",
                text.len(),
                MOST_TEXT >> 20
            )));
        }
        // The library panics on some files that it loads.
        let encoding = catch_unwind(AssertUnwindSafe(|| self.inner.encode_fast(text, add_special_tokens)))
            .map_err(|_| self.error(&"the tokenizer library panics on a text; the file is not sound"))?
            .map_err(|error| self.error(&error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of token ids, as it stands: [`Tokenizer::cleans_up_spaces`] says whether transformers would change it.
    ///
    /// # Errors
    /// Ids that the decoder refuses.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        catch_unwind(AssertUnwindSafe(|| self.inner.decode(ids, skip_special_tokens)))
            .map_err(|_| self.error(&"the tokenizer library panics on an answer; the file is not sound"))?
            .map_err(|error| self.error(&error))
    }

    /// `clean_up_tokenization_spaces` of `tokenizer_config.json`: whether transformers' decoding drops the spaces before
    /// punctuation. Whose text is meant to be transformers', drops them; see `ModelFacts::transformers_text` of the tasks.
    #[must_use]
    pub fn cleans_up_spaces(&self) -> bool {
        self.clean_up_spaces
    }

    /// Hex sha256 of `tokenizer.json`, or of a GGUF's metadata.
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

    fn error(&self, error: &impl ToString) -> EngineError {
        EngineError::Tokenizer { path: self.path.clone(), reason: error.to_string() }
    }
}

/// Adds the tokens that `config` knows and `tokenizer.json` may not: those with an id, the special ones that have a
/// name, the other special ones; to each its own id, or the next free one.
fn add_tokens(inner: &mut Inner, config: &TokenizerConfig) -> Result<()> {
    let refuse = |reason: String| EngineError::Tokenizer { path: config.path().to_path_buf(), reason };
    let special: Vec<AddedToken> = config.special().collect();
    let is_special = |text: &str| special.iter().any(|token| token.content == text);
    let with_ids = config.added().map(|(_, token)| {
        let mut token = token.clone();
        token.special |= is_special(&token.content);
        token
    });
    inner.add_tokens(with_ids.collect::<Vec<_>>()).map_err(|error| refuse(error.to_string()))?;
    for (id, AddedToken { content: text, .. }) in config.added() {
        let found = inner.token_to_id(text);
        if found != Some(id) {
            let found = found.map_or("no id".to_owned(), |found| found.to_string());
            return Err(refuse(format!(
                "added token `{text}` has the id {id} here and {found} by tokenizer.json: they are of different models"
            )));
        }
    }
    let known: HashSet<String> =
        inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
    let unknown = special.into_iter().filter(|token| !known.contains(&token.content));
    inner.add_tokens(unknown.collect::<Vec<_>>()).map_err(|error| refuse(error.to_string()))?;
    Ok(())
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
        let config = TokenizerConfig::read(Some(&blob("m/tc.json", config.as_bytes())), None, None)?;
        Tokenizer::load(&blob("m/tokenizer.json", tokenizer), &config, Some(7))
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
        assert_eq!(plain.decode(&ids, true).unwrap(), "we do n't", "a named token is special");
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
    fn tokens_that_only_the_configuration_knows_are_added() {
        let added = r#"{"added_tokens_decoder": {"2": {"content": "we", "special": false, "normalized": false},
                        "6": {"content": "<|user|>", "special": true}}, "eos_token": "<|end|>",
                        "additional_special_tokens": ["<|x|>", "do"]}"#;
        let tokenizer = load(TOKENIZER, added).unwrap();
        let ids = |text: &str| tokenizer.encode(text, false).unwrap();
        assert_eq!(ids("<|user|>we<|end|>do<|x|>"), [6, 2, 7, 3, 8]);
        assert_eq!(tokenizer.eos_id(), Some(7));
        assert_eq!(tokenizer.decode(&[6, 2, 3], true).unwrap(), "we", "`do` is special by the configuration");

        let other = r#"{"added_tokens_decoder": {"300": {"content": "<|user|>"}}}"#;
        let message = load(TOKENIZER, other).unwrap_err().to_string();
        assert!(
            message.starts_with(
                "tokenizer `m/tc.json`: added token `<|user|>` has the id 300 here and 6 by tokenizer.json"
            ),
            "{message}"
        );
        let split = load(TOKENIZER, r#"{"split_special_tokens": true}"#).unwrap();
        assert_eq!((split.encode("<s>we", false).unwrap(), ids("<s>we")), (vec![0], vec![1, 2]));
    }

    #[test]
    fn hostile_normalisers_and_texts_are_refused() {
        let with = |normalizer: Value| {
            let mut file: Value = serde_json::from_slice(TOKENIZER).unwrap();
            file["normalizer"] = normalizer;
            load(serde_json::to_vec(&file).unwrap().leak(), "{}")
        };
        let replace = |pattern: Value, content: &str| serde_json::json!({"type": "Replace", "pattern": pattern, "content": content});
        let text = |pattern: &str, content: &str| replace(serde_json::json!({ "String": pattern }), content);
        let all = |list: Vec<Value>| serde_json::json!({"type": "Sequence", "normalizers": list});

        let empty = with(all(vec![text("", "x")])).unwrap_err().to_string();
        assert_eq!(empty, "tokenizer `m/tokenizer.json`: its normaliser replaces the empty text");
        let panics = with(replace(serde_json::json!({"Regex": "(?=o)"}), "x")).unwrap();
        let panics = panics.encode("we do", false).map_err(|error| error.to_string());
        assert!(panics.is_ok() || panics.unwrap_err().contains("panics on a text"));

        let bomb = with(all(vec![text("e", "eeeeeeeeee"); 9])).unwrap();
        let refused = bomb.encode("we do", false).unwrap_err().to_string();
        assert!(
            refused.contains("5 bytes, each of which its normaliser may turn into 1000000000,"),
            "{refused}"
        );
        let usual = with(all(vec![text(" ", "\u{2581}"), text("``", "\"")])).unwrap();
        assert!(usual.encode(&"a".repeat(100_000), false).is_ok());

        let plain = load(TOKENIZER, "{}").unwrap();
        let long = "we ".repeat(MOST_TEXT / 3 + 1);
        let refused = plain.encode(&long, false).unwrap_err().to_string();
        assert!(refused.contains("a text of 16777218 bytes is too long: at most 16 MiB"), "{refused}");
    }

    #[test]
    fn names_the_file_that_does_not_parse() {
        let message = load(b"{", "{}").unwrap_err().to_string();
        assert!(message.starts_with("tokenizer `m/tokenizer.json`: "), "{message}");
        let message = load(TOKENIZER, "[").unwrap_err().to_string();
        assert!(message.starts_with("`m/tc.json` is not the JSON expected: "), "{message}");
    }
}
