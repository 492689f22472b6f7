//! The model on the CPU kernels: prefill block by block, decode step by step.
//!
//! Prefill runs layer by layer over blocks of [`BLOCK`] tokens; a block goes through attention, the MLP and the
//! next layer's projections in one task, so what is alive beside K and V is the residual stream, the queries of
//! one layer, and a block's scratch a thread. Decode runs the projections once over the whole batch, and attention
//! per sequence and KV head.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{CpuStorage, DType, Layout, Storage, Tensor};
use kvsweep_methods::{
    observation::{Observation, Observations},
    observe::{HeadsView, observe_layer, rows_needed},
    selection::{Granularity, Selection},
};
use rayon::prelude::*;

use super::{
    attention::{self, CausalScratch, Kept, WeightLayout},
    matrix::PackedMatrix,
    received::Received,
    simd::Simd,
    stored::Stored,
};
use crate::{
    backend::{Compute, StepRow, StepTap},
    cache::{HeadStore, Held, KeptLayer, LayerStore, RaggedCache},
    cancel::Cancel,
    error::{EngineError, Place, Result},
    finite::check_rows,
    model::{
        config::ModelConfig,
        rope::RopeTables,
        weights::{LayerWeights, Linear, WeightParts},
    },
    prefill::{Prefill, PrefillOptions, Store},
};

/// Tokens of a prefill block: whole key panels.
pub(crate) const BLOCK: usize = 64;

/// The weights of a model, packed.
#[derive(Debug)]
pub(crate) struct CpuModel {
    pub(crate) config: ModelConfig,
    simd: Simd,
    /// The embedding; it is the output layer, too, unless there is one of its own.
    embedding: PackedMatrix,
    lm_head: Option<PackedMatrix>,
    layers: Vec<CpuLayer>,
    norm: Vec<f32>,
}

#[derive(Debug)]
struct CpuLayer {
    input_norm: Vec<f32>,
    qkv: PackedMatrix,
    q_norm: Option<Vec<f32>>,
    k_norm: Option<Vec<f32>>,
    o: PackedMatrix,
    post_norm: Vec<f32>,
    gate_up: PackedMatrix,
    down: PackedMatrix,
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// Packs projections of one input side by side, in the type that they are stored in.
fn pack(input: usize, parts: &[Linear]) -> Result<PackedMatrix> {
    let biases =
        parts.iter().map(|part| part.bias.as_ref().map(floats).transpose()).collect::<Result<Vec<_>>>()?;
    let weights = parts.iter().map(|part| part.weight.contiguous()).collect::<Result<Vec<_>, _>>()?;
    let storages: Vec<_> = weights.iter().map(Tensor::storage_and_layout).collect();
    let stored = storages.iter().map(|(storage, layout)| match &**storage {
        Storage::Cpu(numbers) => numbers_of(numbers, layout),
        _ => None,
    });
    match stored.collect::<Option<Vec<_>>>() {
        Some(stored) => {
            let parts: Vec<_> = stored.into_iter().zip(biases.iter().map(Option::as_deref)).collect();
            Ok(PackedMatrix::new(input, &parts))
        }
        None => {
            let wide = weights.iter().map(floats).collect::<Result<Vec<_>>>()?;
            let parts: Vec<_> = wide
                .iter()
                .map(|wide| wide.as_slice().into())
                .zip(biases.iter().map(Option::as_deref))
                .collect();
            Ok(PackedMatrix::new(input, &parts))
        }
    }
}

/// A contiguous tensor's numbers, if they are of a type that weights are packed in.
fn numbers_of<'a>(numbers: &'a CpuStorage, layout: &Layout) -> Option<Stored<'a>> {
    let (start, end) = layout.contiguous_offsets()?;
    match numbers {
        CpuStorage::F32(numbers) => numbers.get(start..end).map(Stored::F32),
        CpuStorage::F16(numbers) => numbers.get(start..end).map(Stored::F16),
        CpuStorage::BF16(numbers) => numbers.get(start..end).map(Stored::Bf16),
        _ => None,
    }
}

impl CpuLayer {
    fn new(config: &ModelConfig, layer: LayerWeights) -> Result<Self> {
        let hidden = config.hidden_size;
        Ok(Self {
            input_norm: floats(&layer.input_norm)?,
            qkv: pack(hidden, &[layer.q, layer.k, layer.v])?,
            q_norm: layer.q_norm.as_ref().map(floats).transpose()?,
            k_norm: layer.k_norm.as_ref().map(floats).transpose()?,
            o: pack(config.query_heads * config.head_dim, &[layer.o])?,
            post_norm: floats(&layer.post_norm)?,
            gate_up: pack(hidden, &[layer.gate, layer.up])?,
            down: pack(config.intermediate_size, &[layer.down])?,
        })
    }
}

/// One block of a prefill: its piece of every buffer.
struct Block<'a> {
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
    /// Keys as projected, `[tokens][kv_heads * head_dim]`, for the observations; empty if nothing is observed.
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
    causal: CausalScratch,
    received: Vec<f32>,
}

/// A slice of `len` elements, whatever they hold.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    buffer.resize(len, 0.0);
    buffer
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
        EngineError::NotFinite { place, position, .. } => Some((place, position)),
        _ => None,
    };
    place(error).zip(place(other)).is_some_and(|(this, other)| this < other)
}

impl CpuModel {
    /// Packs the weights part by part, the largest first: while it is there twice, little else is.
    pub(crate) fn new(config: &ModelConfig, parts: &dyn WeightParts) -> Result<Self> {
        let table = |weight| pack(config.hidden_size, &[Linear { weight, bias: None }]);
        Ok(Self {
            simd: Simd::in_use(),
            embedding: table(parts.embedding()?)?,
            lm_head: parts.lm_head()?.map(table).transpose()?,
            layers: (0..config.layers)
                .map(|index| CpuLayer::new(config, parts.layer(index)?))
                .collect::<Result<_>>()?,
            norm: floats(&parts.norm()?)?,
            config: config.clone(),
        })
    }

    fn eps(&self) -> f32 {
        self.config.rms_norm_eps as f32
    }

    fn lm_head(&self) -> &PackedMatrix {
        self.lm_head.as_ref().unwrap_or(&self.embedding)
    }

    /// Splits the buffers into blocks, the last first: it has most to attend to. `kv` is where the next
    /// projections go: a store, and its plain keys (empty if nothing is observed).
    fn blocks<'a>(
        &self,
        hidden: &'a mut [f32],
        queries: &'a mut [f32],
        kv: Option<(&'a mut LayerStore, &'a mut [f32])>,
    ) -> Vec<Block<'a>> {
        let config = &self.config;
        let dim = config.head_dim;
        let hidden = hidden.chunks_mut(BLOCK * config.hidden_size);
        let queries = queries.chunks_mut(BLOCK * config.query_heads * dim);
        let mut blocks: Vec<_> = hidden
            .zip(queries)
            .enumerate()
            .map(|(i, (hidden, queries))| Block { first: i * BLOCK, hidden, queries, kv: KvBlock::default() })
            .collect();
        if let Some((store, plain)) = kv {
            for head in store {
                let pieces = head.keys.chunks_mut(BLOCK * dim).zip(head.values.chunks_mut(BLOCK * dim));
                for (block, (keys, values)) in blocks.iter_mut().zip(pieces) {
                    block.kv.keys.push(keys);
                    block.kv.values.push(values);
                }
            }
            for (block, plain) in blocks.iter_mut().zip(plain.chunks_mut(BLOCK * config.kv_heads * dim)) {
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
        rope: &RopeTables,
        block: &mut Block<'_>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let (config, layer) = (&self.config, &self.layers[index]);
        let (dim, half) = (config.head_dim, config.head_dim / 2);
        let (query_width, kv_width) = (config.query_heads * dim, config.kv_heads * dim);
        let normed = sized(&mut scratch.normed, block.hidden.len());
        self.simd.rms_norm(block.hidden, &layer.input_norm, self.eps(), normed);
        let tokens = block.hidden.len() / config.hidden_size;
        let wide = sized(&mut scratch.wide, tokens * layer.qkv.output());
        layer.qkv.multiply(self.simd, normed, config.hidden_size, wide, false);
        check_rows(Place::Layer(index), block.first, wide, layer.qkv.output())?;
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
                block.kv.plain[token * kv_width..][..kv_width].copy_from_slice(keys);
            }
        }
        Ok(())
    }

    /// Head norms (Qwen3) and RoPE of one row of projections, `[query | key | value]`.
    fn rotate(&self, layer: &CpuLayer, row: &mut [f32], cos: &[f32], sin: &[f32]) {
        let query_width = self.config.query_heads * self.config.head_dim;
        let (queries, kv) = row.split_at_mut(query_width);
        let keys = &mut kv[..self.config.kv_heads * self.config.head_dim];
        if let Some(weight) = &layer.q_norm {
            self.simd.rms_norm_in_place(queries, weight, self.eps());
        }
        if let Some(weight) = &layer.k_norm {
            self.simd.rms_norm_in_place(keys, weight, self.eps());
        }
        self.simd.rotate(queries, cos, sin);
        self.simd.rotate(keys, cos, sin);
    }

    /// Causal attention of one block in all heads: the output into `scratch.attended`, and what positions receive
    /// into `received`. Without `output` only the latter.
    fn attend_block(
        &self,
        store: &LayerStore,
        block: &Block<'_>,
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
            let causal = attention::Causal { first: block.first, group, head_dim: dim };
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
        block: &mut Block<'_>,
        received: Option<&Received>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let layer = &self.layers[index];
        self.attend_block(store, block, true, received, scratch);
        let (simd, hidden) = (self.simd, self.config.hidden_size);
        let query_width = self.config.query_heads * self.config.head_dim;
        let tokens = block.hidden.len() / hidden;
        layer.o.multiply(simd, &scratch.attended, query_width, block.hidden, true);
        let normed = sized(&mut scratch.normed, tokens * hidden);
        simd.rms_norm(block.hidden, &layer.post_norm, self.eps(), normed);
        let wide = sized(&mut scratch.wide, tokens * layer.gate_up.output());
        layer.gate_up.multiply(simd, normed, hidden, wide, false);
        self.activate(wide);
        layer.down.multiply(simd, wide, layer.gate_up.output(), block.hidden, true);
        check_rows(Place::Layer(index), block.first, block.hidden, hidden)
    }

    /// `gate = silu(gate) * up` in each row `[gate | up]`.
    fn activate(&self, gate_up: &mut [f32]) {
        let width = self.config.intermediate_size;
        for row in gate_up.chunks_exact_mut(2 * width) {
            let (gate, up) = row.split_at_mut(width);
            self.simd.silu_mul(gate, up);
        }
    }

    /// Logits of rows of the residual stream, which stand at `positions`.
    ///
    /// # Errors
    /// [`EngineError::NotFinite`].
    fn logits(&self, positions: impl Iterator<Item = usize>, hidden: &[f32]) -> Result<Vec<f32>> {
        let width = self.config.hidden_size;
        let mut normed = vec![0.0; hidden.len()];
        self.simd.rms_norm(hidden, &self.norm, self.eps(), &mut normed);
        let mut logits = vec![0.0; hidden.len() / width * self.lm_head().output()];
        self.lm_head().multiply_spread(self.simd, &normed, width, &mut logits, false);
        for (position, row) in positions.zip(logits.chunks_exact(self.lm_head().output())) {
            check_rows(Place::Output, position, row, row.len())?;
        }
        Ok(logits)
    }

    /// Attention of one KV head in a decode step.
    fn attend(
        &self,
        cache: &RaggedCache,
        layer: usize,
        head: usize,
        queries: &[f32],
        out: &mut [f32],
        weights: &mut Vec<f32>,
    ) -> Result<WeightLayout> {
        let group = self.config.query_heads / self.config.kv_heads;
        let (kept, copies, shared) = cache.kept(layer)?;
        let own: Vec<_>;
        let kept = match kept {
            KeptLayer::Shared => Kept::Shared(shared[head].entries()),
            KeptLayer::Own(Granularity::KvHead, first) => Kept::Shared(copies.entries(first + head)),
            KeptLayer::Own(Granularity::QueryHead, first) => {
                own = (0..group).map(|query| copies.entries(first + head * group + query)).collect();
                Kept::PerQuery(&own)
            }
        };
        let tail = cache.tails[layer][head].entries();
        Ok(attention::decode(self.simd, queries, kept, tail, out, weights, self.config.head_dim))
    }

    /// Attention of a single sequence, for a calibration's eyes.
    fn attend_tapped(
        &self,
        index: usize,
        cache: &RaggedCache,
        row: &[f32],
        out: &mut [f32],
        tap: &mut StepTap<'_, RaggedCache>,
    ) -> Result<()> {
        let config = &self.config;
        let (dim, group) = (config.head_dim, config.query_heads / config.kv_heads);
        let query_width = config.query_heads * dim;
        let heads = |out: &mut [f32], cache: &RaggedCache, seen: &mut Vec<f32>| -> Result<()> {
            let mut weights = Vec::new();
            for (head, out) in out.chunks_exact_mut(group * dim).enumerate() {
                let queries = &row[head * group * dim..][..group * dim];
                let layout = self.attend(cache, index, head, queries, out, &mut weights)?;
                for row in weights.chunks_exact(layout.stride) {
                    seen.extend_from_slice(&row[..layout.kept]);
                    seen.extend_from_slice(&row[layout.tail_at..][..layout.tail]);
                }
            }
            Ok(())
        };
        let mut seen = Vec::new();
        heads(out, cache, &mut seen)?;
        if let Some(rows) = &mut tap.rows {
            rows(index, &seen);
        }
        if let Some((shadow, errors)) = &mut tap.shadow {
            push_entry(&mut shadow.tails[index], &row[query_width..], dim);
            let mut both = out.to_vec();
            both.resize(2 * query_width, 0.0);
            heads(&mut both[query_width..], shadow, &mut Vec::new())?;
            let o = &self.layers[index].o;
            let mut projected = vec![0.0; 2 * o.output()];
            o.multiply(self.simd, &both, query_width, &mut projected, false);
            let (full, part) = projected.split_at(o.output());
            errors[index] += relative_error(full, part);
        }
        Ok(())
    }
}

/// `|part - full| / (|full| + 1e-5)`, Euclidean norms (CompressKV's layer error).
pub(crate) fn relative_error(full: &[f32], part: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut full.iter().zip(part).map(|(f, p)| f64::from(p - f)));
    difference / (norm(&mut full.iter().map(|&f| f64::from(f))) + 1e-5)
}

/// Appends one token to a layer's tail; `kv` is `[key | value]` of all KV heads.
fn push_entry(tail: &mut LayerStore, kv: &[f32], head_dim: usize) {
    let (keys, values) = kv.split_at(tail.len() * head_dim);
    let entries = keys.chunks_exact(head_dim).zip(values.chunks_exact(head_dim));
    for (store, (key, value)) in tail.iter_mut().zip(entries) {
        store.push(key, value);
    }
}

impl Compute for CpuModel {
    type Cache = RaggedCache;

    fn prefill(
        &self,
        ids: &[u32],
        wanted: &[Observation],
        options: PrefillOptions,
        cancel: &Cancel,
    ) -> Result<Prefill> {
        let config = &self.config;
        let (dim, tokens, width) = (config.head_dim, ids.len(), config.hidden_size);
        let (query_width, kv_width) = (config.query_heads * dim, config.kv_heads * dim);
        let shape = config.prompt_shape(tokens);
        let rope = RopeTables::new(config, 0..tokens);
        let mut hidden = vec![0.0; tokens * width];
        let mut queries = vec![0.0; tokens * query_width];
        // What all rows give is summed while they attend; the rest is read from the last rows and the keys.
        let (all_rows, wanted): (Vec<_>, Vec<_>) =
            wanted.iter().copied().partition(|one| matches!(one, Observation::AccumulatedSum { .. }));
        let mut plain = vec![0.0; if wanted.is_empty() { 0 } else { tokens * kv_width }];
        let new_layer = || -> LayerStore {
            let head = || HeadStore { len: tokens, ..HeadStore::new(tokens, dim) };
            (0..config.kv_heads).map(|_| head()).collect()
        };

        let mut store = vec![new_layer()];
        let blocks = self.blocks(&mut hidden, &mut queries, Some((&mut store[0], &mut plain)));
        parallel_each(blocks, cancel, |scratch, mut block| {
            for (row, &id) in block.hidden.chunks_exact_mut(width).zip(&ids[block.first..]) {
                self.embedding.row(id as usize, row);
            }
            self.project(0, &rope, &mut block, scratch)
        })?;

        let mut observations = Observations::default();
        for index in 0..config.layers {
            let mut observed = BTreeMap::new();
            if !wanted.is_empty() {
                let rows = rows_needed(&wanted, tokens);
                let last = &queries[(tokens - rows) * query_width..];
                let seen = HeadsView::token_major(last, [config.query_heads, rows, dim])?;
                let keys = HeadsView::token_major(&plain, [config.kv_heads, tokens, dim])?;
                observed = observe_layer(&wanted, &shape, &seen, &keys)?;
            }
            let received = (!all_rows.is_empty())
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
                        self.attend_block(own, &block, false, received, scratch);
                        Ok(())
                    })?;
                }
                // Nothing behind the last layer reads the other positions' output.
                let mut last = Block {
                    first: tokens - 1,
                    hidden: &mut hidden[(tokens - 1) * width..],
                    queries: &mut queries[(tokens - 1) * query_width..],
                    kv: KvBlock::default(),
                };
                self.finish(index, own, &mut last, None, &mut Scratch::default())?;
            }
            if let Some(received) = received {
                for &observation in &all_rows {
                    if let Observation::AccumulatedSum { recent } = observation {
                        observed.insert(observation, received.observed(recent));
                    }
                }
            }
            if !observed.is_empty() {
                observations.layers.push(observed);
            }
        }
        let all_logits = options.keep_all_logits.then(|| self.logits(0..tokens, &hidden)).transpose()?;
        let logits = match &all_logits {
            Some(all) => all[(tokens - 1) * config.vocab_size..].to_vec(),
            None => self.logits(tokens - 1..tokens, &hidden[(tokens - 1) * width..])?,
        };
        Ok(Prefill { ids: ids.to_vec(), shape, logits, all_logits, observations, store: Store::Cpu(store) })
    }

    fn fork(&self, prefill: &Arc<Prefill>, selection: &Selection, room: usize) -> Result<RaggedCache> {
        RaggedCache::new(prefill, selection, room)
    }

    fn held(&self, cache: &RaggedCache) -> Result<Held> {
        cache.held()
    }

    fn step(
        &self,
        rows: &mut [StepRow<'_, RaggedCache>],
        mut tap: Option<&mut StepTap<'_, RaggedCache>>,
        cancel: &Cancel,
    ) -> Result<Vec<f32>> {
        let config = &self.config;
        let (simd, dim, width) = (self.simd, config.head_dim, config.hidden_size);
        let (group, query_width) = (config.query_heads / config.kv_heads, config.query_heads * dim);
        let batch = rows.len();
        let mut hidden = vec![0.0; batch * width];
        let mut ropes = Vec::with_capacity(batch);
        let mut positions = Vec::with_capacity(batch);
        for (row, hidden) in rows.iter().zip(hidden.chunks_exact_mut(width)) {
            self.embedding.row(row.token as usize, hidden);
            let position = row.cache.position();
            ropes.push(RopeTables::new(config, position..position + 1));
            positions.push(position);
        }
        let check = |layer: usize, rows: &[f32]| {
            let mut rows = positions.iter().zip(rows.chunks_exact(rows.len() / batch));
            rows.try_for_each(|(&position, row)| check_rows(Place::Layer(layer), position, row, row.len()))
        };
        let mut normed = vec![0.0; batch * width];
        let mut attended = vec![0.0; batch * query_width];
        let mut wide = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            cancel.check()?;
            simd.rms_norm(&hidden, &layer.input_norm, self.eps(), &mut normed);
            let projected = sized(&mut wide, batch * layer.qkv.output());
            layer.qkv.multiply_spread(simd, &normed, width, projected, false);
            check(index, projected)?;
            for ((row, values), rope) in
                rows.iter_mut().zip(projected.chunks_exact_mut(layer.qkv.output())).zip(&ropes)
            {
                self.rotate(layer, values, &rope.cos, &rope.sin);
                push_entry(&mut row.cache.tails[index], &values[query_width..], dim);
                simd.scale(&mut values[..query_width], attention::query_scale(dim));
                for &(_, head) in row.masked.iter().flat_map(|set| set.range((index, 0)..(index + 1, 0))) {
                    values[head * dim..][..dim].fill(0.0);
                }
            }
            if let (Some(tap), [row]) = (tap.as_deref_mut(), &*rows) {
                self.attend_tapped(index, row.cache, projected, &mut attended, tap)?;
            } else {
                let rows = &*rows;
                attended.par_chunks_mut(group * dim).with_max_len(1).enumerate().try_for_each_init(
                    Vec::new,
                    |weights, (task, out)| {
                        let (row, head) = (task / config.kv_heads, task % config.kv_heads);
                        let queries =
                            &projected[row * layer.qkv.output() + head * group * dim..][..group * dim];
                        self.attend(rows[row].cache, index, head, queries, out, weights).map(drop)
                    },
                )?;
            }
            layer.o.multiply_spread(simd, &attended, query_width, &mut hidden, true);
            simd.rms_norm(&hidden, &layer.post_norm, self.eps(), &mut normed);
            let gate_up = sized(&mut wide, batch * layer.gate_up.output());
            layer.gate_up.multiply_spread(simd, &normed, width, gate_up, false);
            self.activate(gate_up);
            layer.down.multiply_spread(simd, gate_up, layer.gate_up.output(), &mut hidden, true);
            check(index, &hidden)?;
        }
        self.logits(positions.iter().copied(), &hidden)
    }
}
