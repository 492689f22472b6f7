//! The model on candle's operations: any device, any dtype. It is what runs on CUDA, and the plain version that the
//! CPU kernels are tested against. Softmax, norms, RoPE and observations are computed in f32.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{D, DType, Device, Tensor};
use kvsweep_methods::{
    observation::{Observation, Observations, Observed},
    observe::rows_needed,
    selection::{LayerSelection, Selection},
    shape::CacheShape,
};

use crate::{
    backend::{Backend, Extend, HeadSet, Tap},
    cache::Held,
    cancel::Cancel,
    error::{EngineError, Result, Stage},
    finite::check_rows,
    math::relative_error,
    model::{
        config::ModelConfig,
        rope::RopeTables,
        weights::{LayerWeights, Linear, ModelWeights, WeightParts},
    },
    prefill::{Prefill, PrefillOptions},
};

/// Query positions whose scores exist at the same time.
const QUERY_BLOCK: usize = 256;

/// Candle's operations: the weights as tensors.
#[derive(Debug)]
pub struct Candle {
    config: ModelConfig,
    weights: ModelWeights,
    device: Device,
    dtype: DType,
}

/// Cosines and sines, `[positions, head_dim / 2]`.
struct RopeTensors {
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

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?;
        let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
        let x = x.broadcast_div(&(mean + self.config.rms_norm_eps)?.sqrt()?)?;
        Ok(x.to_dtype(self.dtype)?.broadcast_mul(weight)?)
    }

    fn rope(&self, positions: impl Iterator<Item = usize>) -> Result<RopeTensors> {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions {
            let tables = RopeTables::new(&self.config, position..position + 1);
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
    fn rotate(&self, x: &Tensor, rope: &RopeTensors) -> Result<Tensor> {
        let half = self.config.head_dim / 2;
        let x = x.to_dtype(DType::F32)?;
        let (low, high) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let a = (low.broadcast_mul(&rope.cos)? - high.broadcast_mul(&rope.sin)?)?;
        let b = (high.broadcast_mul(&rope.cos)? + low.broadcast_mul(&rope.sin)?)?;
        Ok(Tensor::cat(&[a, b], 2)?.to_dtype(self.dtype)?)
    }

    /// Rotated queries, rotated keys, and values, each `[heads, positions, head_dim]`.
    fn project(&self, layer: &LayerWeights, hidden: &Tensor, rope: &RopeTensors) -> Result<[Tensor; 3]> {
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

    /// Hides what lies behind each row: `scores` is `[heads, rows, columns]`, and its first row stands at `start`.
    fn causal_scores(&self, scores: &Tensor, start: usize) -> Result<Tensor> {
        let (_, rows, end) = scores.dims3()?;
        let row = Tensor::arange(start as u32, (start + rows) as u32, &self.device)?.reshape((rows, 1))?;
        let column = Tensor::arange(0, end as u32, &self.device)?.reshape((1, end))?;
        let seen = column.broadcast_le(&row)?.broadcast_as(scores.shape())?;
        let hidden = Tensor::new(f32::NEG_INFINITY, &self.device)?.broadcast_as(scores.shape())?;
        Ok(seen.where_cond(scores, &hidden)?)
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
            let weights = softmax(&self.causal_scores(&scores, start)?)?.to_dtype(self.dtype)?;
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

/// A prompt's keys and values as tensors.
#[derive(Debug)]
pub struct CandlePrompt {
    shape: CacheShape,
    /// Of each layer, `[kv_heads, prompt_len, head_dim]`.
    layers: Vec<(Tensor, Tensor)>,
}

/// The cache of one variant as tensors.
#[derive(Debug)]
pub struct CandleCache {
    prompt: Arc<CandlePrompt>,
    layers: Vec<KeptTensors>,
    /// Keys and values of the tokens read since the last cut, `[kv_heads, tokens, head_dim]`, once there are any.
    tails: Vec<Option<(Tensor, Tensor)>>,
    held: Held,
    /// Position of the next token.
    position: usize,
    /// Queries of the tokens read last, of each layer, `[query_heads, tokens, head_dim]`, once there are any.
    queries: Vec<Option<Tensor>>,
    /// Tokens whose queries are remembered.
    votes: usize,
}

impl CandleCache {
    /// Remembers the queries of a token of one layer.
    fn remember(&mut self, layer: usize, queries: &Tensor) -> Result<()> {
        if self.votes == 0 {
            return Ok(());
        }
        let all = match &self.queries[layer] {
            Some(earlier) => Tensor::cat(&[earlier, queries], 1)?,
            None => queries.clone(),
        };
        let tokens = all.dim(1)?;
        let last = tokens.min(self.votes);
        self.queries[layer] = Some(all.narrow(1, tokens - last, last)?.contiguous()?);
        Ok(())
    }

    /// Keys and values of one layer, `[owners, entries, head_dim]`: what is kept, padded to the longest head, and behind
    /// it what was read since.
    fn all(&self, layer: usize, kv_heads: usize) -> Result<(Tensor, Tensor)> {
        let (keys, values) = match &self.layers[layer] {
            KeptTensors::Shared => self.prompt.layers[layer].clone(),
            KeptTensors::Own(padded) => (padded.keys.clone(), padded.values.clone()),
        };
        let Some((tail_keys, tail_values)) = &self.tails[layer] else { return Ok((keys, values)) };
        let owners = keys.dim(0)?;
        let group = owners / kv_heads;
        let readers: Vec<u32> = (0..owners).map(|owner| (owner / group) as u32).collect();
        let readers = Tensor::from_vec(readers, owners, keys.device())?;
        Ok((
            Tensor::cat(&[keys, tail_keys.index_select(&readers, 0)?], 1)?,
            Tensor::cat(&[values, tail_values.index_select(&readers, 0)?], 1)?,
        ))
    }

    /// Tokens read since the last cut.
    fn behind(&self) -> usize {
        self.tails.first().and_then(Option::as_ref).map_or(0, |(keys, _)| keys.dims()[1])
    }

    /// Appends a token to a layer's tail, and returns the tail.
    fn push(&mut self, layer: usize, key: &Tensor, value: &Tensor) -> Result<(Tensor, Tensor)> {
        let tail = match &self.tails[layer] {
            Some((keys, values)) => (Tensor::cat(&[keys, key], 1)?, Tensor::cat(&[values, value], 1)?),
            None => (key.clone(), value.clone()),
        };
        self.tails[layer] = Some(tail.clone());
        Ok(tail)
    }
}

/// Bytes that a tensor's elements take.
fn bytes(tensor: &Tensor) -> u64 {
    (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64
}

/// Gathers the kept entries of each head; several may read one owner's.
fn gather(keys: &Tensor, values: &Tensor, heads: &[Vec<u32>]) -> Result<Padded> {
    let group = heads.len() / keys.dim(0)?;
    // Never empty: not every device makes tensors without elements.
    let longest = heads.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let device = keys.device();
    let mut mask = Vec::with_capacity(heads.len() * longest);
    let (mut kept_keys, mut kept_values) = (Vec::new(), Vec::new());
    for (head, kept) in heads.iter().enumerate() {
        let owner = head / group;
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
    let Err(error) = check_rows(Stage::Output, position, logits, logits.len()) else { return Ok(()) };
    for (layer, pair) in kv.enumerate() {
        for (first, tensor) in pair {
            let rows = floats(&tensor.transpose(0, 1)?.contiguous()?)?;
            check_rows(Stage::Layer(layer), first, &rows, tensor.dim(0)? * tensor.dim(2)?)?;
        }
    }
    Err(error)
}

/// Keeps 1 for every query but those of masked heads: `[query_heads, 1, 1]`.
fn head_mask(masked: &HeadSet, layer: usize, heads: usize, device: &Device) -> Result<Tensor> {
    let keep = (0..heads).map(|head| if masked.contains(&(layer, head)) { 0f32 } else { 1.0 });
    Ok(Tensor::from_vec(keep.collect::<Vec<_>>(), (heads, 1, 1), device)?)
}

/// Length of each row, `[heads, tokens, 1]`.
fn norms(rows: &Tensor) -> Result<Tensor> {
    Ok(rows.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}

/// Cosine of each key with the mean direction of its head's keys, `[heads, tokens]`.
fn key_similarity(keys: &Tensor) -> Result<Tensor> {
    let lengths = norms(keys)?;
    let anchor = keys.broadcast_div(&lengths.maximum(1e-12)?)?.mean_keepdim(1)?;
    let along = keys.broadcast_mul(&anchor)?.sum_keepdim(D::Minus1)?;
    let scale = lengths.maximum(1e-8)?.broadcast_mul(&norms(&anchor)?.maximum(1e-8)?)?;
    Ok((along / scale)?.squeeze(D::Minus1)?)
}

/// See [`Observation::LagRank`]: `[heads, tokens]`.
fn lag_ranks(stored: [&Tensor; 2], sinks: usize, lag: usize) -> Result<Tensor> {
    let (heads, tokens, dim) = stored[0].dims3()?;
    let device = stored[0].device();
    if tokens < sinks + 2 * lag {
        // Too short to be judged: the first ones, and then the most recent.
        let past = (tokens.saturating_sub(sinks)).max(1) as f32;
        let recent = |i: usize| if i < sinks { 1.0 } else { (i - sinks) as f32 / past };
        let row: Vec<f32> = (0..tokens).map(recent).collect();
        return Ok(Tensor::from_vec(row, (1, tokens), device)?.repeat((heads, 1))?);
    }
    let parts = (tokens - sinks) / lag;
    // Every part against the range of the next one.
    let scores = |rows: &Tensor| -> Result<Tensor> {
        let rows = rows.to_dtype(DType::F32)?.narrow(1, sinks, parts * lag)?.contiguous()?;
        let rows = rows.reshape((heads, parts, lag, dim))?;
        let next = rows.narrow(1, 1, parts - 1)?;
        let (low, high) = (next.min_keepdim(2)?, next.max_keepdim(2)?);
        let scaled = rows.narrow(1, 0, parts - 1)?.broadcast_sub(&low)?.broadcast_div(&(high - &low)?)?;
        let apart = scaled.broadcast_sub(&scaled.mean_keepdim(D::Minus1)?)?;
        let spread = (apart.sqr()?.sum(D::Minus1)? / (dim as f64 - 1.0).max(1.0))?.sqrt()?;
        softmax(&spread)
    };
    let judged = (scores(stored[0])? + scores(stored[1])?)?;
    let ranks = judged.arg_sort_last_dim(true)?.arg_sort_last_dim(true)?.to_dtype(DType::F32)?;
    let ranks = (ranks / lag as f64)?.reshape((heads, (parts - 1) * lag))?;
    let ones = |count: usize| Tensor::ones((heads, count), DType::F32, device);
    Ok(Tensor::cat(&[ones(sinks)?, ranks, ones(tokens - sinks - (parts - 1) * lag)?], 1)?)
}

/// What attention rows are added into, `[query_heads, columns]`, where the keys are.
struct AttentionSums {
    observation: Observation,
    columns: usize,
    /// First row that counts.
    first: usize,
    sum: Option<Tensor>,
    /// Of the squares, for moments: in f64, because a variance is a small difference of large sums.
    squares: Option<Tensor>,
    /// `sum A ln(A + 1e-10)`, for moments.
    entropy: f64,
}

impl AttentionSums {
    fn new(observation: Observation, tokens: usize) -> Self {
        let columns = observation.columns(tokens);
        let first = if observation.reads_every_row() { 0 } else { columns };
        Self { observation, columns, first, sum: None, squares: None, entropy: 0.0 }
    }

    /// Adds a block of attention rows, `[query_heads, rows, end]`, whose first row stands at `start`.
    fn add(&mut self, start: usize, weights: &Tensor) -> Result<()> {
        let (_, rows, end) = weights.dims3()?;
        let skip = self.first.saturating_sub(start);
        let columns = self.columns.min(end);
        if skip >= rows || columns == 0 {
            return Ok(());
        }
        let weights = weights.narrow(1, skip, rows - skip)?.narrow(2, 0, columns)?;
        let add = |total: &mut Option<Tensor>, block: Tensor| -> Result<()> {
            let block = block.pad_with_zeros(1, 0, self.columns - columns)?;
            *total = Some(match total.take() {
                Some(total) => (total + block)?,
                None => block,
            });
            Ok(())
        };
        if let Observation::WindowMoments { .. } = self.observation {
            let log = (&weights + 1e-10)?.log()?;
            let entropy = (&weights * log)?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
            let wide = weights.to_dtype(DType::F64)?;
            add(&mut self.sum, wide.sum(1)?)?;
            add(&mut self.squares, wide.sqr()?.sum(1)?)?;
            self.entropy += entropy;
        } else {
            add(&mut self.sum, weights.contiguous()?.sum(1)?)?;
        }
        Ok(())
    }

    /// Takes the reduced rows to the host.
    fn observed(self, heads: usize, tokens: usize) -> Result<Observed> {
        let columns = self.columns;
        let host = |total: Option<Tensor>| total.map_or_else(|| Ok(Vec::new()), |total| floats(&total));
        let Observation::WindowMoments { window } = self.observation else {
            return Ok(Observed::Rows { rows: heads, columns, values: host(self.sum)? });
        };
        let rows = window.min(tokens) as f64;
        let (mut mean, mut variance, mut shift) = (Vec::new(), Vec::new(), 0.0);
        if let (Some(sum), Some(squares)) = (self.sum, self.squares) {
            let apart = (squares - (sum.sqr()? / rows)?)?;
            let spread = (apart / (rows - 1.0).max(1.0))?.maximum(0.0)?;
            shift = spread.sum_all()?.to_scalar::<f64>()?;
            mean = floats(&(sum / rows)?)?;
            variance = floats(&spread)?;
        }
        Ok(Observed::Moments { rows: heads, columns, mean, variance, dispersion: -self.entropy, shift })
    }
}

impl Candle {
    /// Observes one layer where its keys are; only reduced rows come to the host. `queries`, those of the last tokens,
    /// `keys` and `values` are `[heads, tokens, head_dim]`.
    fn observe_layer(
        &self,
        wanted: &[Observation],
        [queries, keys, values]: [&Tensor; 3],
        cancel: &Cancel,
    ) -> Result<BTreeMap<Observation, Observed>> {
        let (heads, votes, dim) = queries.dims3()?;
        let (kv_heads, tokens) = (keys.dim(0)?, keys.dim(1)?);
        let keys = keys.to_dtype(DType::F32)?;
        let (sums, stored): (Vec<_>, Vec<_>) = wanted.iter().partition(|one| one.reads_attention());
        let mut seen = BTreeMap::new();
        for one in stored {
            let rows = match one {
                Observation::KeySimilarity => key_similarity(&keys)?,
                Observation::LagRank { sinks, lag } => lag_ranks([&keys, values], sinks, lag.max(1))?,
                _ => norms(&keys)?.squeeze(D::Minus1)?,
            };
            seen.insert(one, Observed::Rows { rows: kv_heads, columns: tokens, values: floats(&rows)? });
        }
        let needed = rows_needed(&sums, tokens);
        if needed > votes {
            return Err(EngineError::BadSelection {
                reason: format!("{needed} tokens are asked to vote, and {votes} are remembered"),
            });
        }
        let first = tokens - needed;
        let mut sums: Vec<_> = sums.into_iter().map(|one| AttentionSums::new(one, tokens)).collect();
        for start in (first..tokens).step_by(QUERY_BLOCK) {
            cancel.check()?;
            let rows = QUERY_BLOCK.min(tokens - start);
            let end = start + rows;
            let q = queries.narrow(1, start + votes - tokens, rows)?.to_dtype(DType::F32)?.contiguous()?;
            let q = q.reshape((kv_heads, heads / kv_heads * rows, dim))?;
            let scores = self.scores(&q, &keys.narrow(1, 0, end)?)?.reshape((heads, rows, end))?;
            let weights = softmax(&self.causal_scores(&scores, start)?)?;
            for sums in &mut sums {
                sums.add(start, &weights)?;
            }
        }
        for sums in sums {
            seen.insert(sums.observation, sums.observed(heads, tokens)?);
        }
        Ok(seen)
    }
}

impl Backend for Candle {
    type Prompt = CandlePrompt;
    type Cache = CandleCache;

    fn prefill(
        &self,
        ids: &[u32],
        wanted: &[Observation],
        options: PrefillOptions,
        cancel: &Cancel,
    ) -> Result<Prefill<CandlePrompt>> {
        let config = &self.config;
        let tokens = ids.len();
        let shape = config.cache_shape(tokens);
        let rope = self.rope(0..tokens)?;
        let mut hidden = self.embed(ids)?;
        let mut observations = Observations::default();
        let mut store = Vec::new();
        for layer in &self.weights.layers {
            let [queries, keys, values] = self.project(layer, &hidden, &rope)?;
            if !wanted.is_empty() {
                observations.layers.push(self.observe_layer(wanted, [&queries, &keys, &values], cancel)?);
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
            check_rows(Stage::Output, 0, all, config.vocab_size)?;
        }
        let prompt = Arc::new(CandlePrompt { shape: shape.clone(), layers: store });
        Ok(Prefill { ids: ids.to_vec(), shape, logits, all_logits, observations, prompt })
    }

    fn fork(
        &self,
        prompt: &Arc<CandlePrompt>,
        selection: &Selection,
        _room: usize,
        votes: usize,
    ) -> Result<CandleCache> {
        let shape = &prompt.shape;
        let (mut layers, mut held) = (Vec::new(), Held::default());
        for ((kept, (keys, values)), sizes) in selection.layers.iter().zip(&prompt.layers).zip(&*shape.layers)
        {
            match kept {
                LayerSelection::Heads(heads) if !kept.keeps_everything(shape.len) => {
                    let padded = gather(keys, values, heads)?;
                    held.bytes += bytes(&padded.keys) + bytes(&padded.values);
                    held.layers.push(heads.iter().map(Vec::len).collect());
                    layers.push(KeptTensors::Own(padded));
                }
                _ => {
                    held.bytes += bytes(keys) + bytes(values);
                    held.layers.push(vec![shape.len; sizes.kv_heads]);
                    layers.push(KeptTensors::Shared);
                }
            }
        }
        let (tails, queries) = (vec![None; shape.layers.len()], vec![None; shape.layers.len()]);
        Ok(CandleCache {
            prompt: Arc::clone(prompt),
            layers,
            tails,
            held,
            position: shape.len,
            queries,
            votes,
        })
    }

    fn observe(&self, cache: &CandleCache, wanted: &[Observation]) -> Result<(Observations, usize)> {
        let sizes = self.config.layer_shape();
        let entries = cache.held.entries_of_each(cache.behind())?;
        let mut observations = Observations::default();
        if !wanted.is_empty() {
            for (layer, queries) in cache.queries.iter().enumerate() {
                let (keys, values) = cache.all(layer, sizes.kv_heads)?;
                let none = Tensor::zeros((sizes.query_heads, 0, sizes.head_dim), self.dtype, &self.device);
                let queries = queries.clone().map_or(none, Ok)?;
                let seen = self.observe_layer(wanted, [&queries, &keys, &values], &Cancel::default())?;
                observations.layers.push(seen);
            }
        }
        Ok((observations, entries))
    }

    fn evict(&self, cache: &mut CandleCache, selection: &Selection) -> Result<()> {
        let (mut held, mut layers) = (Held::default(), Vec::with_capacity(cache.layers.len()));
        for (index, (chosen, sizes)) in selection.layers.iter().zip(&*cache.prompt.shape.layers).enumerate() {
            let (keys, values) = cache.all(index, sizes.kv_heads)?;
            let (owners, behind) = (keys.dim(0)?, cache.behind());
            let lens = &cache.held.layers[index];
            let longest = keys.dim(1)? - behind;
            // Entries behind a head's own stand behind the longest head's.
            let group = selection.granularity.heads(sizes) / owners;
            let place = |head: usize, entry: u32| {
                let len = lens[head / group];
                if (entry as usize) < len { entry } else { entry + (longest - len) as u32 }
            };
            let heads: Vec<Vec<u32>> = (0..selection.granularity.heads(sizes))
                .map(|head| match chosen {
                    LayerSelection::All => {
                        (0..(lens[head / group] + behind) as u32).map(|entry| place(head, entry)).collect()
                    }
                    LayerSelection::Heads(heads) => {
                        heads[head].iter().map(|&entry| place(head, entry)).collect()
                    }
                })
                .collect();
            let padded = gather(&keys, &values, &heads)?;
            held.bytes += bytes(&padded.keys) + bytes(&padded.values);
            held.layers.push(heads.iter().map(Vec::len).collect());
            layers.push(KeptTensors::Own(padded));
        }
        cache.layers = layers;
        cache.tails.fill(None);
        cache.held = held;
        Ok(())
    }

    fn held(&self, cache: &CandleCache) -> Held {
        cache.held.clone()
    }

    fn extend(
        &self,
        rows: &mut [Extend<'_, CandleCache>],
        mut tap: Option<&mut Tap<'_, CandleCache>>,
        cancel: &Cancel,
    ) -> Result<Vec<f32>> {
        let tokens: Vec<u32> = rows.iter().flat_map(|row| row.tokens).copied().collect();
        let mut positions = Vec::with_capacity(tokens.len());
        let mut last = Vec::with_capacity(rows.len());
        for row in rows.iter() {
            let first = row.cache.position;
            positions.extend(first..first + row.tokens.len());
            last.push(positions.len() as u32 - 1);
        }
        let rope = self.rope(positions.iter().copied())?;
        let mut hidden = self.embed(&tokens)?;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            cancel.check()?;
            let [queries, keys, values] = self.project(layer, &hidden, &rope)?;
            let mut attended = Vec::with_capacity(tokens.len());
            for row in rows.iter_mut() {
                let keep = row
                    .masked
                    .map(|masked| head_mask(masked, index, self.config.query_heads, &self.device))
                    .transpose()?;
                for _ in row.tokens {
                    let at = attended.len();
                    let mut query = queries.narrow(1, at, 1)?.contiguous()?;
                    if let Some(keep) = &keep {
                        query = query.broadcast_mul(&keep.to_dtype(self.dtype)?)?;
                    }
                    row.cache.remember(index, &query)?;
                    let (key, value) = (keys.narrow(1, at, 1)?, values.narrow(1, at, 1)?);
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
            }
            hidden = self.finish(layer, &hidden, &Tensor::cat(&attended, 0)?)?;
        }
        for row in rows.iter_mut() {
            row.cache.position += row.tokens.len();
        }
        let count = last.len();
        let hidden = hidden.index_select(&Tensor::from_vec(last.clone(), count, &self.device)?, 0)?;
        let logits = self.logits(&hidden)?;
        for ((&at, row), logits) in last.iter().zip(&*rows).zip(logits.chunks_exact(self.config.vocab_size)) {
            let tails = row.cache.tails.iter().flatten();
            let first = |tail: &Tensor| row.cache.position - tail.dims()[1];
            let kv = tails.map(|(keys, values)| [(first(keys), keys), (first(values), values)]);
            check_logits(positions[at as usize], logits, kv)?;
        }
        Ok(logits)
    }
}
