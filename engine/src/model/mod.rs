//! A loaded model: configuration, weights, tokenizer, chat template, and the hash that names it.
//!
//! A new family is one file beside this one (`llama.rs` is the pattern: what its `config.json` means, and its tensors in
//! each kind of file), its name in `family.rs`, one line in `families.rs`, and one entry in `scripts/make_parity_models.py` with a test in
//! `tests/engine/parity.rs`.

pub(crate) mod card;
pub mod config;
mod families;
mod family;
mod family_spec;
mod gguf;
pub mod known;
pub(crate) mod layout;
mod parse;
pub mod random;
pub(crate) mod raw;
pub mod rope;
pub(crate) mod rope_tables;
mod safetensors;
pub(crate) mod weight_files;
pub mod weights;

mod gemma3;
mod llama;
mod mistral;
mod phi3;
mod qwen2;
mod qwen3;

use std::ops::Deref;

use candle_core::{DType, Device};

use crate::error::Result;

pub use card::{Card, GenerationConfig};

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
    /// An empty prompt, an id outside the vocabulary, or more tokens than positions.
    pub fn check_prompt(&self, prompt: &[u32], new: usize) -> Result<()> {
        self.config.check_prompt(prompt, new)
    }
}
