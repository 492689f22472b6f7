//! HeadKV-R and HeadKV-R2: SnapKV's scores, with a fixed budget for each head from offline head scores.
//!
//! Paper: Fu et al., Not All Heads Matter: A Head-Level KV Cache Compression Method with Integrated
//! Retrieval and Reasoning, ICLR 2025 (arXiv:2410.19258). Section 2.6 of the specification; the capacities
//! are [`crate::budget::headkv`]. R reads retrieval scores, R2 retrieval-reasoning scores.
//!
//! Reference: `FYYFU/HeadKV:headkv/snapkv_utils.py:381-389, 444-458` (0862a095); window 8, kernel 7, max
//! pooling and temperature 1 are its scripts'. `beta` is swept there and a table does not say which it
//! used; 1.01 is the only default that published code has (KVCache-Factory).
//! Deviations: one selection per KV head by default, whose capacity is the mean of its query heads'
//! (KVCache-Factory's `kv_head` mode); `headkv-r@headkv` selects per query head. A capacity beyond the
//! prompt is not given to other heads, as in the reference: the accounting shows the underspend.

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::budget::headkv;
use crate::error::MethodError;
use crate::inputs::InputKind;
use crate::observation::Observation;
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};
use crate::shape::LayerShape;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// What is split among heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CapacityBase {
    /// The budget without the window (HeadKV).
    Past,
    /// The whole budget, the window on top of it (KVCache-Factory): more tokens than the budget says.
    Budget,
}

params! {
    /// Parameters of HeadKV.
    HeadKv, voted for by a window of 8 {
        /// Above 1; the smaller, the more of the budget goes by head scores. Published: 1.005, 1.01, 1.1, 1.2,
        /// 1.5, 2, 5, 10.
        beta: f64 = 1.01,
        /// Exponent on the heads' shares.
        temp: f64 = 1.0,
        /// `past` splits the budget without the window, `budget` all of it.
        capacity_base: CapacityBase = CapacityBase::Past,
    }
}

/// HeadKV-R's line of the registry.
pub(crate) const R: Entry = Entry {
    name: "headkv-r",
    summary: "SnapKV's scores, heads keep by their retrieval scores",
    paper: "Fu et al., Not All Heads Matter: A Head-Level KV Cache Compression Method with Integrated Retrieval and Reasoning, ICLR 2025 (arXiv:2410.19258)",
    source: "FYYFU/HeadKV headkv/snapkv_utils.py:381-389, 444-458 (0862a095)",
    deviations: "one selection per KV head, with the mean capacity of its query heads; the reference selects and stores per query head",
    question: Question::Seen,
    granularities: &[Granularity::KvHead, Granularity::QueryHead],
    needs: &[InputKind::RetrievalScores],
    parameters: HeadKv::PARAMETERS,
    parse: parse::<HeadKv>,
};

/// HeadKV-R2's line of the registry.
pub(crate) const R2: Entry = Entry {
    name: "headkv-r2",
    summary: "SnapKV's scores, heads keep by their retrieval-reasoning scores",
    needs: &[InputKind::ReasoningScores],
    ..R
};

impl HeadKv {
    /// Capacities of the stored heads, layer-major, window excluded.
    pub fn capacities(&self, ctx: &Context<'_>) -> Result<Vec<u64>, MethodError> {
        let layers = &ctx.shape.layers;
        let mut all = Vec::new();
        for &kind in ctx.needs {
            let scores = match kind {
                InputKind::ReasoningScores => ctx.inputs.reasoning.as_ref(),
                _ => ctx.inputs.retrieval.as_ref(),
            };
            let scores = scores.ok_or_else(|| ctx.missing(kind))?;
            let fits = |(row, layer): (&Vec<f64>, &LayerShape)| row.len() == layer.query_heads;
            if scores.len() != layers.len() || !scores.iter().zip(&**layers).all(fits) {
                return Err(MethodError::Mismatch {
                    what: kind.to_string(),
                    expected: format!("{} layers x {} query heads", layers.len(), ctx.layer(0).query_heads),
                    found: format!(
                        "{} layers x {} query heads",
                        scores.len(),
                        scores.first().map_or(0, Vec::len)
                    ),
                });
            }
            all.extend(scores.iter().flatten().copied());
        }
        let base = match self.capacity_base {
            CapacityBase::Past => ctx.budget.saturating_sub(self.window),
            CapacityBase::Budget => ctx.budget,
        };
        let capacities = headkv::capacities(&all, base, self.beta, self.temp).heads;
        Ok(match ctx.granularity {
            Granularity::QueryHead => capacities,
            Granularity::KvHead => {
                let mut rest = capacities.as_slice();
                let mut means = Vec::new();
                for layer in &**layers {
                    let (heads, later) = rest.split_at(layer.query_heads);
                    means.extend(headkv::group_mean(heads, layer.group_size()));
                    rest = later;
                }
                means
            }
        })
    }
}

impl Method for HeadKv {
    fn check(&self) -> Result<(), (&'static str, String)> {
        if !(self.beta >= 1.0 && self.beta.is_finite()) {
            return Err(("beta", "it must be 1 or more".into()));
        }
        if !(self.temp >= 0.0 && self.temp.is_finite()) {
            return Err(("temp", "it must be 0 or more".into()));
        }
        self.scoring().check()
    }

    fn recent(&self) -> usize {
        self.window
    }

    fn observations(&self) -> Vec<Observation> {
        self.scoring().observations()
    }

    fn evicts_above(&self, budget: usize) -> usize {
        match self.capacity_base {
            CapacityBase::Past => budget,
            CapacityBase::Budget => budget.saturating_add(self.window),
        }
    }

    fn scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Option<Scores>, MethodError> {
        self.scoring().scores(ctx, layer).map(Some)
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        let layers = ctx.shape.layers.len();
        if ctx.shape.len < ctx.budget {
            return Ok(vec![LayerSelection::All; layers]);
        }
        let capacities = self.capacities(ctx)?;
        let scoring = self.scoring();
        let mut rest = capacities.as_slice();
        let mut by_layer = Vec::with_capacity(layers);
        for layer in 0..layers {
            let (own, later) = rest.split_at(ctx.heads(layer));
            by_layer.push(own);
            rest = later;
        }
        by_layer
            .into_par_iter()
            .enumerate()
            .map(|(layer, capacities)| {
                let scores = scoring.scores(ctx, layer)?;
                let n: Vec<usize> = capacities
                    .iter()
                    .map(|&n| usize::try_from(n).unwrap_or(usize::MAX).min(scores.columns))
                    .collect();
                Ok(scoring::cut(ctx, layer, &scores, &n))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::inputs::Inputs;
    use crate::testing::{counts, select, shape, variant};

    #[test]
    fn heads_keep_by_their_scores() {
        let shape = shape(2, 2, 2, 8, 300);
        let retrieval = Some(vec![vec![0.0, 3.0], vec![1.0, 0.0]]);
        let inputs = Inputs { retrieval, ..Inputs::default() };
        let kept = select(&variant("headkv-r", &["beta=2"], 40), &shape, &inputs).unwrap();
        assert_eq!(counts(&kept, 300), [[24, 72], [40, 24]]);
        let error = select(&variant("headkv-r2", &[], 40), &shape, &inputs).unwrap_err().to_string();
        assert_eq!(
            error,
            "method `headkv-r2` needs retrieval-reasoning head scores for this model; make them with `kvsweep \
             calibrate heads --kind reasoning` or name a file"
        );
        let foreign = Inputs { retrieval: Some(vec![vec![1.0; 2]; 3]), ..Inputs::default() };
        let error = select(&variant("headkv-r", &[], 40), &shape, &foreign).unwrap_err().to_string();
        assert_eq!(
            error,
            "retrieval head scores: expected 2 layers x 2 query heads, found 3 layers x 2 query heads"
        );
    }
}
