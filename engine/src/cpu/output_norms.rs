//! How large each value is behind the output projection (CriticalKV), computed with the packed weights.

use kvsweep_methods::observation::Observed;
use rayon::prelude::*;

use super::{
    cache::LayerStore,
    matrix::PackedMatrix,
    model::Cpu,
    prefill::BLOCK,
    product::{Output, Rows},
};
use crate::{cancel::Cancel, error::Result};

impl Cpu {
    /// [`Observation::OutputNorm`](kvsweep_methods::Observation::OutputNorm) of one layer whose prompt is stored.
    ///
    /// # Errors
    /// [`EngineError::Interrupted`](crate::error::EngineError::Interrupted).
    pub(super) fn output_norms(
        &self,
        projection: &PackedMatrix,
        store: &LayerStore,
        cancel: &Cancel,
    ) -> Result<Observed> {
        let (heads, dim) = (self.config.query_heads, self.config.head_dim);
        let group = heads / self.config.kv_heads;
        let tokens = store.first().map_or(0, |head| head.len);
        let mut values = vec![0.0; heads * tokens];
        values.par_chunks_mut(tokens.max(1)).enumerate().try_for_each(|(head, norms)| -> Result<()> {
            let weights = projection.inputs(head * dim);
            let mut projected = vec![0.0; BLOCK * projection.output()];
            let blocks = store[head / group].values.chunks(BLOCK * dim).zip(norms.chunks_mut(BLOCK));
            for (block, norms) in blocks {
                cancel.check()?;
                let rows = Rows { data: block, stride: dim, rows: norms.len(), depth: dim };
                let stride = projection.output();
                let data = &mut projected[..norms.len() * stride];
                self.simd.product(rows, weights, Output { data, stride, accumulate: false });
                for (norm, row) in norms.iter_mut().zip(projected.chunks_exact(stride)) {
                    *norm = absolute_sum(row);
                }
            }
            Ok(())
        })?;
        Ok(Observed::Rows { rows: heads, columns: tokens, values })
    }
}

/// Sum of absolute values, in lanes of a fixed number so that it vectorises.
fn absolute_sum(row: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0f32; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x.abs());
    }
    sums.iter().sum::<f32>() + rest.iter().map(|x| x.abs()).sum::<f32>()
}
