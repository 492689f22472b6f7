//! Schema 1 of what is written about one finished example: its cells (one a variant), and its timings apart.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::io::hash_parts;
use crate::kept::LayerKept;

/// The newest schema of manifests and records this program writes and reads.
pub const SCHEMA: u32 = 1;

/// Names one example of one data set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExampleKey {
    /// The data set, by its registered name.
    pub dataset: String,
    /// The example inside it: the row's own id, or what the caller makes of its place and content.
    pub example: String,
}

/// Names one variant: method, parameters, granularity and budget.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantKey {
    /// The method with its profile, as typed: `snapkv`, `snapkv@headkv`.
    pub method: String,
    /// KV entries per KV head; none where the method has no budget (`full`).
    pub budget: Option<u32>,
    /// `kv-head` or `query-head`.
    pub granularity: String,
    /// [`crate::MethodInfo::params_id`] of the resolved parameters.
    pub params: String,
}

impl fmt::Display for VariantKey {
    /// `snapkv@headkv/128/kv-head#0123abcd`; unique, stable, used in files and messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.method)?;
        if let Some(budget) = self.budget {
            write!(f, "/{budget}")?;
        }
        write!(f, "/{}#{}", self.granularity, self.params)
    }
}

/// Names one example of one cell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellKey {
    /// Which example.
    pub example: ExampleKey,
    /// Which variant.
    pub variant: VariantKey,
}

impl fmt::Display for CellKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} {}", self.example.dataset, self.example.example, self.variant)
    }
}

/// Where the needle of a needle example lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needle {
    /// Nominal context length of the grid's column, tokens.
    pub length: u32,
    /// Nominal depth of the grid's row, percent of the context.
    pub depth: f64,
    /// First prompt position of the needle's own tokens; none where it could not be located.
    pub start: Option<u32>,
    /// One past the last such position.
    pub end: Option<u32>,
}

/// What all variants of one example share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExampleInfo {
    /// Row number in the data set's file, from 0.
    pub row: u64,
    /// Language of the row: `en`, `zh`, or the programming language.
    pub language: String,
    /// The length the data set states for the row (words or characters), where it states one.
    pub length: Option<u64>,
    /// Length bucket of the row (LongBench-E: `0-4k`, `4-8k`, `8k+`), where the suite has buckets.
    pub bucket: Option<String>,
    /// Sixteen hexadecimal digits of the hash of the row's context, where it has one: questions about one context are
    /// not independent. None in records written before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The reference answers.
    pub answers: Vec<String>,
    /// Class names of a classification set, else empty.
    pub all_classes: Vec<String>,
    /// SHA-256 over the prompt's token ids (little-endian u32), hexadecimal.
    pub prompt_sha256: String,
    /// The end of the prompt as text (bounded by the writer), for the example browser.
    pub prompt_tail: String,
    /// Tokens of the prompt as it was prefilled.
    pub prompt_tokens: u32,
    /// Tokens cut out of the middle (0: nothing was cut).
    pub truncated_tokens: u32,
    /// The needle's place, for needle examples.
    pub needle: Option<Needle>,
}

impl ExampleInfo {
    /// Whether both describe one prompt; one of them may be from before contexts were recorded.
    pub(crate) fn is_of_the_same_prompt(&self, other: &Self) -> bool {
        let known = self.context.is_some() && other.context.is_some();
        *self
            == Self {
                context: if known { other.context.clone() } else { self.context.clone() },
                ..other.clone()
            }
    }
}

/// Why decoding stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// A stop token was produced.
    Stop,
    /// The protocol's number of new tokens was reached.
    Length,
    /// A rule of the protocol other than a stop token ended the answer.
    Rule,
}

/// What a variant's cache really held after selection, before the answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Mean entries per head and layer.
    pub entries_mean: f64,
    /// Most entries in any head of any layer.
    pub entries_max: u32,
    /// The entries the budget allows per head and layer for this prompt: min(budget, prompt).
    pub entries_nominal: f64,
    /// Bytes of keys and values held over all layers and heads.
    pub bytes: u64,
}

/// What was selected, small enough for every record; the positions themselves go to [`crate::KeptPositions`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectionDigest {
    /// One hash a layer, over all its heads' kept positions; equal hashes mean equal selections.
    pub layers: Vec<String>,
    /// Entries kept in each head, layer by layer; an empty inner list means nothing was evicted in the layer.
    /// On disk a layer is a text of run lengths: `128*8` for eight heads of 128, `12,40` for two that differ.
    #[serde(with = "run_lengths")]
    pub counts: Vec<Vec<u32>>,
}

impl SelectionDigest {
    /// Digests the kept positions of every layer.
    pub fn of(layers: &[LayerKept]) -> Self {
        let hash = |layer: &LayerKept| match layer {
            LayerKept::All => hash_parts([b"all".as_slice()], 16),
            LayerKept::Heads(heads) => {
                let heads: Vec<Vec<u8>> =
                    heads.iter().map(|head| head.iter().flat_map(|p| p.to_le_bytes()).collect()).collect();
                hash_parts(heads.iter().map(Vec::as_slice), 16)
            }
        };
        let counts = |layer: &LayerKept| match layer {
            LayerKept::All => Vec::new(),
            LayerKept::Heads(heads) => heads.iter().map(|head| head.len() as u32).collect(),
        };
        Self { layers: layers.iter().map(hash).collect(), counts: layers.iter().map(counts).collect() }
    }
}

/// Counts of heads as run-length text: a real model's thousand equal heads take ten characters, not five thousand.
mod run_lengths {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    /// No model has more heads in a layer: a longer run is a damaged file, not to be expanded into memory.
    const MOST_HEADS: usize = 1 << 16;

    pub(super) fn serialize<S: Serializer>(layers: &[Vec<u32>], serializer: S) -> Result<S::Ok, S::Error> {
        let text = |layer: &Vec<u32>| {
            let runs = layer.chunk_by(|a, b| a == b).map(|run| match run {
                [one] => one.to_string(),
                run => format!("{}*{}", run.first().copied().unwrap_or_default(), run.len()),
            });
            runs.collect::<Vec<String>>().join(",")
        };
        layers.iter().map(text).collect::<Vec<String>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u32>>, D::Error> {
        let layers = Vec::<String>::deserialize(deserializer)?;
        let layer = |text: &String| {
            parse(text).ok_or_else(|| D::Error::custom(format!("bad counts `{}`", crate::excerpt(text, 40))))
        };
        layers.iter().map(layer).collect()
    }

    fn parse(text: &str) -> Option<Vec<u32>> {
        let mut heads = Vec::new();
        for run in text.split(',').filter(|_| !text.is_empty()) {
            let (count, times) = run.split_once('*').unwrap_or((run, "1"));
            let times: usize = times.parse().ok()?;
            if times == 0 || heads.len() + times > MOST_HEADS {
                return None;
            }
            heads.resize(heads.len() + times, count.parse().ok()?);
        }
        Some(heads)
    }
}

/// One variant's answer to one example.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantRecord {
    /// Which variant.
    pub variant: VariantKey,
    /// The answer as decoded, not stripped. Untrusted.
    pub prediction: String,
    /// SHA-256 over the answer's token ids (little-endian u32), hexadecimal.
    pub prediction_sha256: String,
    /// Number of new tokens.
    pub new_tokens: u32,
    /// Why decoding stopped.
    pub finish: Finish,
    /// The metric by name.
    pub metric: String,
    /// The score, 0 to 1.
    pub score: f64,
    /// Further scores by metric name, 0 to 1 (LooGLE's other metrics, the needle's rouge).
    pub other_scores: BTreeMap<String, f64>,
    /// What the cache really held.
    pub kept: Kept,
    /// What was selected; none where the writer does not keep it.
    pub selection: Option<SelectionDigest>,
    /// Share of the needle's own tokens kept, `[layer][head]`, 0 to 1; none without a needle.
    pub retention: Option<Vec<Vec<f32>>>,
}

/// Seconds of one variant's decode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantTiming {
    /// Selecting and gathering the kept entries, seconds.
    pub select_s: f64,
    /// Decoding, seconds: this variant's share of the batch it was decoded in.
    pub decode_s: f64,
}

/// What differs between two otherwise equal runs. In a record of its own so that it can be left out of a
/// comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timings {
    /// The shared prefill, seconds.
    pub prefill_s: f64,
    /// One entry a variant, in the order of [`ExampleRecord::variants`].
    pub variants: Vec<VariantTiming>,
}

/// One line of `records.jsonl`: a finished example with all its variants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExampleRecord {
    /// [`SCHEMA`] at the time of writing.
    pub schema: u32,
    /// Which example.
    pub key: ExampleKey,
    /// What its variants share.
    pub info: ExampleInfo,
    /// One entry a variant, in the manifest's order.
    pub variants: Vec<VariantRecord>,
    /// Seconds; none in a baseline store, which keeps only what is reproducible.
    pub timings: Option<Timings>,
}

impl ExampleRecord {
    /// The same record without its timings: equal for every repetition of the same run.
    pub fn without_timings(&self) -> Self {
        Self { timings: None, ..self.clone() }
    }

    /// Says what is wrong with the record's own numbers, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        for variant in &self.variants {
            let kept = &variant.kept;
            let scores = variant.other_scores.iter().map(|(name, score)| (name.as_str(), *score));
            for (name, score) in [(variant.metric.as_str(), variant.score)].into_iter().chain(scores) {
                if !(0.0..=1.0).contains(&score) {
                    return Err(format!("score `{name}` of {} is {score}, not in 0..1", variant.variant));
                }
            }
            // JSON has no NaN: it would be written as null and be unreadable afterwards.
            if !(kept.entries_mean.is_finite() && kept.entries_nominal.is_finite()) {
                return Err(format!("kept entries of {} are not finite", variant.variant));
            }
            let retention = variant.retention.iter().flatten().flatten();
            if let Some(share) = retention.copied().find(|share| !(0.0..=1.0).contains(share)) {
                return Err(format!("retention of {} is {share}, not in 0..1", variant.variant));
            }
        }
        if let Some(timings) = &self.timings {
            if timings.variants.len() != self.variants.len() {
                return Err(format!(
                    "{} timings for {} variants",
                    timings.variants.len(),
                    self.variants.len()
                ));
            }
            let seconds = timings.variants.iter().flat_map(|timing| [timing.select_s, timing.decode_s]);
            if let Some(bad) = seconds.chain([timings.prefill_s]).find(|s| !s.is_finite() || *s < 0.0) {
                return Err(format!("a timing is {bad} s"));
            }
        }
        if self.info.needle.is_some_and(|needle| !needle.depth.is_finite()) {
            return Err("the needle's depth is not finite".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_run_lengths_on_disk() {
        let digest =
            |counts: Vec<Vec<u32>>| SelectionDigest { layers: vec!["h".into(); counts.len()], counts };
        let heads = digest(vec![vec![], vec![128; 8], vec![12, 40, 40, 7]]);
        let text = serde_json::to_string(&heads).unwrap();
        assert_eq!(text, r#"{"layers":["h","h","h"],"counts":["","128*8","12,40*2,7"]}"#);
        assert_eq!(serde_json::from_str::<SelectionDigest>(&text).unwrap(), heads);
        for bad in ["x", "1*", "1*0", "1,,2", "1*99999999", "-1", "1*2*3"] {
            let text = format!(r#"{{"layers":[],"counts":["{bad}"]}}"#);
            let error = serde_json::from_str::<SelectionDigest>(&text).unwrap_err().to_string();
            assert!(error.contains("bad counts"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_digest_tells_heads_and_layers_apart() {
        let of = |heads: &[&[u32]]| {
            SelectionDigest::of(&[LayerKept::Heads(heads.iter().map(|head| head.to_vec()).collect())])
        };
        assert_eq!(of(&[&[1, 2], &[3]]), of(&[&[1, 2], &[3]]));
        assert_ne!(of(&[&[1, 2], &[3]]).layers, of(&[&[1], &[2, 3]]).layers);
        assert_ne!(of(&[]).layers, SelectionDigest::of(&[LayerKept::All]).layers);
        assert_eq!(of(&[&[1, 2], &[3]]).counts, [vec![2, 1]]);
    }
}
