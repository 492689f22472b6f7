//! AdaKV: SnapKV's scores, with the layer's budget shared out among its heads by competition.
//!
//! Paper: Feng et al., Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation for Efficient LLM
//! Inference, 2024 (arXiv:2407.11550). Section 2.5 of the specification; the split is
//! [`crate::budget::adakv`].
//!
//! Reference: `FFY0/AdaKV:adaptive_snapkv/monkeypatch/snapkv_utils.py:439-460, 557-578` (efe4e2ee): window
//! 32, kernel 7, max pooling, floor 0.2, no normalisation, mean over the group before pooling are what its
//! LongBench runner passes. With `pyramid_beta` it is Ada-PyramidKV; its capacities are recomputed for
//! every prompt here and frozen by the first one there (`adakv@adakv` with `pyramid_beta`).

use rayon::prelude::*;

use super::{Context, Entry, Method, MethodState, Question, StateScope, params, parse};
use crate::budget::{adakv, pyramid};
use crate::context::CapacityFrom;
use crate::error::MethodError;
use crate::observation::Observation;
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};

params! {
    /// Parameters of AdaKV.
    AdaKv, voted for by a window of 32 {
        /// Share of the budget that every head gets whatever its scores: 1 is SnapKV, 0 fully adaptive.
        floor: f64 = 0.2,
        /// Weigh a head's scores by how concentrated they are before heads compete.
        normalize: bool = false,
        /// First layers that keep the uniform split.
        skip: usize = 0,
        /// If set, layers' budgets follow PyramidKV's schedule of that steepness.
        pyramid_beta: Option<usize> = None,
        /// Which prompt fixes that schedule: `prompt`, `dataset` or `run`.
        capacity: CapacityFrom = CapacityFrom::Prompt,
    }
}

/// AdaKV's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "adakv",
    summary: "SnapKV's scores, heads of a layer compete for its budget",
    paper: "Feng et al., Ada-KV: Optimizing KV Cache Eviction by Adaptive Budget Allocation, 2024 (arXiv:2407.11550)",
    source: "FFY0/AdaKV adaptive_snapkv/monkeypatch/snapkv_utils.py:439-460, 557-578 (efe4e2ee)",
    deviations: "prompts not longer than the window are kept whole (the reference fails on them); with `pyramid_beta`, capacities are recomputed for every prompt",
    question: Question::Seen,
    granularities: &[Granularity::KvHead, Granularity::QueryHead],
    needs: &[],
    parameters: AdaKv::PARAMETERS,
    parse: parse::<AdaKv>,
};

impl Method for AdaKv {
    fn check(&self) -> Result<(), (&'static str, String)> {
        scoring::check_share("floor", self.floor)?;
        if self.pyramid_beta == Some(0) {
            return Err(("pyramid_beta", "the steepness must be at least 1".into()));
        }
        self.scoring().check()
    }

    fn recent(&self) -> usize {
        self.window
    }

    fn observations(&self) -> Vec<Observation> {
        self.scoring().observations()
    }

    fn state_scope(&self) -> StateScope {
        if self.pyramid_beta.is_some() { self.capacity.into() } else { StateScope::Prompt }
    }

    fn scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Option<Scores>, MethodError> {
        self.scoring().scores(ctx, layer).map(Some)
    }

    fn select(&self, ctx: &Context<'_>, state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        let base = match self.pyramid_beta {
            Some(beta) => pyramid::schedule(ctx, self.window, beta, self.capacity, state),
            None => vec![ctx.budget.saturating_sub(self.window); ctx.shape.layers.len()],
        };
        let past = ctx.shape.len.saturating_sub(self.window);
        let scoring = self.scoring();
        base.par_iter()
            .enumerate()
            .map(|(layer, &base)| {
                if base > past {
                    return Ok(LayerSelection::All);
                }
                let scores = scoring.scores(ctx, layer)?;
                let n = if layer < self.skip {
                    vec![base; scores.rows.len()]
                } else {
                    adakv::head_budgets(&scores.rows, base, self.floor, self.normalize)
                };
                Ok(scoring::cut(ctx, layer, &scores, &n))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::inputs::Inputs;
    use crate::testing::{counts, select, shape, variant};

    #[test]
    fn heads_share_a_budget_above_the_floor() {
        let shape = shape(2, 4, 4, 8, 200);
        let kept = select(&variant("adakv", &["window=8"], 48), &shape, &Inputs::default()).unwrap();
        for heads in counts(&kept, 200) {
            assert!(heads.iter().all(|&n| n >= 8 + 8), "{heads:?}");
            assert!(heads.iter().sum::<usize>().abs_diff(4 * 48) <= 4, "{heads:?}");
            assert!(heads.iter().any(|&n| n != 48), "heads differ: {heads:?}");
        }
        let kept =
            select(&variant("adakv", &["window=8", "floor=1"], 48), &shape, &Inputs::default()).unwrap();
        assert_eq!(counts(&kept, 200), [[48; 4], [48; 4]]);
        let kept =
            select(&variant("adakv", &["window=8", "skip=1"], 48), &shape, &Inputs::default()).unwrap();
        assert_eq!(counts(&kept, 200)[0], [48; 4]);
    }
}
