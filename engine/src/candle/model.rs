//! The graph on candle's operations, layer by layer.

use std::ops::Range;

use candle_core::{D, DType, Device, Tensor};

use super::cache::{CandleCache, KeptTensors, Padded};
use crate::{
    cancel::Cancel,
    error::Result,
    model::{
        config::ModelConfig,
        rope_tables::RopeTables,
        weights::{LayerWeights, Linear, ModelWeights, WeightParts},
    },
};

/// Query positions whose scores exist at the same time.
pub(super) const QUERY_BLOCK: usize = 256;

/// Candle's operations: the weights as tensors.
#[derive(Debug)]
pub struct Candle {
    pub(super) config: ModelConfig,
    pub(super) weights: ModelWeights,
    pub(super) device: Device,
    pub(super) dtype: DType,
}

/// Cosines and sines, `[positions, head_dim / 2]`.
pub(super) struct RopeTensors {
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
}

pub(super) fn linear(x: &Tensor, linear: &Linear) -> Result<Tensor> {
    let y = x.matmul(&linear.weight.t()?)?;
    Ok(match &linear.bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    })
}

pub(super) fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// Softmax over the last dimension, in f32.
pub(super) fn softmax(scores: &Tensor) -> Result<Tensor> {
    let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?)
}

impl Candle {
    pub(crate) fn new(
        config: &ModelConfig,
        parts: &dyn WeightParts,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let weights = ModelWeights::collect(parts, config.layers, device, dtype)?;
        Ok(Self { config: config.clone(), weights, device: device.clone(), dtype })
    }

    pub(super) fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?;
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(mean + self.config.rms_norm_eps)?.sqrt()?)?;
        Ok(x.to_dtype(self.dtype)?.broadcast_mul(weight)?)
    }

    /// Tables of the positions that each sequence ends with.
    pub(super) fn rope(&self, ends: impl Iterator<Item = Range<usize>>) -> Result<RopeTensors> {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for positions in ends {
            let tables = RopeTables::new(&self.config, positions);
            cos.extend(tables.cos);
            sin.extend(tables.sin);
        }
        let half = self.config.head_dim / 2;
        let shape = (cos.len() / half, half);
        Ok(RopeTensors {
            cos: Tensor::from_vec(cos, shape, &self.device)?,
            sin: Tensor::from_vec(sin, shape, &self.device)?,
        })
    }

    /// Rotates `[heads, positions, head_dim]`.
    pub(super) fn rotate(&self, x: &Tensor, rope: &RopeTensors) -> Result<Tensor> {
        let half = self.config.head_dim / 2;
        let x = x.to_dtype(DType::F32)?;
        let (low, high) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let a = (low.broadcast_mul(&rope.cos)? - high.broadcast_mul(&rope.sin)?)?;
        let b = (high.broadcast_mul(&rope.cos)? + low.broadcast_mul(&rope.sin)?)?;
        Ok(Tensor::cat(&[a, b], 2)?.to_dtype(self.dtype)?)
    }

    /// Rotated queries, rotated keys, and values, each `[heads, positions, head_dim]`.
    pub(super) fn project(
        &self,
        layer: &LayerWeights,
        hidden: &Tensor,
        rope: &RopeTensors,
    ) -> Result<[Tensor; 3]> {
        let x = self.norm(hidden, &layer.input_norm)?;
        let heads = |weights: &Linear, count: usize, norm: Option<&Tensor>| -> Result<Tensor> {
            let y = linear(&x, weights)?.reshape((x.dim(0)?, count, self.config.head_dim))?;
            let y = match norm {
                Some(weight) => self.norm(&y, weight)?,
                None => y,
            };
            Ok(y.transpose(0, 1)?.contiguous()?)
        };
        Ok([
            self.rotate(&heads(&layer.q, self.config.query_heads, layer.q_norm.as_ref())?, rope)?,
            self.rotate(&heads(&layer.k, self.config.kv_heads, layer.k_norm.as_ref())?, rope)?,
            heads(&layer.v, self.config.kv_heads, None)?,
        ])
    }

    /// Output projection and MLP; `attended` is `[positions, query_heads * head_dim]`.
    pub(super) fn finish(&self, layer: &LayerWeights, hidden: &Tensor, attended: &Tensor) -> Result<Tensor> {
        let hidden = (hidden + linear(attended, &layer.o)?)?;
        let x = self.norm(&hidden, &layer.post_norm)?;
        let gate = linear(&x, &layer.gate)?.silu()?;
        let mlp = linear(&(gate * linear(&x, &layer.up)?)?, &layer.down)?;
        Ok((hidden + mlp)?)
    }

    pub(super) fn logits(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        floats(
            &self
                .norm(hidden, &self.weights.norm)?
                .matmul(&self.weights.lm_head.as_ref().unwrap_or(&self.weights.embedding).t()?)?,
        )
    }

    pub(super) fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        Ok(self.weights.embedding.index_select(&Tensor::new(ids, &self.device)?, 0)?)
    }

    /// `<q, k> / sqrt(head_dim)` in f32, per batch of heads.
    pub(super) fn scores(&self, queries: &Tensor, keys: &Tensor) -> Result<Tensor> {
        let scores = queries.matmul(&keys.transpose(1, 2)?)?.to_dtype(DType::F32)?;
        Ok((scores / (self.config.head_dim as f64).sqrt())?)
    }

    /// Hides what lies behind each row: `scores` is `[heads, rows, columns]`, and its first row stands at `start`.
    pub(super) fn causal_scores(&self, scores: &Tensor, start: usize) -> Result<Tensor> {
        let (_, rows, end) = scores.dims3()?;
        let row = Tensor::arange(start as u32, (start + rows) as u32, &self.device)?.reshape((rows, 1))?;
        let column = Tensor::arange(0, end as u32, &self.device)?.reshape((1, end))?;
        let seen = column.broadcast_le(&row)?.broadcast_as(scores.shape())?;
        let hidden = Tensor::new(f32::NEG_INFINITY, &self.device)?.broadcast_as(scores.shape())?;
        Ok(seen.where_cond(scores, &hidden)?)
    }

    /// Causal attention of the last positions, those of `queries`, a block of them at a time: `[positions, width]`.
    pub(super) fn causal(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        cancel: &Cancel,
    ) -> Result<Tensor> {
        let (kv_heads, entries, dim) = keys.dims3()?;
        let group = self.config.query_heads / kv_heads;
        let tokens = queries.dim(1)?;
        let before = entries - tokens;
        let mut blocks = Vec::new();
        for start in (0..tokens).step_by(QUERY_BLOCK) {
            cancel.check()?;
            let rows = QUERY_BLOCK.min(tokens - start);
            let end = before + start + rows;
            let q = queries.narrow(1, start, rows)?.contiguous()?.reshape((kv_heads, group * rows, dim))?;
            let scores = self.scores(&q, &keys.narrow(1, 0, end)?)?.reshape((kv_heads * group, rows, end))?;
            let weights = softmax(&self.causal_scores(&scores, before + start)?)?.to_dtype(self.dtype)?;
            let weights = weights.reshape((kv_heads, group * rows, end))?;
            let out = weights.matmul(&values.narrow(1, 0, end)?.contiguous()?)?;
            let out = out.reshape((kv_heads * group, rows, dim))?.transpose(0, 1)?.contiguous()?;
            blocks.push(out.reshape((rows, kv_heads * group * dim))?);
        }
        Ok(Tensor::cat(&blocks, 0)?)
    }

    /// One sequence's attention in one layer of a decode step, of `[query, key, value]`: the output `[1, width]` and
    /// the weights `[query_heads, kept + tail]`.
    pub(super) fn attend(
        &self,
        cache: &mut CandleCache,
        layer: usize,
        [queries, key, value]: [&Tensor; 3],
    ) -> Result<(Tensor, Tensor)> {
        let (tail_keys, tail_values) = cache.push(layer, key, value)?;
        let (heads, dim) = (self.config.query_heads, self.config.head_dim);
        let grouped = queries.reshape((self.config.kv_heads, heads / self.config.kv_heads, dim))?;
        let kept = match &cache.layers[layer] {
            KeptTensors::Shared => {
                let (keys, values) = &cache.prompt.layers[layer];
                Padded { keys: keys.clone(), values: values.clone(), mask: None }
            }
            KeptTensors::Own(padded) => padded.clone(),
        };
        let own = queries.reshape((kept.keys.dim(0)?, heads / kept.keys.dim(0)?, dim))?;
        let mut scores = self.scores(&own, &kept.keys)?;
        if let Some(mask) = &kept.mask {
            scores = scores.broadcast_add(mask)?;
        }
        let tail = self.scores(&grouped, &tail_keys)?;
        let (kept_len, tail_len) = (kept.keys.dim(1)?, tail_keys.dim(1)?);
        let scores = Tensor::cat(&[scores.reshape((heads, kept_len))?, tail.reshape((heads, tail_len))?], 1)?;
        let weights = softmax(&scores)?;
        let part = |start: usize, len: usize, values: &Tensor| -> Result<Tensor> {
            let owners = values.dim(0)?;
            let weights = weights.narrow(1, start, len)?.to_dtype(self.dtype)?.contiguous()?;
            Ok(weights.reshape((owners, heads / owners, len))?.matmul(values)?.reshape((heads, dim))?)
        };
        let out = (part(0, kept_len, &kept.values)? + part(kept_len, tail_len, &tail_values)?)?;
        Ok((out.reshape((1, heads * dim))?, weights))
    }
}
