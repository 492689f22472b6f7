//! FullKV: nothing is evicted. The reference every other method is measured against.

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::error::MethodError;
use crate::selection::{Granularity, LayerSelection};

params! {
    /// FullKV has no parameters.
    Full {}
}

/// FullKV's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "full",
    summary: "keeps every token",
    paper: "none: the uncompressed cache",
    source: "none",
    deviations: "none",
    question: Question::Either,
    granularities: &[Granularity::KvHead],
    needs: &[],
    parameters: Full::PARAMETERS,
    parse: parse::<Full>,
};

impl Method for Full {
    fn evicts_above(&self, _budget: usize) -> usize {
        usize::MAX
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        Ok(vec![LayerSelection::All; ctx.shape.layers.len()])
    }
}
