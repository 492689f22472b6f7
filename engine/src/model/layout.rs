//! Which tensors make a model: their names in one kind of file, and how a layer is put together from them. A family's
//! file says it for each kind of file that holds the family.

use candle_core::{DType, Tensor};

use super::{
    config::ModelConfig,
    weights::{LayerWeights, Linear, WeightParts},
};
use crate::error::Result;

/// Tensors by name, whatever kind of file holds them.
pub(crate) trait Tensors {
    /// Copies a tensor, which must have this shape.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor>;

    /// Whether there is one of this name.
    fn holds(&self, name: &str) -> bool;
}

/// The tensors of a family in one kind of file.
pub(crate) struct Layout {
    /// `[vocab, hidden]`.
    pub(super) embedding: &'static str,
    /// Final RMS norm, `[hidden]`.
    pub(super) norm: &'static str,
    /// `[vocab, hidden]`.
    pub(super) lm_head: &'static str,
    /// Weights of norms are stored less one.
    pub(super) norms_count_from_one: bool,
    /// Reads one decoder layer: tensor by tensor, or out of fused ones.
    pub(super) layer: fn(&LayerTensors<'_>) -> Result<LayerWeights>,
}

/// The tensors among which a layer's are.
pub(super) struct LayerTensors<'a> {
    tensors: &'a dyn Tensors,
    pub(super) config: &'a ModelConfig,
    index: usize,
}

impl LayerTensors<'_> {
    /// One tensor of the layer.
    pub(super) fn tensor(&self, prefix: &str, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.tensors.tensor(&format!("{prefix}{}.{name}", self.index), shape)
    }
}

/// Names of a layer's tensors, where each projection is a tensor of its own. They follow `{prefix}{index}.`.
pub(super) struct LayerNames {
    pub(super) prefix: &'static str,
    pub(super) input_norm: &'static str,
    pub(super) q: &'static str,
    pub(super) k: &'static str,
    pub(super) v: &'static str,
    pub(super) o: &'static str,
    pub(super) q_norm: &'static str,
    pub(super) k_norm: &'static str,
    pub(super) attention_norm: Option<&'static str>,
    pub(super) post_norm: &'static str,
    pub(super) gate: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    pub(super) mlp_norm: Option<&'static str>,
}

impl LayerNames {
    /// Reads a layer: `.weight` of each name, and `.bias` of query, key and value where the family has it.
    pub(super) fn read(&self, layer: &LayerTensors<'_>) -> Result<LayerWeights> {
        let config = layer.config;
        let (hidden, intermediate, dim) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (query, kv) = (config.query_heads * dim, config.kv_heads * dim);
        let tensor = |name: &str, part: &str, shape: &[usize]| {
            layer.tensor(self.prefix, &format!("{name}.{part}"), shape)
        };
        let norm = |name: &str, width: usize| tensor(name, "weight", &[width]);
        let linear = |name: &str, out: usize, input: usize, bias: bool| -> Result<Linear> {
            Ok(Linear {
                weight: tensor(name, "weight", &[out, input])?,
                bias: bias.then(|| tensor(name, "bias", &[out])).transpose()?,
            })
        };
        Ok(LayerWeights {
            input_norm: norm(self.input_norm, hidden)?,
            q: linear(self.q, query, hidden, config.qkv_bias)?,
            k: linear(self.k, kv, hidden, config.qkv_bias)?,
            v: linear(self.v, kv, hidden, config.qkv_bias)?,
            o: linear(self.o, hidden, query, false)?,
            q_norm: config.qk_norm.then(|| norm(self.q_norm, dim)).transpose()?,
            k_norm: config.qk_norm.then(|| norm(self.k_norm, dim)).transpose()?,
            attention_norm: self.attention_norm.map(|name| norm(name, hidden)).transpose()?,
            post_norm: norm(self.post_norm, hidden)?,
            gate: linear(self.gate, intermediate, hidden, false)?,
            up: linear(self.up, intermediate, hidden, false)?,
            down: linear(self.down, hidden, intermediate, false)?,
            mlp_norm: self.mlp_norm.map(|name| norm(name, hidden)).transpose()?,
        })
    }
}

/// A model's parts out of its files.
pub(super) struct Parts<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) layout: &'static Layout,
    pub(super) tensors: &'a dyn Tensors,
}

impl Parts<'_> {
    /// A norm's weight, whole; in f32 where it is made so, as transformers adds them up.
    fn counted(&self, weight: Tensor) -> Result<Tensor> {
        Ok(if self.layout.norms_count_from_one { (weight.to_dtype(DType::F32)? + 1.0)? } else { weight })
    }

    fn table(&self, name: &str) -> Result<Tensor> {
        self.tensors.tensor(name, &[self.config.vocab_size, self.config.hidden_size])
    }
}

impl WeightParts for Parts<'_> {
    fn embedding(&self) -> Result<Tensor> {
        let Layout { embedding, lm_head, .. } = self.layout;
        // Tied weights are saved under either name.
        let other =
            self.config.tied_embeddings && !self.tensors.holds(embedding) && self.tensors.holds(lm_head);
        self.table(if other { lm_head } else { embedding })
    }

    fn lm_head(&self) -> Result<Option<Tensor>> {
        (!self.config.tied_embeddings).then(|| self.table(self.layout.lm_head)).transpose()
    }

    fn norm(&self) -> Result<Tensor> {
        self.counted(self.tensors.tensor(self.layout.norm, &[self.config.hidden_size])?)
    }

    fn layer(&self, index: usize) -> Result<LayerWeights> {
        let layer = (self.layout.layer)(&LayerTensors { tensors: self.tensors, config: self.config, index })?;
        let optional = |weight: Option<Tensor>| weight.map(|weight| self.counted(weight)).transpose();
        let mut layer = LayerWeights {
            input_norm: self.counted(layer.input_norm)?,
            q_norm: optional(layer.q_norm)?,
            k_norm: optional(layer.k_norm)?,
            attention_norm: optional(layer.attention_norm)?,
            post_norm: self.counted(layer.post_norm)?,
            mlp_norm: optional(layer.mlp_norm)?,
            ..layer
        };
        // Every back end divides by the root of the head's size; a query's norm makes up for another divisor.
        if let Some(scalar) = self.config.query_scalar
            && let Some(norm) = &mut layer.q_norm
        {
            *norm = (norm.to_dtype(DType::F32)? * (self.config.head_dim as f64 / scalar).sqrt())?;
        }
        Ok(layer)
    }
}

/// Whether the files hold an embedding and an output layer, so that neither is the other, whatever the configuration
/// says: transformers 5 keeps both then (`tie_weights`), transformers 4 tied them.
pub(super) fn has_both_tables(layout: &Layout, tensors: &dyn Tensors) -> bool {
    tensors.holds(layout.embedding) && tensors.holds(layout.lm_head)
}
