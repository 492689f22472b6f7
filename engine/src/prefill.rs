//! One full-attention pass over a prompt: the keys, values, logits and observations that every variant shares.

use std::collections::BTreeSet;

use candle_core::Tensor;
use kvsweep_methods::{
    observation::{Observation, Observations},
    shape::PromptShape,
};

use crate::{
    backend::Compute as _,
    cache::LayerStore,
    error::{EngineError, Result},
    model::Model,
};

/// What a prefill keeps beyond what decoding needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefillOptions {
    /// Keep the logits of every prompt position, not only of the last.
    pub keep_all_logits: bool,
}

/// A prompt that has been read. Immutable; share it in an [`std::sync::Arc`].
#[derive(Debug)]
pub struct Prefill {
    pub(crate) ids: Vec<u32>,
    pub(crate) shape: PromptShape,
    pub(crate) logits: Vec<f32>,
    pub(crate) all_logits: Option<Vec<f32>>,
    pub(crate) observations: Observations,
    pub(crate) store: Store,
}

/// Rotated keys, and values, where the model computes.
#[derive(Debug)]
pub(crate) enum Store {
    /// One [`LayerStore`] a layer.
    Cpu(Vec<LayerStore>),
    /// Keys and values of each layer, `[kv_heads, prompt_len, head_dim]`.
    Tensors(Vec<(Tensor, Tensor)>),
}

impl Prefill {
    /// The prompt.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Sizes, for the methods.
    #[must_use]
    pub fn shape(&self) -> &PromptShape {
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

    pub(crate) fn cpu_store(&self) -> Result<&[LayerStore]> {
        match &self.store {
            Store::Cpu(layers) => Ok(layers),
            Store::Tensors(_) => Err(EngineError::ForeignPrefill),
        }
    }

    pub(crate) fn tensors(&self) -> Result<&[(Tensor, Tensor)]> {
        match &self.store {
            Store::Tensors(layers) => Ok(layers),
            Store::Cpu(_) => Err(EngineError::ForeignPrefill),
        }
    }
}

impl Model {
    /// Reads a prompt with full causal attention, once for every variant. Memory grows linearly with its length.
    ///
    /// # Errors
    /// A prompt that this model cannot read (see [`Model::check_prompt`]), a failing device, numbers that are not
    /// finite, or [`EngineError::Interrupted`] where [`Model::cancel`] asks for it.
    pub fn prefill(
        &self,
        ids: &[u32],
        wanted: &BTreeSet<Observation>,
        options: PrefillOptions,
    ) -> Result<Prefill> {
        self.check_prompt(ids, 0)?;
        let wanted: Vec<_> = wanted.iter().copied().collect();
        match &self.backend {
            crate::backend::Backend::Cpu(model) => model.prefill(ids, &wanted, options, &self.cancel),
            crate::backend::Backend::Reference(model) => model.prefill(ids, &wanted, options, &self.cancel),
        }
    }
}
