//! CacheSize positions of one example: a text file beside the records that git diffs line by line.
//!
//! ```text
//! kvsweep-kept 1
//! variant snapkv/128/kv-head#0123abcd
//! 0 all
//! 1 0 0-3,17,20-31
//! ```
//!
//! A line names a layer and a head and its kept positions as ascending ranges; `all` is a layer without eviction.

use std::path::Path;

use crate::error::ResultsError;

const HEADER: &str = "kvsweep-kept 1";

/// What one layer kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerKept {
    /// Every prompt position in every head.
    All,
    /// Per head, ascending unique positions.
    Heads(Vec<Vec<u32>>),
}

/// What one variant kept, layer by layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariantKept {
    /// [`crate::VariantKey`] as text.
    pub variant: String,
    /// One entry a layer.
    pub layers: Vec<LayerKept>,
}

impl VariantKept {
    /// For each of `length` prompt positions, the share of heads that kept it, layers weighted equally.
    pub fn shares(&self, length: usize) -> Vec<f64> {
        let mut shares = vec![0.0; length];
        for layer in &self.layers {
            match layer {
                LayerKept::All => shares.iter_mut().for_each(|share| *share += 1.0),
                LayerKept::Heads(heads) => {
                    let weight = 1.0 / heads.len().max(1) as f64;
                    for &position in heads.iter().flatten() {
                        if let Some(share) = shares.get_mut(position as usize) {
                            *share += weight;
                        }
                    }
                }
            }
        }
        let layers = self.layers.len().max(1) as f64;
        shares.iter_mut().for_each(|share| *share /= layers);
        shares
    }
}

/// What every variant of one example kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptPositions {
    /// One entry a variant.
    pub variants: Vec<VariantKept>,
}

impl KeptPositions {
    /// Writes the text form.
    pub(crate) fn to_text(&self) -> String {
        let mut out = format!("{HEADER}\n");
        for variant in &self.variants {
            // A variant's name is one line whatever it contains.
            out.push_str(&format!("variant {}\n", variant.variant.replace(['\n', '\r'], " ")));
            for (layer, kept) in variant.layers.iter().enumerate() {
                match kept {
                    LayerKept::All => out.push_str(&format!("{layer} all\n")),
                    LayerKept::Heads(heads) => {
                        for (head, positions) in heads.iter().enumerate() {
                            out.push_str(&format!("{layer} {head} {}\n", ranges(positions)));
                        }
                    }
                }
            }
        }
        out
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// A line that is not of the format, with its number; a newer version of the format.
    pub(crate) fn from_text(text: &str, path: &Path) -> Result<Self, ResultsError> {
        let bad = |line: usize, why: &str| ResultsError::Malformed {
            path: path.to_owned(),
            why: format!("line {line}: {why}"),
        };
        let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
        match lines.next() {
            Some((_, HEADER)) => {}
            Some((_, other)) => {
                let found = other.strip_prefix("kvsweep-kept ").and_then(|version| version.parse().ok());
                return Err(match found {
                    Some(found) => ResultsError::NewerSchema { path: path.to_owned(), found, known: 1 },
                    None => bad(1, "not a file of kept positions"),
                });
            }
            None => return Err(bad(1, "the file is empty")),
        }
        let mut kept = Self::default();
        for (number, line) in lines {
            if let Some(variant) = line.strip_prefix("variant ") {
                kept.variants.push(VariantKept { variant: variant.to_owned(), layers: Vec::new() });
                continue;
            }
            let layers = match kept.variants.last_mut() {
                Some(variant) => &mut variant.layers,
                None => return Err(bad(number, "a layer before the first variant")),
            };
            let mut words = line.split(' ');
            let layer: Option<usize> = words.next().and_then(|word| word.parse().ok());
            match (layer, words.next(), words.next(), words.next()) {
                (Some(layer), Some("all"), None, None) if layer == layers.len() => {
                    layers.push(LayerKept::All)
                }
                (Some(layer), Some(head), Some(positions), None) => {
                    let positions =
                        positions_of(positions).ok_or_else(|| bad(number, "bad position ranges"))?;
                    if layer == layers.len() {
                        layers.push(LayerKept::Heads(Vec::new()));
                    }
                    match layers.last_mut() {
                        Some(LayerKept::Heads(heads)) if head.parse() == Ok(heads.len()) => {
                            heads.push(positions)
                        }
                        _ => return Err(bad(number, "heads out of order")),
                    }
                    if layer + 1 != layers.len() {
                        return Err(bad(number, "layers out of order"));
                    }
                }
                _ => return Err(bad(number, "expected `LAYER all` or `LAYER HEAD RANGES`")),
            }
        }
        Ok(kept)
    }
}

/// Ascending positions as `0-3,17`; `-` for none.
fn ranges(positions: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &position in positions {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(position) => *last = position,
            _ => runs.push((position, position)),
        }
    }
    if runs.is_empty() {
        return "-".to_owned();
    }
    let text = |(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

/// A prompt longer than this is taken for a damaged file, not expanded into memory.
const LONGEST_PROMPT: u32 = 1 << 24;

fn positions_of(text: &str) -> Option<Vec<u32>> {
    let mut positions: Vec<u32> = Vec::new();
    if text == "-" {
        return Some(positions);
    }
    for run in text.split(',') {
        let (first, last) = run.split_once('-').unwrap_or((run, run));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last > LONGEST_PROMPT || positions.last().is_some_and(|before| *before >= first) {
            return None;
        }
        positions.extend(first..=last);
    }
    Some(positions)
}

/// Shared positions over all positions, head by head, averaged over the heads of one layer; 1 for equal selections.
///
/// None where the two layers have a different number of heads (another granularity).
pub(crate) fn jaccard(a: &LayerKept, b: &LayerKept, prompt_tokens: u32) -> Option<f64> {
    match (a, b) {
        (LayerKept::All, LayerKept::All) => Some(1.0),
        (LayerKept::All, LayerKept::Heads(heads)) | (LayerKept::Heads(heads), LayerKept::All) => {
            let share = |head: &Vec<u32>| head.len() as f64 / f64::from(prompt_tokens.max(1));
            mean(heads.iter().map(share))
        }
        (LayerKept::Heads(a), LayerKept::Heads(b)) if a.len() == b.len() => {
            mean(a.iter().zip(b).map(|(a, b)| head_jaccard(a, b)))
        }
        _ => None,
    }
}

fn head_jaccard(a: &[u32], b: &[u32]) -> f64 {
    let (mut i, mut j, mut shared) = (0, 0, 0_usize);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        shared += usize::from(x == y);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    let union = a.len() + b.len() - shared;
    if union == 0 { 1.0 } else { shared as f64 / union as f64 }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_usize), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> KeptPositions {
        let heads = LayerKept::Heads(vec![vec![0, 1, 2, 3, 17, 20, 21], vec![], vec![u32::from(u16::MAX)]]);
        KeptPositions {
            variants: vec![
                VariantKept {
                    variant: "full/kv-head#00".into(),
                    layers: vec![LayerKept::All, LayerKept::All],
                },
                VariantKept { variant: "snapkv/7/kv-head#01".into(), layers: vec![heads, LayerKept::All] },
            ],
        }
    }

    #[test]
    fn the_text_is_as_documented() {
        let text = example().to_text();
        assert_eq!(
            text,
            "kvsweep-kept 1\nvariant full/kv-head#00\n0 all\n1 all\nvariant snapkv/7/kv-head#01\n\
             0 0 0-3,17,20-21\n0 1 -\n0 2 65535\n1 all\n"
        );
        assert_eq!(KeptPositions::from_text(&text, Path::new("x")).unwrap(), example());
    }

    #[test]
    fn damage_is_named_with_its_line() {
        let cases = [
            ("", "line 1"),
            ("hello\n", "line 1"),
            ("kvsweep-kept 1\n0 all\n", "line 2"),
            ("kvsweep-kept 1\nvariant v\n1 all\n", "line 3"),
            ("kvsweep-kept 1\nvariant v\n0 1 3\n", "line 3"),
            ("kvsweep-kept 1\nvariant v\n0 0 5,3\n", "line 3"),
            ("kvsweep-kept 1\nvariant v\n0 0 0-4294967295\n", "line 3"),
            ("kvsweep-kept 1\nvariant v\n0 0 3\n0 all\n", "line 4"),
            ("kvsweep-kept 1\nvariant v\n0 0 3\n1 0 3\n0 1 3\n", "line 5"),
        ];
        for (text, line) in cases {
            let error = KeptPositions::from_text(text, Path::new("x.kept")).unwrap_err().to_string();
            assert!(error.contains(line) && error.contains("x.kept"), "{text:?}: {error}");
        }
        let newer = KeptPositions::from_text("kvsweep-kept 2\n", Path::new("x")).unwrap_err().to_string();
        assert!(newer.contains("schema 2"), "{newer}");
    }

    #[test]
    fn shares_weigh_layers_equally_and_ignore_positions_outside() {
        let kept = VariantKept {
            variant: "v".into(),
            layers: vec![LayerKept::All, LayerKept::Heads(vec![vec![0, 9], vec![0, 2]])],
        };
        assert_eq!(kept.shares(4), [1.0, 0.5, 0.75, 0.5]);
        assert_eq!(kept.shares(0), [0.0; 0]);
    }

    #[test]
    fn jaccard_against_known_answers() {
        let heads = |heads: &[&[u32]]| LayerKept::Heads(heads.iter().map(|head| head.to_vec()).collect());
        assert_eq!(jaccard(&heads(&[&[1, 2, 3]]), &heads(&[&[2, 3, 4]]), 9), Some(0.5));
        assert_eq!(jaccard(&heads(&[&[1, 2], &[5]]), &heads(&[&[1, 2], &[6]]), 9), Some(0.5));
        assert_eq!(jaccard(&heads(&[&[]]), &heads(&[&[]]), 9), Some(1.0));
        assert_eq!(jaccard(&LayerKept::All, &heads(&[&[0, 1]]), 8), Some(0.25));
        assert_eq!(jaccard(&heads(&[&[1]]), &heads(&[&[1], &[1]]), 9), None);
    }

    proptest! {
        #[test]
        fn every_selection_survives_the_text(heads in prop::collection::vec(
            prop::collection::btree_set(0u32..5000, 0..80), 1..4)) {
            let layer = LayerKept::Heads(heads.into_iter().map(|head| head.into_iter().collect()).collect());
            prop_assert_eq!(jaccard(&layer, &layer, 5000), Some(1.0));
            let kept = KeptPositions {
                variants: vec![VariantKept { variant: "v".into(), layers: vec![layer] }],
            };
            prop_assert_eq!(&KeptPositions::from_text(&kept.to_text(), Path::new("x")).unwrap(), &kept);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(kvsweep-kept 1\n)?(variant v\n)?[0-9 al,\n-]{0,60}") {
            let _ = KeptPositions::from_text(&text, Path::new("x"));
        }
    }
}
