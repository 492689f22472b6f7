//! Keys and values: of a prompt, shared and immutable, and of one variant, ragged, with room for its answer.

use std::sync::Arc;

use kvsweep_methods::{
    selection::{Granularity, LayerSelection, Selection},
    shape::PromptShape,
};

use crate::{
    cpu::{
        attention::{Entries, gather_keys, key_panels_len, store_key},
        buffer::Buffer,
    },
    error::{EngineError, Result},
    prefill::Prefill,
};

/// What a variant holds of its prompt; the answer's own entries come on top and are the same for every variant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Entries of each layer and head: `kv_heads` or `query_heads` numbers a layer, by the granularity of the
    /// selection (`kv_heads` where the layer keeps everything: it reads the shared prompt).
    pub layers: Vec<Vec<usize>>,
    /// Bytes of the buffers that hold those keys and values, padding included: on the CPU keys stand in panels of 32,
    /// candle's path pads every head of a layer to the longest.
    pub bytes: u64,
}

impl Held {
    /// Entries in all layers and heads together.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.layers.iter().flatten().sum()
    }
}

/// Refuses a selection that does not fit the prompt it is applied to.
pub(crate) fn check_selection(selection: &Selection, shape: &PromptShape) -> Result<()> {
    let refuse = |reason: String| Err(EngineError::BadSelection { reason });
    if selection.layers.len() != shape.layers {
        return refuse(format!("{} layers, the prompt has {}", selection.layers.len(), shape.layers));
    }
    let expected = selection.granularity.heads(shape);
    for (layer, kept) in selection.layers.iter().enumerate() {
        let LayerSelection::Heads(heads) = kept else { continue };
        if heads.len() != expected {
            return refuse(format!("{} heads in layer {layer}, expected {expected}", heads.len()));
        }
        for (head, kept) in heads.iter().enumerate() {
            let ascending = kept.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || kept.last().is_some_and(|&last| last as usize >= shape.prompt_len) {
                return refuse(format!(
                    "positions of layer {layer}, head {head} do not ascend below the prompt length {}",
                    shape.prompt_len
                ));
            }
        }
    }
    Ok(())
}

/// Keys and values of one head on the CPU.
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
        Entries { keys: &self.keys, values: &self.values, len: self.len }
    }

    /// Bytes of its buffers.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.keys.as_slice()) + size_of_val(self.values.as_slice())
    }
}

/// Keys and values of one layer on the CPU, one store a KV head.
pub(crate) type LayerStore = Vec<HeadStore>;

/// What one variant kept of one layer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum KeptLayer {
    /// Everything: reads the prefill's own store.
    Shared,
    /// Copies, one a head of the granularity; the first one's place in the [`KeptStore`].
    Own(Granularity, usize),
}

/// The entries that one variant copied, all layers and heads in one piece of memory: a head's key panels, then its
/// values.
#[derive(Debug)]
pub(crate) struct KeptStore {
    data: Buffer<f32>,
    /// Where each head starts, and its entries.
    heads: Vec<(usize, usize)>,
    head_dim: usize,
}

impl KeptStore {
    /// Copies positions of heads: each is a head of a prompt, and what to keep of it.
    fn gather(sources: &[(&HeadStore, &[u32])], head_dim: usize) -> Self {
        let mut end = 0;
        let heads: Vec<_> = sources
            .iter()
            .map(|(_, kept)| {
                let start = end;
                end += key_panels_len(kept.len(), head_dim) + kept.len() * head_dim;
                (start, kept.len())
            })
            .collect();
        let mut data = Buffer::zeros(end);
        for (&(start, len), (source, kept)) in heads.iter().zip(sources) {
            let (keys, rest) = data[start..].split_at_mut(key_panels_len(len, head_dim));
            gather_keys(&source.keys, kept, keys, head_dim);
            for (value, &position) in rest.chunks_exact_mut(head_dim).zip(*kept) {
                value.copy_from_slice(&source.values[position as usize * head_dim..][..head_dim]);
            }
        }
        Self { data, heads, head_dim }
    }

    /// One head.
    pub(crate) fn entries(&self, head: usize) -> Entries<'_> {
        let (start, len) = self.heads[head];
        let (keys, values) = self.data[start..].split_at(key_panels_len(len, self.head_dim));
        Entries { keys, values: &values[..len * self.head_dim], len }
    }
}

/// The cache of one variant on the CPU.
#[derive(Debug)]
pub(crate) struct RaggedCache {
    prefill: Arc<Prefill>,
    layers: Vec<KeptLayer>,
    own: KeptStore,
    /// The answer's keys and values, one store a KV head and layer.
    pub(crate) tails: Vec<LayerStore>,
}

impl RaggedCache {
    /// Gathers what `selection` keeps, with room for `room` further tokens. The selection was checked.
    pub(crate) fn new(prefill: &Arc<Prefill>, selection: &Selection, room: usize) -> Result<Self> {
        let shape = *prefill.shape();
        let mut sources = Vec::new();
        let mut layers = Vec::with_capacity(shape.layers);
        for (kept, layer) in selection.layers.iter().zip(prefill.cpu_store()?) {
            match kept {
                LayerSelection::Heads(heads) if !kept.keeps_everything(shape.prompt_len) => {
                    layers.push(KeptLayer::Own(selection.granularity, sources.len()));
                    let group = heads.len() / shape.kv_heads;
                    sources.extend(
                        heads.iter().enumerate().map(|(i, kept)| (&layer[i / group], kept.as_slice())),
                    );
                }
                _ => layers.push(KeptLayer::Shared),
            }
        }
        let own = KeptStore::gather(&sources, shape.head_dim);
        let tail = || (0..shape.kv_heads).map(|_| HeadStore::new(room, shape.head_dim)).collect();
        let tails = (0..shape.layers).map(|_| tail()).collect();
        Ok(Self { prefill: Arc::clone(prefill), layers, own, tails })
    }

    /// Position of the next token: prompt tokens plus tokens decoded, whatever was evicted.
    pub(crate) fn position(&self) -> usize {
        self.prefill.shape().prompt_len + self.tails[0][0].len
    }

    /// What is kept of one layer, the copies, and the store to read if that is everything.
    pub(crate) fn kept(&self, layer: usize) -> Result<(KeptLayer, &KeptStore, &LayerStore)> {
        Ok((self.layers[layer], &self.own, &self.prefill.cpu_store()?[layer]))
    }

    /// Measures what is held.
    pub(crate) fn held(&self) -> Result<Held> {
        let shape = self.prefill.shape();
        let layers: Vec<Vec<usize>> = self
            .layers
            .iter()
            .zip(self.prefill.cpu_store()?)
            .map(|(kept, shared)| match *kept {
                KeptLayer::Shared => shared.iter().map(|head| head.len).collect(),
                KeptLayer::Own(granularity, first) => {
                    let heads = &self.own.heads[first..][..granularity.heads(shape)];
                    heads.iter().map(|&(_, len)| len).collect()
                }
            })
            .collect();
        let shared = self.layers.iter().zip(self.prefill.cpu_store()?);
        let shared =
            shared.filter(|(kept, _)| matches!(kept, KeptLayer::Shared)).flat_map(|(_, heads)| heads);
        let bytes = size_of_val(&*self.own.data) + shared.map(HeadStore::bytes).sum::<usize>();
        Ok(Held { layers, bytes: bytes as u64 })
    }
}
