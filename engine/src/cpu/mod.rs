//! The CPU kernels: f32, deterministic, the same bits whatever the batch, the threads or the instruction set.

use std::{collections::BTreeMap, sync::Arc};

use kvsweep_methods::{
    observation::{Observation, Observations},
    selection::Selection,
};

use crate::{
    backend::{Backend, Extend, Tap},
    cache::Held,
    cancel::Cancel,
    error::Result,
    model::rope_tables::RopeTables,
    prefill::{Prefill, PrefillOptions},
    reconstruct::Replayed,
};

pub(crate) mod attention;
pub(crate) mod buffer;
mod cache;
mod extend;
pub(crate) mod matrix;
mod model;
mod output_norms;
pub(crate) mod prefill;
pub(crate) mod product;
pub mod rates;
pub(crate) mod received;
pub(crate) mod replay;
pub(crate) mod simd;
mod stored;

pub use cache::{CpuCache, CpuPrompt};
pub use model::Cpu;

/// A slice of `len` elements, whatever they hold.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    buffer.resize(len, 0.0);
    buffer
}

impl Backend for Cpu {
    type Prompt = CpuPrompt;
    type Cache = CpuCache;

    fn prefill(
        &self,
        ids: &[u32],
        wanted: &[Observation],
        options: PrefillOptions<'_>,
        cancel: &Cancel,
    ) -> Result<Prefill<CpuPrompt>> {
        self.read(ids, wanted, options, cancel)
    }

    fn replay(
        &self,
        prompt: &Arc<CpuPrompt>,
        tokens: &[u32],
        seen: &Replayed,
        most: &mut [Vec<f32>],
        cancel: &Cancel,
    ) -> Result<()> {
        self.read_again(prompt, tokens, seen, most, cancel)
    }

    fn fork(
        &self,
        prompt: &Arc<CpuPrompt>,
        selection: &Selection,
        room: usize,
        votes: usize,
    ) -> Result<CpuCache> {
        Ok(CpuCache::new(prompt, selection, room, votes * self.config.query_heads * self.config.head_dim))
    }

    fn renumber(&self, cache: &mut CpuCache, selection: &Selection) -> Result<()> {
        let turns = RopeTables::turns_back(&self.config, cache.position);
        let half = turns.half_dim;
        cache.renumber(selection, |key, positions| {
            let at = positions * half;
            self.simd.rotate(key, &turns.cos[at..][..half], &turns.sin[at..][..half]);
        })
    }

    fn observe(&self, cache: &CpuCache, wanted: &[Observation]) -> Result<(Observations, usize)> {
        let contested = self.config.cache_shape(0).contested();
        let entries = cache.held().entries_of_each(&contested, cache.behind())?;
        let mut observations = Observations::default();
        if !wanted.is_empty() {
            observations.layers.resize_with(self.config.layers, BTreeMap::new);
            for layer in contested {
                observations.layers[layer] = cache.observe(layer, &self.config.layer_shape(layer), wanted)?;
            }
        }
        Ok((observations, entries))
    }

    fn evict(&self, cache: &mut CpuCache, selection: &Selection) -> Result<()> {
        cache.evict(selection);
        Ok(())
    }

    fn held(&self, cache: &CpuCache) -> Held {
        cache.held()
    }

    fn extend(
        &self,
        rows: &mut [Extend<'_, CpuCache>],
        tap: Option<&mut Tap<'_, CpuCache>>,
        cancel: &Cancel,
    ) -> Result<Vec<f32>> {
        self.read_on(rows, tap, None, cancel)
    }
}
