//! One full-attention pass over a prompt: the keys, values, logits and observations that every variant shares.

use std::sync::Arc;

use kvsweep_methods::{observation::Observations, shape::CacheShape};

use crate::reconstruct::RepeatRequest;

/// What a prefill keeps beyond what decoding needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefillOptions<'a> {
    /// Keep the logits of every prompt position, not only of the last.
    pub keep_all_logits: bool,
    /// Asks the model to repeat the prompt; what a [second pass](crate::reconstruct) shows cannot be observed without.
    pub repeat: Option<&'a RepeatRequest>,
    /// Tokens of the question at the end of the prompt; what reads the question cannot be observed without.
    pub question: Option<usize>,
}

/// A prompt that has been read. Immutable; share it in an [`Arc`]. `P` is the back end's own store of its keys and
/// values.
#[derive(Debug)]
pub struct Prefill<P> {
    pub(crate) ids: Vec<u32>,
    pub(crate) shape: CacheShape,
    pub(crate) logits: Vec<f32>,
    pub(crate) all_logits: Option<Vec<f32>>,
    pub(crate) observations: Observations,
    pub(crate) prompt: Arc<P>,
}

impl<P> Prefill<P> {
    /// The prompt.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Sizes, for the methods.
    #[must_use]
    pub fn shape(&self) -> &CacheShape {
        &self.shape
    }

    /// Logits of the last position, `[vocab]`: those of the first generated token.
    #[must_use]
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Logits of every position, row-major `[prompt_len][vocab]`, if they were asked for.
    #[must_use]
    pub fn all_logits(&self) -> Option<&[f32]> {
        self.all_logits.as_deref()
    }

    /// What the methods asked to see.
    #[must_use]
    pub fn observations(&self) -> &Observations {
        &self.observations
    }
}
