//! Reading a prompt: full causal attention in chunks, and what the methods want to see of it.

use std::collections::BTreeMap;

use kvsweep_methods::{
    observation::{Observation, Observations, Observed},
    shape::{CacheShape, LayerShape},
};

use super::{
    kernels::{ColumnSums, KeyNorms, Prefill, WindowMoments, scale_log2},
    launcher::{Address, Element, Launcher},
    model::{CudaModel, Target, int},
};

/// A prompt on the card.
#[derive(Debug)]
pub struct CudaPrompt {
    /// Sizes, for the methods.
    pub shape: CacheShape,
    /// Of the last position.
    pub logits: Vec<f32>,
    /// What was asked for, as far as kernels compute it ([`has_kernel`]).
    pub observations: Observations,
    /// `[layers][kv_heads][prompt_len][head_dim]`.
    pub(super) k: Address,
    pub(super) v: Address,
}

/// One observation of one layer while the prompt is read. Addresses are none where no column is observed.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Sums { first: usize, columns: usize, out: Address, begun: bool },
    Moments { first: usize, columns: usize, mean: Address, variance: Address, entropy: Address },
    Norms { out: Address },
}

/// Where a prompt is cut: every `chunk` positions from its start, but what is left is not cut as long as it is shorter
/// than `chunk + window`.
fn chunks(len: usize, chunk: usize, window: usize) -> Vec<std::ops::Range<usize>> {
    let mut cuts = vec![];
    let mut start = 0;
    while len - start >= chunk + window {
        cuts.push(start..start + chunk);
        start += chunk;
    }
    cuts.push(start..len);
    cuts
}

/// Whether [`CudaModel::read_prompt`] computes an observation. Of the others, those that
/// [read entries only](Observation::reads_entries_only) are computed from [`CudaModel::entries`]; the rest are not made
/// here, and a method that reads one says that it was not observed.
#[must_use]
pub fn has_kernel(observation: Observation) -> bool {
    matches!(
        observation,
        Observation::WindowSum { .. }
            | Observation::WindowMoments { .. }
            | Observation::AccumulatedSum { .. }
            | Observation::KeyNorm
    )
}

impl<L: Launcher> CudaModel<L> {
    /// Reads a prompt, once for every variant. No window may be longer than the limit that the model was made with.
    ///
    /// # Errors
    /// Of the device.
    pub fn read_prompt(&mut self, ids: &[u32], wanted: &[Observation]) -> Result<CudaPrompt, L::Error> {
        let (layers, kv_heads, len) = (self.layers(), self.dimensions.kv_heads, ids.len());
        let shape = self.shape(len);
        let layer_bytes = kv_heads * len * self.entry_bytes();
        let [k, v] = [self.card.allocate(layers * layer_bytes)?, self.card.allocate(layers * layer_bytes)?];
        let mut seen = Vec::with_capacity(layers);
        for sizes in &*shape.layers {
            let mut of_layer = Vec::new();
            for &observation in wanted {
                if let Some(begun) = self.begin(observation, sizes, len)? {
                    of_layer.push((observation, begun));
                }
            }
            seen.push(of_layer);
        }
        for chunk in chunks(len, self.limits.chunk, self.limits.window) {
            let positions: Vec<u32> = chunk.clone().map(|position| position as u32).collect();
            self.card.write(self.work.positions, &positions)?;
            self.card.write(self.work.rows, &positions)?;
            self.embed(&ids[chunk.clone()])?;
            let count = [chunk.len(); 2];
            for (layer, seen) in seen.iter_mut().enumerate() {
                let target =
                    Target { k: k.at(layer, layer_bytes), v: v.at(layer, layer_bytes), head_rows: len };
                self.before_attention(layer, count, target)?;
                self.attend_causally(layer, &chunk, target)?;
                for (_, seen) in seen {
                    self.look(layer, seen, &chunk, target)?;
                }
                self.after_attention(layer, count)?;
            }
            if chunk.end == len {
                self.logits(chunk.len(), chunk.len() - 1, 1)?;
            }
        }
        let logits = self.card.read(self.work.logits, self.dimensions.vocab)?;
        let mut observations = Observations::default();
        for (sizes, seen) in shape.layers.iter().zip(seen) {
            let mut observed = BTreeMap::new();
            for (observation, seen) in seen {
                observed.insert(observation, self.finish(seen, sizes, len)?);
            }
            observations.layers.push(observed);
        }
        Ok(CudaPrompt { shape, logits, observations, k, v })
    }

    /// The keys and the values of a layer, `[kv_heads][prompt_len][head_dim]` each, in the model's type: for what no
    /// kernel observes.
    ///
    /// # Errors
    /// Of the device.
    pub fn entries(&mut self, prompt: &CudaPrompt, layer: usize) -> Result<[Vec<u16>; 2], L::Error> {
        let len = self.dimensions.kv_heads * prompt.shape.len * self.instance.head_dim.get();
        let at = |address: Address| address.at(layer * len, Element::BYTES);
        Ok([self.card.read(at(prompt.k), len)?, self.card.read(at(prompt.v), len)?])
    }

    /// Gives a prompt's memory back.
    pub fn release_prompt(&mut self, prompt: &CudaPrompt) {
        self.card.release(prompt.k);
        self.card.release(prompt.v);
    }

    fn attend_causally(
        &mut self,
        layer: usize,
        chunk: &std::ops::Range<usize>,
        target: Target,
    ) -> Result<(), L::Error> {
        let arguments = Prefill {
            q: self.work.q,
            k: target.k,
            v: target.v,
            out: self.work.attended,
            log_sums: self.work.log_sums,
            q_len: int(chunk.len()),
            q_start: int(chunk.start),
            kv_len: int(chunk.end),
            capacity: int(target.head_rows),
            heads: int(self.dimensions.heads),
            group: int(self.dimensions.heads / self.dimensions.kv_heads),
            window: self.window(layer),
            scale_log2: scale_log2(self.instance.head_dim),
        };
        self.card.launch(self.instance, &arguments)
    }

    /// Makes room for an observation; none where no kernel computes it.
    fn begin(
        &mut self,
        observation: Observation,
        sizes: &LayerShape,
        len: usize,
    ) -> Result<Option<Seen>, L::Error> {
        let columns = observation.columns(len);
        let mut values = |rows: usize, columns: usize| {
            if columns == 0 { Ok(Address::NONE) } else { self.card.allocate(rows * columns * 4) }
        };
        let heads = sizes.query_heads;
        Ok(Some(match observation {
            Observation::WindowSum { .. } => {
                Seen::Sums { first: columns, columns, out: values(heads, columns)?, begun: false }
            }
            Observation::AccumulatedSum { .. } => {
                Seen::Sums { first: 0, columns, out: values(heads, columns)?, begun: false }
            }
            Observation::WindowMoments { .. } => {
                let [mean, variance] = [values(heads, columns)?, values(heads, columns)?];
                let entropy = values(heads, columns.div_ceil(64))?;
                Seen::Moments { first: columns, columns, mean, variance, entropy }
            }
            Observation::KeyNorm => Seen::Norms { out: values(sizes.kv_heads, columns)? },
            _ => return Ok(None),
        }))
    }

    /// Adds what the rows of a chunk see.
    fn look(
        &mut self,
        layer: usize,
        seen: &mut Seen,
        chunk: &std::ops::Range<usize>,
        target: Target,
    ) -> Result<(), L::Error> {
        let last = chunk.end == target.head_rows;
        let (q, k, log_sums) = (self.work.q, target.k, self.work.log_sums);
        let (q_len, q_start, kv_len) = (int(chunk.len()), int(chunk.start), int(chunk.end));
        let (capacity, heads) = (int(target.head_rows), int(self.dimensions.heads));
        let group = int(self.dimensions.heads / self.dimensions.kv_heads);
        let (window, scale_log2) = (self.window(layer), scale_log2(self.instance.head_dim));
        match seen {
            Seen::Sums { first, columns, out, begun } if *columns > 0 && *first < chunk.end => {
                let first_row = int(first.saturating_sub(chunk.start));
                let accumulate = i32::from(std::mem::replace(begun, true));
                let (columns, out) = (int(*columns), *out);
                let arguments = ColumnSums {
                    q,
                    k,
                    log_sums,
                    out,
                    q_len,
                    q_start,
                    kv_len,
                    capacity,
                    heads,
                    group,
                    window,
                    first_row,
                    columns,
                    accumulate,
                    scale_log2,
                };
                self.card.launch(self.instance, &arguments)
            }
            Seen::Moments { first, columns, mean, variance, entropy } if *columns > 0 && last => {
                let first_row = int(first.saturating_sub(chunk.start));
                let arguments = WindowMoments {
                    q,
                    k,
                    log_sums,
                    mean: *mean,
                    variance: *variance,
                    entropy: *entropy,
                    q_len,
                    q_start,
                    kv_len,
                    capacity,
                    heads,
                    group,
                    window,
                    first_row,
                    columns: int(*columns),
                    scale_log2,
                };
                self.card.launch(self.instance, &arguments)
            }
            Seen::Norms { out } if last => {
                let kv_heads = int(self.dimensions.kv_heads);
                self.card.launch(self.instance, &KeyNorms { k, out: *out, kv_len, capacity, kv_heads })
            }
            _ => Ok(()),
        }
    }

    /// Reads an observation, and gives its memory back.
    fn finish(&mut self, seen: Seen, sizes: &LayerShape, len: usize) -> Result<Observed, L::Error> {
        let mut take = |at: Address, len: usize| {
            if len == 0 {
                return Ok(Vec::new());
            }
            let values = self.card.read::<f32>(at, len)?;
            self.card.release(at);
            Ok(values)
        };
        let rows = sizes.query_heads;
        Ok(match seen {
            Seen::Sums { columns, out, .. } => {
                Observed::Rows { rows, columns, values: take(out, rows * columns)? }
            }
            Seen::Moments { columns, mean, variance, entropy, .. } => {
                let sum = |values: &[f32]| values.iter().map(|&x| f64::from(x)).sum();
                let (mean, variance) = (take(mean, rows * columns)?, take(variance, rows * columns)?);
                let dispersion = sum(&take(entropy, rows * columns.div_ceil(64))?);
                let shift = sum(&variance);
                Observed::Moments { rows, columns, mean, variance, dispersion, shift }
            }
            Seen::Norms { out } => {
                let (rows, columns) = (sizes.kv_heads, len);
                Observed::Rows { rows, columns, values: take(out, rows * columns)? }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::chunks;

    #[test]
    fn a_window_is_never_cut() {
        for len in 1..200 {
            for (chunk, window) in [(64, 0), (64, 32), (32, 64), (1, 1)] {
                let cuts = chunks(len, chunk, window);
                assert_eq!(cuts.iter().map(ExactSizeIterator::len).sum::<usize>(), len);
                assert!(cuts.windows(2).all(|pair| pair[0].end == pair[1].start));
                let last = cuts.last().unwrap();
                assert!(
                    last.len() >= window.min(len) && last.len() < chunk + window.max(1),
                    "{len} {cuts:?}"
                );
            }
        }
    }
}
