//! Who computes: our kernels on the CPU in f32, or candle's operations on any device and in any dtype.

use std::{collections::BTreeSet, sync::Arc};

use candle_core::{DType, Device};
use kvsweep_methods::{observation::Observation, selection::Selection};

use crate::{
    cache::Held,
    cancel::Cancel,
    cpu::forward::CpuModel,
    error::Result,
    model::{config::ModelConfig, weights::WeightParts},
    prefill::{Prefill, PrefillOptions},
    reference::ReferenceModel,
};

/// The weights, in the form that the device wants.
#[derive(Debug)]
pub(crate) enum Backend {
    /// The kernels of [`crate::cpu`].
    Cpu(CpuModel),
    /// Candle's operations.
    Reference(ReferenceModel),
}

impl Backend {
    /// Kernels for f32 on the CPU, candle for everything else.
    pub(crate) fn new(
        config: &ModelConfig,
        weights: &dyn WeightParts,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        Ok(if device.is_cpu() && dtype == DType::F32 {
            Self::Cpu(CpuModel::new(config, weights)?)
        } else {
            Self::Reference(ReferenceModel::new(config, weights, device, dtype)?)
        })
    }
}

/// Query heads to silence, as (layer, head).
pub type HeadSet = BTreeSet<(usize, usize)>;

/// One sequence of a decode step.
pub(crate) struct StepRow<'a, C> {
    /// Its cache, which grows by the token.
    pub(crate) cache: &'a mut C,
    /// The token to read.
    pub(crate) token: u32,
    /// Heads whose query is zero.
    pub(crate) masked: Option<&'a HeadSet>,
}

/// Sees one layer's attention rows.
pub(crate) type OnLayerRows<'a> = &'a mut dyn FnMut(usize, &[f32]);

/// What a calibration pass looks at in a decode step of one sequence.
pub(crate) struct StepTap<'a, C> {
    /// Sees each layer's attention rows, `[query_heads][entries]`; the sequence must keep the whole prompt.
    pub(crate) rows: Option<OnLayerRows<'a>>,
    /// A second cache of the same sequence, and per layer the sum of relative errors of the attention output that
    /// the same query gets from it.
    pub(crate) shadow: Option<(&'a mut C, &'a mut [f64])>,
}

/// A model that computes.
pub(crate) trait Compute {
    /// The cache of one variant.
    type Cache: Send;

    /// Reads a prompt that was checked. Looks at `cancel` between the blocks of a layer.
    fn prefill(
        &self,
        ids: &[u32],
        wanted: &[Observation],
        options: PrefillOptions,
        cancel: &Cancel,
    ) -> Result<Prefill>;

    /// Makes the cache of one variant, with room for `room` tokens. The selection was checked.
    fn fork(&self, prefill: &Arc<Prefill>, selection: &Selection, room: usize) -> Result<Self::Cache>;

    /// Measures what a cache holds of its prompt.
    fn held(&self, cache: &Self::Cache) -> Result<Held>;

    /// Reads one token a sequence; returns the logits, `[rows][vocab]`. A tap wants a single row. Looks at `cancel`
    /// between the layers.
    fn step(
        &self,
        rows: &mut [StepRow<'_, Self::Cache>],
        tap: Option<&mut StepTap<'_, Self::Cache>>,
        cancel: &Cancel,
    ) -> Result<Vec<f32>>;
}
