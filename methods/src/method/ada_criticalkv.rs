//! Ada-CriticalKV: CriticalKV in each head, with AdaKV's competition of heads for the layer's budget.
//!
//! Paper: Feng et al., Identify Critical KV Cache in LLM Inference from an Output Perturbation Perspective, 2025
//! (arXiv:2502.03805). A head gets what it wins by attention, [`crate::budget::adakv`], and fills it in two stages.
//!
//! Reference: `NVIDIA/kvpress:kvpress/presses/criticalkv_press.py`, `CriticalAdaKVPress` (0.5.5), over its SnapKV. Deviations:
//! window, kernel and pooling of our SnapKV (`ada-criticalkv@kvpress` has kvpress's); entries that a head gave up are freed,
//! where kvpress masks them.

use super::criticalkv::second_stage;
use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::budget::adakv;
use crate::error::MethodError;
use crate::observation::Observation;
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};

params! {
    /// Parameters of Ada-CriticalKV.
    AdaCriticalKv, voted for by a window of 32 {
        /// Share of the budget that every head gets whatever its scores.
        floor: f64 = 0.2,
        /// Share of what a head gets, the window included, that is kept by attention alone.
        first: f64 = 0.5,
        /// Added to the scores before norms weigh them.
        epsilon: f64 = 1e-4,
    }
}

/// Ada-CriticalKV's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "ada-criticalkv",
    summary: "CriticalKV in each head, heads of a layer compete for its budget",
    paper: "Feng et al., Identify Critical KV Cache in LLM Inference from an Output Perturbation Perspective, 2025 (arXiv:2502.03805)",
    source: "NVIDIA/kvpress kvpress/presses/criticalkv_press.py (0.5.5)",
    deviations: "window, kernel and pooling of our SnapKV; entries given up are freed, where kvpress masks them",
    question: Question::Seen,
    granularities: &[Granularity::KvHead, Granularity::QueryHead],
    needs: &[],
    parameters: AdaCriticalKv::PARAMETERS,
    parse: parse::<AdaCriticalKv>,
};

impl AdaCriticalKv {
    /// The scores of the second stage, and the entries before the window that each head keeps.
    fn layer(&self, ctx: &Context<'_>, layer: usize) -> Result<(Scores, Vec<usize>), MethodError> {
        let first = self.scoring().means(ctx, layer)?;
        let total = ctx.budget.saturating_sub(self.window).saturating_mul(first.rows.len());
        let safe = scoring::entries_of(ctx.budget, self.floor, self.window);
        let kept = adakv::competition(&first.rows, total, safe);
        let sure: Vec<usize> = kept
            .iter()
            .map(|&kept| scoring::entries_of(kept + self.window, self.first, self.window).max(safe))
            .collect();
        Ok((second_stage(ctx, layer, &first, &sure, self.epsilon)?, kept))
    }
}

impl Method for AdaCriticalKv {
    fn check(&self) -> Result<(), (&'static str, String)> {
        scoring::check_share("floor", self.floor)?;
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
        self.layer(ctx, layer).map(|(scores, _)| Some(scores))
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        scoring::cut_by_head(ctx, |layer| self.layer(ctx, layer))
    }
}

#[cfg(test)]
mod tests {
    use crate::inputs::Inputs;
    use crate::testing::{counts, select, shape, variant};

    #[test]
    fn heads_share_the_budget_above_the_floor() {
        let shape = shape(2, 4, 4, 8, 200);
        let kept = select(&variant("ada-criticalkv", &["window=4"], 48), &shape, &Inputs::default()).unwrap();
        for heads in counts(&kept, 200) {
            assert_eq!(heads.iter().sum::<usize>(), 4 * 48, "{heads:?}");
            assert!(heads.iter().all(|&n| n >= 9), "{heads:?}");
            assert!(heads.iter().any(|&n| n != 48), "heads differ: {heads:?}");
        }
    }
}
