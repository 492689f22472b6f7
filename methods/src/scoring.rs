//! From window attention to one row of scores per stored head: sum over the window (the observation),
//! group reduction, pooling. What SnapKV, PyramidKV, AdaKV and HeadKV share.

use rayon::prelude::*;

use crate::context::Context;
use crate::error::MethodError;
use crate::group::{self, GroupLayout, GroupOrder, GroupReduce};
use crate::observation::Observation;
use crate::pooling::{self, Pooling};
use crate::selection::{Granularity, LayerSelection};
use crate::shape::LayerShape;
use crate::topk;

/// One row of scores per stored head.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Positions that compete.
    pub columns: usize,
    /// Heads; a single row when all heads of the layer share a selection.
    pub rows: Vec<Vec<f32>>,
}

/// How window attention becomes scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scoring {
    /// Last prompt tokens: they score, and are always kept.
    pub window: usize,
    /// Pooling size, odd.
    pub kernel: usize,
    /// Pooling.
    pub pooling: Pooling,
    /// Which query heads score a KV head.
    pub layout: GroupLayout,
    /// How a group becomes one row.
    pub reduce: GroupReduce,
    /// Group reduction before or after pooling.
    pub order: GroupOrder,
}

impl Scoring {
    /// What the prefill must observe.
    #[must_use]
    pub fn observations(&self) -> Vec<Observation> {
        vec![Observation::WindowSum { window: self.window }]
    }

    /// Names the first parameter that no pooling or window can have.
    ///
    /// # Errors
    /// `(parameter, problem)`.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        check_window(self.window)?;
        check_kernel(self.kernel)
    }

    /// Scores layer `layer` at the granularity of the context.
    ///
    /// # Errors
    /// When the prefill did not observe the window.
    pub fn scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Scores, MethodError> {
        let (columns, values) =
            ctx.rows(layer, Observation::WindowSum { window: self.window }, ctx.layer(layer).query_heads)?;
        if columns == 0 {
            return Ok(Scores { columns, rows: vec![Vec::new(); ctx.heads(layer)] });
        }
        let row = |head: usize| &values[head * columns..(head + 1) * columns];
        let pool = |row: &[f32]| pooling::pool(row, self.pooling, self.kernel);
        let LayerShape { query_heads: heads, kv_heads, .. } = *ctx.layer(layer);
        let rows = match ctx.granularity {
            Granularity::QueryHead => (0..heads).into_par_iter().map(|head| pool(row(head))).collect(),
            Granularity::KvHead => (0..kv_heads)
                .into_par_iter()
                .map(|kv_head| {
                    let members = group::members(self.layout, heads, kv_heads, kv_head);
                    match self.order {
                        GroupOrder::BeforePooling => pool(&group::reduce(members.map(row), self.reduce)),
                        GroupOrder::AfterPooling => {
                            let pooled: Vec<Vec<f32>> = members.map(|head| pool(row(head))).collect();
                            group::reduce(pooled.iter().map(Vec::as_slice), self.reduce)
                        }
                    }
                })
                .collect(),
        };
        Ok(Scores { columns, rows })
    }

    /// [`Scoring::scores`] as means over the window's rows, which the observation sums.
    ///
    /// # Errors
    /// When the prefill did not observe the window.
    pub(crate) fn means(&self, ctx: &Context<'_>, layer: usize) -> Result<Scores, MethodError> {
        let mut scores = self.scores(ctx, layer)?;
        let votes = self.window as f32;
        scores.rows.iter_mut().flatten().for_each(|score| *score /= votes);
        Ok(scores)
    }
}

/// Scores what was observed of each key, the higher the lower it is, the last `window` keys left out.
///
/// # Errors
/// When the prefill did not observe it.
pub(crate) fn lowest_keys(
    ctx: &Context<'_>,
    layer: usize,
    observation: Observation,
    window: usize,
) -> Result<Scores, MethodError> {
    let (tokens, values) = ctx.rows(layer, observation, ctx.layer(layer).kv_heads)?;
    let columns = tokens.saturating_sub(window);
    let rows = values.chunks(tokens).map(|row| row[..columns].iter().map(|value| -value).collect()).collect();
    Ok(Scores { columns, rows })
}

/// How large each value is behind the output projection, at the granularity of the context: of a KV head the mean over its
/// query heads.
///
/// # Errors
/// When the prefill did not observe it.
pub(crate) fn output_norms(ctx: &Context<'_>, layer: usize) -> Result<Vec<Vec<f32>>, MethodError> {
    let LayerShape { query_heads, .. } = *ctx.layer(layer);
    let (columns, values) = ctx.rows(layer, Observation::OutputNorm, query_heads)?;
    let group = query_heads / ctx.heads(layer);
    let of_group = |rows: &[f32]| group::reduce(rows.chunks(columns), GroupReduce::Mean);
    Ok(values.chunks(group * columns).map(of_group).collect())
}

/// Refuses an empty window.
///
/// # Errors
/// `(parameter, problem)`.
pub(crate) fn check_window(window: usize) -> Result<(), (&'static str, String)> {
    if window == 0 {
        Err(("window", "the observation window needs at least one token".into()))
    } else {
        Ok(())
    }
}

/// Refuses a pooling size that does not centre on a position.
///
/// # Errors
/// `(parameter, problem)`.
pub(crate) fn check_kernel(kernel: usize) -> Result<(), (&'static str, String)> {
    if kernel % 2 == 1 { Ok(()) } else { Err(("kernel", "the pooling size must be odd".into())) }
}

/// Refuses what is no share.
///
/// # Errors
/// `(parameter, problem)`.
pub(crate) fn check_share(name: &'static str, share: f64) -> Result<(), (&'static str, String)> {
    if (0.0..=1.0).contains(&share) { Ok(()) } else { Err((name, "it is a share between 0 and 1".into())) }
}

/// Refuses what cannot be added to a score.
///
/// # Errors
/// `(parameter, problem)`.
pub(crate) fn check_epsilon(epsilon: f64) -> Result<(), (&'static str, String)> {
    if (0.0..=1.0).contains(&epsilon) { Ok(()) } else { Err(("epsilon", "it is between 0 and 1".into())) }
}

/// Tokens before the window that a share of `kept` entries holds; at least one of all, unless the share is nothing.
#[must_use]
pub(crate) fn entries_of(kept: usize, share: f64, window: usize) -> usize {
    let all = if share > 0.0 { ((kept as f64 * share) as usize).max(1) } else { 0 };
    all.saturating_sub(window)
}

/// The best score of a layer; 0 where there is none.
#[must_use]
pub(crate) fn best(rows: &[Vec<f32>]) -> f32 {
    rows.iter().flatten().copied().fold(0.0, f32::max)
}

/// Keeps, in each head of a layer, the `n[head]` best of the past and the whole window. One row of scores serves all
/// heads when there is only one.
#[must_use]
pub(crate) fn cut(ctx: &Context<'_>, layer: usize, scores: &Scores, n: &[usize]) -> LayerSelection {
    let prompt_len = ctx.shape.len;
    if n.iter().all(|&n| n >= scores.columns) {
        return LayerSelection::All;
    }
    let window = scores.columns as u32..prompt_len as u32;
    let mut kept: Vec<Vec<u32>> = scores
        .rows
        .par_iter()
        .zip(n)
        .map(|(row, &n)| {
            let mut kept = topk::top(row, n);
            kept.extend(window.clone());
            kept
        })
        .collect();
    let heads = ctx.heads(layer);
    if let (1, Some(shared)) = (scores.rows.len(), kept.first().cloned()) {
        kept.resize(heads, shared);
    }
    LayerSelection::Heads(kept)
}

/// Scores every layer and keeps the `n[layer]` best of the past in each of its heads.
///
/// # Errors
/// When the prefill did not observe the window.
pub(crate) fn select_layers(
    ctx: &Context<'_>,
    scoring: &Scoring,
    n: &[usize],
) -> Result<Vec<LayerSelection>, MethodError> {
    let past = ctx.shape.len.saturating_sub(scoring.window);
    n.par_iter()
        .enumerate()
        .map(|(layer, &n)| {
            if n >= past {
                return Ok(LayerSelection::All);
            }
            let scores = scoring.scores(ctx, layer)?;
            Ok(cut(ctx, layer, &scores, &vec![n; scores.rows.len()]))
        })
        .collect()
}

/// Keeps the same number in every head of every layer: the budget, `window` last positions included.
///
/// # Errors
/// When scoring fails.
pub(crate) fn cut_uniform(
    ctx: &Context<'_>,
    window: usize,
    scores: impl Fn(usize) -> Result<Scores, MethodError> + Sync,
) -> Result<Vec<LayerSelection>, MethodError> {
    let n = ctx.budget.saturating_sub(window);
    cut_by_head(ctx, |layer| {
        let scores = scores(layer)?;
        let n = vec![n; scores.rows.len()];
        Ok((scores, n))
    })
}

/// Keeps, in every head of every layer, as many of the best of the past as `layer` says beside its scores; a cache inside
/// the budget is kept whole.
///
/// # Errors
/// When scoring fails.
pub(crate) fn cut_by_head(
    ctx: &Context<'_>,
    layer: impl Fn(usize) -> Result<(Scores, Vec<usize>), MethodError> + Sync,
) -> Result<Vec<LayerSelection>, MethodError> {
    if ctx.shape.len <= ctx.budget {
        return Ok(vec![LayerSelection::All; ctx.shape.layers.len()]);
    }
    (0..ctx.shape.layers.len())
        .into_par_iter()
        .map(|index| {
            let (scores, n) = layer(index)?;
            Ok(cut(ctx, index, &scores, &n))
        })
        .collect()
}
