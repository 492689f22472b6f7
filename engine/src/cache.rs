//! Keys and values: of a prompt, shared and immutable, and of one variant, ragged, with room for its answer.

use std::sync::Arc;

use kvsweep_methods::{
    selection::{Granularity, LayerSelection, Selection},
    shape::PromptShape,
};

use crate::{
    cpu::attention::{Entries, gather_keys, key_panels_len, store_key},
    error::{EngineError, Result},
    prefill::Prefill,
};

/// What a variant holds of its prompt; the answer's own entries come on top and are the same for every variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Entries of each layer and head: `kv_heads` or `query_heads` numbers a layer, by the granularity of the
    /// selection (`kv_heads` where the layer keeps everything: it reads the shared prompt).
    pub layers: Vec<Vec<usize>>,
    /// Bytes of those keys and values, counted in the buffers that hold them.
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

    /// Copies the given positions of another head.
    fn gather(source: &Self, positions: &[u32], head_dim: usize) -> Self {
        let mut store = Self { len: positions.len(), ..Self::new(positions.len(), head_dim) };
        gather_keys(&source.keys, positions, &mut store.keys, head_dim);
        for (value, &position) in store.values.chunks_exact_mut(head_dim).zip(positions) {
            value.copy_from_slice(&source.values[position as usize * head_dim..][..head_dim]);
        }
        store
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

    /// Bytes of the entries in use.
    fn bytes(&self, head_dim: usize) -> u64 {
        (2 * self.len * head_dim * size_of::<f32>()) as u64
    }
}

/// Keys and values of one layer on the CPU, one store a KV head.
pub(crate) type LayerStore = Vec<HeadStore>;

/// What one variant kept of one layer.
#[derive(Debug)]
pub(crate) enum KeptLayer {
    /// Everything: reads the prefill's own store.
    Shared,
    /// Copies, one store a head of the granularity.
    Own(Granularity, Vec<HeadStore>),
}

/// The cache of one variant on the CPU.
#[derive(Debug)]
pub(crate) struct RaggedCache {
    prefill: Arc<Prefill>,
    layers: Vec<KeptLayer>,
    /// The answer's keys and values, one store a KV head and layer.
    pub(crate) tails: Vec<LayerStore>,
}

impl RaggedCache {
    /// Gathers what `selection` keeps, with room for `room` further tokens. The selection was checked.
    pub(crate) fn new(prefill: &Arc<Prefill>, selection: &Selection, room: usize) -> Result<Self> {
        let shape = *prefill.shape();
        let store = prefill.cpu_store()?;
        let layers = selection
            .layers
            .iter()
            .zip(store)
            .map(|(kept, layer)| match kept {
                LayerSelection::Heads(heads) if !kept.keeps_everything(shape.prompt_len) => {
                    let group = heads.len() / shape.kv_heads;
                    let gather = |(i, kept): (usize, &Vec<u32>)| {
                        HeadStore::gather(&layer[i / group], kept, shape.head_dim)
                    };
                    KeptLayer::Own(selection.granularity, heads.iter().enumerate().map(gather).collect())
                }
                _ => KeptLayer::Shared,
            })
            .collect();
        let tail = || (0..shape.kv_heads).map(|_| HeadStore::new(room, shape.head_dim)).collect();
        let tails = (0..shape.layers).map(|_| tail()).collect();
        Ok(Self { prefill: Arc::clone(prefill), layers, tails })
    }

    /// Position of the next token: prompt tokens plus tokens decoded, whatever was evicted.
    pub(crate) fn position(&self) -> usize {
        self.prefill.shape().prompt_len + self.tails[0][0].len
    }

    /// What is kept of one layer, and the store to read if that is everything.
    pub(crate) fn kept(&self, layer: usize) -> Result<(&KeptLayer, &LayerStore)> {
        Ok((&self.layers[layer], &self.prefill.cpu_store()?[layer]))
    }

    /// Measures what is held.
    pub(crate) fn held(&self) -> Result<Held> {
        let dim = self.prefill.shape().head_dim;
        let stores = self.layers.iter().zip(self.prefill.cpu_store()?).map(|(kept, shared)| match kept {
            KeptLayer::Shared => shared,
            KeptLayer::Own(_, heads) => heads,
        });
        let stores: Vec<_> = stores.collect();
        Ok(Held {
            layers: stores.iter().map(|heads| heads.iter().map(|head| head.len).collect()).collect(),
            bytes: stores.iter().flat_map(|heads| heads.iter()).map(|head| head.bytes(dim)).sum(),
        })
    }
}
