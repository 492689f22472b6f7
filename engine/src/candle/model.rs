//! The graph on candle's operations, layer by layer.

use std::ops::Range;

use candle_core::{D, DType, Device, Tensor};

use kvsweep_methods::shape::Reach;

use super::cache::{CandleCache, KeptTensors, Padded};
use crate::{
    cache::first_seen,
    cancel::Cancel,
    error::Result,
    model::{
        config::{Activation, ModelConfig},
        rope_tables::{LayerTables, RopeTables},
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
#[derive(Clone, Debug)]
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
        let weights = ModelWeights::collect(parts, config, device, dtype)?;
        Ok(Self { config: config.clone(), weights, device: device.clone(), dtype })
    }

    pub(super) fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?;
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(mean + self.config.rms_norm_eps)?.sqrt()?)?;
        if self.config.is_gemma {
            return Ok(x.broadcast_mul(weight)?.to_dtype(self.dtype)?);
        }
        Ok(x.to_dtype(self.dtype)?.broadcast_mul(weight)?)
    }

    /// Tables of the positions that each sequence ends with.
    pub(super) fn rope(
        &self,
        ends: impl Iterator<Item = Range<usize>> + Clone,
    ) -> Result<LayerTables<RopeTensors>> {
        LayerTables::of_config(&self.config, |rope| {
            let (mut cos, mut sin) = (Vec::new(), Vec::new());
            for positions in ends.clone() {
                let tables = RopeTables::new(rope, self.config.head_dim, positions);
                cos.extend(tables.cos);
                sin.extend(tables.sin);
            }
            let half = self.config.head_dim / 2;
            let shape = (cos.len() / half, half);
            Ok(RopeTensors {
                cos: Tensor::from_vec(cos, shape, &self.device)?,
                sin: Tensor::from_vec(sin, shape, &self.device)?,
            })
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
        let behind = |out: Tensor, norm: Option<&Tensor>| match norm {
            Some(weight) => self.norm(&out, weight),
            None => Ok(out),
        };
        let hidden = (hidden + behind(linear(attended, &layer.o)?, layer.attention_norm.as_ref())?)?;
        let x = self.norm(&hidden, &layer.post_norm)?;
        let gate = linear(&x, &layer.gate)?;
        let gate = match self.config.activation {
            Activation::Silu => gate.silu()?,
            // Candle's is the one by tanh.
            Activation::GeluTanh => gate.gelu()?,
        };
        let mlp = linear(&(gate * linear(&x, &layer.up)?)?, &layer.down)?;
        Ok((hidden + behind(mlp, layer.mlp_norm.as_ref())?)?)
    }

    pub(super) fn logits(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        floats(
            &self
                .norm(hidden, &self.weights.norm)?
                .matmul(&self.weights.lm_head.as_ref().unwrap_or(&self.weights.embedding).t()?)?,
        )
    }

    pub(super) fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let rows = self.weights.embedding.index_select(&Tensor::new(ids, &self.device)?, 0)?;
        Ok(match self.config.embedding_scale() {
            Some(scale) => (rows * scale)?,
            None => rows,
        })
    }

    /// `<q, k> / sqrt(head_dim)` in f32, per batch of heads.
    pub(super) fn scores(&self, queries: &Tensor, keys: &Tensor) -> Result<Tensor> {
        let scores = queries.matmul(&keys.transpose(1, 2)?)?.to_dtype(DType::F32)?;
        Ok((scores / (self.config.head_dim as f64).sqrt())?)
    }

    /// Hides what lies behind each row, and before its window: `scores` is `[heads, rows, columns]`, and its first row
    /// stands at `start`.
    pub(super) fn causal_scores(&self, scores: &Tensor, start: usize, reach: Reach) -> Result<Tensor> {
        let (_, rows, end) = scores.dims3()?;
        let row = Tensor::arange(start as u32, (start + rows) as u32, &self.device)?.reshape((rows, 1))?;
        let column = Tensor::arange(0, end as u32, &self.device)?.reshape((1, end))?;
        let seen = column.broadcast_le(&row)?;
        let seen = match reach {
            Reach::All => seen,
            Reach::Window(window) => {
                let window = Tensor::new(window as u32, &self.device)?;
                (seen * column.broadcast_add(&window)?.broadcast_gt(&row)?)?
            }
        };
        let seen = seen.broadcast_as(scores.shape())?;
        let hidden = Tensor::new(f32::NEG_INFINITY, &self.device)?.broadcast_as(scores.shape())?;
        Ok(seen.where_cond(scores, &hidden)?)
    }

    /// Causal attention of the last positions, those of `queries`, a block of them at a time: `[positions, width]`.
    pub(super) fn causal(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        reach: Reach,
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
            let weights =
                softmax(&self.causal_scores(&scores, before + start, reach)?)?.to_dtype(self.dtype)?;
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
        position: usize,
        [queries, key, value]: [&Tensor; 3],
    ) -> Result<(Tensor, Tensor)> {
        let (tail_keys, tail_values) = cache.push(layer, key, value)?;
        let (heads, dim) = (self.config.query_heads, self.config.head_dim);
        let grouped = queries.reshape((self.config.kv_heads, heads / self.config.kv_heads, dim))?;
        let kept = match &cache.layers[layer] {
            KeptTensors::Shared => {
                let (keys, values) = &cache.prompt.layers[layer];
                Padded::of(keys, values)
            }
            KeptTensors::Own(padded) => padded.clone(),
        };
        let reach = self.config.reach(layer);
        let own = queries.reshape((kept.keys.dim(0)?, heads / kept.keys.dim(0)?, dim))?;
        let mut scores = self.scores(&own, &kept.keys)?;
        if let Some(mask) = &kept.mask {
            scores = scores.broadcast_add(mask)?;
        }
        let mut tail = self.scores(&grouped, &tail_keys)?;
        let (kept_len, tail_len) = (kept.keys.dim(1)?, tail_keys.dim(1)?);
        if first_seen(reach, position) > 0 {
            scores = scores.broadcast_add(&cache.window_mask(layer, reach, position)?)?;
            let unseen = first_seen(reach, position).saturating_sub(position + 1 - tail_len);
            let mask = (0..tail_len).map(|at| if at < unseen { f32::NEG_INFINITY } else { 0.0 });
            tail = tail.broadcast_add(&Tensor::from_iter(mask, &self.device)?)?;
        }
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
