//! CriticalKV: half of the budget by SnapKV's scores, the rest by scores times how much of a value reaches the output.
//!
//! Paper: Feng et al., Identify Critical KV Cache in LLM Inference from an Output Perturbation Perspective, 2025
//! (arXiv:2502.03805).
//!
//! ```text
//! s = SnapKV's scores, as means over the window
//! keep the window and the best by s, up to `first` of the budget
//! keep the best of the others by (s + epsilon) * |W_o v|_1, up to the budget
//! ```
//!
//! Reference: `NVIDIA/kvpress:kvpress/presses/criticalkv_press.py` (0.5.5), over its SnapKV. Deviations: window, kernel and
//! pooling of our SnapKV (`criticalkv@kvpress` has kvpress's); the window is always kept, where in the reference those of its
//! tokens that the first stage has no room for compete with the others.

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::error::MethodError;
use crate::observation::Observation;
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};
use crate::topk;

params! {
    /// Parameters of CriticalKV.
    CriticalKv, voted for by a window of 32 {
        /// Share of the budget, the window included, that is kept by attention alone.
        first: f64 = 0.5,
        /// Added to the scores before norms weigh them.
        epsilon: f64 = 1e-4,
    }
}

/// CriticalKV's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "criticalkv",
    summary: "half by SnapKV's scores, half by scores times how much of the value reaches the output",
    paper: "Feng et al., Identify Critical KV Cache in LLM Inference from an Output Perturbation Perspective, 2025 (arXiv:2502.03805)",
    source: "NVIDIA/kvpress kvpress/presses/criticalkv_press.py (0.5.5)",
    deviations: "window, kernel and pooling of our SnapKV; the window is always kept, where in the reference those of its tokens that the first stage has no room for compete with the others",
    question: Question::Seen,
    granularities: &[Granularity::KvHead, Granularity::QueryHead],
    needs: &[],
    parameters: CriticalKv::PARAMETERS,
    parse: parse::<CriticalKv>,
};

/// What the second stage chooses by: the scores, as means over `window` rows, weighed by norms. The `sure[head]` best of each
/// head, which the first stage chose, score 1 above the best of the layer.
pub(super) fn second_stage(
    ctx: &Context<'_>,
    layer: usize,
    first: &Scores,
    sure: &[usize],
    epsilon: f64,
) -> Result<Scores, MethodError> {
    let norms = scoring::output_norms(ctx, layer)?;
    let epsilon = epsilon as f32;
    let weighed = first.rows.iter().zip(&norms).map(|(row, norms)| -> Vec<f32> {
        row.iter().zip(norms).map(|(score, norm)| (score + epsilon) * norm).collect()
    });
    let mut rows: Vec<Vec<f32>> = weighed.collect();
    let above = scoring::best(&rows) + 1.0;
    for ((row, by_attention), &sure) in rows.iter_mut().zip(&first.rows).zip(sure) {
        topk::top(by_attention, sure).into_iter().for_each(|position| row[position as usize] = above);
    }
    Ok(Scores { columns: first.columns, rows })
}

/// Tokens before the window that a share of `kept` entries holds; at least one of all, unless the share is nothing.
pub(super) fn share(kept: usize, share: f64, window: usize) -> usize {
    let all = if share > 0.0 { ((kept as f64 * share) as usize).max(1) } else { 0 };
    all.saturating_sub(window)
}

impl CriticalKv {
    fn layer_scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Scores, MethodError> {
        let first = self.scoring().means(ctx, layer)?;
        let sure = vec![share(ctx.budget, self.first, self.window); first.rows.len()];
        second_stage(ctx, layer, &first, &sure, self.epsilon)
    }
}

impl Method for CriticalKv {
    fn check(&self) -> Result<(), (&'static str, String)> {
        scoring::check_share("first", self.first)?;
        scoring::check_epsilon(self.epsilon)?;
        self.scoring().check()
    }

    fn recent(&self) -> usize {
        self.window
    }

    fn observations(&self) -> Vec<Observation> {
        [self.scoring().observations(), vec![Observation::OutputNorm]].concat()
    }

    fn scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Option<Scores>, MethodError> {
        self.layer_scores(ctx, layer).map(Some)
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        scoring::cut_uniform(ctx, self.window, |layer| self.layer_scores(ctx, layer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::Inputs;
    use crate::observation::Observed;
    use crate::testing::{observe, shape, variant};

    #[test]
    fn norms_choose_what_attention_left() {
        let shape = shape(1, 2, 1, 4, 30);
        let variant = variant("criticalkv", &["window=2", "kernel=1"], 8);
        let mut observations = observe(&variant, &shape, 1);
        let mut rows = |observation, heads: [Vec<f32>; 2]| {
            let values = heads.concat();
            let rows = Observed::Rows { rows: 2, columns: values.len() / 2, values };
            observations.layers[0].insert(observation, rows);
        };
        // Attention falls with the position; the last values before the window are a thousand times larger.
        let falling: Vec<f32> = (0..28).map(|position| 2.0 / (position + 1) as f32).collect();
        rows(Observation::WindowSum { window: 2 }, [falling.clone(), falling]);
        let norms: Vec<f32> = (0..30).map(|position| if position < 24 { 1.0 } else { 1000.0 }).collect();
        rows(Observation::OutputNorm, [norms.clone(), norms]);
        let kept =
            variant.select(&shape, &observations, &Inputs::default(), &mut Default::default()).unwrap();
        // Half of eight are the window and the two best by attention.
        assert_eq!(kept.layers, [LayerSelection::Heads(vec![vec![0, 1, 24, 25, 26, 27, 28, 29]])]);
    }
}
