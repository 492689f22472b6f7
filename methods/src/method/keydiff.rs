//! KeyDiff: the entries whose keys differ most from the others of their head.
//!
//! Paper: Park et al., KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM Inference in
//! Resource-Constrained Environments, 2025 (arXiv:2504.15364). Score: minus the cosine of a rotated key with the mean
//! direction of its head's keys. No attention is read, so it does not matter whether the question was seen.
//!
//! Reference: `NVIDIA/kvpress:kvpress/presses/keydiff_press.py` (0.5.5). Deviation: applied once, to the finished
//! prefill; the paper evicts block by block while it reads the prompt.

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::error::MethodError;
use crate::observation::Observation;
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};

params! {
    /// Parameters of KeyDiff.
    KeyDiff {
        /// Last prompt tokens, always kept.
        window: usize = 0,
    }
}

/// KeyDiff's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "keydiff",
    summary: "the tokens whose keys differ most from their head's mean key",
    paper: "Park et al., KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM Inference in Resource-Constrained Environments, 2025 (arXiv:2504.15364)",
    source: "NVIDIA/kvpress kvpress/presses/keydiff_press.py (0.5.5)",
    deviations: "once after the prefill, as kvpress does it; the paper evicts block by block while it reads",
    question: Question::Either,
    granularities: &[Granularity::KvHead],
    needs: &[],
    parameters: KeyDiff::PARAMETERS,
    parse: parse::<KeyDiff>,
};

impl KeyDiff {
    fn layer_scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Scores, MethodError> {
        scoring::lowest_keys(ctx, layer, Observation::KeySimilarity, self.window)
    }
}

impl Method for KeyDiff {
    fn recent(&self) -> usize {
        self.window
    }

    fn chooses_again(&self) -> bool {
        true
    }

    fn observations(&self) -> Vec<Observation> {
        vec![Observation::KeySimilarity]
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
    use crate::inputs::Inputs;
    use crate::observation::{Observation, Observed};
    use crate::selection::LayerSelection;
    use crate::testing::{observe, shape, variant};

    #[test]
    fn the_keys_that_stand_apart_are_kept() {
        let shape = shape(1, 2, 1, 4, 30);
        let variant = variant("keydiff", &[], 3);
        let mut observations = observe(&variant, &shape, 1);
        let values = (0..30).map(|i| if [4, 17, 29].contains(&i) { -0.5 } else { 0.9 }).collect();
        let rows = Observed::Rows { rows: 1, columns: 30, values };
        observations.layers[0].insert(Observation::KeySimilarity, rows);
        let kept =
            variant.select(&shape, &observations, &Inputs::default(), &mut Default::default()).unwrap();
        assert_eq!(kept.layers, [LayerSelection::Heads(vec![vec![4, 17, 29]])]);
    }
}
