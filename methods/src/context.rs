//! What a method is given, and what it may remember from one prompt to the next.

use serde::{Deserialize, Serialize};

use crate::error::MethodError;
use crate::inputs::{InputKind, Inputs};
use crate::observation::{Observation, Observations, Observed};
use crate::selection::Granularity;
use crate::shape::{CacheShape, LayerShape};

/// What a method sees of one prompt: no text, no answer.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The method's name.
    pub method: &'static str,
    /// The calibrated inputs that it reads.
    pub needs: &'static [InputKind],
    /// Sizes of the cache.
    pub shape: &'a CacheShape,
    /// What the prefill observed.
    pub observations: &'a Observations,
    /// Calibrated or published scores of this model.
    pub inputs: &'a Inputs,
    /// KV entries per KV head (per query head where the granularity stores those), averaged over heads and layers, window
    /// included.
    pub budget: usize,
    /// Which heads own a selection.
    pub granularity: Granularity,
}

impl<'a> Context<'a> {
    /// One layer's sizes.
    ///
    /// # Panics
    /// Where the model has no such layer, as the index of a slice does.
    #[must_use]
    pub fn layer(&self, layer: usize) -> &'a LayerShape {
        &self.shape.layers[layer]
    }

    /// Heads of a layer that own a selection.
    ///
    /// # Panics
    /// As [`Context::layer`].
    #[must_use]
    pub fn heads(&self, layer: usize) -> usize {
        self.granularity.heads(self.layer(layer))
    }

    /// `(columns, values)` of one observed layer, checked against the shape.
    ///
    /// # Errors
    /// When the layer was not observed so, or has another number of heads or positions.
    pub fn rows(
        &self,
        layer: usize,
        observation: Observation,
        heads: usize,
    ) -> Result<(usize, &'a [f32]), MethodError> {
        let columns = self.columns(observation);
        match self.observed(layer, observation)? {
            Observed::Rows { rows, columns: found, values }
                if *rows == heads && *found == columns && values.len() == heads * columns =>
            {
                Ok((columns, values))
            }
            other => Err(MethodError::Mismatch {
                what: format!("{observation:?} of layer {layer}"),
                expected: format!("{heads} heads x {columns} positions"),
                found: other.describe(),
            }),
        }
    }

    /// The raw observation of a layer.
    ///
    /// # Errors
    /// When the layer was not observed so.
    pub fn observed(&self, layer: usize, observation: Observation) -> Result<&'a Observed, MethodError> {
        self.observations
            .layers
            .get(layer)
            .and_then(|seen| seen.get(&observation))
            .ok_or(MethodError::NotObserved { layer, observation })
    }

    /// Positions that an observation covers in this prompt.
    #[must_use]
    pub fn columns(&self, observation: Observation) -> usize {
        observation.columns(self.shape.len)
    }

    /// The error for a calibrated input that is not there.
    #[must_use]
    pub fn missing(&self, input: InputKind) -> MethodError {
        MethodError::MissingInput { method: self.method.to_owned(), input }
    }
}

/// What a variant remembers from one prompt to the next: nothing, except in the stateful profiles, where
/// the first prompt fixes the capacities of all. The runner owns it and says, by [`StateScope`], when to
/// start a fresh one; [`MethodState::after`] lets a shard start where the whole run would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodState {
    pub(crate) first_prompt_len: Option<usize>,
}

impl MethodState {
    /// The state after a first prompt of that length.
    #[must_use]
    pub fn after(first_prompt_len: usize) -> Self {
        Self { first_prompt_len: Some(first_prompt_len) }
    }
}

/// For how long a [`MethodState`] is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateScope {
    /// Nothing is remembered: prompts may come in any order.
    Prompt,
    /// One state per data set.
    Dataset,
    /// One state per run.
    Run,
}

/// From which prompt the capacities of a run come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CapacityFrom {
    /// From each prompt, with the uniform split for prompts shorter than twice the budget
    /// (KVCache-Factory).
    Prompt,
    /// Frozen by the first prompt of each data set (CompressKV).
    Dataset,
    /// Frozen by the first prompt of the run (HeadKV, AdaKV).
    Run,
}

impl From<CapacityFrom> for StateScope {
    fn from(capacity: CapacityFrom) -> Self {
        match capacity {
            CapacityFrom::Prompt => Self::Prompt,
            CapacityFrom::Dataset => Self::Dataset,
            CapacityFrom::Run => Self::Run,
        }
    }
}
