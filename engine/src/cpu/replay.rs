//! The second pass of [`crate::reconstruct`]: tokens read behind a whole prompt, and what they look at.

use std::sync::Arc;

use kvsweep_methods::selection::{Granularity, LayerSelection, Selection};
use rayon::prelude::*;

use super::{
    attention::{self, Entries},
    cache::{CpuCache, CpuPrompt},
    model::Cpu,
    product::{Output, PANEL, Panels, Rows},
    simd::{Simd, for_each_simd},
};
use crate::{backend::Extend, cancel::Cancel, error::Result, reconstruct::Replayed};

/// Tokens that are read at once: a stop is looked for between the layers of such a call.
pub(crate) const CHUNK: usize = 512;

/// Query rows that go through the keys together.
pub(crate) const ROW_BLOCK: usize = 32;

for_each_simd! {
    /// Raises each element of `most` to `x * factor` where that is more.
    fn raise(x: &[f32], factor: f32, most: &mut [f32]) {
        for (most, &x) in most.iter_mut().zip(x) {
            let x = x * factor;
            *most = if x > *most { x } else { *most };
        }
    }
}

/// What rows of a replay see in one KV head.
struct Seen<'a> {
    /// Keys of the sinks and the part, in panels.
    keys: &'a [f32],
    /// How many there are.
    len: usize,
    sinks: usize,
    /// What was read before and with these tokens.
    tail: Entries<'a>,
}

impl Cpu {
    /// See [`Backend::replay`](crate::backend::Backend::replay).
    pub(super) fn read_again(
        &self,
        prompt: &Arc<CpuPrompt>,
        tokens: &[u32],
        seen: &Replayed,
        most: &mut [Vec<f32>],
        cancel: &Cancel,
    ) -> Result<()> {
        let layers = vec![LayerSelection::All; self.config.layers];
        let everything = Selection { granularity: Granularity::KvHead, layers };
        let mut cache = CpuCache::new(prompt, &everything, tokens.len(), 0);
        for tokens in tokens.chunks(CHUNK) {
            let mut rows = [Extend { cache: &mut cache, tokens, masked: None }];
            let mut watch = |layer: usize, cache: &CpuCache, projected: &[f32]| {
                if !most[layer].is_empty() {
                    self.raise_layer([layer, tokens.len()], cache, projected, seen, &mut most[layer]);
                }
            };
            self.read_on(&mut rows, None, Some(&mut watch), cancel)?;
        }
        Ok(())
    }

    /// Raises one layer's maxima by the tokens read last, whose scaled queries begin the rows of `projected`.
    fn raise_layer(
        &self,
        [layer, tokens]: [usize; 2],
        cache: &CpuCache,
        projected: &[f32],
        seen: &Replayed,
        most: &mut [f32],
    ) {
        let (dim, kv_heads) = (self.config.head_dim, self.config.kv_heads);
        let group = self.config.query_heads / kv_heads;
        let width = projected.len() / tokens;
        let (_, _, prompt) = cache.kept(layer);
        let len = most.len() / kv_heads;
        let kept: Vec<u32> = (0..seen.sinks).chain(seen.part.clone()).map(|entry| entry as u32).collect();
        let block = (ROW_BLOCK / group).max(1);
        most.par_chunks_mut(len).enumerate().for_each(|(head, most)| {
            let mut keys = vec![0.0; attention::key_panels_len(kept.len(), dim)];
            attention::gather_keys(prompt[head].entries().keys, &kept, &mut keys, dim);
            let tail = cache.tails[layer][head].entries();
            let seen_here = Seen { keys: &keys, len: kept.len(), sinks: seen.sinks, tail };
            let nothing = || vec![0.0; seen.part.len()];
            let largest = (0..tokens)
                .into_par_iter()
                .step_by(block)
                .fold(nothing, |mut largest, first| {
                    let rows = block.min(tokens - first);
                    let mut queries = Vec::with_capacity(rows * group * dim);
                    for row in projected.chunks_exact(width).skip(first).take(rows) {
                        queries.extend_from_slice(&row[head * group * dim..][..group * dim]);
                    }
                    self.raise_rows(&queries, tail.len - tokens + first + 1, &seen_here, &mut largest);
                    largest
                })
                .reduce(nothing, |mut a, b| {
                    self.simd.raise(&b, 1.0, &mut a);
                    a
                });
            self.simd.raise(&largest, 1.0, &mut most[seen.part.clone()]);
        });
    }

    /// The same for `[tokens][group][head_dim]` queries of one KV head, the first of which sees `first` entries of the
    /// tail, and each token one more than the one before it.
    fn raise_rows(&self, queries: &[f32], first: usize, seen: &Seen<'_>, most: &mut [f32]) {
        let (simd, dim) = (self.simd, self.config.head_dim);
        let group = self.config.query_heads / self.config.kv_heads;
        let rows = queries.len() / dim;
        let tail_at = seen.len.next_multiple_of(PANEL);
        let last = first + rows / group - 1;
        let stride = tail_at + last.next_multiple_of(PANEL);
        let mut weights = vec![0.0; rows * stride];
        let x = Rows { data: queries, stride: dim, rows, depth: dim };
        for (keys, len, at) in [(seen.keys, seen.len, 0), (seen.tail.keys, last, tail_at)] {
            let keys = Panels::packed(keys, dim, len.next_multiple_of(PANEL));
            simd.product(x, keys, Output { data: &mut weights[at..], stride, accumulate: false });
        }
        for (row, weights) in weights.chunks_exact_mut(stride).enumerate() {
            let (kept, tail) = weights.split_at_mut(tail_at);
            let (kept, tail) = (&mut kept[..seen.len], &mut tail[..first + row / group]);
            let max = simd.max(kept).max(simd.max(tail));
            let sum = simd.exp2_sum(kept, max) + simd.exp2_sum(tail, max);
            simd.raise(&kept[seen.sinks..], 1.0 / sum, most);
        }
    }
}
