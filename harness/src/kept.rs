//! What was kept, as records and pictures want it.

use anyhow::Context;
use kvsweep_engine::decode::HeadSet;
use kvsweep_methods::budget::Budget;
use kvsweep_methods::selection::{LayerSelection, Selection};
use kvsweep_methods::shape::{CacheShape, LayerShape};
use kvsweep_results::{KeptPositions, LayerKept, Needle, VariantKept, VariantKey};
use sha2::{Digest, Sha256};

/// Characters of the prompt's end that a record carries.
const TAIL: usize = 600;

/// The kept positions of every layer; of one that looks through a window, its window at most.
pub(crate) fn layers_kept(selection: &Selection, shape: &CacheShape) -> Vec<LayerKept> {
    let layer = |(layer, sizes): (&LayerSelection, &LayerShape)| match layer {
        LayerSelection::Heads(heads) => LayerKept::Heads(heads.clone()),
        LayerSelection::All => match sizes.seen(shape.len) {
            seen if seen.start == 0 => LayerKept::All,
            seen => LayerKept::Heads(vec![(seen.start as u32..seen.end as u32).collect(); sizes.kv_heads]),
        },
    };
    selection.layers.iter().zip(&*shape.layers).map(layer).collect()
}

/// The kept positions of every variant of one example.
pub(crate) fn positions<'a>(
    variants: impl Iterator<Item = (&'a VariantKey, &'a Selection)>,
    shape: &CacheShape,
) -> KeptPositions {
    let kept = |(key, selection): (&VariantKey, &Selection)| VariantKept {
        variant: key.to_string(),
        layers: layers_kept(selection, shape),
    };
    KeptPositions { variants: variants.map(kept).collect() }
}

/// Share of the needle's own tokens that each layer and head kept, 0 to 1; none where the needle was not located.
pub(crate) fn retention(layers: &[LayerKept], shape: &CacheShape, needle: Needle) -> Option<Vec<Vec<f32>>> {
    let needle = needle.start?..needle.end?;
    let share = |head: &Vec<u32>| {
        let kept = head.iter().filter(|position| needle.contains(position)).count();
        kept as f32 / needle.len() as f32
    };
    let layer = |(layer, sizes): (&LayerKept, &LayerShape)| match layer {
        LayerKept::All => vec![1.0; sizes.kv_heads],
        LayerKept::Heads(heads) => heads.iter().map(share).collect(),
    };
    (!needle.is_empty()).then(|| layers.iter().zip(&*shape.layers).map(layer).collect())
}

/// A number of tokens or entries as records hold it.
///
/// # Errors
/// A number that does not fit: it must not be recorded as another one.
pub(crate) fn count(n: usize) -> anyhow::Result<u32> {
    u32::try_from(n).map_err(|_| anyhow::anyhow!("{n} tokens or entries are more than a record can hold"))
}

/// A budget as records hold it.
///
/// # Errors
/// A number of entries that does not fit.
pub(crate) fn budget(budget: Budget) -> anyhow::Result<kvsweep_results::Budget> {
    Ok(match budget {
        Budget::Entries(entries) => kvsweep_results::Budget::Entries(count(entries)?),
        Budget::Share(share) => kvsweep_results::Share::of_millionths(share.millionths())
            .map(kvsweep_results::Budget::Share)
            .with_context(|| format!("a share of {share} cannot be recorded"))?,
    })
}

/// SHA-256 over token ids (little-endian u32), hexadecimal.
pub(crate) fn ids_sha256(ids: &[u32]) -> String {
    let mut hash = Sha256::new();
    for id in ids {
        hash.update(id.to_le_bytes());
    }
    hex(&hash.finalize())
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 over heads, in the order of layers and heads, hexadecimal.
pub(crate) fn heads_sha256(heads: &HeadSet) -> String {
    hex(&Sha256::digest(format!("{heads:?}")))
}

/// The end of a prompt's text.
pub(crate) fn tail(text: &str) -> String {
    let from = text.char_indices().rev().nth(TAIL - 1).map_or(0, |(at, _)| at);
    text.get(from..).unwrap_or(text).to_owned()
}
