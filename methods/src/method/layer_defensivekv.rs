//! Layer-DefensiveKV: DefensiveKV's scores, ranked over all layers and heads at once.
//!
//! Paper: Feng et al., Taming the Fragility of KV Cache Eviction in LLM Inference, ICLR 2026 (arXiv:2510.13334). The window and
//! the first stage score as high as the best token of their *layer*: one whose attention is spread may lose them to others.
//!
//! Reference: `FFY0/DefensiveKV:kvpress/presses/efficient_layer_defensivekv_press.py`, `efficient_ada_global_scorer_press.py`
//! (9251b95). Deviation: that of [`super::defensivekv`].

use rayon::prelude::*;

use super::defensivekv::DefensiveKv;
use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::budget::adakv;
use crate::error::MethodError;
use crate::observation::Observation;
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};

params! {
    /// Parameters of Layer-DefensiveKV.
    LayerDefensiveKv {
        /// Last prompt tokens: they vote, and score as high as their layer's best.
        window: usize = 32,
        /// Pooling size, odd; the mean.
        kernel: usize = 5,
        /// Share of the attention whose tokens are kept before norms weigh.
        mass: f64 = 0.9,
    }
}

/// Layer-DefensiveKV's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "layer-defensivekv",
    summary: "DefensiveKV's scores, all layers and heads compete",
    paper: "Feng et al., Taming the Fragility of KV Cache Eviction in LLM Inference, ICLR 2026 (arXiv:2510.13334)",
    source: "FFY0/DefensiveKV kvpress/presses/efficient_layer_defensivekv_press.py (9251b95)",
    deviations: "that of `defensivekv`",
    question: Question::Unseen,
    granularities: &[Granularity::KvHead],
    needs: &[],
    parameters: LayerDefensiveKv::PARAMETERS,
    parse: parse::<LayerDefensiveKv>,
};

impl LayerDefensiveKv {
    fn scored(&self) -> DefensiveKv {
        DefensiveKv { window: self.window, kernel: self.kernel, mass: self.mass }
    }

    /// One row a KV head, of the whole prompt.
    fn layer_scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Scores, MethodError> {
        let Scores { mut rows, .. } = self.scored().layer_scores(ctx, layer)?;
        let best = scoring::best(&rows);
        rows.iter_mut().for_each(|row| row.resize(ctx.shape.len, best));
        Ok(Scores { columns: ctx.shape.len, rows })
    }
}

impl Method for LayerDefensiveKv {
    fn check(&self) -> Result<(), (&'static str, String)> {
        self.scored().check()
    }

    fn check_budget(&self, budget: usize) -> Result<(), String> {
        self.scored().check_budget(budget)
    }

    fn observations(&self) -> Vec<Observation> {
        self.scored().observed()
    }

    fn scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Option<Scores>, MethodError> {
        self.layer_scores(ctx, layer).map(Some)
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        let layers = ctx.shape.layers.len();
        if ctx.shape.len <= ctx.budget {
            return Ok(vec![LayerSelection::All; layers]);
        }
        let scores: Vec<Scores> = (0..layers)
            .into_par_iter()
            .map(|layer| self.layer_scores(ctx, layer))
            .collect::<Result<_, _>>()?;
        let rows: Vec<Vec<f32>> = scores.iter().flat_map(|scores| scores.rows.iter().cloned()).collect();
        let kept = adakv::competition(&rows, ctx.budget.saturating_mul(rows.len()), 0);
        let mut kept = kept.as_slice();
        let cut = |(layer, scores): (usize, &Scores)| {
            let (own, others) = kept.split_at(scores.rows.len());
            kept = others;
            scoring::cut(ctx, layer, scores, own)
        };
        Ok(scores.iter().enumerate().map(cut).collect())
    }
}

#[cfg(test)]
mod tests {
    use crate::inputs::Inputs;
    use crate::testing::{counts, select, shape, variant};

    #[test]
    fn layers_share_the_budget() {
        let shape = shape(3, 4, 2, 8, 200);
        let kept =
            select(&variant("layer-defensivekv", &["window=4"], 48), &shape, &Inputs::default()).unwrap();
        let layers: Vec<usize> = counts(&kept, 200).iter().map(|heads| heads.iter().sum()).collect();
        assert_eq!(layers.iter().sum::<usize>(), 3 * 2 * 48, "{layers:?}");
        assert!(layers.iter().any(|&n| n != 2 * 48), "layers differ: {layers:?}");
    }
}
