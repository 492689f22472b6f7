//! Keys and values on the CPU: of a prompt, shared and immutable, and of one variant, ragged, with room for its answer.

use std::{borrow::Cow, collections::BTreeMap, ops::Range, sync::Arc};

use kvsweep_methods::{
    observation::{Observation, Observed},
    observe::{HeadsView, LayerTensors, observe_layer},
    selection::{Granularity, LayerSelection, Selection},
    shape::{CacheShape, LayerShape, Reach},
};

use super::{
    attention::{Entries, gather_keys, key_panels_len, load_key, store_key},
    buffer::Buffer,
};
use crate::{
    cache::{Held, first_seen},
    error::Result,
};

/// Keys and values of one head.
#[derive(Clone, Debug)]
pub(crate) struct HeadStore {
    /// `[panels][head_dim][32]`.
    pub(crate) keys: Vec<f32>,
    /// `[capacity][head_dim]`.
    pub(crate) values: Vec<f32>,
    /// Entries in use.
    pub(crate) len: usize,
}

impl HeadStore {
    /// Room for `capacity` entries, none in use.
    pub(crate) fn new(capacity: usize, head_dim: usize) -> Self {
        Self {
            keys: vec![0.0; key_panels_len(capacity, head_dim)],
            values: vec![0.0; capacity * head_dim],
            len: 0,
        }
    }

    /// Appends an entry. There must be room.
    pub(crate) fn push(&mut self, key: &[f32], value: &[f32]) {
        store_key(&mut self.keys, self.len, key);
        self.values[self.len * value.len()..][..value.len()].copy_from_slice(value);
        self.len += 1;
    }

    pub(crate) fn entries(&self) -> Entries<'_> {
        self.first(self.len)
    }

    /// Its first `len` entries.
    pub(crate) fn first(&self, len: usize) -> Entries<'_> {
        Entries::new(&self.keys, &self.values, len)
    }

    /// A copy of some of its entries.
    pub(crate) fn part(&self, entries: Range<usize>, head_dim: usize) -> Self {
        let mut part = Self { len: entries.len(), ..Self::new(entries.len(), head_dim) };
        part.values.copy_from_slice(&self.values[entries.start * head_dim..entries.end * head_dim]);
        let entries: Vec<u32> = (entries.start as u32..entries.end as u32).collect();
        gather_keys(&self.keys, &entries, &mut part.keys, head_dim);
        part
    }

    /// Bytes of its buffers.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.keys.as_slice()) + size_of_val(self.values.as_slice())
    }
}

/// Keys and values of one layer, one store a KV head.
pub(crate) type LayerStore = Vec<HeadStore>;

/// What one variant kept of one layer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KeptLayer {
    /// Everything: reads the prompt's own store.
    Shared,
    /// Copies, one a head of the granularity; the first one's place in the [`KeptStore`].
    Own(Granularity, usize),
}

/// The entries that one variant copied, all layers and heads in one piece of memory: a head's key panels, then its
/// values.
#[derive(Debug)]
pub(crate) struct KeptStore {
    data: Buffer<f32>,
    heads: Vec<KeptHead>,
}

/// What one head keeps, and of what.
struct Gather<'a> {
    head_dim: usize,
    entries: Entries<'a>,
    /// What was read behind them.
    tail: Entries<'a>,
    /// Ascending numbers of entries, those of the tail behind the others.
    kept: Cow<'a, [u32]>,
    /// Where they stand, in a layer that looks through a window; nobody asks elsewhere.
    positions: Vec<u32>,
}

impl Gather<'_> {
    fn gather(&self, keys: &mut [f32], values: &mut [f32]) {
        let dim = self.head_dim;
        let first = self.kept.partition_point(|&entry| (entry as usize) < self.entries.len);
        let (own, behind) = self.kept.split_at(first);
        gather_keys(self.entries.keys, own, keys, dim);
        let (own_values, tail_values) = values.split_at_mut(first * dim);
        for (value, &entry) in own_values.chunks_exact_mut(dim).zip(own) {
            value.copy_from_slice(&self.entries.values[entry as usize * dim..][..dim]);
        }
        let mut key = vec![0.0; dim];
        for (i, (value, &entry)) in tail_values.chunks_exact_mut(dim).zip(behind).enumerate() {
            let entry = entry as usize - self.entries.len;
            load_key(self.tail.keys, entry, &mut key);
            store_key(keys, first + i, &key);
            value.copy_from_slice(&self.tail.values[entry * dim..][..dim]);
        }
    }
}

/// One head's place in a [`KeptStore`].
#[derive(Clone, Debug)]
struct KeptHead {
    start: usize,
    /// Entries.
    len: usize,
    head_dim: usize,
    /// As in [`Gather`].
    positions: Vec<u32>,
}

impl KeptStore {
    /// Copies entries of heads.
    fn gather(sources: &[Gather<'_>]) -> Self {
        let mut end = 0;
        let heads: Vec<_> = sources
            .iter()
            .map(|source| {
                let (len, head_dim) = (source.kept.len(), source.head_dim);
                let head = KeptHead { start: end, len, head_dim, positions: source.positions.clone() };
                end += key_panels_len(len, head_dim) + len * head_dim;
                head
            })
            .collect();
        let mut data = Buffer::zeros(end);
        for (head, source) in heads.iter().zip(sources) {
            let (keys, rest) = data[head.start..].split_at_mut(key_panels_len(head.len, head.head_dim));
            source.gather(keys, &mut rest[..head.len * head.head_dim]);
        }
        Self { data, heads }
    }

    /// One head.
    pub(crate) fn entries(&self, head: usize) -> Entries<'_> {
        let KeptHead { start, len, head_dim, .. } = self.heads[head];
        let (keys, values) = self.data[start..].split_at(key_panels_len(len, head_dim));
        Entries::new(keys, &values[..len * head_dim], len)
    }
}

/// A prompt's keys and values.
#[derive(Debug)]
pub struct CpuPrompt {
    shape: CacheShape,
    layers: Vec<LayerStore>,
}

impl CpuPrompt {
    /// One store a layer, each with an entry a token [that the layer still looks at](LayerShape::seen).
    pub(crate) fn new(shape: CacheShape, layers: Vec<LayerStore>) -> Self {
        Self { shape, layers }
    }
}

/// The cache of one variant.
#[derive(Debug)]
pub struct CpuCache {
    prompt: Arc<CpuPrompt>,
    layers: Vec<KeptLayer>,
    own: KeptStore,
    /// Keys and values of the tokens read since the last cut, one store a KV head and layer.
    pub(crate) tails: Vec<LayerStore>,
    /// Position of the next token: prompt tokens plus tokens read since, whatever was evicted.
    pub(crate) position: usize,
    /// Rotated queries of the tokens read last, one list a layer, `[tokens][query_heads * head_dim]`.
    queries: Vec<Vec<f32>>,
    /// Elements of such a list at most.
    most_queries: usize,
}

impl CpuCache {
    /// Gathers what `selection` keeps, with room for `room` further tokens and for `most_queries` elements of their
    /// queries in each layer. The selection was checked.
    pub(crate) fn new(
        prompt: &Arc<CpuPrompt>,
        selection: &Selection,
        room: usize,
        most_queries: usize,
    ) -> Self {
        let shape = &prompt.shape;
        let mut sources = Vec::new();
        let mut layers = Vec::with_capacity(shape.layers.len());
        for ((kept, store), sizes) in selection.layers.iter().zip(&prompt.layers).zip(&*shape.layers) {
            let seen = sizes.seen(shape.len);
            match kept {
                LayerSelection::Heads(heads) if !kept.keeps_everything(seen.len()) => {
                    layers.push(KeptLayer::Own(selection.granularity, sources.len()));
                    let group = heads.len() / sizes.kv_heads;
                    sources.extend(heads.iter().enumerate().map(|(head, kept)| Gather {
                        head_dim: sizes.head_dim,
                        entries: store[head / group].entries(),
                        tail: Entries::default(),
                        kept: match seen.start {
                            0 => kept.into(),
                            start => kept.iter().map(|position| position - start as u32).collect(),
                        },
                        positions: if sizes.reach == Reach::All { Vec::new() } else { kept.clone() },
                    }));
                }
                _ => layers.push(KeptLayer::Shared),
            }
        }
        let own = KeptStore::gather(&sources);
        let tail =
            |sizes: &LayerShape| (0..sizes.kv_heads).map(|_| HeadStore::new(room, sizes.head_dim)).collect();
        let tails = shape.layers.iter().map(tail).collect();
        let queries = vec![Vec::new(); shape.layers.len()];
        Self { prompt: Arc::clone(prompt), layers, own, tails, position: shape.len, queries, most_queries }
    }

    /// See [`Backend::renumber`](crate::backend::Backend::renumber); `turn` rotates a key back by a number of positions.
    pub(crate) fn renumber(&mut self, selection: &Selection, turn: impl Fn(&mut [f32], usize)) -> Result<()> {
        let layers: Vec<usize> = (0..self.layers.len()).collect();
        self.position = self.held().entries_of_each(&layers, 0)?;
        for (kept, chosen) in self.layers.iter().zip(&selection.layers) {
            let (KeptLayer::Own(_, first), LayerSelection::Heads(heads)) = (kept, chosen) else { continue };
            for (place, kept) in self.own.heads[*first..].iter().zip(heads) {
                let keys = &mut self.own.data[place.start..];
                let mut key = vec![0.0; place.head_dim];
                for (entry, &position) in kept.iter().enumerate() {
                    load_key(keys, entry, &mut key);
                    turn(&mut key, position as usize - entry);
                    store_key(keys, entry, &key);
                }
            }
        }
        Ok(())
    }

    /// See [`Backend::evict`](crate::backend::Backend::evict).
    pub(crate) fn evict(&mut self, selection: &Selection) {
        let shape = &self.prompt.shape;
        let mut sources = Vec::new();
        let mut layers = Vec::with_capacity(shape.layers.len());
        for (index, (chosen, sizes)) in selection.layers.iter().zip(&*shape.layers).enumerate() {
            layers.push(KeptLayer::Own(selection.granularity, sources.len()));
            let group = selection.granularity.heads(sizes) / sizes.kv_heads;
            for head in 0..selection.granularity.heads(sizes) {
                let [entries, tail] = self.parts(index, head, group);
                let held = (entries.len + tail.len) as u32;
                let kept: Cow<'_, [u32]> = match chosen {
                    LayerSelection::All => {
                        // What the next token does not look at: of the tail only if nothing before it.
                        let first = first_seen(sizes.reach, self.position);
                        let unseen = self.unseen(index, sizes.reach, head, self.position)
                            + first.saturating_sub(self.position - tail.len);
                        (unseen as u32..held).collect()
                    }
                    LayerSelection::Heads(heads) => heads[head].as_slice().into(),
                };
                let positions = match sizes.reach {
                    Reach::All => Vec::new(),
                    Reach::Window(_) => {
                        let all = self.positions(index, head);
                        kept.iter().map(|&entry| all[entry as usize]).collect()
                    }
                };
                sources.push(Gather { head_dim: sizes.head_dim, entries, tail, kept, positions });
            }
        }
        self.own = KeptStore::gather(&sources);
        self.layers = layers;
        self.tails.iter_mut().flatten().for_each(|tail| tail.len = 0);
    }

    /// What a head keeps, and what was read behind it; `group` heads share a KV head.
    fn parts(&self, layer: usize, head: usize, group: usize) -> [Entries<'_>; 2] {
        let kept = match self.layers[layer] {
            KeptLayer::Shared => self.prompt.layers[layer][head / group].entries(),
            KeptLayer::Own(_, first) => self.own.entries(first + head),
        };
        [kept, self.tails[layer][head / group].entries()]
    }

    /// Where the entries of a head stand, those read since the last cut included, in a layer that looks through a window.
    fn positions(&self, layer: usize, head: usize) -> Vec<u32> {
        let tail = (self.position - self.behind()) as u32..self.position as u32;
        let shape = &self.prompt.shape;
        match self.layers[layer] {
            KeptLayer::Shared => {
                let seen = shape.layers[layer].seen(shape.len);
                (seen.start as u32..seen.end as u32).chain(tail).collect()
            }
            KeptLayer::Own(_, first) => {
                self.own.heads[first + head].positions.iter().copied().chain(tail).collect()
            }
        }
    }

    /// How many of a head's entries, those read since the last cut aside, a query at `position` does not look at: the
    /// first ones.
    pub(crate) fn unseen(&self, layer: usize, reach: Reach, head: usize, position: usize) -> usize {
        let first = first_seen(reach, position);
        if first == 0 {
            return 0;
        }
        match self.layers[layer] {
            KeptLayer::Shared => {
                let shape = &self.prompt.shape;
                let seen = shape.layers[layer].seen(shape.len);
                first.saturating_sub(seen.start).min(seen.len())
            }
            KeptLayer::Own(_, own) => {
                self.own.heads[own + head].positions.partition_point(|&at| (at as usize) < first)
            }
        }
    }

    /// Entries that the whole prompt has in a layer.
    pub(crate) fn prompt_len(&self) -> usize {
        self.prompt.shape.len
    }

    /// Remembers the queries of a token of one layer.
    pub(crate) fn remember(&mut self, layer: usize, queries: &[f32]) {
        if self.most_queries > 0 {
            let kept = &mut self.queries[layer];
            kept.extend_from_slice(queries);
            kept.drain(..kept.len().saturating_sub(self.most_queries));
        }
    }

    /// Observes one layer at this moment, as if its entries were a prompt. Every head holds as many.
    pub(crate) fn observe(
        &self,
        layer: usize,
        sizes: &LayerShape,
        wanted: &[Observation],
    ) -> Result<BTreeMap<Observation, Observed>> {
        let dim = sizes.head_dim;
        let heads = match self.layers[layer] {
            KeptLayer::Shared => sizes.kv_heads,
            KeptLayer::Own(granularity, _) => granularity.heads(sizes),
        };
        let group = heads / sizes.kv_heads;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let mut key = vec![0.0; dim];
        for head in 0..heads {
            for part in self.parts(layer, head, group) {
                for entry in 0..part.len {
                    load_key(part.keys, entry, &mut key);
                    keys.extend_from_slice(&key);
                }
                values.extend_from_slice(&part.values[..part.len * dim]);
            }
        }
        let tokens = keys.len() / (heads * dim);
        let queries = &self.queries[layer];
        let votes = [sizes.query_heads, queries.len() / (sizes.query_heads * dim), dim];
        let stored = [heads, tokens, dim];
        let tensors = LayerTensors {
            values: Some(HeadsView::head_major(&values, stored)?),
            ..LayerTensors::new(
                HeadsView::token_major(queries, votes)?,
                HeadsView::head_major(&keys, stored)?,
            )
        };
        Ok(observe_layer(wanted, &LayerShape { kv_heads: heads, ..*sizes }, &tensors)?)
    }

    /// Tokens read since the last cut.
    pub(crate) fn behind(&self) -> usize {
        self.tails[0][0].len
    }

    /// What is kept of one layer, the copies, and the store to read if that is everything.
    pub(crate) fn kept(&self, layer: usize) -> (KeptLayer, &KeptStore, &LayerStore) {
        (self.layers[layer], &self.own, &self.prompt.layers[layer])
    }

    /// Measures what is held.
    pub(crate) fn held(&self) -> Held {
        let mut held = Held {
            layers: Vec::with_capacity(self.layers.len()),
            bytes: size_of_val(&*self.own.data) as u64,
        };
        for ((kept, shared), sizes) in
            self.layers.iter().zip(&self.prompt.layers).zip(&*self.prompt.shape.layers)
        {
            held.layers.push(match *kept {
                KeptLayer::Shared => {
                    held.bytes += shared.iter().map(HeadStore::bytes).sum::<usize>() as u64;
                    shared.iter().map(|head| head.len).collect()
                }
                KeptLayer::Own(granularity, first) => {
                    let heads = &self.own.heads[first..][..granularity.heads(sizes)];
                    heads.iter().map(|head| head.len).collect()
                }
            });
        }
        held
    }
}
