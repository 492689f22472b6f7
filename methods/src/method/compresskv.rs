//! CompressKV: the layer's semantic retrieval heads choose one set of tokens for all of its heads, and
//! layers whose output suffers more from eviction keep more.
//!
//! Paper: Lin et al., CompressKV: Semantic Retrieval Heads Know What Tokens are Not Important Before
//! Generation, 2025 (arXiv:2508.02401). Section 2.7 of the specification; the split over layers is
//! [`crate::budget::compresskv`].
//!
//! ```text
//! if S < cap[l]: keep all in this layer
//! s = mean over the first_k best heads of pool(sum over the window of attention)
//! keep top(s, cap[l] - w) and the window, the same set for every KV head
//! ```
//!
//! Reference: `TUDa-HWAI/CompressKV:methods/compresskv/snapkv_utils.py:47-87` and
//! `longbench/pred_compresskv.py:18-50` (e8af510b). Deviations: equal layer errors are ordered by layer.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::budget::compresskv;
use crate::error::MethodError;
use crate::group::{self, GroupReduce};
use crate::inputs::InputKind;
use crate::observation::Observation;
use crate::pooling::{self, Pooling};
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};

/// How the budget is split over layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Allocation {
    /// By the layers' eviction errors.
    ErrorAware,
    /// Every layer gets the budget (what the LongBench runner does without a layer score file).
    Uniform,
}

params! {
    /// Parameters of CompressKV.
    CompressKv {
        /// Last prompt tokens: they vote, and are always kept.
        window: usize = 8,
        /// Pooling size, odd.
        kernel: usize = 5,
        /// `avgpool` or `maxpool`.
        pooling: Pooling = Pooling::Avg,
        /// Semantic retrieval heads of a layer that vote.
        first_k: usize = 4,
        /// `error-aware` or `uniform`.
        allocation: Allocation = Allocation::ErrorAware,
        /// Least tokens of a layer, window included.
        min: usize = 32,
        /// Most tokens of a layer, in budgets.
        max_factor: usize = 3,
    }
}

/// CompressKV's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "compresskv",
    summary: "semantic retrieval heads choose for their layer; layers keep by eviction error",
    paper: "Lin et al., CompressKV: Semantic Retrieval Heads Know What Tokens are Not Important Before Generation, 2025 (arXiv:2508.02401)",
    source: "TUDa-HWAI/CompressKV methods/compresskv/snapkv_utils.py:47-87, longbench/pred_compresskv.py:18-50 (e8af510b)",
    deviations: "equal layer errors are ordered by layer (the reference's sort is unstable there)",
    question: Question::Seen,
    granularities: &[Granularity::KvHead],
    needs: &[InputKind::HeadRanking, InputKind::LayerScores],
    parameters: CompressKv::PARAMETERS,
    parse: parse::<CompressKv>,
};

impl CompressKv {
    fn budgets(&self, ctx: &Context<'_>) -> Result<Vec<usize>, MethodError> {
        let layers = ctx.shape.layers.len();
        if self.allocation == Allocation::Uniform {
            return Ok(vec![ctx.budget; layers]);
        }
        let errors = ctx.inputs.layers.as_ref().ok_or_else(|| ctx.missing(InputKind::LayerScores))?;
        if errors.len() != layers {
            return Err(MethodError::Mismatch {
                what: InputKind::LayerScores.to_string(),
                expected: format!("{layers} layers"),
                found: format!("{} layers", errors.len()),
            });
        }
        Ok(compresskv::layer_budgets(
            errors,
            ctx.budget.saturating_mul(layers),
            self.min,
            self.max_factor.saturating_mul(ctx.budget),
        ))
    }

    fn layer_scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Scores, MethodError> {
        let (layers, heads) = (ctx.shape.layers.len(), ctx.layer(layer).query_heads);
        let ranking = ctx.inputs.ranking.as_ref().ok_or_else(|| ctx.missing(InputKind::HeadRanking))?;
        let chosen = ranking.get(layer).map_or(&[][..], |heads| &heads[..self.first_k.min(heads.len())]);
        if ranking.len() != layers || chosen.is_empty() || chosen.iter().any(|&head| head >= heads) {
            return Err(MethodError::Mismatch {
                what: InputKind::HeadRanking.to_string(),
                expected: format!("{layers} layers of {heads} query heads"),
                found: format!("{} layers, heads {chosen:?} in layer {layer}", ranking.len()),
            });
        }
        let (columns, values) = ctx.rows(layer, Observation::WindowSum { window: self.window }, heads)?;
        let pooled: Vec<Vec<f32>> = chosen
            .iter()
            .map(|&head| {
                pooling::pool(&values[head * columns..(head + 1) * columns], self.pooling, self.kernel)
            })
            .collect();
        Ok(Scores { columns, rows: vec![group::reduce(pooled.iter().map(Vec::as_slice), GroupReduce::Mean)] })
    }

    /// Cuts each layer to its own budget, window included.
    pub fn cut(&self, ctx: &Context<'_>, budgets: &[usize]) -> Result<Vec<LayerSelection>, MethodError> {
        budgets
            .par_iter()
            .enumerate()
            .map(|(layer, &budget)| {
                if ctx.shape.len <= budget {
                    return Ok(LayerSelection::All);
                }
                let scores = self.layer_scores(ctx, layer)?;
                Ok(scoring::cut(ctx, layer, &scores, &[budget.saturating_sub(self.window)]))
            })
            .collect()
    }
}

impl Method for CompressKv {
    fn check(&self) -> Result<(), (&'static str, String)> {
        scoring::check_window(self.window)?;
        scoring::check_kernel(self.kernel)?;
        if self.first_k == 0 {
            return Err(("first_k", "at least one head must vote".into()));
        }
        if self.max_factor == 0 {
            return Err(("max_factor", "it must be at least 1".into()));
        }
        if self.allocation == Allocation::ErrorAware && self.min <= self.window {
            return Err((
                "min",
                format!("the window of {} tokens is inside it and must be below it", self.window),
            ));
        }
        Ok(())
    }

    fn check_budget(&self, budget: usize) -> Result<(), String> {
        if budget <= self.window {
            return Err(format!(
                "its window of {} tokens is inside the budget and must be below it",
                self.window
            ));
        }
        if self.allocation == Allocation::ErrorAware && budget < self.min {
            return Err(format!("every layer keeps at least `min` = {} tokens; lower `min`", self.min));
        }
        Ok(())
    }

    fn recent(&self) -> usize {
        self.window
    }

    fn observations(&self) -> Vec<Observation> {
        vec![Observation::WindowSum { window: self.window }]
    }

    fn does_without(&self, input: InputKind) -> bool {
        input == InputKind::LayerScores && self.allocation == Allocation::Uniform
    }

    fn scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Option<Scores>, MethodError> {
        self.layer_scores(ctx, layer).map(Some)
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        self.cut(ctx, &self.budgets(ctx)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::Inputs;
    use crate::spec::MethodSpec;
    use crate::testing::{counts, select, shape, variant};

    #[test]
    fn layers_share_a_budget_and_heads_a_set() {
        let shape = shape(2, 4, 2, 8, 300);
        let inputs = Inputs {
            ranking: Some(vec![vec![0, 1, 2, 3]; 2]),
            layers: Some(vec![0.75, 0.25]),
            ..Inputs::default()
        };
        let kept = select(&variant("compresskv", &["first_k=2"], 64), &shape, &inputs).unwrap();
        assert_eq!(counts(&kept, 300), [[80, 80], [48, 48]]);
        let LayerSelection::Heads(heads) = &kept.layers[0] else { panic!() };
        assert_eq!(heads[0], heads[1]);
        let uniform = Inputs { layers: None, ..inputs };
        let kept = select(&variant("compresskv", &["allocation=uniform"], 64), &shape, &uniform).unwrap();
        assert_eq!(counts(&kept, 300), [[64, 64], [64, 64]]);
        assert!(matches!(
            select(&variant("compresskv", &[], 64), &shape, &uniform),
            Err(MethodError::MissingInput { input: InputKind::LayerScores, .. })
        ));
        let error = MethodSpec::parse("compresskv", &[], None).unwrap().at(20).unwrap_err().to_string();
        assert!(error.contains("at least `min` = 32 tokens"), "{error}");
    }
}
