//! Observations of the stored keys and values alone: no attention is read.

use super::{HeadsView, LayerTensors};
use crate::error::MethodError;
use crate::observation::{Observation, Observed};

/// Observes the keys or the values of a whole prompt, or both: `[kv_heads][prompt_len]`.
///
/// # Errors
/// Values that are needed and not there, or of another shape.
pub(super) fn observe(observation: Observation, tensors: &LayerTensors<'_>) -> Result<Observed, MethodError> {
    let keys = &tensors.keys;
    let mut rows = Vec::with_capacity(keys.heads * keys.tokens);
    for head in 0..keys.heads {
        let norms = |view: &HeadsView<'_>| -> Vec<f32> {
            (0..view.tokens).map(|token| norm(view.row(head, token))).collect()
        };
        rows.extend(match observation {
            Observation::KeySimilarity => similarities(keys, head),
            Observation::LagRank { sinks, lag } => {
                lag_ranks([keys, tensors.values()?], head, sinks, lag.max(1))
            }
            Observation::ValueNorm => norms(tensors.values()?),
            _ => norms(keys),
        });
    }
    Ok(Observed::Rows { rows: keys.heads, columns: keys.tokens, values: rows })
}

fn norm(row: &[f32]) -> f32 {
    row.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// Cosine of each key of a head with the mean of its keys' directions; in `f64`, because sums of both signs nearly cancel.
fn similarities(keys: &HeadsView<'_>, head: usize) -> Vec<f32> {
    let wide = |key: &[f32]| -> Vec<f64> { key.iter().map(|&x| f64::from(x)).collect() };
    let norm = |key: &[f64]| key.iter().map(|x| x * x).sum::<f64>().sqrt();
    let rows: Vec<Vec<f64>> = (0..keys.tokens).map(|token| wide(keys.row(head, token))).collect();
    let mut anchor = vec![0.0; keys.head_dim];
    for key in &rows {
        let scale = 1.0 / (norm(key).max(1e-12) * keys.tokens as f64);
        anchor.iter_mut().zip(key).for_each(|(mean, x)| *mean += x * scale);
    }
    let length = norm(&anchor).max(1e-8);
    let cosine = |key: &Vec<f64>| {
        let along: f64 = key.iter().zip(&anchor).map(|(x, mean)| x * mean).sum();
        (along / (norm(key).max(1e-8) * length)) as f32
    };
    rows.iter().map(cosine).collect()
}

/// LagKV (`kvpress/presses/lagkv_press.py`): the rank of each entry inside its part of `lag` entries, as a share of the
/// part; 1 for the `sinks` first entries and for those that no later part can judge.
fn lag_ranks(stored: [&HeadsView<'_>; 2], head: usize, sinks: usize, lag: usize) -> Vec<f32> {
    let tokens = stored[0].tokens;
    if tokens < sinks + 2 * lag {
        return unjudged_lag_ranks(tokens, sinks);
    }
    let mut ranks = vec![1.0; tokens];
    let parts = (tokens - sinks) / lag;
    for part in 0..parts - 1 {
        let first = sinks + part * lag;
        let [of_keys, of_values] = stored.map(|view| lag_scores(view, head, first, lag));
        let scores: Vec<f32> =
            of_keys.iter().zip(&of_values).map(|(key, value)| (key + value) / 2.0).collect();
        let mut order: Vec<usize> = (0..lag).collect();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        for (rank, entry) in order.into_iter().enumerate() {
            ranks[first + entry] = rank as f32 / lag as f32;
        }
    }
    ranks
}

/// [`Observation::LagRank`] of a head whose prompt has no part that another follows: the first ones, and then the most
/// recent.
#[must_use]
pub fn unjudged_lag_ranks(tokens: usize, sinks: usize) -> Vec<f32> {
    let past = tokens.saturating_sub(sinks).max(1) as f32;
    (0..tokens).map(|i| if i < sinks { 1.0 } else { (i - sinks) as f32 / past }).collect()
}

/// How far each entry of a part spreads, once every dimension is scaled by the range of the next part: softmax of the
/// standard deviations.
fn lag_scores(view: &HeadsView<'_>, head: usize, first: usize, lag: usize) -> Vec<f32> {
    let dim = view.head_dim;
    let (mut low, mut high) = (vec![f32::INFINITY; dim], vec![f32::NEG_INFINITY; dim]);
    for token in first + lag..first + 2 * lag {
        for (d, &x) in view.row(head, token).iter().enumerate() {
            low[d] = low[d].min(x);
            high[d] = high[d].max(x);
        }
    }
    let spread = |token: usize| {
        let row = view.row(head, token).iter().enumerate();
        let scaled: Vec<f64> = row.map(|(d, &x)| f64::from((x - low[d]) / (high[d] - low[d]))).collect();
        let mean = scaled.iter().sum::<f64>() / dim as f64;
        let squares: f64 = scaled.iter().map(|x| (x - mean) * (x - mean)).sum();
        (squares / (dim as f64 - 1.0).max(1.0)).sqrt() as f32
    };
    let spreads: Vec<f32> = (first..first + lag).map(spread).collect();
    let most = spreads.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = spreads.iter().map(|x| (x - most).exp()).collect();
    let sum: f32 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}
