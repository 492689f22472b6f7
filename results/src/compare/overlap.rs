//! Whether both runs keep the same entries.

use serde::Serialize;

use super::pairing::{Pair, name};
use crate::kept::{KeptPositions, jaccard};
use crate::merge::Group;
use crate::record::ExampleKey;

/// Whether the same entries are kept in one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerOverlap {
    /// The variant.
    pub variant: String,
    /// The layer.
    pub layer: usize,
    /// Share of the shared examples whose selection in this layer is exactly the same.
    pub identical: f64,
    /// Examples compared by their hashes.
    pub n: usize,
    /// Mean Jaccard index of the kept positions; none where neither stored them.
    pub jaccard: Option<f64>,
    /// Examples compared by their positions.
    pub n_jaccard: usize,
}

pub(super) fn overlaps(
    base: &Group,
    head: &Group,
    pairs: &[Pair<'_>],
    shared: &[&ExampleKey],
) -> (Vec<LayerOverlap>, Option<String>) {
    /// Sums of one layer: equal hashes, hashes, Jaccard sum, Jaccard count.
    #[derive(Clone, Copy, Default)]
    struct Sums(usize, usize, f64, usize);
    let mut sums: Vec<Vec<Sums>> = vec![Vec::new(); pairs.len()];
    let mut damaged: Vec<String> = Vec::new();
    for key in shared {
        let (Some(before), Some(after)) = (base.examples.get(*key), head.examples.get(*key)) else {
            continue;
        };
        let [kept_before, kept_after] = [base, head].map(|group| {
            group.kept(key).unwrap_or_else(|error| {
                damaged.push(error.to_string());
                KeptPositions::default()
            })
        });
        for ((old, new), layers) in pairs.iter().zip(&mut sums) {
            let [a, b] = [(before, old), (after, new)].map(|(example, variant)| {
                example.answers.get(variant).and_then(|answer| answer.record.selection.as_ref())
            });
            if let (Some(a), Some(b)) = (a, b) {
                layers.resize(layers.len().max(a.layers.len()).max(b.layers.len()), Sums::default());
                for (layer, sum) in layers.iter_mut().enumerate() {
                    sum.0 += usize::from(a.layers.get(layer) == b.layers.get(layer));
                    sum.1 += 1;
                }
            }
            let [a, b] = [(&kept_before, old), (&kept_after, new)].map(|(kept, variant)| {
                let name = variant.to_string();
                kept.variants.iter().find(|kept| kept.variant == name).map(|kept| kept.layers.as_slice())
            });
            if let (Some(a), Some(b)) = (a, b) {
                layers.resize(layers.len().max(a.len()).max(b.len()), Sums::default());
                for ((a, b), sum) in a.iter().zip(b).zip(layers.iter_mut()) {
                    if let Some(index) = jaccard(a, b, after.info.prompt_tokens) {
                        sum.2 += index;
                        sum.3 += 1;
                    }
                }
            }
        }
    }
    let mut all = Vec::new();
    for ((_, new), layers) in pairs.iter().zip(sums) {
        for (layer, Sums(same, n, total, n_jaccard)) in layers.into_iter().enumerate() {
            all.push(LayerOverlap {
                variant: name(new, pairs),
                layer,
                identical: if n > 0 { same as f64 / n as f64 } else { 1.0 },
                n,
                jaccard: (n_jaccard > 0).then(|| total / n_jaccard as f64),
                n_jaccard,
            });
        }
    }
    damaged.sort();
    damaged.dedup();
    let note = damaged.first().map(|first| {
        let more =
            if damaged.len() > 1 { format!(" (and {} more)", damaged.len() - 1) } else { String::new() };
        format!("kept positions of a damaged file are not compared: {first}{more}")
    });
    (all, note)
}
