//! Observations where the keys are: only reduced rows come to the host.

use std::collections::BTreeMap;

use candle_core::{D, DType, Tensor};
use kvsweep_methods::{
    observation::{Observation, Observed},
    observe::{rows_needed, unjudged_lag_ranks},
    shape::LayerShape,
};

use super::model::{Candle, QUERY_BLOCK, floats, softmax};
use crate::{
    cancel::Cancel,
    error::{EngineError, Result},
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
    pub(super) fn observe_layer(
        &self,
        wanted: &[Observation],
        sizes: &LayerShape,
        [queries, keys, values]: [&Tensor; 3],
        cancel: &Cancel,
    ) -> Result<BTreeMap<Observation, Observed>> {
        let (heads, votes, dim) = queries.dims3()?;
        let (kv_heads, tokens) = (keys.dim(0)?, keys.dim(1)?);
        let seen_of_prompt = sizes.seen(tokens);
        let keys = keys.to_dtype(DType::F32)?;
        let (sums, stored): (Vec<_>, Vec<_>) = wanted.iter().partition(|one| one.reads_attention());
        let mut seen = BTreeMap::new();
        for one in stored {
            let columns = seen_of_prompt.len();
            let keys = keys.narrow(1, seen_of_prompt.start, columns)?;
            let values = values.narrow(1, seen_of_prompt.start, columns)?;
            let rows = match one {
                Observation::KeySimilarity => key_similarity(&keys)?,
                Observation::LagRank { sinks, lag } => lag_ranks([&keys, &values], sinks, lag.max(1))?,
                _ => norms(&keys)?.squeeze(D::Minus1)?,
            };
            seen.insert(one, Observed::Rows { rows: kv_heads, columns, values: floats(&rows)? });
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
