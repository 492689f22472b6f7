//! CAKE: layers whose attention is spread and shifting keep more; tokens score by mean and variance of
//! attention.
//!
//! Paper: Qin et al., CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences, ICLR 2025
//! (arXiv:2503.12491). Section 2.8 of the specification; the split over layers is [`crate::budget::cake`].
//!
//! Reference: `antgroup/cakekv` (c4675ce2), read through its adapted copy in
//! `TUDa-HWAI/CompressKV:methods/cakekv` (e8af510b): `model/modify_llama.py:95-131`,
//! `cake_cache.py:253-316`, `utils.py:28-77`. Deviations: nothing is evicted while decoding (the original
//! evicts at every step), and by default prompts longer than the budget are compressed (the reference
//! starts above budget + window; `keep_up_to`).

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::budget::cake::{self, Cascade};
use crate::error::MethodError;
use crate::group::{self, GroupLayout, GroupReduce};
use crate::observation::{Observation, Observed};
use crate::pooling::{self, Pooling};
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};
use crate::shape::LayerShape;

/// The reference pools over five positions, whatever its arguments say.
const KERNEL: usize = 5;

/// Prompts up to which length are kept whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepUpTo {
    /// Up to the budget, as every other method.
    Budget,
    /// Up to budget and window together (the reference).
    BudgetAndWindow,
}

params! {
    /// Parameters of CAKE.
    Cake {
        /// Last prompt tokens: they vote, and are always kept; at least two.
        window: usize = 32,
        /// Weight of the variance in a token's score.
        gamma: f64 = 200.0,
        /// Dispersion counts with the power `1 / tau1`. Unset: the value published for the model and budget,
        /// else 1.
        tau1: Option<f64> = None,
        /// Shift counts with the power `1 / tau2`. Unset: the value published for the model and budget, else 1.
        tau2: Option<f64> = None,
        /// Prompts kept whole: up to `budget` or `budget-and-window`.
        keep_up_to: KeepUpTo = KeepUpTo::Budget,
    }
}

/// CAKE's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "cake",
    summary: "mean and variance of attention score; layers keep by how spread and shifting it is",
    paper: "Qin et al., CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences, ICLR 2025 (arXiv:2503.12491)",
    source: "antgroup/cakekv (c4675ce2), TUDa-HWAI/CompressKV methods/cakekv (e8af510b)",
    deviations: "no eviction while decoding; prompts longer than the budget are compressed, not only those longer than budget and window; float32 throughout",
    question: Question::Seen,
    granularities: &[Granularity::KvHead],
    needs: &[],
    parameters: Cake::PARAMETERS,
    parse: parse::<Cake>,
};

/// Published `(tau1, tau2)`: `TUDa-HWAI/CompressKV:longbench/config/model2tau.json`. The second pair is for
/// budgets below 512.
const PUBLISHED_TAU: &[(&str, [(f64, f64); 2])] = &[
    ("llama-3.1-8b", [(1.6, 0.4), (1.6, 0.6)]),
    ("mistral-7b-instruct-v0.3", [(0.8, 0.5), (1.0, 0.8)]),
    ("mistral-7b-v0.3", [(0.8, 0.5), (1.0, 0.8)]),
];

impl Cake {
    fn observation(&self) -> Observation {
        Observation::WindowMoments { window: self.window }
    }

    fn taus(&self, ctx: &Context<'_>) -> (f64, f64) {
        let model = ctx.inputs.model.as_deref().unwrap_or_default().to_lowercase();
        let published = PUBLISHED_TAU.iter().find(|(name, _)| model.contains(name));
        let (tau1, tau2) =
            published.map_or((1.0, 1.0), |(_, pairs)| if ctx.budget >= 512 { pairs[0] } else { pairs[1] });
        (self.tau1.unwrap_or(tau1), self.tau2.unwrap_or(tau2))
    }

    /// Preference of each layer.
    pub fn preferences(&self, ctx: &Context<'_>) -> Result<Vec<f64>, MethodError> {
        let (tau1, tau2) = self.taus(ctx);
        (0..ctx.shape.layers.len())
            .map(|layer| match ctx.observed(layer, self.observation())? {
                Observed::Moments { dispersion, shift, .. } => {
                    Ok(cake::preference(*dispersion, *shift, tau1, tau2))
                }
                Observed::Rows { .. } => {
                    Err(MethodError::NotObserved { layer, observation: self.observation() })
                }
            })
            .collect()
    }

    /// The budgets after every layer.
    pub fn cascade(&self, ctx: &Context<'_>) -> Result<Cascade, MethodError> {
        let total = ctx.budget.saturating_sub(self.window).saturating_mul(ctx.shape.layers.len());
        Ok(cake::cascade(&self.preferences(ctx)?, total, ctx.columns(self.observation())))
    }

    fn layer_scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Scores, MethodError> {
        let LayerShape { query_heads: heads, kv_heads, .. } = *ctx.layer(layer);
        let columns = ctx.columns(self.observation());
        let (mean, variance) = match ctx.observed(layer, self.observation())? {
            Observed::Moments { rows, mean, variance, .. }
                if *rows == heads && mean.len() == heads * columns && variance.len() == heads * columns =>
            {
                (mean, variance)
            }
            other => {
                return Err(MethodError::Mismatch {
                    what: format!("{:?} of layer {layer}", self.observation()),
                    expected: format!("moments of {heads} heads x {columns} positions"),
                    found: other.describe(),
                });
            }
        };
        let gamma = self.gamma as f32;
        let rows = (0..kv_heads)
            .into_par_iter()
            .map(|kv_head| {
                let pooled: Vec<Vec<f32>> = group::members(GroupLayout::Contiguous, heads, kv_heads, kv_head)
                    .map(|head| {
                        let range = head * columns..(head + 1) * columns;
                        let row: Vec<f32> = mean[range.clone()]
                            .iter()
                            .zip(&variance[range])
                            .map(|(m, v)| m + gamma * v)
                            .collect();
                        pooling::pool(&row, Pooling::Avg, KERNEL)
                    })
                    .collect();
                group::reduce(pooled.iter().map(Vec::as_slice), GroupReduce::Mean)
            })
            .collect();
        Ok(Scores { columns, rows })
    }
}

impl Method for Cake {
    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.window < 2 {
            return Err(("window", "a variance needs at least two tokens".into()));
        }
        for (name, tau) in [("tau1", self.tau1), ("tau2", self.tau2)] {
            if tau.is_some_and(|tau| !(tau > 0.0 && tau.is_finite())) {
                return Err((name, "it must be above 0".into()));
            }
        }
        Ok(())
    }

    fn recent(&self) -> usize {
        self.window
    }

    fn observations(&self) -> Vec<Observation> {
        vec![self.observation()]
    }

    fn evicts_above(&self, budget: usize) -> usize {
        match self.keep_up_to {
            KeepUpTo::Budget => budget,
            KeepUpTo::BudgetAndWindow => budget.saturating_add(self.window),
        }
    }

    fn scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Option<Scores>, MethodError> {
        self.layer_scores(ctx, layer).map(Some)
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        if ctx.shape.len <= self.evicts_above(ctx.budget) {
            return Ok(vec![LayerSelection::All; ctx.shape.layers.len()]);
        }
        let cascade = self.cascade(ctx)?;
        cascade
            .kept
            .par_iter()
            .enumerate()
            .map(|(layer, &n)| {
                let scores = self.layer_scores(ctx, layer)?;
                Ok(scoring::cut(ctx, layer, &scores, &vec![n; scores.rows.len()]))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::Inputs;
    use crate::observation::Observations;
    use crate::testing::{counts, select, shape, variant};

    #[test]
    fn the_reference_starts_above_budget_and_window() {
        let shape = shape(3, 4, 2, 8, 45);
        let inputs = Inputs::default();
        let kept = select(&variant("cake@compresskv", &[], 40), &shape, &inputs).unwrap();
        assert_eq!(kept.layers, vec![LayerSelection::All; 3]);
        let kept = select(&variant("cake", &["window=8"], 40), &shape, &inputs).unwrap();
        let total: usize = counts(&kept, 45).iter().map(|heads| heads[0]).sum();
        assert!(total <= 3 * 40 && total > 3 * 30, "{total}");
    }

    #[test]
    fn published_exponents_belong_to_a_model_and_budget() {
        let shape = shape(1, 1, 1, 1, 1);
        let (inputs, observations) = (
            Inputs { model: Some("meta-llama/Llama-3.1-8B-Instruct".into()), ..Inputs::default() },
            Observations::default(),
        );
        let ctx = Context {
            method: ENTRY.name,
            needs: ENTRY.needs,
            shape: &shape,
            observations: &observations,
            inputs: &inputs,
            budget: 512,
            granularity: Granularity::KvHead,
        };
        let cake = Cake::default();
        assert_eq!(cake.taus(&ctx), (1.6, 0.4));
        assert_eq!(cake.taus(&Context { budget: 256, ..ctx }), (1.6, 0.6));
        assert_eq!(Cake { tau2: Some(0.9), ..cake.clone() }.taus(&ctx), (1.6, 0.9));
        assert_eq!(cake.taus(&Context { inputs: &Inputs::default(), ..ctx }), (1.0, 1.0));
    }
}
