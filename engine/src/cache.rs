//! What a cache holds, and which selections a prompt can have, whatever the back end.

use kvsweep_methods::{
    selection::{Granularity, LayerSelection, Selection},
    shape::{CacheShape, LayerShape},
};

use crate::error::{EngineError, Result};

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

    /// Entries of each layer and head of a granularity, and `tail` more. A layer that reads the shared prompt has the same
    /// number in every head.
    pub(crate) fn entries_of(
        &self,
        sizes: &LayerShape,
        granularity: Granularity,
        tail: usize,
    ) -> Vec<Vec<usize>> {
        let heads = granularity.heads(sizes);
        let more =
            |held: &Vec<usize>| (0..heads).map(|head| held[head * held.len() / heads] + tail).collect();
        self.layers.iter().map(more).collect()
    }
}

/// Refuses a selection that does not fit the prompt it is applied to.
pub(crate) fn check_selection(selection: &Selection, shape: &CacheShape) -> Result<()> {
    let heads = shape.layers.iter().map(|sizes| vec![shape.len; selection.granularity.heads(sizes)]);
    check_entries(selection, &heads.collect::<Vec<_>>())
}

/// Refuses a selection of other entries than each layer and head has.
pub(crate) fn check_entries(selection: &Selection, entries: &[Vec<usize>]) -> Result<()> {
    let refuse = |reason: String| Err(EngineError::BadSelection { reason });
    if selection.layers.len() != entries.len() {
        return refuse(format!("{} layers, the prompt has {}", selection.layers.len(), entries.len()));
    }
    for (layer, (kept, lens)) in selection.layers.iter().zip(entries).enumerate() {
        let LayerSelection::Heads(heads) = kept else { continue };
        if heads.len() != lens.len() {
            return refuse(format!("{} heads in layer {layer}, expected {}", heads.len(), lens.len()));
        }
        for (head, (kept, &len)) in heads.iter().zip(lens).enumerate() {
            let ascending = kept.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || kept.last().is_some_and(|&last| last as usize >= len) {
                return refuse(format!(
                    "positions of layer {layer}, head {head} do not ascend below the prompt length {len}"
                ));
            }
        }
    }
    Ok(())
}
