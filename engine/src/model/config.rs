//! What a model computes: shape and switches of the graph.

use kvsweep_methods::{
    selection::Granularity,
    shape::{CacheShape, LayerShape, Reach},
};

use super::rope::Rope;
use crate::error::{EngineError, Result};

pub use super::family::Family;

/// Shape and switches of the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Which family.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads of a layer.
    pub query_heads: usize,
    /// KV heads of a layer; divides `query_heads`.
    pub kv_heads: usize,
    /// Elements of a head; even.
    pub head_dim: usize,
    /// Epsilon of every RMS norm.
    pub rms_norm_eps: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// Positions the model was made for, prompt and answer together.
    pub max_positions: usize,
    /// Bytes of a stored weight, by the file's own word; plans count with it.
    pub weight_bytes: usize,
    /// The output projection is the embedding.
    pub tied_embeddings: bool,
    /// Bias on query, key and value.
    pub qkv_bias: bool,
    /// RMS norm on each head's query and key, before RoPE.
    pub qk_norm: bool,
    /// Sliding attention window; prompts beyond it are refused.
    pub sliding_window: Option<usize>,
    /// Begin-of-sequence ids; at most one in practice.
    pub bos_ids: Vec<u32>,
    /// End-of-sequence ids.
    pub eos_ids: Vec<u32>,
}

impl ModelConfig {
    /// Sizes of each layer's keys and queries.
    #[must_use]
    pub fn layer_shape(&self) -> LayerShape {
        let reach = self.sliding_window.map_or(Reach::All, Reach::Window);
        LayerShape { query_heads: self.query_heads, kv_heads: self.kv_heads, head_dim: self.head_dim, reach }
    }

    /// Sizes of a prompt's cache, for the methods.
    #[must_use]
    pub(crate) fn cache_shape(&self, len: usize) -> CacheShape {
        CacheShape::uniform(self.layers, self.layer_shape(), len)
    }

    /// Heads that store entries of their own: one a KV head, or one a query head.
    #[must_use]
    pub fn stored_heads(&self, granularity: Granularity) -> usize {
        granularity.heads(&self.layer_shape())
    }

    /// Positions that are computed: those of the model, or its sliding window where that is shorter.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.sliding_window.map_or(self.max_positions, |window| window.min(self.max_positions))
    }

    /// See [`super::Model::check_prompt`].
    pub(super) fn check_prompt(&self, prompt: &[u32], new: usize) -> Result<()> {
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        self.check_ids(prompt)?;
        self.check_room(prompt.len(), new)
    }

    /// Checks that every token is in the vocabulary.
    pub(crate) fn check_ids(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().position(|&id| id as usize >= self.vocab_size) {
            Some(position) => {
                Err(EngineError::TokenOutOfRange { id: ids[position], position, vocab_size: self.vocab_size })
            }
            None => Ok(()),
        }
    }

    /// Checks that `prompt` tokens and `new` ones have positions, and none outside the sliding window.
    pub(crate) fn check_room(&self, prompt: usize, new: usize) -> Result<()> {
        let total = prompt.saturating_add(new);
        if total > self.max_positions {
            return Err(EngineError::PromptTooLong { prompt, new, limit: self.max_positions });
        }
        match self.sliding_window {
            Some(window) if total > window => Err(EngineError::SlidingWindow { prompt, new, window }),
            _ => Ok(()),
        }
    }
}
