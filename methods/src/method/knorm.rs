//! Knorm, a control: the tokens whose keys have the smallest norm.
//!
//! Paper: Devoto et al., A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression, EMNLP 2024
//! (arXiv:2406.11430): the attention a key attracts grows as its L2 norm shrinks. Score: minus the norm of
//! the rotated key (a rotation does not change it).
//!
//! Reference: `NVIDIA/kvpress:kvpress/presses/knorm_press.py` (8bb29b9c). Deviation: the last `window` tokens
//! are kept as in the other methods, so that the comparison is about scores; `knorm@kvpress` has none.

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::error::MethodError;
use crate::observation::Observation;
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};

params! {
    /// Parameters of Knorm.
    Knorm {
        /// Last prompt tokens, always kept.
        window: usize = 8,
    }
}

/// Knorm's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "knorm",
    summary: "control: the tokens with the smallest key norms",
    paper: "Devoto et al., A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression, EMNLP 2024 (arXiv:2406.11430)",
    source: "NVIDIA/kvpress kvpress/presses/knorm_press.py (8bb29b9c)",
    deviations: "a recent window is kept, as in the methods it is compared with",
    question: Question::Either,
    granularities: &[Granularity::KvHead],
    needs: &[],
    parameters: Knorm::PARAMETERS,
    parse: parse::<Knorm>,
};

impl Knorm {
    fn layer_scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Scores, MethodError> {
        scoring::lowest_keys(ctx, layer, Observation::KeyNorm, self.window)
    }
}

impl Method for Knorm {
    fn recent(&self) -> usize {
        self.window
    }

    fn chooses_again(&self) -> bool {
        true
    }

    fn observations(&self) -> Vec<Observation> {
        vec![Observation::KeyNorm]
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
    use crate::observation::{Observations, Observed};
    use crate::testing::{shape, variant};

    #[test]
    fn small_keys_are_kept() {
        let shape = shape(1, 1, 1, 1, 8);
        let variant = variant("knorm", &["window=2"], 4);
        let norms =
            Observed::Rows { rows: 1, columns: 8, values: vec![5.0, 1.0, 4.0, 2.0, 3.0, 6.0, 9.0, 9.0] };
        let observations = Observations { layers: vec![[(Observation::KeyNorm, norms)].into()] };
        let kept =
            variant.select(&shape, &observations, &Inputs::default(), &mut MethodState::default()).unwrap();
        assert_eq!(kept.layers, [LayerSelection::Heads(vec![vec![1, 3, 6, 7]])]);
    }
}
