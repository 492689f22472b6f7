//! What a back end is: it reads prompts, makes the caches of variants, and reads tokens into many of them at once.

use std::{collections::BTreeSet, fmt::Debug, sync::Arc};

use kvsweep_methods::{
    observation::{Observation, Observations},
    selection::Selection,
};

use crate::{
    cache::Held,
    cancel::Cancel,
    error::Result,
    prefill::{Prefill, PrefillOptions},
    reconstruct::Replayed,
};

/// Query heads to silence, as (layer, head).
pub type HeadSet = BTreeSet<(usize, usize)>;

/// Tokens that one sequence reads.
#[derive(Debug)]
pub struct Extend<'a, C> {
    /// Its cache, which grows by the tokens.
    pub cache: &'a mut C,
    /// The tokens, in order; each sees the cache and the ones before it.
    pub tokens: &'a [u32],
    /// Heads whose query is zero.
    pub masked: Option<&'a HeadSet>,
}

/// Sees one layer's attention rows.
pub type OnLayerRows<'a> = &'a mut dyn FnMut(usize, &[f32]);

/// What a calibration pass looks at while one sequence reads one token.
pub struct Tap<'a, C> {
    /// Sees each layer's attention rows, `[query_heads][entries]`; the sequence must keep the whole prompt.
    pub rows: Option<OnLayerRows<'a>>,
    /// A second cache of the same sequence, and per layer the sum of relative errors of the attention output that
    /// the same query gets from it.
    pub shadow: Option<(&'a mut C, &'a mut [f64])>,
}

/// The weights of one model where and as they compute. A back end is one module: its own prompts and caches, which no
/// other can be given.
pub trait Backend: Debug + Send + Sync {
    /// Keys and values of a prompt, shared by its variants.
    type Prompt: Debug + Send + Sync;
    /// Keys and values of one variant, ragged, with room for the tokens that it reads.
    type Cache: Debug + Send + Sync;

    /// Reads a prompt that was checked, with full causal attention. Looks at `cancel` between the blocks of a layer.
    ///
    /// # Errors
    /// A failing device, numbers that are not finite, or an interruption.
    fn prefill(
        &self,
        ids: &[u32],
        wanted: &[Observation],
        options: PrefillOptions<'_>,
        cancel: &Cancel,
    ) -> Result<Prefill<Self::Prompt>>;

    /// Reads tokens behind a whole prompt, and raises `most`, of each layer `[kv_heads][prompt_len]` (of one that is left out, nothing), to the largest
    /// attention that an entry of `seen.part` gets from any of them in any query head of its group: softmax over the
    /// sinks, the part, and the tokens up to the row's own. Looks at `cancel` between blocks of tokens.
    ///
    /// # Errors
    /// A failing device, numbers that are not finite, or an interruption.
    fn replay(
        &self,
        prompt: &Arc<Self::Prompt>,
        tokens: &[u32],
        seen: &Replayed,
        most: &mut [Vec<f32>],
        cancel: &Cancel,
    ) -> Result<()>;

    /// Makes the cache of one variant, with room for `room` further tokens, which remembers the queries of the last
    /// `votes` tokens that it reads. The selection was checked.
    ///
    /// # Errors
    /// A failing device.
    fn fork(
        &self,
        prompt: &Arc<Self::Prompt>,
        selection: &Selection,
        room: usize,
        votes: usize,
    ) -> Result<Self::Cache>;

    /// Gives what a new cache keeps of its prompt, by the selection it was made with, the positions 0, 1, … in its order,
    /// and the next token the position behind. Every head must hold as many.
    ///
    /// # Errors
    /// Heads of unlike length, or a failing device.
    fn renumber(&self, cache: &mut Self::Cache, selection: &Selection) -> Result<()>;

    /// Observes a cache at this moment, as if its entries were a prompt; windows are those of the tokens read last. Every
    /// head must hold as many entries, the second answer.
    ///
    /// # Errors
    /// Heads of unlike length, more votes than were remembered, or a failing device.
    fn observe(&self, cache: &Self::Cache, wanted: &[Observation]) -> Result<(Observations, usize)>;

    /// Evicts from a cache that grew: of each head's entries, the prompt's first and those read since behind them, it
    /// keeps the selected ones, in their order; the selection counts them from 0. The next position stays.
    ///
    /// # Errors
    /// A failing device.
    fn evict(&self, cache: &mut Self::Cache, selection: &Selection) -> Result<()>;

    /// Measures what a cache holds, the tokens read since its last cut left out.
    fn held(&self, cache: &Self::Cache) -> Held;

    /// Reads tokens, the projections once over all of them; returns the logits behind each sequence's last token,
    /// `[rows][vocab]`. What a sequence gets does not depend on the others, nor on how its tokens are cut into calls.
    /// A tap wants a single sequence and token. Looks at `cancel` between the layers.
    ///
    /// # Errors
    /// A failing device, numbers that are not finite, or an interruption.
    fn extend(
        &self,
        rows: &mut [Extend<'_, Self::Cache>],
        tap: Option<&mut Tap<'_, Self::Cache>>,
        cancel: &Cancel,
    ) -> Result<Vec<f32>>;
}
