//! What is written about one finished example: its cells (one a variant), and its timings apart; and the line of
//! `records.jsonl` that it is.
//!
//! A line of schema 2 ends with a checksum over all before it, so that a flipped bit is told even where the line still
//! parses: `{…,"checksum":"0123456789abcdef"}`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::budget::Budget;
use crate::io::hash_parts;
use crate::kept::LayerKept;
use crate::shared::{Pool, SharedText};

/// The newest schema of manifests and records this program writes and reads.
pub const SCHEMA: u32 = 2;

const CHECKSUM: &[u8] = b",\"checksum\":\"";
const CHECKSUM_DIGITS: usize = 16;

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
    pub method: SharedText,
    /// What it may keep; none where the method has no budget (`full`).
    pub budget: Option<Budget>,
    /// `kv-head` or `query-head`.
    pub granularity: SharedText,
    /// [`crate::MethodInfo::params_id`] of the resolved parameters.
    pub params: SharedText,
}

impl fmt::Display for VariantKey {
    /// `snapkv@headkv/128/kv-head#0123abcd`, `snapkv@headkv@0.5/kv-head#0123abcd`; unique, stable, used in files and
    /// messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.method)?;
        if let Some(budget) = self.budget {
            f.write_str(&budget.suffix())?;
        }
        write!(f, "/{}#{}", self.granularity, self.params)
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
    /// Those of them that were compressed, where they are not all: the question came behind. None in records written
    /// before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compressed_tokens: Option<u32>,
    /// Tokens cut out of the middle (0: nothing was cut).
    pub truncated_tokens: u32,
    /// The needle's place, for needle examples.
    pub needle: Option<Needle>,
}

impl ExampleInfo {
    /// Tokens that were compressed.
    pub fn compressed(&self) -> u32 {
        self.compressed_tokens.unwrap_or(self.prompt_tokens)
    }

    /// Whether both describe one prompt; one of them may be from before contexts, or where they end, were recorded.
    pub(crate) fn is_of_the_same_prompt(&self, other: &Self) -> bool {
        *self
            == Self {
                context: other.context.clone().filter(|_| self.context.is_some()).or(self.context.clone()),
                compressed_tokens: other
                    .compressed_tokens
                    .filter(|_| self.compressed_tokens.is_some())
                    .or(self.compressed_tokens),
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
}

/// What a variant's cache really held after selection, before the answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheSize {
    /// Mean entries per head and layer.
    pub entries_mean: f64,
    /// Most entries in any head of any layer.
    pub entries_max: u32,
    /// The entries the budget allows per head and layer of what was compressed, and no more than these.
    pub entries_nominal: f64,
    /// Bytes of keys and values held over all layers and heads.
    pub bytes: u64,
    /// The share of a short prompt had no room for the method's window: the last entries were kept instead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last_only: bool,
}

/// What was selected, small enough for every record; the positions themselves go to [`crate::KeptPositions`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectionDigest {
    /// One hash a layer, over all its heads' kept positions; equal hashes mean equal selections.
    pub layers: Box<[LayerHash]>,
    counts: HeadCounts,
}

impl SelectionDigest {
    /// Digests the kept positions of every layer.
    pub fn of(layers: &[LayerKept]) -> Self {
        let counts = |layer: &LayerKept| match layer {
            LayerKept::All => Vec::new(),
            LayerKept::Heads(heads) => heads.iter().map(|head| head.len() as u32).collect(),
        };
        let counts: Vec<Vec<u32>> = layers.iter().map(counts).collect();
        Self { layers: layers.iter().map(LayerHash::of).collect(), counts: HeadCounts::of(&counts) }
    }

    /// Entries kept in each head, layer by layer; an empty inner list means nothing was evicted in the layer. Empty where
    /// only hashes were read ([`crate::Run::load_for_scores`]).
    pub fn counts(&self) -> Vec<Vec<u32>> {
        self.counts.layers().filter_map(HeadCounts::parse).collect()
    }
}

/// A hash over the positions that one layer kept; sixteen hexadecimal digits on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerHash(u64);

impl LayerHash {
    const DIGITS: usize = 16;

    fn of(layer: &LayerKept) -> Self {
        let hex = match layer {
            LayerKept::All => hash_parts([b"all".as_slice()], Self::DIGITS),
            LayerKept::Heads(heads) => {
                let heads: Vec<Vec<u8>> =
                    heads.iter().map(|head| head.iter().flat_map(|p| p.to_le_bytes()).collect()).collect();
                hash_parts(heads.iter().map(Vec::as_slice), Self::DIGITS)
            }
        };
        Self::parse(&hex).unwrap_or(Self(0))
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == Self::DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl Serialize for LayerHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for LayerHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| D::Error::custom(format!("bad layer hash `{}`", crate::text::excerpt(&text, 40))))
    }
}

/// Entries of every head of every layer. Each layer is a text of run lengths, `128*8` for eight heads of 128, `12,40`
/// for two that differ: a real model's thousand equal heads take ten characters, not five thousand. In memory every
/// layer's text is ended by a blank; on disk they are a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct HeadCounts(SharedText);

impl HeadCounts {
    /// No model has more heads in a layer: a longer run is a damaged file, not to be expanded into memory.
    const MOST_HEADS: usize = 1 << 16;

    fn of(layers: &[Vec<u32>]) -> Self {
        let text = |layer: &Vec<u32>| {
            let runs = layer.chunk_by(|a, b| a == b).map(|run| match run {
                [one] => one.to_string(),
                run => format!("{}*{}", run.first().copied().unwrap_or_default(), run.len()),
            });
            runs.collect::<Vec<String>>().join(",") + " "
        };
        Self(layers.iter().map(text).collect::<String>().into())
    }

    fn layers(&self) -> impl Iterator<Item = &str> {
        self.0.split_terminator(' ')
    }

    fn parse(text: &str) -> Option<Vec<u32>> {
        let mut heads = Vec::new();
        for run in text.split(',').filter(|_| !text.is_empty()) {
            let (count, times) = run.split_once('*').unwrap_or((run, "1"));
            let times: usize = times.parse().ok()?;
            if times == 0 || heads.len() + times > Self::MOST_HEADS {
                return None;
            }
            heads.resize(heads.len() + times, count.parse().ok()?);
        }
        Some(heads)
    }
}

impl Serialize for HeadCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.layers())
    }
}

impl<'de> Deserialize<'de> for HeadCounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let layers = Vec::<String>::deserialize(deserializer)?;
        if let Some(bad) = layers.iter().find(|text| Self::parse(text).is_none()) {
            return Err(D::Error::custom(format!("bad counts `{}`", crate::text::excerpt(bad, 40))));
        }
        Ok(Self(layers.iter().flat_map(|text| [text.as_str(), " "]).collect::<String>().into()))
    }
}

/// Scores by metric name, ascending; an object on disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetricScores(Box<[(SharedText, f64)]>);

impl MetricScores {
    /// Every metric with its score, 0 to 1.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, score)| (&**name, *score))
    }
}

impl<T: Into<SharedText>> From<BTreeMap<T, f64>> for MetricScores {
    fn from(scores: BTreeMap<T, f64>) -> Self {
        Self(scores.into_iter().map(|(name, score)| (name.into(), score)).collect())
    }
}

impl Serialize for MetricScores {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for MetricScores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::<SharedText, f64>::deserialize(deserializer).map(Self::from)
    }
}

/// One variant's answer to one example. A long run has hundreds of thousands of them in memory at once, so that texts
/// which several have are held once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantRecord {
    /// Which variant.
    pub variant: VariantKey,
    /// The answer as decoded, not stripped. Untrusted.
    pub prediction: SharedText,
    /// SHA-256 over the answer's token ids (little-endian u32), hexadecimal.
    pub prediction_sha256: SharedText,
    /// Number of new tokens.
    pub new_tokens: u32,
    /// Why decoding stopped.
    pub finish: Finish,
    /// The metric by name.
    pub metric: SharedText,
    /// The score, 0 to 1.
    pub score: f64,
    /// Further scores by metric name, 0 to 1 (LooGLE's other metrics, the needle's rouge).
    pub other_scores: MetricScores,
    /// What the cache really held.
    pub kept: CacheSize,
    /// What was selected; none where the writer does not keep it.
    pub selection: Option<SelectionDigest>,
    /// Share of the needle's own tokens kept, `[layer][head]`, 0 to 1; none without a needle.
    pub retention: Option<Vec<Vec<f32>>>,
}

/// Seconds of one variant's selection and decode.
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
    /// Why the example was skipped: its row cannot be graded. It then has no prompt, no variants and no timings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// One entry a variant, in the manifest's order.
    pub variants: Vec<VariantRecord>,
    /// Seconds; none in a baseline store, which keeps only what is reproducible.
    pub timings: Option<Timings>,
}

impl ExampleRecord {
    /// The line of `records.jsonl`, its end included.
    pub(crate) fn to_line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.pop();
        let checksum = hash_parts([line.as_slice()], CHECKSUM_DIGITS);
        line.extend_from_slice(CHECKSUM);
        line.extend_from_slice(checksum.as_bytes());
        line.extend_from_slice(b"\"}\n");
        Ok(line)
    }

    /// Reads a line, without its end, of a run of `schema`.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(crate) fn from_line(line: &[u8], schema: u32) -> Result<Self, LineProblem> {
        let parse = |bytes: &[u8]| {
            // Only the number, so that a newer record is told as such and not as one with unknown fields.
            if let Ok(SchemaOnly { schema }) = serde_json::from_slice(bytes)
                && schema > SCHEMA
            {
                return Err(LineProblem::Newer(schema));
            }
            serde_json::from_slice(bytes).map_err(|error| LineProblem::Damaged(error.to_string()))
        };
        match split_checksum(line) {
            Some((content, checksum)) if hash_parts([content], CHECKSUM_DIGITS).as_bytes() != checksum => {
                Err(LineProblem::Damaged(
                    "its checksum does not fit: it was changed after it was written".to_owned(),
                ))
            }
            Some((content, _)) => parse(&[content, b"}"].concat()),
            None if schema == 1 => parse(line),
            None => match parse(line) {
                Ok(_) => Err(LineProblem::Damaged("it has no checksum".to_owned())),
                Err(problem) => Err(problem),
            },
        }
    }

    /// Holds what the answers have in common once: their variants as in `variants`, the manifest's; names of metrics as
    /// in `names`; texts that several variants of this example have.
    pub(crate) fn share(&mut self, variants: &[VariantKey], names: &mut Pool) {
        let mut texts = Pool::default();
        for (record, variant) in self.variants.iter_mut().zip(variants) {
            if record.variant == *variant {
                record.variant = variant.clone();
            }
            names.share(&mut record.metric);
            record.other_scores.0.iter_mut().for_each(|(name, _)| names.share(name));
            texts.share(&mut record.prediction);
            texts.share(&mut record.prediction_sha256);
            if let Some(selection) = &mut record.selection {
                texts.share(&mut selection.counts.0);
            }
        }
    }

    /// Forgets how many entries each head kept, which only pictures show: in a large model's record it is the most.
    pub(crate) fn forget_counts(&mut self) {
        let selections = self.variants.iter_mut().filter_map(|record| record.selection.as_mut());
        selections.for_each(|selection| selection.counts = HeadCounts::default());
    }

    /// The same record without its timings: equal for every repetition of the same run.
    pub(crate) fn without_timings(&self) -> Self {
        Self { timings: None, ..self.clone() }
    }

    /// Says what is wrong with the record's own numbers, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.skipped.is_some() && (self.timings.is_some() || !self.variants.is_empty()) {
            return Err("it is skipped and has answers".to_owned());
        }
        for variant in &self.variants {
            let kept = &variant.kept;
            for (name, score) in
                [(&*variant.metric, variant.score)].into_iter().chain(variant.other_scores.iter())
            {
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

/// Why a line cannot be used.
#[derive(Debug)]
pub(crate) enum LineProblem {
    /// It was written by a newer program, of this schema.
    Newer(u32),
    /// It is not what was written.
    Damaged(String),
}

/// Only the schema number of a manifest or record.
#[derive(Deserialize)]
pub(crate) struct SchemaOnly {
    pub(crate) schema: u32,
}

/// A line without its checksum and its last brace, and the checksum.
fn split_checksum(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_suffix(b"\"}")?;
    let (line, checksum) = line.split_at_checked(line.len().checked_sub(CHECKSUM_DIGITS)?)?;
    Some((line.strip_suffix(CHECKSUM)?, checksum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_run_lengths_on_disk() {
        let counts = vec![vec![], vec![128; 8], vec![12, 40, 40, 7]];
        let heads = SelectionDigest { layers: [LayerHash(0xab)].into(), counts: HeadCounts::of(&counts) };
        let text = serde_json::to_string(&heads).unwrap();
        assert_eq!(text, r#"{"layers":["00000000000000ab"],"counts":["","128*8","12,40*2,7"]}"#);
        assert_eq!(serde_json::from_str::<SelectionDigest>(&text).unwrap(), heads);
        assert_eq!(heads.counts(), counts);
        for none in [vec![], vec![vec![]], vec![vec![]; 3]] {
            let digest = SelectionDigest { layers: [].into(), counts: HeadCounts::of(&none) };
            assert_eq!(digest.counts(), none);
        }
        for bad in ["", "0", "00000000000000ag", "+0000000000000ab", "00000000000000abc"] {
            let error = serde_json::from_str::<LayerHash>(&format!("\"{bad}\"")).unwrap_err().to_string();
            assert!(error.contains("bad layer hash"), "{bad}: {error}");
        }
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
        assert_eq!(of(&[&[1, 2], &[3]]).counts(), [vec![2, 1]]);
    }
}
