//! What computes the observations of a check.

use std::collections::BTreeMap;

use kvsweep_methods::observe::{self, LayerTensors};
use kvsweep_methods::{LayerShape, MethodError, Observation, Observed};

/// Computes observations for the check: the CPU by default, a device where there is one.
pub trait Observer: Sync {
    /// Observes one layer; the contract of [`observe::observe_layer`].
    ///
    /// # Errors
    /// When the back end fails or the tensors contradict the shape.
    fn observe(
        &self,
        wanted: &[Observation],
        shape: &LayerShape,
        tensors: &LayerTensors<'_>,
    ) -> Result<BTreeMap<Observation, Observed>, MethodError>;
}

/// The observations that every run on the CPU starts from.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainObserver;

impl Observer for PlainObserver {
    fn observe(
        &self,
        wanted: &[Observation],
        shape: &LayerShape,
        tensors: &LayerTensors<'_>,
    ) -> Result<BTreeMap<Observation, Observed>, MethodError> {
        observe::observe_layer(wanted, shape, tensors)
    }
}
