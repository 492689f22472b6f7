//! Observations where the keys are: only reduced rows come to the host.

use std::collections::BTreeMap;

use candle_core::{D, DType, Tensor};
use kvsweep_methods::{
    observation::{Observation, Observed},
    observe::{Rotary, Turns, rows_needed, unjudged_lag_ranks},
    shape::{LayerShape, Reach},
};

use super::model::{Candle, QUERY_BLOCK, floats, softmax};
use crate::{
    cancel::Cancel,
    error::{EngineError, Result},
    reconstruct::Replayed,
};

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
        return Ok(
            Tensor::from_vec(unjudged_lag_ranks(tokens, sinks), (1, tokens), device)?.repeat((heads, 1))?
        );
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

/// See [`Observation::OutputNorm`]: `[query_heads, tokens]`. `weights` is `[hidden, query_heads * head_dim]`.
fn output_norms(values: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let (kv_heads, tokens, dim) = values.dims3()?;
    let heads = weights.dim(1)? / dim;
    let mut norms = Vec::with_capacity(heads);
    for head in 0..heads {
        let values = values.get(head / (heads / kv_heads))?.to_dtype(DType::F32)?;
        let own = weights.narrow(1, head * dim, dim)?.to_dtype(DType::F32)?.t()?.contiguous()?;
        // Blocks, because what they become is as wide as the residual stream.
        let of_block = |start: usize| -> Result<Tensor> {
            let rows = QUERY_BLOCK.min(tokens - start);
            Ok(values.narrow(0, start, rows)?.matmul(&own)?.abs()?.sum(D::Minus1)?)
        };
        let blocks = (0..tokens).step_by(QUERY_BLOCK).map(of_block).collect::<Result<Vec<_>>>()?;
        norms.push(Tensor::cat(&blocks, 0)?);
    }
    Ok(Tensor::stack(&norms, 0)?)
}

/// See [`Observation::ExpectedAttention`]: `[1, tokens]` of the queries and keys of one KV head. `next` is the mean turn of
/// the positions to come.
fn expected_attention(
    queries: &Tensor,
    keys: &Tensor,
    [turns, next]: [&Turns; 2],
    sinks: usize,
) -> Result<Tensor> {
    let (_, tokens, dim) = queries.dims3()?;
    let (half, device) = (dim / 2, queries.device());
    if tokens <= sinks {
        return Ok(Tensor::zeros((1, tokens), DType::F32, device)?);
    }
    let table = |of: &[f32]| Tensor::from_slice(of, (of.len() / half, half), device);
    // The rotation undone, and the factor that some tables hold.
    let turn = |x: &Tensor, cos: &Tensor, sin: &Tensor| -> Result<Tensor> {
        let (low, high) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let a = (low.broadcast_mul(cos)? - high.broadcast_mul(sin)?)?;
        let b = (high.broadcast_mul(cos)? + low.broadcast_mul(sin)?)?;
        Ok(Tensor::cat(&[a, b], 2)?)
    };
    let (cos, sin) = (table(&turns.cos)?, table(&turns.sin)?);
    let factor = (cos.sqr()? + sin.sqr()?)?;
    let (cos, sin) = (cos.div(&factor)?, sin.div(&factor)?.neg()?);
    let before = turn(&queries.to_dtype(DType::F32)?, &cos, &sin)?.narrow(1, sinks, tokens - sinks)?;
    let mean = before.mean_keepdim(1)?;
    let apart = before.broadcast_sub(&mean)?;
    let covariance = (apart.transpose(1, 2)?.contiguous()?.matmul(&apart)? / (tokens - sinks) as f64)?;
    let (cos, sin) = (table(&next.cos)?, table(&next.sin)?);
    let mean = turn(&mean, &cos, &sin)?;
    let covariance = turn(&covariance, &cos, &sin)?.transpose(1, 2)?.contiguous()?;
    let covariance = turn(&covariance, &cos, &sin)?;
    let keys = keys.narrow(1, sinks, tokens - sinks)?;
    let spread = keys.broadcast_matmul(&covariance)?.broadcast_mul(&keys)?.sum(D::Minus1)?;
    let along = keys.broadcast_mul(&mean)?.sum(D::Minus1)?;
    let logits = ((along / (dim as f64).sqrt())? + (spread / (2.0 * dim as f64))?)?;
    let weights = softmax(&logits)?.mean_keepdim(0)?;
    Ok(weights.pad_with_zeros(1, sinks, 0)?)
}

/// Each row's mean over `kernel` columns with zeros beyond the borders, scaled back to the row's sum.
fn pooled_rows(rows: &Tensor, kernel: usize) -> Result<Tensor> {
    let columns = rows.dim(D::Minus1)?;
    let padded = rows.pad_with_zeros(D::Minus1, kernel / 2, kernel / 2)?;
    let mut sum = rows.zeros_like()?;
    for offset in 0..kernel {
        sum = (sum + padded.narrow(D::Minus1, offset, columns)?)?;
    }
    let scale = rows
        .sum_keepdim(D::Minus1)?
        .div(&sum.sum_keepdim(D::Minus1)?.maximum(f64::from(f32::MIN_POSITIVE))?)?;
    Ok(sum.broadcast_mul(&scale)?)
}

/// What of the model an observation of a prompt reads, beside its queries, keys and values.
#[derive(Clone, Copy)]
pub(super) struct Beside<'a> {
    /// Weights of the output projection.
    pub(super) output: &'a Tensor,
    pub(super) rotary: Option<&'a Rotary>,
}

/// What attention rows are reduced to, `[query_heads, columns]`, where the keys are.
struct AttentionSums {
    observation: Observation,
    columns: usize,
    /// First row that counts.
    first: usize,
    /// Of rows, or the largest of them.
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
        let mut weights = weights.narrow(1, skip, rows - skip)?.narrow(2, 0, columns)?;
        if let Observation::QuestionSum { .. } = self.observation {
            let positions = Tensor::arange((start + skip) as u32, (start + rows) as u32, weights.device())?;
            let positions = positions.to_dtype(DType::F32)?.reshape((1, rows - skip, 1))?;
            weights = weights.broadcast_mul(&positions)?;
        }
        let add = |total: &mut Option<Tensor>, block: Tensor| -> Result<()> {
            let block = block.pad_with_zeros(1, 0, self.columns - columns)?;
            *total = Some(match total.take() {
                Some(total) => (total + block)?,
                None => block,
            });
            Ok(())
        };
        if let Observation::WindowMax { kernel, .. } = self.observation {
            let most = pooled_rows(&weights.contiguous()?, kernel)?.max(1)?;
            self.sum = Some(match self.sum.take() {
                Some(before) => before.maximum(&most)?,
                None => most,
            });
        } else if let Observation::WindowMoments { .. } = self.observation {
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
    /// See [`Backend::replay`](crate::backend::Backend::replay), of one layer: queries and keys of the tokens that are
    /// read, and between them the prompt's keys, each `[heads, tokens, head_dim]`.
    pub(super) fn replay_layer(
        &self,
        [queries, prompt, keys]: [&Tensor; 3],
        seen: &Replayed,
        most: &mut [f32],
        cancel: &Cancel,
    ) -> Result<()> {
        let (heads, tokens, dim) = queries.dims3()?;
        let (kv_heads, len) = (prompt.dim(0)?, prompt.dim(1)?);
        let Replayed { sinks, part } = seen;
        let keys = Tensor::cat(
            &[&prompt.narrow(1, 0, *sinks)?, &prompt.narrow(1, part.start, part.len())?, keys],
            1,
        )?;
        let keys = keys.to_dtype(DType::F32)?;
        let before = sinks + part.len();
        for start in (0..tokens).step_by(QUERY_BLOCK) {
            cancel.check()?;
            let rows = QUERY_BLOCK.min(tokens - start);
            let end = before + start + rows;
            let q = queries.narrow(1, start, rows)?.to_dtype(DType::F32)?.contiguous()?;
            let q = q.reshape((kv_heads, heads / kv_heads * rows, dim))?;
            let scores = self.scores(&q, &keys.narrow(1, 0, end)?)?.reshape((heads, rows, end))?;
            let weights = softmax(&self.causal_scores(&scores, before + start, Reach::All)?)?;
            let weights = weights.narrow(2, *sinks, part.len())?.contiguous()?;
            let largest = weights.reshape((kv_heads, heads / kv_heads * rows, part.len()))?.max(1)?;
            let largest = floats(&largest)?;
            for (most, largest) in most.chunks_mut(len).zip(largest.chunks(part.len())) {
                for (most, largest) in most[part.clone()].iter_mut().zip(largest) {
                    *most = most.max(*largest);
                }
            }
        }
        Ok(())
    }

    /// Observes one layer where its keys are; only reduced rows come to the host. `queries`, those of the last tokens,
    /// `keys` and `values` are `[heads, tokens, head_dim]`; `beside` is there for a whole prompt.
    pub(super) fn observe_layer(
        &self,
        wanted: &[Observation],
        sizes: &LayerShape,
        [queries, keys, values]: [&Tensor; 3],
        beside: Option<Beside<'_>>,
        cancel: &Cancel,
    ) -> Result<BTreeMap<Observation, Observed>> {
        let (heads, votes, dim) = queries.dims3()?;
        let (kv_heads, tokens) = (keys.dim(0)?, keys.dim(1)?);
        let seen_of_prompt = sizes.seen(tokens);
        let keys = keys.to_dtype(DType::F32)?;
        let (sums, stored): (Vec<_>, Vec<_>) = wanted.iter().partition(|one| one.reads_attention());
        let mut seen = BTreeMap::new();
        for one in stored {
            let of_prompt = || {
                beside.ok_or_else(|| EngineError::BadSelection {
                    reason: format!("{one:?} is observed of a whole prompt, not of a cache"),
                })
            };
            let columns = seen_of_prompt.len();
            let part = |all: &Tensor| all.narrow(1, seen_of_prompt.start, columns);
            let rows = match one {
                Observation::KeySimilarity => key_similarity(&part(&keys)?)?,
                Observation::LagRank { sinks, lag } => {
                    lag_ranks([&part(&keys)?, &part(values)?], sinks, lag.max(1))?
                }
                Observation::ValueNorm => norms(&part(values)?.to_dtype(DType::F32)?)?.squeeze(D::Minus1)?,
                Observation::OutputNorm => output_norms(&part(values)?, of_prompt()?.output)?,
                Observation::ExpectedAttention { sinks, future } => {
                    let rotary = of_prompt()?.rotary;
                    let turns = rotary.and_then(|rotary| Some([rotary.prompt(), rotary.future(future)?]));
                    let turns = turns.ok_or_else(|| EngineError::BadSelection {
                        reason: format!("{one:?} needs the rotations of its positions"),
                    })?;
                    let group = heads / kv_heads;
                    let of_head = |head: usize| {
                        let queries = queries.narrow(0, head * group, group)?;
                        expected_attention(&queries, &keys.narrow(0, head, 1)?, turns, sinks)
                    };
                    part(&Tensor::cat(&(0..kv_heads).map(of_head).collect::<Result<Vec<_>>>()?, 0)?)?
                }
                _ => norms(&part(&keys)?)?.squeeze(D::Minus1)?,
            };
            seen.insert(one, Observed::Rows { rows: rows.dim(0)?, columns, values: floats(&rows)? });
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
            let weights = softmax(&self.causal_scores(&scores, start, sizes.reach)?)?;
            for sums in &mut sums {
                sums.add(start, &weights)?;
            }
        }
        for sums in sums {
            let (one, all) = (sums.observation, sums.observed(heads, tokens)?);
            seen.insert(one, all.without_first(seen_of_prompt.start));
        }
        Ok(seen)
    }
}
