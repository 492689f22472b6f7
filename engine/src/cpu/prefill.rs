//! Prefill, layer by layer over blocks of [`BLOCK`] tokens. A block goes through attention, the MLP and the next layer's
//! projections in one task, so what is alive beside K and V is the residual stream, the queries of one layer, and a
//! block's scratch a thread.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use kvsweep_methods::{
    observation::{Observation, Observations},
    observe::{HeadsView, LayerTensors, Rotary, Turns, observe_layer, rows_needed},
    shape::Reach,
};

use super::{
    attention::{self, CausalScratch},
    cache::{CpuPrompt, HeadStore, LayerStore},
    model::Cpu,
    received::Received,
    sized,
};
use crate::{
    cancel::Cancel,
    error::{EngineError, Result, Stage},
    finite::check_rows,
    model::rope_tables::{LayerTables, RopeTables},
    prefill::{Prefill, PrefillOptions},
};

/// Tokens of a prefill block: whole key panels.
pub(crate) const BLOCK: usize = 64;

/// One block of a prefill: its piece of every buffer.
struct PromptBlock<'a> {
    /// Position of the first token.
    first: usize,
    /// Residual stream, `[tokens][hidden]`.
    hidden: &'a mut [f32],
    /// Rotated queries of the current layer, `[tokens][query_heads * head_dim]`.
    queries: &'a mut [f32],
    /// Where the keys and values of the layer being projected go.
    kv: KvBlock<'a>,
}

/// A block's piece of one layer's K and V.
#[derive(Default)]
struct KvBlock<'a> {
    /// Key panels, one slice a KV head.
    keys: Vec<&'a mut [f32]>,
    /// Values, one slice a KV head.
    values: Vec<&'a mut [f32]>,
    /// Keys, and behind a token's keys its values where they are observed, for the observations:
    /// `[tokens][kv_heads * head_dim]` or twice as wide; empty if nothing is observed.
    plain: &'a mut [f32],
}

/// Buffers of one thread.
#[derive(Default)]
struct Scratch {
    normed: Vec<f32>,
    wide: Vec<f32>,
    attended: Vec<f32>,
    queries: Vec<f32>,
    out: Vec<f32>,
    added: Vec<f32>,
    causal: CausalScratch,
    received: Vec<f32>,
}

/// Runs every item on some thread, the first ones first, until a stop is asked for.
///
/// # Errors
/// [`EngineError::Interrupted`], or the earliest failure in the model, whichever thread saw one first.
fn parallel_each<T: Send>(
    items: Vec<T>,
    cancel: &Cancel,
    work: impl Fn(&mut Scratch, T) -> Result<()> + Sync,
) -> Result<()> {
    let queue = Mutex::new(items.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let failure: Mutex<Option<EngineError>> = Mutex::new(None);
    rayon::scope(|scope| {
        for _ in 0..rayon::current_num_threads() {
            scope.spawn(|_| {
                let mut scratch = Scratch::default();
                while !cancel.requested()
                    && let Some(item) = next()
                {
                    if let Err(error) = work(&mut scratch, item) {
                        let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
                        if first.as_ref().is_none_or(|first| is_earlier(&error, first)) {
                            *first = Some(error);
                        }
                    }
                }
            });
        }
    });
    cancel.check()?;
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Whether an error names an earlier place in the model, or there an earlier position.
fn is_earlier(error: &EngineError, other: &EngineError) -> bool {
    let place = |error: &EngineError| match *error {
        EngineError::NotFinite { stage, position, .. } => Some((stage, position)),
        _ => None,
    };
    place(error).zip(place(other)).is_some_and(|(this, other)| this < other)
}

impl Cpu {
    /// Splits the buffers into blocks, the last first: it has most to attend to. `kv` is where the next
    /// projections go: a store, and its plain keys (empty if nothing is observed).
    fn blocks<'a>(
        &self,
        hidden: &'a mut [f32],
        queries: &'a mut [f32],
        kv: Option<(&'a mut LayerStore, &'a mut [f32])>,
    ) -> Vec<PromptBlock<'a>> {
        let config = &self.config;
        let dim = config.head_dim;
        let tokens = hidden.len() / config.hidden_size;
        let hidden = hidden.chunks_mut(BLOCK * config.hidden_size);
        let queries = queries.chunks_mut(BLOCK * config.query_heads * dim);
        let mut blocks: Vec<_> = hidden
            .zip(queries)
            .enumerate()
            .map(|(i, (hidden, queries))| PromptBlock {
                first: i * BLOCK,
                hidden,
                queries,
                kv: KvBlock::default(),
            })
            .collect();
        if let Some((store, plain)) = kv {
            for head in store {
                let pieces = head.keys.chunks_mut(BLOCK * dim).zip(head.values.chunks_mut(BLOCK * dim));
                for (block, (keys, values)) in blocks.iter_mut().zip(pieces) {
                    block.kv.keys.push(keys);
                    block.kv.values.push(values);
                }
            }
            let width = plain.len() / tokens;
            for (block, plain) in blocks.iter_mut().zip(plain.chunks_mut((BLOCK * width).max(1))) {
                block.kv.plain = plain;
            }
        }
        blocks.reverse();
        blocks
    }

    /// Norm, projections, RoPE: fills the block's queries, keys and values of layer `index`.
    ///
    /// # Errors
    /// [`EngineError::NotFinite`]: attention would swallow a NaN.
    fn project(
        &self,
        index: usize,
        rope: &LayerTables<RopeTables>,
        block: &mut PromptBlock<'_>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let (config, layer) = (&self.config, &self.layers[index]);
        let (dim, half) = (config.head_dim, config.head_dim / 2);
        let rope = rope.of(config.reach(index));
        let (query_width, kv_width) = (config.query_heads * dim, config.kv_heads * dim);
        let normed = sized(&mut scratch.normed, block.hidden.len());
        self.simd.rms_norm(block.hidden, &layer.input_norm, self.eps(), normed);
        let tokens = block.hidden.len() / config.hidden_size;
        let wide = sized(&mut scratch.wide, tokens * layer.qkv.output());
        layer.qkv.multiply(self.simd, normed, config.hidden_size, wide, false);
        check_rows(Stage::Layer(index), block.first, wide, layer.qkv.output())?;
        for (token, row) in wide.chunks_exact_mut(layer.qkv.output()).enumerate() {
            let angle = (block.first + token) * half;
            self.rotate(layer, row, &rope.cos[angle..][..half], &rope.sin[angle..][..half]);
            let (queries, kv) = row.split_at(query_width);
            let (keys, values) = kv.split_at(kv_width);
            block.queries[token * query_width..][..query_width].copy_from_slice(queries);
            for (store, key) in block.kv.keys.iter_mut().zip(keys.chunks_exact(dim)) {
                attention::store_key(store, token, key);
            }
            for (store, value) in block.kv.values.iter_mut().zip(values.chunks_exact(dim)) {
                store[token * dim..][..dim].copy_from_slice(value);
            }
            if !block.kv.plain.is_empty() {
                let width = block.kv.plain.len() / tokens;
                block.kv.plain[token * width..][..width].copy_from_slice(&kv[..width]);
            }
        }
        Ok(())
    }

    /// Causal attention of one block in all heads: the output into `scratch.attended`, and what positions receive
    /// into `received`. Without `output` only the latter.
    fn attend_block(
        &self,
        reach: Reach,
        store: &LayerStore,
        block: &PromptBlock<'_>,
        output: bool,
        received: Option<&Received>,
        scratch: &mut Scratch,
    ) {
        let config = &self.config;
        let (simd, dim) = (self.simd, config.head_dim);
        let (group, query_width) = (config.query_heads / config.kv_heads, config.query_heads * dim);
        let tokens = block.queries.len() / query_width;
        let attended = sized(&mut scratch.attended, tokens * query_width);
        for (head, store) in store.iter().enumerate() {
            // Rows of one KV head: token by token, and its query heads side by side.
            let at = |token: usize| token * query_width + head * group * dim;
            let queries = sized(&mut scratch.queries, tokens * group * dim);
            for (token, row) in queries.chunks_exact_mut(group * dim).enumerate() {
                simd.scaled_copy(
                    &block.queries[at(token)..][..group * dim],
                    attention::query_scale(dim),
                    row,
                );
            }
            let mut out = output.then(|| sized(&mut scratch.out, tokens * group * dim));
            let sums = received.map(|_| &mut scratch.received);
            let causal = attention::Causal { first: block.first, group, head_dim: dim, reach };
            causal.attend(simd, queries, store.entries(), out.as_deref_mut(), sums, &mut scratch.causal);
            for (token, row) in out.iter().flat_map(|out| out.chunks_exact(group * dim)).enumerate() {
                attended[at(token)..][..group * dim].copy_from_slice(row);
            }
            if let Some(received) = received {
                received.add(simd, head, &scratch.received);
            }
        }
    }

    /// Attention and MLP of one block in layer `index`, into the residual stream.
    ///
    /// # Errors
    /// [`EngineError::NotFinite`].
    fn finish(
        &self,
        index: usize,
        store: &LayerStore,
        block: &mut PromptBlock<'_>,
        received: Option<&Received>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let layer = &self.layers[index];
        self.attend_block(self.config.reach(index), store, block, true, received, scratch);
        let (simd, hidden) = (self.simd, self.config.hidden_size);
        let query_width = self.config.query_heads * self.config.head_dim;
        let tokens = block.hidden.len() / hidden;
        let attended = &scratch.attended;
        self.add(block.hidden, layer.attention_norm.as_deref(), &mut scratch.added, |out, accumulate| {
            layer.o.multiply(simd, attended, query_width, out, accumulate);
        });
        let normed = sized(&mut scratch.normed, tokens * hidden);
        simd.rms_norm(block.hidden, &layer.post_norm, self.eps(), normed);
        let wide = sized(&mut scratch.wide, tokens * layer.gate_up.output());
        layer.gate_up.multiply(simd, normed, hidden, wide, false);
        self.activate(wide);
        self.add(block.hidden, layer.mlp_norm.as_deref(), &mut scratch.added, |out, accumulate| {
            layer.down.multiply(simd, wide, layer.gate_up.output(), out, accumulate);
        });
        check_rows(Stage::Layer(index), block.first, block.hidden, hidden)
    }

    /// See [`Backend::prefill`](crate::backend::Backend::prefill).
    pub(super) fn read(
        &self,
        ids: &[u32],
        wanted: &[Observation],
        options: PrefillOptions<'_>,
        cancel: &Cancel,
    ) -> Result<Prefill<CpuPrompt>> {
        let config = &self.config;
        let (dim, tokens, width) = (config.head_dim, ids.len(), config.hidden_size);
        let (query_width, kv_width) = (config.query_heads * dim, config.kv_heads * dim);
        let shape = config.cache_shape(tokens);
        let rope = LayerTables::new(config, 0..tokens);
        let mut hidden = vec![0.0; tokens * width];
        let mut queries = vec![0.0; tokens * query_width];
        // What all rows give is summed while they attend; the rest is read from the last rows and the keys.
        let (all_rows, mut wanted): (Vec<Observation>, Vec<_>) =
            wanted.iter().copied().partition(|one| one.reads_every_row());
        let (contested, observes) = (shape.contested(), !(all_rows.is_empty() && wanted.is_empty()));
        let output_norms = wanted.contains(&Observation::OutputNorm);
        wanted.retain(|&one| one != Observation::OutputNorm);
        // Layers that methods choose from reach alike.
        let reach = contested.first().map_or(Reach::All, |&layer| config.reach(layer));
        let rotary = Rotary::of(&wanted, tokens, |positions| {
            let tables = LayerTables::new(config, positions);
            let RopeTables { cos, sin, .. } = tables.of(reach).clone();
            Turns { cos, sin }
        });
        let values_too = wanted.iter().any(|one| one.reads_values());
        let plain_width = if wanted.is_empty() { 0 } else { kv_width * if values_too { 2 } else { 1 } };
        let mut plain = vec![0.0; tokens * plain_width];
        let new_layer = || -> LayerStore {
            let head = || HeadStore { len: tokens, ..HeadStore::new(tokens, dim) };
            (0..config.kv_heads).map(|_| head()).collect()
        };

        let mut store = vec![new_layer()];
        let blocks = self.blocks(&mut hidden, &mut queries, Some((&mut store[0], &mut plain)));
        parallel_each(blocks, cancel, |scratch, mut block| {
            for (row, &id) in block.hidden.chunks_exact_mut(width).zip(&ids[block.first..]) {
                self.embed(id, row);
            }
            self.project(0, &rope, &mut block, scratch)
        })?;

        let mut observations = Observations::default();
        for index in 0..config.layers {
            let (mut observed, sizes) = (BTreeMap::new(), &shape.layers[index]);
            let (is_contested, seen_of_prompt) = (contested.contains(&index), sizes.seen(tokens));
            if is_contested && !wanted.is_empty() {
                let rows = rows_needed(&wanted, tokens);
                let last = &queries[(tokens - rows) * query_width..];
                let stored = [config.kv_heads, tokens, dim];
                let tensors = LayerTensors {
                    queries: HeadsView::token_major(last, [config.query_heads, rows, dim])?,
                    keys: HeadsView::new(&plain, stored, dim, plain_width)?,
                    values: values_too
                        .then(|| HeadsView::new(&plain[kv_width..], stored, dim, plain_width))
                        .transpose()?,
                    output: None,
                    rotary: rotary.as_ref(),
                };
                observed = observe_layer(&wanted, sizes, &tensors)?;
            }
            if is_contested && output_norms {
                let norms = self.output_norms(&self.layers[index].o, &store[index], cancel)?;
                observed.insert(Observation::OutputNorm, norms.without_first(seen_of_prompt.start));
            }
            let received = (is_contested && !all_rows.is_empty())
                .then(|| Received::new(config.kv_heads, config.query_heads / config.kv_heads, tokens));
            let received = received.as_ref();
            let own = &store[index];
            if index + 1 < config.layers {
                let mut next_store = new_layer();
                let blocks = self.blocks(&mut hidden, &mut queries, Some((&mut next_store, &mut plain)));
                parallel_each(blocks, cancel, |scratch, mut block| {
                    self.finish(index, own, &mut block, received, scratch)?;
                    self.project(index + 1, &rope, &mut block, scratch)
                })?;
                store.push(next_store);
            } else if options.keep_all_logits {
                let blocks = self.blocks(&mut hidden, &mut queries, None);
                parallel_each(blocks, cancel, |scratch, mut block| {
                    self.finish(index, own, &mut block, received, scratch)
                })?;
            } else {
                if received.is_some() {
                    let blocks = self.blocks(&mut hidden, &mut queries, None);
                    parallel_each(blocks, cancel, |scratch, block| {
                        self.attend_block(sizes.reach, own, &block, false, received, scratch);
                        Ok(())
                    })?;
                }
                // Nothing behind the last layer reads the other positions' output.
                let mut last = PromptBlock {
                    first: tokens - 1,
                    hidden: &mut hidden[(tokens - 1) * width..],
                    queries: &mut queries[(tokens - 1) * query_width..],
                    kv: KvBlock::default(),
                };
                self.finish(index, own, &mut last, None, &mut Scratch::default())?;
            }
            if let Some(received) = received {
                for &observation in &all_rows {
                    let all = received.observed(observation.columns(tokens));
                    observed.insert(observation, all.without_first(seen_of_prompt.start));
                }
            }
            if observes {
                observations.layers.push(observed);
            }
            if seen_of_prompt.start > 0 {
                let seen = |head: &HeadStore| head.part(seen_of_prompt.clone(), dim);
                store[index] = store[index].iter().map(seen).collect();
            }
        }
        let all_logits = options.keep_all_logits.then(|| self.logits(0..tokens, &hidden)).transpose()?;
        let logits = match &all_logits {
            Some(all) => all[(tokens - 1) * config.vocab_size..].to_vec(),
            None => self.logits(tokens - 1..tokens, &hidden[(tokens - 1) * width..])?,
        };
        let prompt = Arc::new(CpuPrompt::new(shape.clone(), store));
        Ok(Prefill { ids: ids.to_vec(), shape, logits, all_logits, observations, prompt })
    }
}
