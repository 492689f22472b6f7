//! What a model computes: shape and switches of the graph.

use kvsweep_methods::{
    selection::Granularity,
    shape::{CacheShape, LayerShape, Reach},
};

use super::rope::Rope;
use crate::error::{EngineError, Result};

pub use super::family::Family;

/// What stands between gate and down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(x)`.
    Silu,
    /// GELU by tanh, `gelu_pytorch_tanh`.
    GeluTanh,
}

impl Activation {
    /// The activation of that name in transformers.
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "silu" | "swish" => Some(Self::Silu),
            "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            _ => None,
        }
    }
}

/// The layers that look through a window.
#[derive(Clone, Debug, PartialEq)]
pub struct Sliding {
    /// Positions that their queries look at, their own included.
    pub window: usize,
    /// Whether each layer is one of them.
    pub layers: Vec<bool>,
    /// Their rotary embedding, where it is not that of the other layers.
    pub rope: Option<Rope>,
}

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
    /// What stands between gate and down.
    pub activation: Activation,
    /// Embeddings are scaled by the root of their width, and attention and MLP have norms behind them, too.
    pub is_gemma: bool,
    /// What scores are divided by the root of, where it is not the size of a head.
    pub query_scalar: Option<f64>,
    /// Layers that look through a window, which some prompt is longer than.
    pub sliding: Option<Sliding>,
    /// Begin-of-sequence ids; at most one in practice.
    pub bos_ids: Vec<u32>,
    /// End-of-sequence ids.
    pub eos_ids: Vec<u32>,
}

impl ModelConfig {
    /// What a layer's queries look at.
    #[must_use]
    pub fn reach(&self, layer: usize) -> Reach {
        let window = |sliding: &Sliding| {
            sliding.layers.get(layer).is_some_and(|&slides| slides).then_some(sliding.window)
        };
        self.sliding.as_ref().and_then(window).map_or(Reach::All, Reach::Window)
    }

    /// Sizes of a layer's keys and queries.
    #[must_use]
    pub fn layer_shape(&self, layer: usize) -> LayerShape {
        let Self { query_heads, kv_heads, head_dim, .. } = *self;
        LayerShape { query_heads, kv_heads, head_dim, reach: self.reach(layer) }
    }

    /// Sizes of a prompt's cache, for the methods.
    #[must_use]
    pub fn cache_shape(&self, len: usize) -> CacheShape {
        CacheShape { layers: (0..self.layers).map(|layer| self.layer_shape(layer)).collect(), len }
    }

    /// Heads that store entries of their own: one a KV head, or one a query head.
    #[must_use]
    pub fn stored_heads(&self, granularity: Granularity) -> usize {
        granularity.heads(&self.layer_shape(0))
    }

    /// Factor of the embeddings.
    pub(crate) fn embedding_scale(&self) -> Option<f64> {
        self.is_gemma.then(|| (self.hidden_size as f64).sqrt())
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

    /// Checks that `prompt` tokens and `new` ones have positions.
    pub(crate) fn check_room(&self, prompt: usize, new: usize) -> Result<()> {
        if prompt.saturating_add(new) > self.max_positions {
            return Err(EngineError::PromptTooLong { prompt, new, limit: self.max_positions });
        }
        Ok(())
    }
}
