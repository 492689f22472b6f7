//! The tensors of a model, and how a back end takes them: part by part.

use candle_core::{DType, Device, Tensor};

use super::config::ModelConfig;
use crate::error::Result;

/// A projection `y = x W^T + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Tensor,
    /// `[out]`.
    pub bias: Option<Tensor>,
}

/// The tensors of one decoder layer.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// RMS norm before attention, `[hidden]`.
    pub input_norm: Tensor,
    /// `[query_heads * head_dim, hidden]`.
    pub q: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub k: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub v: Linear,
    /// `[hidden, query_heads * head_dim]`.
    pub o: Linear,
    /// RMS norm of each query head, `[head_dim]` (Qwen3, Gemma 3).
    pub q_norm: Option<Tensor>,
    /// RMS norm of each key head, `[head_dim]` (Qwen3, Gemma 3).
    pub k_norm: Option<Tensor>,
    /// RMS norm of what attention gives, `[hidden]` (Gemma 3).
    pub attention_norm: Option<Tensor>,
    /// RMS norm before the MLP, `[hidden]`.
    pub post_norm: Tensor,
    /// `[intermediate, hidden]`.
    pub gate: Linear,
    /// `[intermediate, hidden]`.
    pub up: Linear,
    /// `[hidden, intermediate]`.
    pub down: Linear,
    /// RMS norm of what the MLP gives, `[hidden]` (Gemma 3).
    pub mlp_norm: Option<Tensor>,
}

/// The tensors of a model.
#[derive(Clone, Debug)]
pub struct ModelWeights {
    /// `[vocab, hidden]`.
    pub embedding: Tensor,
    /// One entry a layer.
    pub layers: Vec<LayerWeights>,
    /// Final RMS norm, `[hidden]`.
    pub norm: Tensor,
    /// `[vocab, hidden]`; `None` where it is the embedding itself.
    pub lm_head: Option<Tensor>,
}

/// Hands out the tensors of a model part by part: a back end brings each into its own form and drops it before it
/// takes the next, so that no model is in memory twice.
pub(crate) trait WeightParts {
    /// `[vocab, hidden]`.
    fn embedding(&self) -> Result<Tensor>;
    /// `[vocab, hidden]`; `None` where it is the embedding itself.
    fn lm_head(&self) -> Result<Option<Tensor>>;
    /// Final RMS norm, `[hidden]`.
    fn norm(&self) -> Result<Tensor>;
    /// One decoder layer.
    fn layer(&self, index: usize) -> Result<LayerWeights>;
}

impl WeightParts for ModelWeights {
    fn embedding(&self) -> Result<Tensor> {
        Ok(self.embedding.clone())
    }

    fn lm_head(&self) -> Result<Option<Tensor>> {
        Ok(self.lm_head.clone())
    }

    fn norm(&self) -> Result<Tensor> {
        Ok(self.norm.clone())
    }

    fn layer(&self, index: usize) -> Result<LayerWeights> {
        Ok(self.layers[index].clone())
    }
}

impl ModelWeights {
    /// Takes every part to a device and a dtype; the norms of a Gemma stay in f32, as its code multiplies them.
    pub(crate) fn collect(
        parts: &dyn WeightParts,
        config: &ModelConfig,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let tensor = |tensor: Tensor| -> Result<Tensor> { Ok(tensor.to_dtype(dtype)?.to_device(device)?) };
        let norm_dtype = if config.is_gemma { DType::F32 } else { dtype };
        let norm = |tensor: Tensor| -> Result<Tensor> { Ok(tensor.to_dtype(norm_dtype)?.to_device(device)?) };
        let linear = |linear: Linear| -> Result<Linear> {
            Ok(Linear { weight: tensor(linear.weight)?, bias: linear.bias.map(tensor).transpose()? })
        };
        let layer = |index| -> Result<LayerWeights> {
            let layer = parts.layer(index)?;
            Ok(LayerWeights {
                input_norm: norm(layer.input_norm)?,
                q: linear(layer.q)?,
                k: linear(layer.k)?,
                v: linear(layer.v)?,
                o: linear(layer.o)?,
                q_norm: layer.q_norm.map(norm).transpose()?,
                k_norm: layer.k_norm.map(norm).transpose()?,
                attention_norm: layer.attention_norm.map(norm).transpose()?,
                post_norm: norm(layer.post_norm)?,
                gate: linear(layer.gate)?,
                up: linear(layer.up)?,
                down: linear(layer.down)?,
                mlp_norm: layer.mlp_norm.map(norm).transpose()?,
            })
        };
        Ok(Self {
            embedding: tensor(parts.embedding()?)?,
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            norm: norm(parts.norm()?)?,
            lm_head: parts.lm_head()?.map(tensor).transpose()?,
        })
    }
}
