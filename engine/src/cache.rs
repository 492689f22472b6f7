//! What a cache holds, and which selections a prompt can have, whatever the back end.

use kvsweep_methods::{
    selection::{LayerSelection, Selection},
    shape::{CacheShape, Reach},
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

    /// Entries of every head of some layers, `tail` more included.
    ///
    /// # Errors
    /// Heads of unlike length.
    pub(crate) fn entries_of_each(&self, layers: &[usize], tail: usize) -> Result<usize> {
        let mut all = layers.iter().flat_map(|&layer| &self.layers[layer]).copied();
        let first = all.next().unwrap_or(0);
        match all.find(|&other| other != first) {
            None => Ok(first + tail),
            Some(other) => Err(EngineError::BadSelection {
                reason: format!(
                    "one head holds {first} entries and another {other}, and a cache is only cut again where all hold as many"
                ),
            }),
        }
    }
}

/// The first position that a query at `position` looks at.
pub(crate) fn first_seen(reach: Reach, position: usize) -> usize {
    match reach {
        Reach::All => 0,
        Reach::Window(window) => (position + 1).saturating_sub(window),
    }
}

/// Refuses a selection that does not fit the prompt it is applied to.
pub(crate) fn check_selection(selection: &Selection, shape: &CacheShape) -> Result<()> {
    let refuse = |reason: String| Err(EngineError::BadSelection { reason });
    if selection.layers.len() != shape.layers.len() {
        return refuse(format!("{} layers, the prompt has {}", selection.layers.len(), shape.layers.len()));
    }
    for (layer, (kept, sizes)) in selection.layers.iter().zip(&*shape.layers).enumerate() {
        let LayerSelection::Heads(heads) = kept else { continue };
        let expected = selection.granularity.heads(sizes);
        if heads.len() != expected {
            return refuse(format!("{} heads in layer {layer}, expected {expected}", heads.len()));
        }
        let seen = sizes.seen(shape.len);
        for (head, kept) in heads.iter().enumerate() {
            let ascending = kept.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || kept.last().is_some_and(|&last| last as usize >= shape.len) {
                return refuse(format!(
                    "positions of layer {layer}, head {head} do not ascend below the prompt length {}",
                    shape.len
                ));
            }
            if let Some(&first) = kept.first().filter(|&&first| (first as usize) < seen.start) {
                return refuse(format!(
                    "position {first} of layer {layer}, head {head} is outside the window, which begins at {}",
                    seen.start
                ));
            }
        }
    }
    Ok(())
}
