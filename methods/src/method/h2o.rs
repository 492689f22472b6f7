//! H2O: the tokens that all of the prompt attended to most ("heavy hitters"), and the recent ones.
//!
//! Paper: Zhang et al., H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language
//! Models, NeurIPS 2023 (arXiv:2306.14048). Section 2.9 of the specification:
//!
//! ```text
//! if S < B: keep all
//! s[j] = sum over ALL query rows of causal attention, j < S - w
//! keep top(s, B - w) and the last w                 (no pooling)
//! ```
//!
//! Reference: `Zefan-Cai/KVCache-Factory:pyramidkv/pyramidkv_utils.py:815-889` (c97f9d70): once after the
//! prefill, `w` recent tokens rather than half of the budget. Deviation: one selection per KV head, the
//! mean of its query heads.

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::error::MethodError;
use crate::group::{self, GroupLayout, GroupReduce};
use crate::observation::Observation;
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};
use crate::shape::LayerShape;
use rayon::prelude::*;

params! {
    /// Parameters of H2O.
    H2o {
        /// Last prompt tokens, always kept.
        window: usize = 8,
        /// How the query heads of a KV head become one row: `mean`, `max` or `sum`.
        group_reduce: GroupReduce = GroupReduce::Mean,
    }
}

/// H2O's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "h2o",
    summary: "the tokens that the whole prompt attends to most",
    paper: "Zhang et al., H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models, NeurIPS 2023 (arXiv:2306.14048)",
    source: "Zefan-Cai/KVCache-Factory pyramidkv/pyramidkv_utils.py:815-889 (c97f9d70)",
    deviations: "one selection per KV head, the mean of its query heads; as in that port, no eviction while decoding and a fixed recent window instead of half of the budget",
    question: Question::Either,
    granularities: &[Granularity::KvHead, Granularity::QueryHead],
    needs: &[],
    parameters: H2o::PARAMETERS,
    parse: parse::<H2o>,
};

impl H2o {
    fn layer_scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Scores, MethodError> {
        let LayerShape { query_heads: heads, kv_heads, .. } = *ctx.layer(layer);
        let (columns, values) =
            ctx.rows(layer, Observation::AccumulatedSum { recent: self.window }, heads)?;
        let row = |head: usize| &values[head * columns..(head + 1) * columns];
        let rows = match ctx.granularity {
            Granularity::QueryHead => (0..heads).map(|head| row(head).to_vec()).collect(),
            Granularity::KvHead => (0..kv_heads)
                .into_par_iter()
                .map(|kv| {
                    group::reduce(
                        group::members(GroupLayout::Contiguous, heads, kv_heads, kv).map(row),
                        self.group_reduce,
                    )
                })
                .collect(),
        };
        Ok(Scores { columns, rows })
    }
}

impl Method for H2o {
    fn check(&self) -> Result<(), (&'static str, String)> {
        scoring::check_window(self.window)
    }

    fn recent(&self) -> usize {
        self.window
    }

    fn observations(&self) -> Vec<Observation> {
        vec![Observation::AccumulatedSum { recent: self.window }]
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
    fn early_positions_are_favoured() {
        // Equal attention everywhere: position j is seen by S - j rows.
        let shape = shape(1, 2, 1, 4, 50);
        let variant = variant("h2o", &[], 20);
        let mut observations = observe(&variant, &shape, 1);
        for observed in observations.layers[0].values_mut() {
            let Observed::Rows { values, columns, .. } = observed else { panic!() };
            values.iter_mut().enumerate().for_each(|(i, v)| *v = (50 - i % *columns) as f32);
        }
        let kept =
            variant.select(&shape, &observations, &Inputs::default(), &mut MethodState::default()).unwrap();
        assert_eq!(kept.layers, [LayerSelection::Heads(vec![(0..12).chain(42..50).collect()])]);
    }
}
