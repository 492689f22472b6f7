//! Attention as the methods see it, computed from queries and keys on the CPU: the plain version of
//! every [`Observation`], and the fast one. Row blocks only, never `prompt_len x prompt_len`.
//!
//! All windows share one pass: the attention row of a query position is the same whatever window it is
//! read through, so the rows of the largest window serve the smaller ones.
//!
//! Every head is reduced by one thread in row order, so results do not depend on the thread count.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::error::MethodError;
use crate::instructions::InstructionSet;
use crate::observation::{Observation, Observed};
use crate::pooling::{self, Pooling};
use crate::shape::{LayerShape, Reach};

mod expected;
mod kernel;
mod output;
mod stored;

pub use expected::{Rotary, Turns};
pub use stored::unjudged_lag_ranks;

/// Keys per vector step.
const LANES: usize = 16;
/// Keys per parallel piece of a logits block; a multiple of [`LANES`].
const PIECE: usize = 256;
/// Query positions per logits block.
const BLOCK: usize = 32;

/// Rows of several heads in one buffer, whatever the layout: element `d` of token `t` of head `h` is
/// `data[h * head_stride + t * token_stride + d]`.
#[derive(Clone, Copy, Debug)]
pub struct HeadsView<'a> {
    data: &'a [f32],
    heads: usize,
    tokens: usize,
    head_dim: usize,
    head_stride: usize,
    token_stride: usize,
}

impl<'a> HeadsView<'a> {
    /// A view with explicit strides, in elements.
    ///
    /// # Errors
    /// When the last row would end beyond `data`.
    pub fn new(
        data: &'a [f32],
        [heads, tokens, head_dim]: [usize; 3],
        head_stride: usize,
        token_stride: usize,
    ) -> Result<Self, MethodError> {
        let end = (heads.saturating_sub(1))
            .checked_mul(head_stride)
            .and_then(|n| n.checked_add(tokens.saturating_sub(1).checked_mul(token_stride)?))
            .and_then(|n| n.checked_add(head_dim));
        if heads > 0 && tokens > 0 && end.is_none_or(|end| end > data.len()) {
            return Err(MethodError::Mismatch {
                what: "elements of a heads view".into(),
                expected: format!(
                    "{heads} heads x {tokens} tokens x {head_dim} (strides {head_stride}, {token_stride})"
                ),
                found: data.len().to_string(),
            });
        }
        Ok(Self { data, heads, tokens, head_dim, head_stride, token_stride })
    }

    /// `[heads][tokens][head_dim]`, contiguous.
    ///
    /// # Errors
    /// When `data` is too short.
    pub fn head_major(data: &'a [f32], shape: [usize; 3]) -> Result<Self, MethodError> {
        Self::new(data, shape, shape[1] * shape[2], shape[2])
    }

    /// `[tokens][heads][head_dim]`, contiguous, as a projection leaves it; `shape` is still
    /// `[heads, tokens, head_dim]`.
    ///
    /// # Errors
    /// When `data` is too short.
    pub fn token_major(data: &'a [f32], shape: [usize; 3]) -> Result<Self, MethodError> {
        Self::new(data, shape, shape[2], shape[0] * shape[2])
    }

    /// The same without each head's first `tokens`.
    fn without_first(self, tokens: usize) -> Self {
        let dropped = tokens.min(self.tokens);
        let start = (dropped * self.token_stride).min(self.data.len());
        Self { data: &self.data[start..], tokens: self.tokens - dropped, ..self }
    }

    /// Tokens of each head.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// One row; the constructor checked that every row of the shape is inside the buffer.
    #[inline]
    fn row(&self, head: usize, token: usize) -> &'a [f32] {
        let start = head * self.head_stride + token * self.token_stride;
        &self.data[start..start + self.head_dim]
    }
}

/// What observations read of one layer of a prompt.
#[derive(Clone, Copy, Debug)]
pub struct LayerTensors<'a> {
    /// The last rows of the prompt, rotated, as many as the observations need (see [`rows_needed`]; more is fine).
    pub queries: HeadsView<'a>,
    /// All rows of the prompt, rotated.
    pub keys: HeadsView<'a>,
    /// All rows of the prompt, where an observation [reads them](Observation::reads_values).
    pub values: Option<HeadsView<'a>>,
    /// Weights of the output projection, `[hidden][query_heads * head_dim]`, for [`Observation::OutputNorm`].
    pub output: Option<&'a [f32]>,
    /// How queries are rotated, for [`Observation::ExpectedAttention`].
    pub rotary: Option<&'a Rotary>,
}

impl<'a> LayerTensors<'a> {
    /// Queries and keys, and nothing else.
    #[must_use]
    pub fn new(queries: HeadsView<'a>, keys: HeadsView<'a>) -> Self {
        Self { queries, keys, values: None, output: None, rotary: None }
    }

    /// Its keys and values, the first `entries` of each left out.
    fn entries_from(&self, entries: usize) -> Self {
        let values = self.values.map(|values| values.without_first(entries));
        Self { keys: self.keys.without_first(entries), values, ..*self }
    }

    /// The values.
    ///
    /// # Errors
    /// Where there are none of the keys' shape.
    fn values(&self) -> Result<&HeadsView<'a>, MethodError> {
        let Self { keys, values, .. } = self;
        let of_keys = |values: &&HeadsView<'_>| {
            (values.heads, values.tokens, values.head_dim) == (keys.heads, keys.tokens, keys.head_dim)
        };
        values.as_ref().filter(of_keys).ok_or_else(|| MethodError::Mismatch {
            what: "values to observe".into(),
            expected: format!("{} heads x {} tokens", keys.heads, keys.tokens),
            found: "none of that shape".into(),
        })
    }
}

/// Observes one layer whose prompt is at hand as a whole.
///
/// # Errors
/// When the tensors contradict `shape`, hold too few rows, or lack what an observation reads.
pub fn observe_layer(
    wanted: &[Observation],
    shape: &LayerShape,
    tensors: &LayerTensors<'_>,
) -> Result<BTreeMap<Observation, Observed>, MethodError> {
    let LayerTensors { queries, keys, .. } = tensors;
    let prompt_len = keys.tokens;
    let mut observer = LayerObserver::new(wanted, shape, prompt_len)?;
    let needed = rows_needed(wanted, prompt_len);
    if queries.tokens < needed || queries.tokens > prompt_len {
        return Err(MethodError::Mismatch {
            what: "query rows to observe".into(),
            expected: format!("{needed} to {prompt_len}"),
            found: queries.tokens.to_string(),
        });
    }
    observer.feed(queries, prompt_len - queries.tokens, keys)?;
    observer.finish(tensors)
}

/// How many of the last query rows of a prompt the observations read: all for
/// [`Observation::AccumulatedSum`] and [`Observation::ExpectedAttention`], else the largest window.
#[must_use]
pub fn rows_needed(wanted: &[Observation], prompt_len: usize) -> usize {
    wanted
        .iter()
        .map(|observation| match *observation {
            Observation::WindowSum { window }
            | Observation::WindowMax { window, .. }
            | Observation::WindowMoments { window } => window.min(prompt_len),
            Observation::AccumulatedSum { .. } | Observation::ExpectedAttention { .. } => prompt_len,
            Observation::QuestionSum { window } => window.map_or(prompt_len, |window| window.min(prompt_len)),
            Observation::KeyNorm
            | Observation::KeySimilarity
            | Observation::LagRank { .. }
            | Observation::ValueNorm
            | Observation::OutputNorm
            | Observation::Reconstruction { .. } => 0,
        })
        .max()
        .unwrap_or(0)
}

/// Observes one layer piece by piece, for a prefill that runs in chunks of queries.
#[derive(Debug)]
pub struct LayerObserver {
    wanted: Vec<Observation>,
    shape: LayerShape,
    prompt_len: usize,
    /// One list of reductions per query head, in the order of `wanted`.
    heads: Vec<Vec<Reduction>>,
    first_row: usize,
    set: InstructionSet,
}

impl LayerObserver {
    /// Prepares the accumulators of a prompt of `prompt_len` tokens.
    ///
    /// # Errors
    /// When the shape contradicts itself, or a prefill does not show what is wanted.
    pub fn new(wanted: &[Observation], shape: &LayerShape, prompt_len: usize) -> Result<Self, MethodError> {
        shape.check()?;
        if let Some(other) = wanted.iter().find(|one| one.repeats_the_prompt() || one.reads_the_question()) {
            return Err(MethodError::Mismatch {
                what: "observations of a prefill".into(),
                expected: "none of a second pass or of an unknown window".into(),
                found: format!("{other:?}"),
            });
        }
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        let reductions: Vec<Reduction> =
            wanted.iter().map(|&observation| Reduction::new(observation, prompt_len)).collect();
        let voting: Vec<_> = wanted.iter().copied().filter(|one| one.reads_attention()).collect();
        Ok(Self {
            first_row: prompt_len - rows_needed(&voting, prompt_len),
            heads: vec![reductions; shape.query_heads],
            shape: *shape,
            prompt_len,
            wanted,
            set: InstructionSet::in_use(),
        })
    }

    /// Observes on another instruction set of this machine, to measure it.
    #[must_use]
    pub fn on(self, set: InstructionSet) -> Self {
        Self { set, ..self }
    }

    /// Adds the queries of positions `first..first + queries.tokens()`; `keys` holds at least the keys up
    /// to the last of them. Rows that nothing asks for cost nothing.
    ///
    /// # Errors
    /// When the views contradict the shape.
    pub fn feed(
        &mut self,
        queries: &HeadsView<'_>,
        first: usize,
        keys: &HeadsView<'_>,
    ) -> Result<(), MethodError> {
        let end = first + queries.tokens;
        self.expect("query heads", self.shape.query_heads, queries.heads)?;
        self.expect("query head size", self.shape.head_dim, queries.head_dim)?;
        self.check_keys(keys, end.min(self.prompt_len))?;
        if end > self.prompt_len {
            return self.expect("query positions", self.prompt_len, end);
        }
        let group = self.shape.group_size();
        let from = first.max(self.first_row);
        let (windows_start, set, reach) = (self.first_row, self.set, self.shape.reach);
        self.heads.par_chunks_mut(group).enumerate().for_each(|(kv_head, heads)| {
            let mut start = from.max(windows_start);
            let mut logits = Vec::new();
            while start < end {
                let rows = BLOCK.min(end - start);
                let block = QueryBlock { kv_head, group, first: start - first, position: start, rows };
                logits.resize(block.pieces() * group * rows * PIECE, 0.0);
                logits.par_chunks_mut(group * rows * PIECE).enumerate().for_each(|(piece, out)| {
                    kernel::logits(set, &block, queries, keys, piece, out);
                    hide_unseen(reach, &block, piece, out);
                });
                heads
                    .par_iter_mut()
                    .enumerate()
                    .for_each(|(index, reductions)| kernel::reduce(set, &block, index, &logits, reductions));
                start += rows;
            }
        });
        Ok(())
    }

    /// Hands out what was observed.
    ///
    /// # Errors
    /// When the keys are not the whole prompt's, or what an observation reads is missing.
    pub fn finish(self, tensors: &LayerTensors<'_>) -> Result<BTreeMap<Observation, Observed>, MethodError> {
        self.check_keys(&tensors.keys, self.prompt_len)?;
        let unseen = self.shape.seen(self.prompt_len).start;
        let mut answers = BTreeMap::new();
        for (index, &observation) in self.wanted.iter().enumerate() {
            let reductions = self.heads.iter().filter_map(|head| head.get(index));
            let observed = match observation {
                _ if observation.reads_attention() => {
                    collect(observation, &self.shape, self.prompt_len, reductions).without_first(unseen)
                }
                Observation::OutputNorm => output::norms(&self.shape, tensors)?.without_first(unseen),
                Observation::ExpectedAttention { sinks, future } => {
                    expected::attention(&self.shape, tensors, sinks, future)?.without_first(unseen)
                }
                _ => stored::observe(observation, &tensors.entries_from(unseen))?,
            };
            answers.insert(observation, observed);
        }
        Ok(answers)
    }

    fn check_keys(&self, keys: &HeadsView<'_>, least: usize) -> Result<(), MethodError> {
        self.expect("KV heads", self.shape.kv_heads, keys.heads)?;
        self.expect("key head size", self.shape.head_dim, keys.head_dim)?;
        if keys.tokens < least { self.expect("keys of the prompt", least, keys.tokens) } else { Ok(()) }
    }

    fn expect(&self, what: &str, expected: usize, found: usize) -> Result<(), MethodError> {
        if expected == found {
            return Ok(());
        }
        Err(MethodError::Mismatch {
            what: what.into(),
            expected: expected.to_string(),
            found: found.to_string(),
        })
    }
}

/// Takes the weight from the keys of a piece that lie before the window of a row.
fn hide_unseen(reach: Reach, block: &QueryBlock, piece: usize, logits: &mut [f32]) {
    let Reach::Window(window) = reach else { return };
    let first = piece * PIECE;
    for (row, logits) in logits.chunks_exact_mut(PIECE).enumerate() {
        let start = (block.position + row % block.rows + 1).saturating_sub(window);
        logits[..start.saturating_sub(first).min(PIECE)].fill(f32::NEG_INFINITY);
    }
}

/// Puts the heads of one observation of attention together.
fn collect<'a>(
    observation: Observation,
    shape: &LayerShape,
    prompt_len: usize,
    reductions: impl Iterator<Item = &'a Reduction>,
) -> Observed {
    let columns = observation.columns(prompt_len);
    match observation {
        Observation::WindowMoments { window } => {
            let (mut mean, mut variance) = (Vec::new(), Vec::new());
            let (mut dispersion, mut shift) = (0.0, 0.0);
            let rows = window.min(prompt_len) as f64;
            for reduction in reductions {
                if let Reduction::Moments { sum, squares, entropy, .. } = reduction {
                    dispersion += *entropy;
                    for (&s, &q) in sum.iter().zip(squares) {
                        let v = ((q - s * s / rows) / (rows - 1.0).max(1.0)).max(0.0);
                        shift += v;
                        mean.push((s / rows) as f32);
                        variance.push(v as f32);
                    }
                }
            }
            Observed::Moments { rows: shape.query_heads, columns, mean, variance, dispersion, shift }
        }
        _ => {
            let mut values = Vec::with_capacity(shape.query_heads * columns);
            for reduction in reductions {
                if let Reduction::Sum { sum: row, .. }
                | Reduction::Counted { sum: row, .. }
                | Reduction::Max { max: row, .. } = reduction
                {
                    values.extend_from_slice(row);
                }
            }
            Observed::Rows { rows: shape.query_heads, columns, values }
        }
    }
}

/// What one head's attention rows are added into.
#[derive(Clone, Debug)]
enum Reduction {
    /// Nothing is read from attention rows.
    None,
    /// Rows from position `first` on, columns `0..sum.len()`.
    Sum { first: usize, sum: Vec<f32> },
    /// The same, each row times its position.
    Counted { first: usize, sum: Vec<f32> },
    /// The largest of those rows in each column, pooled over `kernel` columns and scaled back to their mass.
    Max { first: usize, kernel: usize, max: Vec<f32> },
    /// The same as a sum with squares; `f64` because a variance is a small difference of large sums.
    Moments { first: usize, sum: Vec<f64>, squares: Vec<f64>, entropy: f64 },
}

impl Reduction {
    fn new(observation: Observation, prompt_len: usize) -> Self {
        match observation {
            Observation::WindowSum { window } => {
                let past = prompt_len.saturating_sub(window);
                Self::Sum { first: past, sum: vec![0.0; past] }
            }
            Observation::WindowMax { window, kernel } => {
                let past = prompt_len.saturating_sub(window);
                Self::Max { first: past, kernel, max: vec![0.0; past] }
            }
            Observation::WindowMoments { window } => {
                let past = prompt_len.saturating_sub(window);
                Self::Moments { first: past, sum: vec![0.0; past], squares: vec![0.0; past], entropy: 0.0 }
            }
            Observation::QuestionSum { window } => {
                let past = prompt_len.saturating_sub(window.unwrap_or(0));
                Self::Counted { first: past, sum: vec![0.0; past] }
            }
            Observation::AccumulatedSum { recent } => {
                Self::Sum { first: 0, sum: vec![0.0; prompt_len.saturating_sub(recent)] }
            }
            _ => Self::None,
        }
    }

    /// Adds the attention row of `position`, given unnormalised with the inverse of its sum.
    #[inline(always)]
    fn add(&mut self, position: usize, weights: &[f32], inverse: f32) {
        match self {
            Self::Sum { first, sum } if position >= *first => {
                for (s, &w) in sum.iter_mut().zip(weights) {
                    *s += w * inverse;
                }
            }
            Self::Counted { first, sum } if position >= *first => {
                let factor = inverse * position as f32;
                for (s, &w) in sum.iter_mut().zip(weights) {
                    *s += w * factor;
                }
            }
            Self::Max { first, kernel, max } if position >= *first => {
                let row = &weights[..max.len()];
                let pooled = pooling::pool(row, Pooling::Avg, *kernel);
                let mass = |row: &[f32]| row.iter().copied().map(f64::from).sum::<f64>();
                let all = mass(&pooled);
                let scale = if all > 0.0 { (f64::from(inverse) * mass(row) / all) as f32 } else { 0.0 };
                max.iter_mut().zip(&pooled).for_each(|(most, &x)| *most = most.max(x * scale));
            }
            Self::Moments { first, sum, squares, entropy } if position >= *first => {
                let mut lanes = [0f32; LANES];
                let mut total = 0f64;
                let columns = sum.len();
                let blocks = sum.chunks_mut(LANES * 64).zip(squares.chunks_mut(LANES * 64));
                for ((sum, squares), weights) in blocks.zip(weights[..columns].chunks(LANES * 64)) {
                    for ((s, q), &w) in sum.iter_mut().zip(squares.iter_mut()).zip(weights) {
                        let a = f64::from(w * inverse);
                        *s += a;
                        *q += a * a;
                    }
                    lanes.fill(0.0);
                    let (whole, rest) = weights.as_chunks::<LANES>();
                    for chunk in whole {
                        for (lane, &w) in lanes.iter_mut().zip(chunk) {
                            let a = w * inverse;
                            *lane += a * kernel::ln(a + 1e-10);
                        }
                    }
                    for (lane, &w) in lanes.iter_mut().zip(rest) {
                        let a = w * inverse;
                        *lane += a * kernel::ln(a + 1e-10);
                    }
                    total += lanes.iter().map(|&x| f64::from(x)).sum::<f64>();
                }
                *entropy -= total;
            }
            _ => {}
        }
    }
}

/// `rows` query positions of the heads of one group, from `position` on.
struct QueryBlock {
    kv_head: usize,
    group: usize,
    /// Index of the first row inside the query view.
    first: usize,
    /// Position of the first row inside the prompt.
    position: usize,
    rows: usize,
}

impl QueryBlock {
    /// Pieces of [`PIECE`] keys that some row of the block may look at.
    fn pieces(&self) -> usize {
        (self.position + self.rows).div_ceil(PIECE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{layer_shape, random};

    /// The formula of section 1.3, literally, in f64.
    fn attention(
        shape: &LayerShape,
        len: usize,
        q: &[f32],
        k: &[f32],
        [head, position]: [usize; 2],
    ) -> Vec<f64> {
        let d = shape.head_dim;
        let kv = head / shape.group_size();
        let query = &q[(head * len + position) * d..][..d];
        let logits: Vec<f64> = (0..=position)
            .map(|j| {
                if matches!(shape.reach, Reach::Window(window) if j + window <= position) {
                    return f64::NEG_INFINITY;
                }
                let key = &k[(kv * len + j) * d..][..d];
                query.iter().zip(key).map(|(a, b)| f64::from(a * b)).sum::<f64>() / (d as f64).sqrt()
            })
            .collect();
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exps: Vec<f64> = logits.iter().map(|x| (x - max).exp()).collect();
        let sum: f64 = exps.iter().sum();
        exps.into_iter().map(|x| x / sum).collect()
    }

    fn close(ours: f64, theirs: f64) -> bool {
        (ours - theirs).abs() <= 2e-6 * theirs.abs() + 1e-12
    }

    #[test]
    fn every_observation_follows_its_formula() {
        let sizes = [(4, 2, 8, 300), (3, 3, 5, 41), (8, 2, 32, 70)];
        let windows = sizes.into_iter().map(|sizes| (sizes, Reach::Window(30)));
        for ((heads, kv_heads, dim, tokens), reach) in
            sizes.into_iter().map(|sizes| (sizes, Reach::All)).chain(windows)
        {
            let shape = LayerShape { reach, ..layer_shape(heads, kv_heads, dim) };
            let unseen = shape.seen(tokens).start;
            let q = random(heads * tokens * dim, 1, 2.0);
            let k = random(kv_heads * tokens * dim, 2, 2.0);
            let (w, recent) = (9, 4);
            let wanted = [
                Observation::WindowSum { window: w },
                Observation::WindowSum { window: 1 },
                Observation::WindowMoments { window: w },
                Observation::AccumulatedSum { recent },
                Observation::QuestionSum { window: Some(w) },
                Observation::KeyNorm,
                Observation::WindowMax { window: w, kernel: 5 },
                Observation::ValueNorm,
                Observation::OutputNorm,
            ];
            let v = random(kv_heads * tokens * dim, 3, 2.0);
            let output = random(6 * heads * dim, 4, 1.0);
            let qs = HeadsView::head_major(&q, [heads, tokens, dim]).unwrap();
            let ks = HeadsView::head_major(&k, [kv_heads, tokens, dim]).unwrap();
            let vs = HeadsView::head_major(&v, [kv_heads, tokens, dim]).unwrap();
            let tensors =
                LayerTensors { values: Some(vs), output: Some(&output), ..LayerTensors::new(qs, ks) };
            let seen = observe_layer(&wanted, &shape, &tensors).unwrap();
            let rows: Vec<Vec<Vec<f64>>> = (0..heads)
                .map(|h| (0..tokens).map(|p| attention(&shape, tokens, &q, &k, [h, p])).collect())
                .collect();
            for window in [w, 1] {
                let Observed::Rows { rows: n, columns, values } = &seen[&Observation::WindowSum { window }]
                else {
                    panic!()
                };
                let past = tokens - window - unseen;
                assert_eq!((*n, *columns, values.len()), (heads, past, heads * past));
                for (i, &value) in values.iter().enumerate() {
                    let voters = rows[i / columns][tokens - window..].iter();
                    let sum: f64 = voters.map(|r| r[unseen + i % columns]).sum();
                    assert!(close(f64::from(value), sum), "window {window}: {value} {sum}");
                }
            }
            let Observed::Rows { columns, values, .. } = &seen[&Observation::QuestionSum { window: Some(w) }]
            else {
                panic!()
            };
            for (i, &value) in values.iter().enumerate() {
                let question = (tokens - w..tokens).map(|p| p as f64 * rows[i / columns][p][i % columns]);
                let sum: f64 = question.sum();
                assert!(close(f64::from(value), sum), "{value} {sum}");
            }
            let Observed::Rows { columns, values, .. } = &seen[&Observation::AccumulatedSum { recent }]
            else {
                panic!()
            };
            for (i, &value) in values.iter().enumerate() {
                let sum: f64 = rows[i / columns].iter().filter_map(|r| r.get(unseen + i % columns)).sum();
                assert!((f64::from(value) - sum).abs() < 1e-5 * sum, "{value} {sum}");
            }
            let Observed::Moments { columns, mean, variance, dispersion, shift, .. } =
                &seen[&Observation::WindowMoments { window: w }]
            else {
                panic!()
            };
            assert_eq!(*columns, tokens - w - unseen);
            let (mut disp, mut total) = (0.0, 0.0);
            for i in 0..heads * (tokens - w) {
                let (head, column) = (i / (tokens - w), i % (tokens - w));
                let a: Vec<f64> = rows[head][tokens - w..].iter().map(|r| r[column]).collect();
                let m = a.iter().sum::<f64>() / w as f64;
                let v = a.iter().map(|x| (x - m).powi(2)).sum::<f64>() / (w - 1) as f64;
                disp -= a.iter().map(|x| x * (x + 1e-10).ln()).sum::<f64>();
                total += v;
                if let Some(column) = column.checked_sub(unseen) {
                    let i = head * columns + column;
                    assert!(close(f64::from(mean[i]), m));
                    assert!((f64::from(variance[i]) - v).abs() <= 1e-5 * v + 1e-14, "{} {v}", variance[i]);
                }
            }
            assert!(close(*dispersion, disp), "{dispersion} {disp}");
            assert!((shift - total).abs() < 1e-5 * total);
            for (observation, entries) in [(Observation::KeyNorm, &k), (Observation::ValueNorm, &v)] {
                let Observed::Rows { values, .. } = &seen[&observation] else { panic!() };
                assert_eq!(values.len(), kv_heads * (tokens - unseen));
                let norm = entries[unseen * dim..][..dim].iter().map(|x| x * x).sum::<f32>().sqrt();
                assert!((values[0] - norm).abs() < 1e-6 * norm);
            }
            let Observed::Rows { rows: n, columns, values } = &seen[&Observation::OutputNorm] else {
                panic!()
            };
            assert_eq!((*n, *columns), (heads, tokens - unseen));
            for (i, &value) in values.iter().enumerate() {
                let (head, token) = (i / columns, unseen + i % columns);
                let entry = &v[(head / shape.group_size() * tokens + token) * dim..][..dim];
                let part = |row: &[f32]| -> f64 {
                    let products = row[head * dim..][..dim].iter().zip(entry);
                    products.map(|(w, x)| f64::from(w * x)).sum()
                };
                let norm: f64 = output.chunks(heads * dim).map(|row| part(row).abs()).sum();
                assert!(close(f64::from(value), norm), "{value} {norm}");
            }
            let Observed::Rows { columns, values, .. } =
                &seen[&Observation::WindowMax { window: w, kernel: 5 }]
            else {
                panic!()
            };
            for (i, &value) in values.iter().enumerate() {
                let (head, column) = (i / columns, unseen + i % columns);
                // What a window has left behind weighs nothing.
                let score = |row: &Vec<f64>| {
                    let past = &row[..unseen + columns];
                    let at = |column: usize| -> f64 {
                        past[column.saturating_sub(2)..(column + 3).min(past.len())].iter().sum()
                    };
                    let pooled: f64 = (0..past.len()).map(at).sum();
                    at(column) / pooled * past.iter().sum::<f64>()
                };
                let most = rows[head][tokens - w..].iter().map(score).fold(0.0, f64::max);
                assert!(close(f64::from(value), most), "{value} {most}");
            }
        }
    }

    #[test]
    fn layout_chunks_and_threads_do_not_change_a_bit() {
        let shape = layer_shape(4, 2, 16);
        let q = random(4 * 700 * 16, 3, 1.5);
        let k = random(2 * 700 * 16, 4, 1.5);
        let wanted = [
            Observation::WindowSum { window: 32 },
            Observation::WindowMax { window: 40, kernel: 7 },
            Observation::AccumulatedSum { recent: 8 },
            Observation::WindowMoments { window: 8 },
        ];
        let qs = HeadsView::head_major(&q, [4, 700, 16]).unwrap();
        let ks = HeadsView::head_major(&k, [2, 700, 16]).unwrap();
        let whole = observe_layer(&wanted, &shape, &LayerTensors::new(qs, ks)).unwrap();

        let swap = |data: &[f32], heads: usize| -> Vec<f32> {
            (0..700)
                .flat_map(|t| (0..heads).flat_map(move |h| (0..16).map(move |d| (h * 700 + t) * 16 + d)))
                .map(|i| data[i])
                .collect()
        };
        let (qt, kt) = (swap(&q, 4), swap(&k, 2));
        let qv = HeadsView::token_major(&qt, [4, 700, 16]).unwrap();
        let kv = HeadsView::token_major(&kt, [2, 700, 16]).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(
            pool.install(|| observe_layer(&wanted, &shape, &LayerTensors::new(qv, kv)).unwrap()),
            whole
        );

        let mut observer = LayerObserver::new(&wanted, &shape, 700).unwrap();
        for start in (0..700).step_by(96) {
            let rows = 96.min(700 - start);
            let part = HeadsView::new(&q[start * 16..], [4, rows, 16], 700 * 16, 16).unwrap();
            observer.feed(&part, start, &ks).unwrap();
        }
        assert_eq!(observer.finish(&LayerTensors::new(qs, ks)).unwrap(), whole);
    }

    #[test]
    fn a_prompt_inside_the_window_has_no_past() {
        let shape = layer_shape(2, 1, 4);
        let (q, k) = (random(2 * 5 * 4, 5, 1.0), random(5 * 4, 6, 1.0));
        let wanted = [
            Observation::WindowSum { window: 8 },
            Observation::WindowMax { window: 6, kernel: 5 },
            Observation::WindowMoments { window: 5 },
            Observation::AccumulatedSum { recent: 8 },
        ];
        let qs = HeadsView::head_major(&q, [2, 5, 4]).unwrap();
        let ks = HeadsView::head_major(&k, [1, 5, 4]).unwrap();
        for observed in observe_layer(&wanted, &shape, &LayerTensors::new(qs, ks)).unwrap().values() {
            match observed {
                Observed::Rows { columns, values, .. } => assert_eq!((*columns, values.len()), (0, 0)),
                Observed::Moments { columns, mean, .. } => assert_eq!((*columns, mean.len()), (0, 0)),
            }
        }
    }

    #[test]
    fn wrong_views_are_refused() {
        let shape = layer_shape(2, 1, 4);
        let data = random(80, 7, 1.0);
        assert!(HeadsView::head_major(&data, [2, 11, 4]).is_err());
        let qs = HeadsView::head_major(&data, [2, 3, 4]).unwrap();
        let ks = HeadsView::head_major(&data, [1, 10, 4]).unwrap();
        let error =
            observe_layer(&[Observation::WindowSum { window: 4 }], &shape, &LayerTensors::new(qs, ks))
                .unwrap_err();
        assert_eq!(error.to_string(), "query rows to observe: expected 4 to 10, found 3");
        for (wanted, what) in [
            (Observation::ValueNorm, "values to observe"),
            (Observation::OutputNorm, "values to observe"),
            (Observation::ExpectedAttention { sinks: 0, future: 1 }, "query rows to observe"),
        ] {
            let error = observe_layer(&[wanted], &shape, &LayerTensors::new(qs, ks)).unwrap_err();
            assert!(error.to_string().starts_with(what), "{error}");
        }
        let ks = HeadsView::head_major(&data, [1, 2, 4]).unwrap();
        assert!(
            observe_layer(&[Observation::WindowSum { window: 2 }], &shape, &LayerTensors::new(qs, ks))
                .is_err()
        );
    }

    #[test]
    fn exp_and_ln_are_accurate() {
        for i in 0..20_000 {
            let x = -(i as f32) * 0.004_31;
            let (ours, exact) = (f64::from(kernel::exp(x)), f64::from(x).exp());
            assert!((ours - exact).abs() <= 3e-7 * exact + 1e-38, "exp({x})");
            let y = 1e-10f32 * 1.001_15f32.powi(i);
            if y < 2.0 {
                let exact = f64::from(y).ln();
                assert!((f64::from(kernel::ln(y)) - exact).abs() <= 3e-7 * exact.abs().max(0.1), "ln({y})");
            }
        }
        assert_eq!(kernel::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(kernel::exp(0.0), 1.0);
    }
}
