//! What a method is given: one prompt, and what it remembers of those before.

use crate::error::MethodError;
use crate::inputs::{InputKind, Inputs};
use crate::observation::{Observation, Observations, Observed};
use crate::selection::Granularity;
use crate::shape::PromptShape;

/// What a method sees of one prompt: no text, no answer.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The method's name in the registry.
    pub method: &'static str,
    /// Calibrated inputs that the method reads.
    pub needs: &'static [InputKind],
    /// Sizes of the prefill.
    pub shape: &'a PromptShape,
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
        let out = match observation {
            Observation::WindowSum { window } | Observation::WindowMoments { window } => window,
            Observation::AccumulatedSum { recent } => recent,
            Observation::KeyNorm => 0,
        };
        self.shape.prompt_len.saturating_sub(out)
    }

    /// The error for a calibrated input that is not there.
    #[must_use]
    pub fn missing(&self, input: InputKind) -> MethodError {
        MethodError::MissingInput { method: self.method.to_owned(), input }
    }
}

/// What a variant remembers from one prompt to the next: nothing, except in the stateful profiles, where
/// the first prompt fixes the capacities of all. The runner owns it and says, by [`StateScope`](crate::StateScope), when to
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
