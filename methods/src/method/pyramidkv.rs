//! PyramidKV: SnapKV's scores, with more of the budget for the lower layers.
//!
//! Paper: Cai et al., PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling,
//! 2024 (arXiv:2406.02069). Section 2.4 of the specification; the schedule is
//! [`crate::budget::pyramid`].
//!
//! Reference: `Zefan-Cai/KVCache-Factory:pyramidkv/pyramidkv_utils.py:348-436` (c97f9d70), capacities
//! recomputed for every prompt; window 8, kernel 7 and max pooling are its LongBench configuration.
//! Deviation: one selection per KV head, as for SnapKV. The flooring of the schedule's step makes it hold
//! up to 11.7 % more than its budget; the accounting shows that instead of hiding it.

use super::{Context, Entry, Method, MethodState, Question, StateScope, params, parse};
use crate::budget::pyramid;
use crate::context::CapacityFrom;
use crate::error::MethodError;
use crate::observation::Observation;
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};

params! {
    /// Parameters of PyramidKV.
    PyramidKv, voted for by a window of 8 {
        /// Steepness: the last layer ideally keeps one `beta`-th of the budget.
        beta: usize = 20,
        /// Which prompt fixes the capacities: each (`prompt`), the first of the data set (`dataset`) or of
        /// the run (`run`).
        capacity: CapacityFrom = CapacityFrom::Prompt,
    }
}

/// PyramidKV's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "pyramidkv",
    summary: "SnapKV's scores, lower layers keep more",
    paper: "Cai et al., PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling, 2024 (arXiv:2406.02069)",
    source: "Zefan-Cai/KVCache-Factory pyramidkv/pyramidkv_utils.py:348-436 (c97f9d70)",
    deviations: "one selection per KV head, the mean of its query heads before pooling; a model of one layer keeps its budget",
    question: Question::Seen,
    granularities: &[Granularity::KvHead, Granularity::QueryHead],
    needs: &[],
    parameters: PyramidKv::PARAMETERS,
    parse: parse::<PyramidKv>,
};

impl Method for PyramidKv {
    fn check(&self) -> Result<(), (&'static str, String)> {
        pyramid::check_beta(self.beta)?;
        self.scoring().check()
    }

    fn recent(&self) -> usize {
        self.window
    }

    fn observations(&self) -> Vec<Observation> {
        self.scoring().observations()
    }

    fn state_scope(&self) -> StateScope {
        self.capacity.into()
    }

    fn scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Option<Scores>, MethodError> {
        self.scoring().scores(ctx, layer).map(Some)
    }

    fn select(&self, ctx: &Context<'_>, state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        let n = pyramid::schedule(ctx, self.window, self.beta, self.capacity, state);
        scoring::select_layers(ctx, &self.scoring(), &n)
    }
}

#[cfg(test)]
mod tests {
    use crate::inputs::Inputs;
    use crate::shape::CacheShape;
    use crate::testing::{counts, select, shape, variant};

    #[test]
    fn lower_layers_keep_more() {
        let shape = shape(4, 2, 1, 8, 400);
        let kept = select(&variant("pyramidkv", &[], 40), &shape, &Inputs::default()).unwrap();
        assert_eq!(counts(&kept, 400), [[71], [51], [31], [11]]);
        let short = CacheShape { len: 50, ..shape };
        let kept = select(&variant("pyramidkv", &[], 40), &short, &Inputs::default()).unwrap();
        assert_eq!(counts(&kept, 50), [[40], [40], [40], [40]]);
    }
}
