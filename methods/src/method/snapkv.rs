//! SnapKV: the prompt's last tokens vote, by their attention, for the tokens worth keeping.
//!
//! Paper: Li et al., SnapKV: LLM Knows What You are Looking for Before Generation, NeurIPS 2024
//! (arXiv:2404.14469). Section 2.3 of the specification:
//!
//! ```text
//! if S < B: keep all
//! s = pool(sum over the window of attention)       per head
//! keep top(s, B - w) and the window
//! ```
//!
//! Reference: `FasterDecoding/SnapKV:snapkv/monkeypatch/snapkv_utils.py:42-62` (e216ddc8); window 32,
//! kernel 7 and max pooling are its LongBench configuration. Deviation: one selection per KV head, the
//! mean of its query heads taken before pooling (as AdaKV's GQA mode does), because the reference
//! stores each KV head once per query head; `snapkv@fasterdecoding` restores that.

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::error::MethodError;
use crate::observation::Observation;
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};

params! {
    /// Parameters of SnapKV.
    SnapKv, voted for by a window of 32 {
    }
}

/// SnapKV's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "snapkv",
    summary: "the tokens that the prompt's last tokens attend to most",
    paper: "Li et al., SnapKV: LLM Knows What You are Looking for Before Generation, NeurIPS 2024 (arXiv:2404.14469)",
    source: "FasterDecoding/SnapKV snapkv/monkeypatch/snapkv_utils.py:42-62 (e216ddc8)",
    deviations: "one selection per KV head, the mean of its query heads before pooling; the reference selects and stores per query head",
    question: Question::Seen,
    granularities: &[Granularity::KvHead, Granularity::QueryHead],
    needs: &[],
    parameters: SnapKv::PARAMETERS,
    parse: parse::<SnapKv>,
};

impl Method for SnapKv {
    fn check(&self) -> Result<(), (&'static str, String)> {
        self.scoring().check()
    }

    fn recent(&self) -> usize {
        self.window
    }

    fn chooses_again(&self) -> bool {
        true
    }

    fn observations(&self) -> Vec<Observation> {
        self.scoring().observations()
    }

    fn scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Option<Scores>, MethodError> {
        self.scoring().scores(ctx, layer).map(Some)
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        let n = vec![ctx.budget - self.window; ctx.shape.layers.len()];
        scoring::select_layers(ctx, &self.scoring(), &n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::Inputs;
    use crate::testing::{counts, select, shape, variant};

    #[test]
    fn the_budget_is_exact_and_the_window_inside_it() {
        let shape = shape(2, 4, 2, 8, 60);
        let inputs = Inputs::default();
        let kept = select(&variant("snapkv", &["window=8"], 20), &shape, &inputs).unwrap();
        assert_eq!(counts(&kept, 60), [[20, 20], [20, 20]]);
        let kept = select(&variant("snapkv", &["window=8"], 60), &shape, &inputs).unwrap();
        assert_eq!(kept.layers, [LayerSelection::All, LayerSelection::All]);
    }

    #[test]
    fn strided_groups_differ_from_contiguous_ones() {
        let shape = shape(1, 8, 2, 8, 120);
        let kept = |layout: &str| {
            let variant = variant("snapkv", &["window=8", layout], 24);
            select(&variant, &shape, &Inputs::default()).unwrap()
        };
        assert_ne!(kept("group_layout=strided"), kept("group_layout=contiguous"));
    }
}
