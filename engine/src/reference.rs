//! The model on candle's operations: any device, any dtype. It is what runs on CUDA, and the plain version that the
//! CPU kernels are tested against. Softmax, norms and RoPE are computed in f32.

use std::{ops::Range, sync::Arc};

use candle_core::{D, DType, Device, Tensor};
use kvsweep_methods::{
    observation::{Observation, Observations},
    observe::{HeadsView, observe_layer, rows_needed},
    selection::{Granularity, LayerSelection, Selection},
};

use crate::{
    backend::{Compute, HeadSet, StepRow, StepTap},
    cache::Held,
    cancel::Cancel,
    cpu::forward::relative_error,
    error::{Place, Result},
    finite::check_rows,
    model::{
        config::ModelConfig,
        rope::RopeTables,
        weights::{LayerWeights, Linear, ModelWeights, WeightParts},
    },
    prefill::{Prefill, PrefillOptions, Store},
};

/// Query positions whose scores exist at the same time.
const QUERY_BLOCK: usize = 256;

/// The weights as tensors.
#[derive(Debug)]
pub(crate) struct ReferenceModel {
    config: ModelConfig,
    weights: ModelWeights,
    device: Device,
    dtype: DType,
}

/// Cosines and sines, `[positions, head_dim / 2]`.
struct Rope {
    cos: Tensor,
    sin: Tensor,
}

fn linear(x: &Tensor, linear: &Linear) -> Result<Tensor> {
    let y = x.matmul(&linear.weight.t()?)?;
    Ok(match &linear.bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    })
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// Softmax over the last dimension, in f32.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?)
}

impl ReferenceModel {
    pub(crate) fn new(
        config: &ModelConfig,
        parts: &dyn WeightParts,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let weights = ModelWeights::collect(parts, config.layers, device, dtype)?;
        Ok(Self { config: config.clone(), weights, device: device.clone(), dtype })
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?;
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(mean + self.config.rms_norm_eps)?.sqrt()?)?;
        Ok(x.to_dtype(self.dtype)?.broadcast_mul(weight)?)
    }

    /// Tables of the positions that each sequence ends with.
    fn rope(&self, ends: impl Iterator<Item = Range<usize>>) -> Result<Rope> {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for positions in ends {
            let tables = RopeTables::new(&self.config, positions);
            cos.extend(tables.cos);
            sin.extend(tables.sin);
        }
        let half = self.config.head_dim / 2;
        let shape = (cos.len() / half, half);
        Ok(Rope {
            cos: Tensor::from_vec(cos, shape, &self.device)?,
            sin: Tensor::from_vec(sin, shape, &self.device)?,
        })
    }

    /// Rotates `[heads, positions, head_dim]`.
    fn rotate(&self, x: &Tensor, rope: &Rope) -> Result<Tensor> {
        let half = self.config.head_dim / 2;
        let x = x.to_dtype(DType::F32)?;
        let (low, high) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let a = (low.broadcast_mul(&rope.cos)? - high.broadcast_mul(&rope.sin)?)?;
        let b = (high.broadcast_mul(&rope.cos)? + low.broadcast_mul(&rope.sin)?)?;
        Ok(Tensor::cat(&[a, b], 2)?.to_dtype(self.dtype)?)
    }

    /// Rotated queries, rotated keys, and values, each `[heads, positions, head_dim]`.
    fn project(&self, layer: &LayerWeights, hidden: &Tensor, rope: &Rope) -> Result<[Tensor; 3]> {
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
    fn finish(&self, layer: &LayerWeights, hidden: &Tensor, attended: &Tensor) -> Result<Tensor> {
        let hidden = (hidden + linear(attended, &layer.o)?)?;
        let x = self.norm(&hidden, &layer.post_norm)?;
        let gate = linear(&x, &layer.gate)?.silu()?;
        let mlp = linear(&(gate * linear(&x, &layer.up)?)?, &layer.down)?;
        Ok((hidden + mlp)?)
    }

    fn logits(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        floats(
            &self
                .norm(hidden, &self.weights.norm)?
                .matmul(&self.weights.lm_head.as_ref().unwrap_or(&self.weights.embedding).t()?)?,
        )
    }

    fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        Ok(self.weights.embedding.index_select(&Tensor::new(ids, &self.device)?, 0)?)
    }

    /// `<q, k> / sqrt(head_dim)` in f32, per batch of heads.
    fn scores(&self, queries: &Tensor, keys: &Tensor) -> Result<Tensor> {
        let scores = queries.matmul(&keys.transpose(1, 2)?)?.to_dtype(DType::F32)?;
        Ok((scores / (self.config.head_dim as f64).sqrt())?)
    }

    /// Causal attention of a whole prompt, a block of query positions at a time: `[positions, width]`.
    fn causal(&self, queries: &Tensor, keys: &Tensor, values: &Tensor, cancel: &Cancel) -> Result<Tensor> {
        let (kv_heads, tokens, dim) = keys.dims3()?;
        let group = self.config.query_heads / kv_heads;
        let mut blocks = Vec::new();
        for start in (0..tokens).step_by(QUERY_BLOCK) {
            cancel.check()?;
            let rows = QUERY_BLOCK.min(tokens - start);
            let end = start + rows;
            let q = queries.narrow(1, start, rows)?.contiguous()?.reshape((kv_heads, group * rows, dim))?;
            let scores = self.scores(&q, &keys.narrow(1, 0, end)?)?.reshape((kv_heads * group, rows, end))?;
            let row = Tensor::arange(start as u32, end as u32, &self.device)?.reshape((rows, 1))?;
            let column = Tensor::arange(0, end as u32, &self.device)?.reshape((1, end))?;
            let seen = column.broadcast_le(&row)?.broadcast_as(scores.shape())?;
            let hidden = Tensor::new(f32::NEG_INFINITY, &self.device)?.broadcast_as(scores.shape())?;
            let weights = softmax(&seen.where_cond(&scores, &hidden)?)?.to_dtype(self.dtype)?;
            let weights = weights.reshape((kv_heads, group * rows, end))?;
            let out = weights.matmul(&values.narrow(1, 0, end)?.contiguous()?)?;
            let out = out.reshape((kv_heads * group, rows, dim))?.transpose(0, 1)?.contiguous()?;
            blocks.push(out.reshape((rows, kv_heads * group * dim))?);
        }
        Ok(Tensor::cat(&blocks, 0)?)
    }

    /// One sequence's attention in one layer of a decode step, of `[query, key, value]`: the output `[1, width]` and
    /// the weights `[query_heads, kept + tail]`.
    fn attend(
        &self,
        cache: &mut TensorCache,
        layer: usize,
        [queries, key, value]: [&Tensor; 3],
    ) -> Result<(Tensor, Tensor)> {
        let (tail_keys, tail_values) = cache.push(layer, key, value)?;
        let (heads, dim) = (self.config.query_heads, self.config.head_dim);
        let grouped = queries.reshape((self.config.kv_heads, heads / self.config.kv_heads, dim))?;
        let kept = match &cache.layers[layer] {
            KeptTensors::Shared => {
                let (keys, values) = &cache.prefill.tensors()?[layer];
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

/// Heads of unequal length, padded to the longest.
#[derive(Clone, Debug)]
struct Padded {
    /// `[heads, longest, head_dim]`.
    keys: Tensor,
    values: Tensor,
    /// `[heads, 1, longest]`: 0 where there is an entry, else `-inf`.
    mask: Option<Tensor>,
}

#[derive(Debug)]
enum KeptTensors {
    Shared,
    Own(Padded),
}

/// The cache of one variant as tensors.
#[derive(Debug)]
pub(crate) struct TensorCache {
    prefill: Arc<Prefill>,
    layers: Vec<KeptTensors>,
    /// The answer's keys and values, `[kv_heads, tokens, head_dim]`, once there are any.
    tails: Vec<Option<(Tensor, Tensor)>>,
    held: Held,
}

impl TensorCache {
    /// Appends a token to a layer's tail, and returns the tail.
    fn push(&mut self, layer: usize, key: &Tensor, value: &Tensor) -> Result<(Tensor, Tensor)> {
        let tail = match &self.tails[layer] {
            Some((keys, values)) => (Tensor::cat(&[keys, key], 1)?, Tensor::cat(&[values, value], 1)?),
            None => (key.clone(), value.clone()),
        };
        self.tails[layer] = Some(tail.clone());
        Ok(tail)
    }

    fn position(&self) -> Result<usize> {
        let tail = self.tails[0].as_ref().map_or(Ok(0), |(keys, _)| keys.dim(1))?;
        Ok(self.prefill.shape().prompt_len + tail)
    }
}

/// Bytes that a tensor's elements take.
fn bytes(tensor: &Tensor) -> u64 {
    (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64
}

/// Gathers the kept positions of each head.
fn gather(
    keys: &Tensor,
    values: &Tensor,
    granularity: Granularity,
    heads: &[Vec<u32>],
    group: usize,
) -> Result<Padded> {
    // Never empty: not every device makes tensors without elements.
    let longest = heads.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let device = keys.device();
    let mut mask = Vec::with_capacity(heads.len() * longest);
    let (mut kept_keys, mut kept_values) = (Vec::new(), Vec::new());
    for (head, kept) in heads.iter().enumerate() {
        let owner = if granularity == Granularity::QueryHead { head / group } else { head };
        // Padding repeats position 0, which the mask hides.
        let mut positions = kept.clone();
        positions.resize(longest, 0);
        let positions = Tensor::from_vec(positions, longest, device)?;
        kept_keys.push(keys.get(owner)?.index_select(&positions, 0)?);
        kept_values.push(values.get(owner)?.index_select(&positions, 0)?);
        mask.extend((0..longest).map(|i| if i < kept.len() { 0.0 } else { f32::NEG_INFINITY }));
    }
    Ok(Padded {
        keys: Tensor::stack(&kept_keys, 0)?,
        values: Tensor::stack(&kept_values, 0)?,
        mask: Some(Tensor::from_vec(mask, (heads.len(), 1, longest), device)?),
    })
}

/// Refuses the logits of one position that are not finite. Only then the layer is looked for: a look at every layer
/// would wait for the device each time. `kv` is each layer's keys and values, `[kv_heads, tokens, head_dim]`, with the
/// position of their first token; a layer's own numbers show in the next one's.
fn check_logits<'a>(
    position: usize,
    logits: &[f32],
    kv: impl Iterator<Item = [(usize, &'a Tensor); 2]>,
) -> Result<()> {
    let Err(error) = check_rows(Place::Output, position, logits, logits.len()) else { return Ok(()) };
    for (layer, pair) in kv.enumerate() {
        for (first, tensor) in pair {
            let rows = floats(&tensor.transpose(0, 1)?.contiguous()?)?;
            check_rows(Place::Layer(layer), first, &rows, tensor.dim(0)? * tensor.dim(2)?)?;
        }
    }
    Err(error)
}

/// Keeps 1 for every query but those of masked heads: `[query_heads, 1, 1]`.
fn head_mask(masked: &HeadSet, layer: usize, heads: usize, device: &Device) -> Result<Tensor> {
    let keep = (0..heads).map(|head| if masked.contains(&(layer, head)) { 0f32 } else { 1.0 });
    Ok(Tensor::from_vec(keep.collect::<Vec<_>>(), (heads, 1, 1), device)?)
}

impl Compute for ReferenceModel {
    type Cache = TensorCache;

    fn prefill(
        &self,
        ids: &[u32],
        wanted: &[Observation],
        options: PrefillOptions,
        cancel: &Cancel,
    ) -> Result<Prefill> {
        let config = &self.config;
        let tokens = ids.len();
        let shape = config.prompt_shape(tokens);
        let rope = self.rope(std::iter::once(0..tokens))?;
        let mut hidden = self.embed(ids)?;
        let mut observations = Observations::default();
        let mut store = Vec::new();
        for layer in &self.weights.layers {
            let [queries, keys, values] = self.project(layer, &hidden, &rope)?;
            if !wanted.is_empty() {
                let rows = rows_needed(wanted, tokens);
                let q = floats(&queries.narrow(1, tokens - rows, rows)?)?;
                let k = floats(&keys)?;
                let q = HeadsView::head_major(&q, [config.query_heads, rows, config.head_dim])?;
                let k = HeadsView::head_major(&k, [config.kv_heads, tokens, config.head_dim])?;
                observations.layers.push(observe_layer(wanted, &shape, &q, &k)?);
            }
            let attended = self.causal(&queries, &keys, &values, cancel)?;
            hidden = self.finish(layer, &hidden, &attended)?;
            store.push((keys, values));
        }
        let all_logits = options.keep_all_logits.then(|| self.logits(&hidden)).transpose()?;
        let logits = match &all_logits {
            Some(all) => all[(tokens - 1) * config.vocab_size..].to_vec(),
            None => self.logits(&hidden.narrow(0, tokens - 1, 1)?)?,
        };
        let newest = || store.iter().map(|(keys, values)| [(0, keys), (0, values)]);
        check_logits(tokens - 1, &logits, newest())?;
        if let Some(all) = &all_logits {
            check_rows(Place::Output, 0, all, config.vocab_size)?;
        }
        let store = Store::Tensors(store);
        Ok(Prefill { ids: ids.to_vec(), shape, logits, all_logits, observations, store })
    }

    fn fork(&self, prefill: &Arc<Prefill>, selection: &Selection, _room: usize) -> Result<TensorCache> {
        let shape = *prefill.shape();
        let (mut layers, mut held) = (Vec::new(), Held::default());
        for (kept, (keys, values)) in selection.layers.iter().zip(prefill.tensors()?) {
            match kept {
                LayerSelection::Heads(heads) if !kept.keeps_everything(shape.prompt_len) => {
                    let padded = gather(keys, values, selection.granularity, heads, shape.group_size())?;
                    held.bytes += bytes(&padded.keys) + bytes(&padded.values);
                    held.layers.push(heads.iter().map(Vec::len).collect());
                    layers.push(KeptTensors::Own(padded));
                }
                _ => {
                    held.bytes += bytes(keys) + bytes(values);
                    held.layers.push(vec![shape.prompt_len; shape.kv_heads]);
                    layers.push(KeptTensors::Shared);
                }
            }
        }
        let tails = vec![None; shape.layers];
        Ok(TensorCache { prefill: Arc::clone(prefill), layers, tails, held })
    }

    fn held(&self, cache: &TensorCache) -> Result<Held> {
        Ok(cache.held.clone())
    }

    fn step(
        &self,
        rows: &mut [StepRow<'_, TensorCache>],
        mut tap: Option<&mut StepTap<'_, TensorCache>>,
        cancel: &Cancel,
    ) -> Result<Vec<f32>> {
        let tokens: Vec<u32> = rows.iter().map(|row| row.token).collect();
        let positions = rows.iter().map(|row| row.cache.position()).collect::<Result<Vec<_>>>()?;
        let rope = self.rope(positions.iter().map(|&position| position..position + 1))?;
        let mut hidden = self.embed(&tokens)?;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            cancel.check()?;
            let [queries, keys, values] = self.project(layer, &hidden, &rope)?;
            let mut attended = Vec::with_capacity(rows.len());
            for (i, row) in rows.iter_mut().enumerate() {
                let mut query = queries.narrow(1, i, 1)?.contiguous()?;
                if let Some(masked) = row.masked {
                    let keep = head_mask(masked, index, self.config.query_heads, &self.device)?;
                    query = query.broadcast_mul(&keep.to_dtype(self.dtype)?)?;
                }
                let (key, value) = (keys.narrow(1, i, 1)?, values.narrow(1, i, 1)?);
                let inputs = [&query, &key, &value];
                let (out, weights) = self.attend(row.cache, index, inputs)?;
                if let Some(tap) = tap.as_deref_mut() {
                    if let Some(on_rows) = &mut tap.rows {
                        on_rows(index, &floats(&weights)?);
                    }
                    if let Some((shadow, errors)) = &mut tap.shadow {
                        let (part, _) = self.attend(shadow, index, inputs)?;
                        let (full, part) = (linear(&out, &layer.o)?, linear(&part, &layer.o)?);
                        errors[index] += relative_error(&floats(&full)?, &floats(&part)?);
                    }
                }
                attended.push(out);
            }
            hidden = self.finish(layer, &hidden, &Tensor::cat(&attended, 0)?)?;
        }
        let logits = self.logits(&hidden)?;
        for ((&position, row), logits) in
            positions.iter().zip(rows.iter()).zip(logits.chunks_exact(self.config.vocab_size))
        {
            let prompt = row.cache.prefill.shape().prompt_len;
            let tails = row.cache.tails.iter().flatten();
            check_logits(position, logits, tails.map(|(keys, values)| [(prompt, keys), (prompt, values)]))?;
        }
        Ok(logits)
    }
}
