//! LagKV: an entry counts by how far its key and value spread against the entries that follow it.
//!
//! Paper: Liang et al., LagKV: Lag-Relative Information of the KV Cache Tells Which Tokens Are Important, 2025
//! (arXiv:2504.04704). The prompt behind the sinks is cut into parts of `lag` entries. Every dimension is scaled by its
//! range in the next part; an entry's score is the softmax, over its part, of its standard deviation over dimensions,
//! the mean of key and value; what is compared is its rank in its part. Sinks and the last parts are kept before all
//! others. No attention is read, so it does not matter whether the question was seen.
//!
//! Reference: `NVIDIA/kvpress:kvpress/presses/lagkv_press.py` (0.5.5). Deviations: none from that file.

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::error::MethodError;
use crate::observation::Observation;
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};

params! {
    /// Parameters of LagKV.
    LagKv {
        /// First tokens, always kept.
        sinks: usize = 4,
        /// Tokens of a part; the last part and what is behind it are always kept.
        lag: usize = 128,
    }
}

/// LagKV's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "lagkv",
    summary: "the tokens whose keys and values spread most against those that follow",
    paper: "Liang et al., LagKV: Lag-Relative Information of the KV Cache Tells Which Tokens Are Important, 2025 (arXiv:2504.04704)",
    source: "NVIDIA/kvpress kvpress/presses/lagkv_press.py (0.5.5)",
    deviations: "none",
    question: Question::Either,
    granularities: &[Granularity::KvHead],
    needs: &[],
    parameters: LagKv::PARAMETERS,
    parse: parse::<LagKv>,
};

impl LagKv {
    fn observation(&self) -> Observation {
        Observation::LagRank { sinks: self.sinks, lag: self.lag }
    }

    fn layer_scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Scores, MethodError> {
        let (columns, values) = ctx.rows(layer, self.observation(), ctx.layer(layer).kv_heads)?;
        Ok(Scores { columns, rows: values.chunks(columns).map(<[f32]>::to_vec).collect() })
    }
}

impl Method for LagKv {
    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.lag == 0 { Err(("lag", "a part has at least one token".into())) } else { Ok(()) }
    }

    fn check_budget(&self, budget: usize) -> Result<(), String> {
        // Sinks, the part that nothing follows, and up to a part behind it.
        let taken = self.sinks.saturating_add(self.lag.saturating_mul(2)).saturating_sub(1);
        if budget > taken {
            return Ok(());
        }
        Err(format!(
            "{} first and up to {} last tokens are always kept, and must be below the budget; lower `lag`",
            self.sinks,
            taken - self.sinks
        ))
    }

    fn observations(&self) -> Vec<Observation> {
        vec![self.observation()]
    }

    fn scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Option<Scores>, MethodError> {
        self.layer_scores(ctx, layer).map(Some)
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        scoring::cut_uniform(ctx, 0, |layer| self.layer_scores(ctx, layer))
    }
}

#[cfg(test)]
mod tests {
    use crate::inputs::Inputs;
    use crate::selection::LayerSelection;
    use crate::testing::{select, shape, variant};

    #[test]
    fn sinks_and_the_last_parts_are_kept() {
        let shape = shape(2, 2, 2, 8, 100);
        let kept = select(&variant("lagkv", &["lag=10"], 40), &shape, &Inputs::default()).unwrap();
        for layer in &kept.layers {
            let LayerSelection::Heads(heads) = layer else { panic!() };
            for kept in heads {
                assert_eq!(kept.len(), 40);
                // 96 entries behind the sinks: nine parts, the last at 84, and six behind it.
                assert!((0..4).chain(84..100).all(|position| kept.contains(&position)), "{kept:?}");
            }
        }
    }
}
