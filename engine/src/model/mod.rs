//! A loaded model: configuration, weights, tokenizer, chat template, and the hash that names it.
//!
//! A new family is one file beside this one (`llama.rs` is the pattern: what its `config.json` means, and the names of
//! its tensors), one line in `config::Family`, and one entry in `scripts/make_parity_models.py` with a test in
//! `tests/engine/parity.rs`.

pub mod config;
pub mod known;
pub mod random;
pub mod rope;
pub mod weights;

mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    path::Path,
};

use candle_core::{DType, Device};
use serde::Deserialize;

use crate::{
    chat::ChatTemplate,
    error::{EngineError, Result},
    source::{Blob, CardFiles, sha256_hex},
    tokenizer::Tokenizer,
};
use config::{ModelConfig, TokenIds};

/// What generation needs to know beyond the graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenerationConfig {
    /// Tokens that end an answer: those of generation_config.json, else those of config.json.
    pub eos_ids: BTreeSet<u32>,
}

/// What is known of a model without its weights.
#[derive(Debug)]
pub struct Card {
    /// What the user called the model: `tiny`, a directory's name, or a hub id.
    pub name: String,
    /// Shape and switches of the graph.
    pub config: ModelConfig,
    /// The chat template, if the model has one.
    pub chat_template: Option<ChatTemplate>,
    /// Stop tokens.
    pub generation: GenerationConfig,
    /// Hex sha256 of every file that was read beside the weights and `tokenizer.json`, by its name in the model's
    /// directory: each decides numbers, by the graph's switches, by stop tokens, or by the prompt's text.
    pub files_sha256: BTreeMap<String, String>,
    tokenizer: Option<Tokenizer>,
}

impl Card {
    /// Reads what a model is. A missing tokenizer is no error here (raw token ids work): see [`Card::tokenizer`].
    ///
    /// # Errors
    /// Any file that is missing, corrupt, contradictory or of an unsupported kind, named with its remedy.
    pub fn load(files: &CardFiles) -> Result<Self> {
        let config = ModelConfig::parse(&files.config.read()?, files.config.path())?;
        let generation = generation_config(files.generation_config.as_ref(), &config)?;
        let tokenizer = match &files.tokenizer {
            Some(blob) => {
                Some(Tokenizer::load(blob, files.tokenizer_config.as_ref(), config.bos_ids.first().copied())?)
            }
            None => None,
        };
        let chat_template =
            ChatTemplate::load(files.tokenizer_config.as_ref(), files.chat_template.as_ref())?;
        let read = [
            Some(&files.config),
            files.generation_config.as_ref(),
            files.tokenizer_config.as_ref(),
            files.chat_template.as_ref(),
        ];
        let mut files_sha256 = BTreeMap::new();
        for blob in read.into_iter().flatten() {
            let name = blob.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            files_sha256.insert(name, sha256_hex(&blob.read()?));
        }
        Ok(Self { name: files.name.clone(), config, chat_template, generation, files_sha256, tokenizer })
    }

    /// A model of which only the configuration is known.
    #[must_use]
    pub fn from_config(name: &str, config: ModelConfig) -> Self {
        let generation = GenerationConfig { eos_ids: config.eos_ids.iter().copied().collect() };
        Self {
            name: name.to_owned(),
            config,
            chat_template: None,
            generation,
            files_sha256: BTreeMap::new(),
            tokenizer: None,
        }
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`EngineError::MissingTokenizer`] if the model came without one.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| EngineError::MissingTokenizer { model: self.name.clone() })
    }
}

/// What is known of a model whose weights were read; it is used as its [`Card`], too. A
/// [`Session`](crate::session::Session) computes with them.
#[derive(Debug)]
pub struct Model {
    /// Hex sha256 of the weight files' bytes, in the order of their names. Equal hashes mean equal weights.
    pub weights_sha256: String,
    /// Where the tensors are.
    pub device: Device,
    /// What the weights and activations are computed in. RoPE tables, norms and softmax are f32 always.
    pub dtype: DType,
    pub(crate) card: Card,
}

impl Deref for Model {
    type Target = Card;

    fn deref(&self) -> &Card {
        &self.card
    }
}

impl Model {
    /// Checks that this model can compute `prompt` followed by `new` generated tokens.
    ///
    /// # Errors
    /// An empty prompt, an id outside the vocabulary, more tokens than positions, or more than the sliding window.
    pub fn check_prompt(&self, prompt: &[u32], new: usize) -> Result<()> {
        self.config.check_prompt(prompt, new)
    }
}

#[derive(Deserialize)]
struct RawGeneration {
    eos_token_id: Option<TokenIds>,
}

fn generation_config(blob: Option<&Blob>, config: &ModelConfig) -> Result<GenerationConfig> {
    let named = match blob {
        Some(blob) => parse_json::<RawGeneration>(&blob.read()?, blob.path())?.eos_token_id,
        None => None,
    };
    let eos_ids = match named {
        Some(ids) => ids.into_vec(),
        None => config.eos_ids.clone(),
    };
    Ok(GenerationConfig { eos_ids: eos_ids.into_iter().collect() })
}

/// Parses JSON; the error names the file, the line and the column.
pub(crate) fn parse_json<T: serde::de::DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| EngineError::Json { path: path.to_path_buf(), source })
}
