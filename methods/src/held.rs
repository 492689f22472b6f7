//! What a selection really holds: entries and bytes beside the nominal budget.

use serde::{Deserialize, Serialize};

use crate::selection::{Granularity, LayerSelection, Selection};
use crate::shape::PromptShape;

/// Entries and bytes of one prompt's compressed cache, right after the prefill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Stored KV pairs, over all layers and stored heads.
    pub entries: u64,
    /// Keys and values in bytes.
    pub bytes: u64,
    /// Entries per KV head, averaged over heads and layers. Storage per query head counts fully here:
    /// this is what compares with a budget.
    pub mean: f64,
    /// Entries per stored head (KV or query head), averaged over heads and layers.
    pub mean_stored: f64,
    /// Most entries of one stored head.
    pub max: u64,
    /// Fewest entries of one stored head.
    pub min: u64,
    /// Entries per KV head of each layer.
    pub layers: Vec<f64>,
}

impl Held {
    /// Counts a selection. `element_bytes` is the size of one stored element (2 for f16, 4 for f32).
    #[must_use]
    pub fn of(selection: &Selection, shape: &PromptShape, element_bytes: usize) -> Self {
        let heads = selection.layers.iter().flat_map(|layer| stored(layer, shape));
        let (mut entries, mut count, mut max, mut min) = (0u64, 0u64, 0u64, u64::MAX);
        for held in heads {
            entries += held;
            count += 1;
            max = max.max(held);
            min = min.min(held);
        }
        let kv_heads = shape.kv_heads.max(1) as f64;
        let layers: Vec<f64> = selection
            .layers
            .iter()
            .map(|layer| stored(layer, shape).sum::<u64>() as f64 / kv_heads)
            .collect();
        Self {
            entries,
            bytes: entries * 2 * (shape.head_dim * element_bytes) as u64,
            mean: layers.iter().sum::<f64>() / layers.len().max(1) as f64,
            mean_stored: entries as f64 / count.max(1) as f64,
            max,
            min: if count == 0 { 0 } else { min },
            layers,
        }
    }

    /// How far the entries per KV head are above (positive) or below the budget, as a share of it. A prompt
    /// shorter than the budget is its own budget. Storage per query head shows as `group_size - 1` and more.
    #[must_use]
    pub fn overspend(&self, budget: usize, prompt_len: usize) -> f64 {
        let nominal = budget.min(prompt_len) as f64;
        if nominal > 0.0 { self.mean / nominal - 1.0 } else { 0.0 }
    }
}

/// Entries of each stored head of a layer; an uncut layer is stored once per KV head.
fn stored<'a>(layer: &'a LayerSelection, shape: &PromptShape) -> Box<dyn Iterator<Item = u64> + 'a> {
    match layer {
        LayerSelection::All => Box::new(std::iter::repeat_n(shape.prompt_len as u64, shape.kv_heads)),
        LayerSelection::Heads(heads) => Box::new(heads.iter().map(|kept| kept.len() as u64)),
    }
}

/// Bytes of a cache that keeps everything.
#[must_use]
pub fn full_bytes(shape: &PromptShape, element_bytes: usize) -> u64 {
    let all = Selection { granularity: Granularity::KvHead, layers: vec![LayerSelection::All; shape.layers] };
    Held::of(&all, shape, element_bytes).bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::shape;

    #[test]
    fn storage_per_query_head_counts_fully() {
        let shape = shape(2, 4, 2, 8, 10);
        let cut = LayerSelection::Heads(vec![vec![0, 1], vec![1], vec![2, 3, 4], vec![5, 6]]);
        let selection =
            Selection { granularity: Granularity::QueryHead, layers: vec![LayerSelection::All, cut] };
        let held = Held::of(&selection, &shape, 2);
        assert_eq!((held.entries, held.max, held.min), (28, 10, 1));
        assert_eq!(held.bytes, 28 * 2 * 8 * 2);
        assert_eq!(held.layers, [10.0, 4.0]);
        assert_eq!((held.mean, held.mean_stored), (7.0, 28.0 / 6.0));
        assert_eq!(held.overspend(4, 10), 0.75);
        assert_eq!(full_bytes(&shape, 4), 2 * 2 * 10 * 2 * 8 * 4);
    }
}
