//! TOVA, a control: the tokens that the very last token attends to.
//!
//! Paper: Oren et al., Transformers are Multi-State RNNs, EMNLP 2024 (arXiv:2401.06104). Score: attention of
//! the last query, mean over all query heads; one set for all heads of a layer.
//!
//! Reference: `NVIDIA/kvpress:kvpress/presses/tova_press.py` (8bb29b9c). Deviation: applied once, to the
//! finished prefill; the paper drops one token at every step.

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::error::MethodError;
use crate::group::{self, GroupReduce};
use crate::observation::Observation;
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};

params! {
    /// TOVA has no parameters.
    Tova {}
}

/// TOVA's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "tova",
    summary: "control: the tokens that the last token attends to most",
    paper: "Oren et al., Transformers are Multi-State RNNs, EMNLP 2024 (arXiv:2401.06104)",
    source: "NVIDIA/kvpress kvpress/presses/tova_press.py (8bb29b9c)",
    deviations: "once after the prefill instead of at every step",
    question: Question::Seen,
    granularities: &[Granularity::KvHead],
    needs: &[],
    parameters: Tova::PARAMETERS,
    parse: parse::<Tova>,
};

const LAST: Observation = Observation::WindowSum { window: 1 };

fn layer_scores(ctx: &Context<'_>, layer: usize) -> Result<Scores, MethodError> {
    let (columns, values) = ctx.rows(layer, LAST, ctx.layer(layer).query_heads)?;
    let row = group::reduce(values.chunks(columns.max(1)), GroupReduce::Mean);
    Ok(Scores { columns, rows: vec![row] })
}

impl Method for Tova {
    fn recent(&self) -> usize {
        1
    }

    fn chooses_again(&self) -> bool {
        true
    }

    fn observations(&self) -> Vec<Observation> {
        vec![LAST]
    }

    fn scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Option<Scores>, MethodError> {
        layer_scores(ctx, layer).map(Some)
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        scoring::cut_uniform(ctx, 1, |layer| layer_scores(ctx, layer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::Inputs;
    use crate::observation::{Observations, Observed};
    use crate::testing::{shape, variant};

    #[test]
    fn the_last_token_chooses_for_all_heads() {
        let shape = shape(1, 2, 2, 1, 5);
        let rows =
            Observed::Rows { rows: 2, columns: 4, values: vec![0.5, 0.1, 0.1, 0.3, 0.1, 0.1, 0.7, 0.1] };
        let observations = Observations { layers: vec![[(LAST, rows)].into()] };
        let variant = variant("tova", &[], 3);
        let kept =
            variant.select(&shape, &observations, &Inputs::default(), &mut MethodState::default()).unwrap();
        assert_eq!(kept.layers, [LayerSelection::Heads(vec![vec![0, 2, 4]; 2])]);
    }
}
