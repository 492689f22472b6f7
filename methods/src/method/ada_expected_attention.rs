//! Expected Attention with AdaKV's competition of heads for the layer's budget.
//!
//! Papers: Devoto et al., Expected Attention, 2025 (arXiv:2510.00636); Feng et al., Ada-KV, 2024 (arXiv:2407.11550). Each
//! head keeps its best, `floor` of the budget; the rest goes to the best of all heads, [`crate::budget::adakv`].
//!
//! Reference: `NVIDIA/kvpress:kvpress/presses/adakv_press.py` over `expected_attention_press.py` (0.5.5), with the floor 0.2 and
//! the epsilon 0.01 of its leaderboard. Deviation: entries that a head gave up are freed, where kvpress masks them.

use super::expected_attention::ExpectedAttention;
use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::budget::adakv;
use crate::error::MethodError;
use crate::observation::Observation;
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};

params! {
    /// Parameters of Expected Attention over AdaKV's allocation.
    AdaExpectedAttention {
        /// First tokens, always kept; their queries are left out.
        sinks: usize = 4,
        /// Positions behind the prompt where queries are expected.
        future: usize = 512,
        /// Added to the expected attention before norms weigh it.
        epsilon: f64 = 1e-2,
        /// Share of the budget that every head gets whatever its scores.
        floor: f64 = 0.2,
    }
}

/// Its line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "ada-expected-attention",
    summary: "Expected Attention's scores, heads of a layer compete for its budget",
    paper: "Devoto et al., Expected Attention: KV Cache Compression by Estimating Attention from Future Queries Distribution, 2025 (arXiv:2510.00636)",
    source: "NVIDIA/kvpress kvpress/presses/adakv_press.py, kvpress/presses/expected_attention_press.py (0.5.5)",
    deviations: "entries given up are freed, where kvpress masks them",
    question: Question::Unseen,
    granularities: &[Granularity::KvHead],
    needs: &[],
    parameters: AdaExpectedAttention::PARAMETERS,
    parse: parse::<AdaExpectedAttention>,
};

impl AdaExpectedAttention {
    fn scored(&self) -> ExpectedAttention {
        ExpectedAttention { sinks: self.sinks, future: self.future, epsilon: self.epsilon }
    }
}

impl Method for AdaExpectedAttention {
    fn check(&self) -> Result<(), (&'static str, String)> {
        scoring::check_share("floor", self.floor)?;
        self.scored().check()
    }

    fn check_budget(&self, budget: usize) -> Result<(), String> {
        self.scored().check_budget(budget)
    }

    fn observations(&self) -> Vec<Observation> {
        self.scored().observations()
    }

    fn scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Option<Scores>, MethodError> {
        self.scored().scores(ctx, layer)
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        let scored = self.scored();
        let safe = scoring::entries_of(ctx.budget, self.floor, 0);
        scoring::cut_by_head(ctx, |layer| {
            let scores = scored.layer_scores(ctx, layer)?;
            let kept = adakv::competition(&scores.rows, ctx.budget.saturating_mul(scores.rows.len()), safe);
            Ok((scores, kept))
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::inputs::Inputs;
    use crate::testing::{counts, select, shape, variant};

    #[test]
    fn heads_share_the_budget_above_the_floor() {
        let shape = shape(2, 4, 4, 8, 200);
        let kept = select(&variant("ada-expected-attention", &[], 40), &shape, &Inputs::default()).unwrap();
        for heads in counts(&kept, 200) {
            assert_eq!(heads.iter().sum::<usize>(), 4 * 40, "{heads:?}");
            assert!(heads.iter().all(|&n| n >= 8), "{heads:?}");
            assert!(heads.iter().any(|&n| n != 40), "heads differ: {heads:?}");
        }
    }
}
