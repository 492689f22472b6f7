//! `tokenizer_config.json` and the files beside it that say more of a tokenizer, united as transformers 5.2 unites them
//! (`PreTrainedTokenizerBase._from_pretrained` and `TokenizersBackend.__init__`): see the table in `docs/models.md`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::{
    error::{EngineError, Result},
    files::Blob,
};

/// What is known of a tokenizer beside `tokenizer.json`.
#[derive(Debug, Default)]
pub struct TokenizerConfig {
    path: PathBuf,
    fields: Map<String, Value>,
    /// Tokens that have an id of their own, whatever `tokenizer.json` knows of them.
    added: BTreeMap<u32, AddedToken>,
}

/// A token with its flags, as `added_tokens_decoder` and the special tokens write it.
#[derive(Deserialize)]
struct RawToken {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    special: Option<bool>,
}

impl RawToken {
    fn token(self, special: bool) -> AddedToken {
        let special = self.special.unwrap_or(special);
        AddedToken::from(self.content, special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized.unwrap_or(!special))
    }
}

/// A special token: its text, or an object with the text as `content`.
fn special_token(value: &Value) -> Option<AddedToken> {
    match value {
        Value::String(text) => Some(AddedToken::from(text.clone(), true)),
        Value::Object(_) => {
            let mut token = RawToken::deserialize(value).ok()?.token(true);
            token.special = true;
            Some(token)
        }
        _ => None,
    }
}

impl TokenizerConfig {
    /// Reads `tokenizer_config.json`; only where it has no `added_tokens_decoder`, `special_tokens_map.json` overrides
    /// it and `added_tokens.json` adds to it.
    ///
    /// # Errors
    /// A file that cannot be read or is not JSON of this form.
    pub fn read(
        config: Option<&Blob>,
        special_tokens_map: Option<&Blob>,
        added_tokens: Option<&Blob>,
    ) -> Result<Self> {
        let path = config.map_or_else(PathBuf::new, |blob| blob.path().to_path_buf());
        let mut fields: Map<String, Value> = config.map_or_else(|| Ok(Map::new()), Blob::json)?;
        if let Some(extra) = fields.remove("additional_special_tokens") {
            fields.entry("extra_special_tokens").or_insert(extra);
        }
        let mut added = BTreeMap::new();
        if let Some(decoder) = fields.remove("added_tokens_decoder").filter(|decoder| !decoder.is_null()) {
            let told = BTreeMap::<u32, RawToken>::deserialize(&decoder)
                .map_err(|source| EngineError::Json { path: path.clone(), source })?;
            added.extend(told.into_iter().map(|(id, raw)| (id, raw.token(false))));
        } else {
            if let Some(blob) = special_tokens_map {
                for (name, value) in blob.json::<Map<String, Value>>()? {
                    fields.insert(
                        match name.as_str() {
                            "additional_special_tokens" => "extra_special_tokens".to_owned(),
                            _ => name,
                        },
                        value,
                    );
                }
            }
            if let Some(blob) = added_tokens {
                let config = Self { path: PathBuf::new(), fields, added };
                let special: Vec<String> = config.special().map(|token| token.content).collect();
                (fields, added) = (config.fields, config.added);
                for (text, id) in blob.json::<BTreeMap<String, u32>>()? {
                    let is_special = special.contains(&text);
                    added.insert(id, AddedToken::from(text, is_special));
                }
            }
        }
        Ok(Self { path, fields, added })
    }

    /// For messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// One field.
    pub(crate) fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    /// Whether a field is `true`.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.field(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Tokens with an id of their own, by id.
    pub(crate) fn added(&self) -> impl Iterator<Item = (u32, &AddedToken)> {
        self.added.iter().map(|(id, token)| (*id, token))
    }

    /// The special tokens that have a name, such as `bos_token`: as templates read them.
    pub(crate) fn named(&self) -> BTreeMap<String, AddedToken> {
        let extra = self.field("extra_special_tokens").and_then(Value::as_object);
        let own = self.fields.iter().filter(|(name, _)| name.ends_with("_token"));
        own.chain(extra.into_iter().flatten())
            .filter_map(|(name, value)| Some((name.clone(), special_token(value)?)))
            .collect()
    }

    /// Every special token: the named ones, then the others.
    pub(crate) fn special(&self) -> impl Iterator<Item = AddedToken> {
        let extra = self.field("extra_special_tokens").and_then(Value::as_array);
        let extra: Vec<AddedToken> = extra.into_iter().flatten().filter_map(special_token).collect();
        self.named().into_values().chain(extra)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &'static str, map: Option<&'static str>, added: Option<&'static str>) -> TokenizerConfig {
        let blob = |text: &'static str| Blob::Embedded { path: "m/f.json".into(), bytes: text.as_bytes() };
        TokenizerConfig::read(Some(&blob(config)), map.map(blob).as_ref(), added.map(blob).as_ref()).unwrap()
    }

    #[test]
    fn the_special_tokens_map_counts_only_without_added_tokens_decoder() {
        let map = r#"{"bos_token": "<m>", "eos_token": {"content": "</m>", "lstrip": true},
                      "additional_special_tokens": ["<x>"]}"#;
        let united =
            read(r#"{"bos_token": "<c>", "pad_token": "<p>", "add_bos_token": true}"#, Some(map), None);
        let texts: Vec<_> = united.named().into_iter().map(|(name, token)| (name, token.content)).collect();
        let expected = [("bos_token", "<m>"), ("eos_token", "</m>"), ("pad_token", "<p>")];
        assert_eq!(texts, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
        assert!(united.named()["eos_token"].lstrip && united.named()["eos_token"].special);
        assert_eq!(united.special().last().unwrap().content, "<x>");

        let told = r#"{"bos_token": "<c>", "added_tokens_decoder": {"7": {"content": "<c>", "special": true},
                       "3": {"content": "a", "normalized": true}}}"#;
        let told = read(told, Some(map), Some(r#"{"never": 9}"#));
        assert_eq!(told.named()["bos_token"].content, "<c>");
        assert!(!told.named().contains_key("eos_token"));
        let added: Vec<_> =
            told.added().map(|(id, token)| (id, token.content.as_str(), token.special)).collect();
        assert_eq!(added, [(3, "a", false), (7, "<c>", true)]);
    }

    #[test]
    fn added_tokens_json_knows_the_special_ones() {
        let united = read(
            r#"{"additional_special_tokens": ["<x>"], "eot_token": "<y>"}"#,
            None,
            Some(r#"{"<x>": 5, "<y>": 6, "plain": 7}"#),
        );
        let added: Vec<_> =
            united.added().map(|(id, t)| (id, t.content.as_str(), t.special, t.normalized)).collect();
        assert_eq!(added, [(5, "<x>", true, false), (6, "<y>", true, false), (7, "plain", false, true)]);
    }

    #[test]
    fn a_file_of_another_form_is_named() {
        let blob =
            Blob::Embedded { path: "m/tc.json".into(), bytes: br#"{"added_tokens_decoder": {"x": 1}}"# };
        let message = TokenizerConfig::read(Some(&blob), None, None).unwrap_err().to_string();
        assert!(message.starts_with("`m/tc.json` is not the JSON expected"), "{message}");
    }
}
