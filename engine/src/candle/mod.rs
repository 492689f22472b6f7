//! The model on candle's operations: any device, any dtype. It is what runs on CUDA, and the plain version that the
//! CPU kernels are tested against. Softmax, norms, RoPE and observations are computed in f32.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{Device, Tensor};
use kvsweep_methods::{
    observation::{Observation, Observations},
    observe::{Rotary, Turns},
    selection::{LayerSelection, Selection},
    shape::Reach,
};

use crate::{
    backend::{Backend, Extend, HeadSet, Tap},
    cache::Held,
    cancel::Cancel,
    error::{Result, Stage},
    finite::check_rows,
    math::relative_error,
    model::rope_tables::{LayerTables, RopeTables},
    prefill::{Prefill, PrefillOptions},
    reconstruct::Replayed,
};

mod cache;
mod model;
mod observe;

use cache::KeptTensors;
pub use cache::{CandleCache, CandlePrompt};
pub use model::Candle;
use model::{RopeTensors, floats, linear};
use observe::Beside;

/// Refuses the logits of one position that are not finite. Only then the layer is looked for: a look at every layer
/// would wait for the device each time. `kv` is each layer's keys and values, `[kv_heads, tokens, head_dim]`, with the
/// position of their first token; a layer's own numbers show in the next one's.
fn check_logits<'a>(
    position: usize,
    logits: &[f32],
    kv: impl Iterator<Item = [(usize, &'a Tensor); 2]>,
) -> Result<()> {
    let Err(error) = check_rows(Stage::Output, position, logits, logits.len()) else { return Ok(()) };
    for (layer, pair) in kv.enumerate() {
        for (first, tensor) in pair {
            let rows = floats(&tensor.transpose(0, 1)?.contiguous()?)?;
            check_rows(Stage::Layer(layer), first, &rows, tensor.dim(0)? * tensor.dim(2)?)?;
        }
    }
    Err(error)
}

/// Keeps 1 for every query but those of masked heads: `[query_heads, 1, 1]`.
fn head_mask(masked: &HeadSet, layer: usize, heads: usize, device: &Device) -> Result<Tensor> {
    let keep = (0..heads).map(|head| if masked.contains(&(layer, head)) { 0f32 } else { 1.0 });
    Ok(Tensor::from_vec(keep.collect::<Vec<_>>(), (heads, 1, 1), device)?)
}

impl Backend for Candle {
    type Prompt = CandlePrompt;
    type Cache = CandleCache;

    fn prefill(
        &self,
        ids: &[u32],
        wanted: &[Observation],
        options: PrefillOptions<'_>,
        cancel: &Cancel,
    ) -> Result<Prefill<CandlePrompt>> {
        let config = &self.config;
        let tokens = ids.len();
        let shape = config.cache_shape(tokens);
        let rope = self.rope(std::iter::once(0..tokens))?;
        let contested = shape.contested();
        // Layers that methods choose from reach alike.
        let reach = contested.first().map_or(Reach::All, |&layer| config.reach(layer));
        let rotary = Rotary::of(wanted, tokens, |positions| {
            let tables = LayerTables::new(config, positions);
            let RopeTables { cos, sin, .. } = tables.of(reach).clone();
            Turns { cos, sin }
        });
        let mut hidden = self.embed(ids)?;
        let mut observations = Observations::default();
        let mut store = Vec::new();
        for (index, (layer, sizes)) in self.weights.layers.iter().zip(&*shape.layers).enumerate() {
            let reach = sizes.reach;
            let [queries, keys, values] = self.project(layer, &hidden, rope.of(reach))?;
            if !wanted.is_empty() {
                let beside = Beside { output: &layer.o.weight, rotary: rotary.as_ref() };
                let all = [&queries, &keys, &values];
                observations.layers.push(match contested.contains(&index) {
                    true => self.observe_layer(wanted, sizes, all, Some(beside), cancel)?,
                    false => BTreeMap::new(),
                });
            }
            let attended = self.causal(&queries, &keys, &values, reach, cancel)?;
            hidden = self.finish(layer, &hidden, &attended)?;
            let seen = sizes.seen(tokens);
            let part = |all: Tensor| match seen.start {
                0 => Ok(all),
                start => all.narrow(1, start, seen.len())?.contiguous(),
            };
            store.push((part(keys)?, part(values)?));
        }
        let all_logits = options.keep_all_logits.then(|| self.logits(&hidden)).transpose()?;
        let logits = match &all_logits {
            Some(all) => all[(tokens - 1) * config.vocab_size..].to_vec(),
            None => self.logits(&hidden.narrow(0, tokens - 1, 1)?)?,
        };
        let first = |stored: &Tensor| tokens - stored.dims()[1];
        let newest = || store.iter().map(|(keys, values)| [(first(keys), keys), (first(values), values)]);
        check_logits(tokens - 1, &logits, newest())?;
        if let Some(all) = &all_logits {
            check_rows(Stage::Output, 0, all, config.vocab_size)?;
        }
        let prompt = Arc::new(CandlePrompt { shape: shape.clone(), layers: store });
        Ok(Prefill { ids: ids.to_vec(), shape, logits, all_logits, observations, prompt })
    }

    fn replay(
        &self,
        prompt: &Arc<CandlePrompt>,
        tokens: &[u32],
        seen: &Replayed,
        most: &mut [Vec<f32>],
        cancel: &Cancel,
    ) -> Result<()> {
        let first = prompt.shape.len;
        let rope = self.rope(std::iter::once(first..first + tokens.len()))?;
        let mut hidden = self.embed(tokens)?;
        let layers = self.weights.layers.iter().zip(&prompt.layers);
        for (index, ((layer, (old_keys, old_values)), most)) in layers.zip(most).enumerate() {
            let reach = self.config.reach(index);
            let [queries, keys, values] = self.project(layer, &hidden, rope.of(reach))?;
            if !most.is_empty() {
                self.replay_layer([&queries, old_keys, &keys], seen, most, cancel)?;
            }
            let (keys, values) =
                (Tensor::cat(&[old_keys, &keys], 1)?, Tensor::cat(&[old_values, &values], 1)?);
            let attended = self.causal(&queries, &keys, &values, reach, cancel)?;
            hidden = self.finish(layer, &hidden, &attended)?;
        }
        Ok(())
    }

    fn fork(
        &self,
        prompt: &Arc<CandlePrompt>,
        selection: &Selection,
        _room: usize,
        votes: usize,
    ) -> Result<CandleCache> {
        CandleCache::new(prompt, selection, votes)
    }

    fn renumber(&self, cache: &mut CandleCache, selection: &Selection) -> Result<()> {
        let turns = RopeTables::turns_back(&self.config, cache.position);
        let half = turns.half_dim;
        let layers: Vec<usize> = (0..self.config.layers).collect();
        cache.position = cache.held.entries_of_each(&layers, 0)?;
        for (kept, chosen) in cache.layers.iter_mut().zip(&selection.layers) {
            let (KeptTensors::Own(padded), LayerSelection::Heads(heads)) = (kept, chosen) else { continue };
            let (mut cos, mut sin) = (Vec::new(), Vec::new());
            for (entry, &position) in heads.iter().flat_map(|head| head.iter().enumerate()) {
                let at = (position as usize - entry) * half;
                cos.extend_from_slice(&turns.cos[at..][..half]);
                sin.extend_from_slice(&turns.sin[at..][..half]);
            }
            let shape = (heads.len(), cache.position, half);
            let rope = RopeTensors {
                cos: Tensor::from_vec(cos, shape, &self.device)?,
                sin: Tensor::from_vec(sin, shape, &self.device)?,
            };
            padded.keys = self.rotate(&padded.keys, &rope)?;
        }
        Ok(())
    }

    fn observe(&self, cache: &CandleCache, wanted: &[Observation]) -> Result<(Observations, usize)> {
        let contested = self.config.cache_shape(0).contested();
        let entries = cache.held.entries_of_each(&contested, cache.behind())?;
        let mut observations = Observations::default();
        if !wanted.is_empty() {
            observations.layers.resize_with(self.config.layers, BTreeMap::new);
            for layer in contested {
                let sizes = self.config.layer_shape(layer);
                let (keys, values) = cache.all(layer, sizes.kv_heads)?;
                let none = Tensor::zeros((sizes.query_heads, 0, sizes.head_dim), self.dtype, &self.device);
                let queries = cache.queries[layer].clone().map_or(none, Ok)?;
                let all = [&queries, &keys, &values];
                observations.layers[layer] =
                    self.observe_layer(wanted, &sizes, all, None, &Cancel::default())?;
            }
        }
        Ok((observations, entries))
    }

    fn evict(&self, cache: &mut CandleCache, selection: &Selection) -> Result<()> {
        cache.evict(selection)
    }

    fn held(&self, cache: &CandleCache) -> Held {
        cache.held.clone()
    }

    fn extend(
        &self,
        rows: &mut [Extend<'_, CandleCache>],
        mut tap: Option<&mut Tap<'_, CandleCache>>,
        cancel: &Cancel,
    ) -> Result<Vec<f32>> {
        let tokens: Vec<u32> = rows.iter().flat_map(|row| row.tokens).copied().collect();
        let mut positions = Vec::with_capacity(tokens.len());
        let mut last = Vec::with_capacity(rows.len());
        for row in rows.iter() {
            let first = row.cache.position;
            positions.extend(first..first + row.tokens.len());
            last.push(positions.len() as u32 - 1);
        }
        let rope =
            self.rope(rows.iter().map(|row| row.cache.position..row.cache.position + row.tokens.len()))?;
        let mut hidden = self.embed(&tokens)?;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            cancel.check()?;
            let reach = self.config.reach(index);
            let [queries, keys, values] = self.project(layer, &hidden, rope.of(reach))?;
            let mut attended = Vec::with_capacity(tokens.len());
            for row in rows.iter_mut() {
                let keep = row
                    .masked
                    .map(|masked| head_mask(masked, index, self.config.query_heads, &self.device))
                    .transpose()?;
                for _ in row.tokens {
                    let at = attended.len();
                    let mut query = queries.narrow(1, at, 1)?.contiguous()?;
                    if let Some(keep) = &keep {
                        query = query.broadcast_mul(&keep.to_dtype(self.dtype)?)?;
                    }
                    row.cache.remember(index, &query)?;
                    let (key, value) = (keys.narrow(1, at, 1)?, values.narrow(1, at, 1)?);
                    let inputs = [&query, &key, &value];
                    let (out, weights) = self.attend(row.cache, index, positions[at], inputs)?;
                    if let Some(tap) = tap.as_deref_mut() {
                        if let Some(on_rows) = &mut tap.rows {
                            on_rows(index, &floats(&row.cache.whole_rows(index, reach, &weights)?)?);
                        }
                        if let Some((shadow, errors)) = &mut tap.shadow {
                            let (part, _) = self.attend(shadow, index, positions[at], inputs)?;
                            let (full, part) = (linear(&out, &layer.o)?, linear(&part, &layer.o)?);
                            errors[index] += relative_error(&floats(&full)?, &floats(&part)?);
                        }
                    }
                    attended.push(out);
                }
            }
            hidden = self.finish(layer, &hidden, &Tensor::cat(&attended, 0)?)?;
        }
        for row in rows.iter_mut() {
            row.cache.position += row.tokens.len();
        }
        let count = last.len();
        let hidden = hidden.index_select(&Tensor::from_vec(last.clone(), count, &self.device)?, 0)?;
        let logits = self.logits(&hidden)?;
        for ((&at, row), logits) in last.iter().zip(&*rows).zip(logits.chunks_exact(self.config.vocab_size)) {
            let tails = row.cache.tails.iter().flatten();
            let first = |tail: &Tensor| row.cache.position - tail.dims()[1];
            let kv = tails.map(|(keys, values)| [(first(keys), keys), (first(values), values)]);
            check_logits(positions[at as usize], logits, kv)?;
        }
        Ok(logits)
    }
}
