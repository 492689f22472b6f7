//! A loaded model: configuration, weights, tokenizer, chat template, and the hash that names it.
//!
//! A new family is one file beside this one (`llama.rs` is the pattern: what its `config.json` means, and its tensors in
//! each kind of file), one line in `config::Family`, and one entry in `scripts/make_parity_models.py` with a test in
//! `tests/engine/parity.rs`.

mod card;
pub mod config;
mod family;
mod gguf;
pub mod known;
pub(crate) mod layout;
pub mod random;
pub(crate) mod raw;
pub mod rope;
mod safetensors;
pub mod weights;

mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use std::ops::Deref;

use candle_core::{DType, Device};

use crate::{
    backend::Backend,
    cancel::Cancel,
    error::Result,
    source::{self, ModelFiles, WeightFiles},
};
use config::ModelConfig;
use weights::{ModelWeights, Weights};

pub use card::{Card, GenerationConfig};

/// A model, ready to compute; it is used as its [`Card`], too.
#[derive(Debug)]
pub struct Model {
    /// The weights, where and as they compute.
    pub(crate) backend: Backend,
    /// Hex sha256 of the weight files' bytes, in the order of their names. Equal hashes mean equal weights.
    pub weights_sha256: String,
    /// Where the tensors are.
    pub device: Device,
    /// What the weights and activations are computed in. RoPE tables, norms and softmax are f32 always.
    pub dtype: DType,
    /// Ends prefills and decodes of this model.
    pub cancel: Cancel,
    card: Card,
}

impl Deref for Model {
    type Target = Card;

    fn deref(&self) -> &Card {
        &self.card
    }
}

impl Model {
    /// Loads a model.
    ///
    /// # Errors
    /// Any file that is missing, corrupt, contradictory or of an unsupported kind, named with its remedy.
    pub fn load(files: &ModelFiles, device: &Device, dtype: DType) -> Result<Self> {
        let mut card = Card::load(&files.card)?;
        if let WeightFiles::Safetensors { index: Some(index), .. } = &files.weights {
            card.files_sha256.insert(source::INDEX.to_owned(), index.sha256.clone());
        }
        let asked_to_tie = card.config.tied_embeddings;
        let (backend, weights_sha256) = Weights::open(&files.weights)?
            .build(&mut card.config, |config, parts| Backend::new(config, parts, device, dtype))?;
        if asked_to_tie && !card.config.tied_embeddings {
            card.notes.push(card::UNTIED.to_owned());
        }
        Ok(Self { backend, weights_sha256, device: device.clone(), dtype, cancel: Cancel::default(), card })
    }

    /// A model of given weights, without tokenizer: for measurements and tests on random weights.
    ///
    /// # Errors
    /// A tensor operation that fails.
    pub fn from_weights(
        name: &str,
        config: ModelConfig,
        weights: ModelWeights,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        Ok(Self {
            backend: Backend::new(&config, &weights, device, dtype)?,
            weights_sha256: String::new(),
            device: device.clone(),
            dtype,
            cancel: Cancel::default(),
            card: Card::from_config(name, config),
        })
    }

    /// Checks that this model can compute `prompt` followed by `new` generated tokens.
    ///
    /// # Errors
    /// An empty prompt, an id outside the vocabulary, more tokens than positions, or more than the sliding window.
    pub fn check_prompt(&self, prompt: &[u32], new: usize) -> Result<()> {
        self.config.check_prompt(prompt, new)
    }
}
