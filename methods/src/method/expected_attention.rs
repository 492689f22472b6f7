//! Expected Attention: the tokens that the queries to come are expected to attend to, by the moments of those so far.
//!
//! Paper: Devoto et al., Expected Attention: KV Cache Compression by Estimating Attention from Future Queries Distribution,
//! 2025 (arXiv:2510.00636).
//!
//! ```text
//! a = expected attention of the next `future` queries (the observation), mean over the group
//! s = (a + epsilon) * |v|_2; the first `sinks` tokens score above every other
//! keep top(s, B)
//! ```
//!
//! Reference: `NVIDIA/kvpress:kvpress/presses/expected_attention_press.py` (0.5.5). Deviations: none from that file.

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::error::MethodError;
use crate::observation::Observation;
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};

/// Tables of more positions than this are no estimate of an answer.
const MOST_FUTURE: usize = 65_536;

params! {
    /// Parameters of Expected Attention.
    ExpectedAttention {
        /// First tokens, always kept; their queries are left out.
        sinks: usize = 4,
        /// Positions behind the prompt where queries are expected.
        future: usize = 512,
        /// Added to the expected attention before norms weigh it.
        epsilon: f64 = 0.0,
    }
}

/// Expected Attention's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "expected-attention",
    summary: "the tokens that queries to come are expected to attend to, times their value norms",
    paper: "Devoto et al., Expected Attention: KV Cache Compression by Estimating Attention from Future Queries Distribution, 2025 (arXiv:2510.00636)",
    source: "NVIDIA/kvpress kvpress/presses/expected_attention_press.py (0.5.5)",
    deviations: "none",
    question: Question::Unseen,
    granularities: &[Granularity::KvHead],
    needs: &[],
    parameters: ExpectedAttention::PARAMETERS,
    parse: parse::<ExpectedAttention>,
};

impl ExpectedAttention {
    fn attention(&self) -> Observation {
        Observation::ExpectedAttention { sinks: self.sinks, future: self.future }
    }

    /// One row a KV head, of the whole prompt.
    pub(super) fn layer_scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Scores, MethodError> {
        let heads = ctx.layer(layer).kv_heads;
        let (columns, attention) = ctx.rows(layer, self.attention(), heads)?;
        let (_, norms) = ctx.rows(layer, Observation::ValueNorm, heads)?;
        let epsilon = self.epsilon as f32;
        let scores: Vec<f32> = attention.iter().zip(norms).map(|(a, norm)| (a + epsilon) * norm).collect();
        let mut rows: Vec<Vec<f32>> = scores.chunks(columns).map(<[f32]>::to_vec).collect();
        let sinks = self.sinks.min(columns);
        rows.iter_mut().for_each(|row| row[..sinks].fill(0.0));
        let above = scoring::best(&rows) + 1.0;
        rows.iter_mut().for_each(|row| row[..sinks].fill(above));
        Ok(Scores { columns, rows })
    }
}

impl Method for ExpectedAttention {
    fn check(&self) -> Result<(), (&'static str, String)> {
        if !(1..=MOST_FUTURE).contains(&self.future) {
            return Err(("future", format!("it is a number of positions, 1 to {MOST_FUTURE}")));
        }
        scoring::check_epsilon(self.epsilon)
    }

    fn check_budget(&self, budget: usize) -> Result<(), String> {
        if budget > self.sinks {
            return Ok(());
        }
        Err(format!("`sinks` = {} tokens are inside the budget and must be below it", self.sinks))
    }

    fn observations(&self) -> Vec<Observation> {
        vec![self.attention(), Observation::ValueNorm]
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
    use super::*;
    use crate::inputs::Inputs;
    use crate::observation::Observed;
    use crate::spec::MethodSpec;
    use crate::testing::{observe, shape, variant};

    #[test]
    fn sinks_are_kept_and_norms_weigh() {
        let shape = shape(1, 2, 1, 4, 20);
        let variant = variant("expected-attention", &["sinks=2"], 4);
        let mut observations = observe(&variant, &shape, 1);
        let mut rows = |observation, values: Vec<f32>| {
            observations.layers[0].insert(observation, Observed::Rows { rows: 1, columns: 20, values });
        };
        let attention = (0..20).map(|i| if i < 2 { 0.0 } else { 1.0 / (i as f32) }).collect();
        rows(Observation::ExpectedAttention { sinks: 2, future: 512 }, attention);
        rows(Observation::ValueNorm, (0..20).map(|i| if i == 17 { 50.0 } else { 1.0 }).collect());
        let kept =
            variant.select(&shape, &observations, &Inputs::default(), &mut Default::default()).unwrap();
        assert_eq!(kept.layers, [LayerSelection::Heads(vec![vec![0, 1, 2, 17]])]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let parse = |key: &str, value: &str| {
            MethodSpec::parse("expected-attention", &[(key.to_owned(), value.to_owned())], None)
        };
        for (key, value) in [("future", "0"), ("future", "1e9"), ("epsilon", "-1"), ("interval", "512")] {
            assert!(parse(key, value).is_err(), "{key}={value}");
        }
        let error = parse("sinks", "64").unwrap().at(64).unwrap_err().to_string();
        assert!(error.ends_with("`sinks` = 64 tokens are inside the budget and must be below it"), "{error}");
    }
}
