//! Protocols: named, versioned sets of evaluation choices, each a data file in `protocols/`.
//!
//! A protocol fixes the prompt's wrapping, the number of BOS tokens, truncation, generation length, stop rules,
//! post-processing, metric variants, needle construction and averages of one published repository, its oddities
//! included; `kvsweep-1` is our own default. What each does and why is in `docs/protocols.md`.

mod apart;
mod listing;
mod render;
mod stop;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::averages::Average;
use crate::datasets::{self, DatasetInfo};
use crate::error::TaskError;
use crate::example::hex;
use crate::suite::Suite;
use crate::text::clean_up_spaces;

pub use listing::markdown;
pub use render::keep_one_bos;
pub(crate) use stop::stop_ids;

/// The facts about a model that prompts depend on.
#[derive(Debug, Clone, Default)]
pub struct ModelFacts {
    /// Hub id, folder name or `tiny`: what protocols match by name.
    pub name: String,
    /// The most positions the model has.
    pub max_positions: usize,
    /// The user's own prompt limit; replaces the protocol's.
    pub max_prompt: Option<usize>,
    /// End ids of generation_config.json (where absent: of config.json).
    pub eos_ids: Vec<u32>,
    /// `clean_up_tokenization_spaces` of tokenizer_config.json.
    pub clean_up_spaces: bool,
}

impl ModelFacts {
    /// Decoded text as transformers gives it: without the spaces before punctuation where the tokenizer's configuration
    /// says so. The one place where text is cleaned.
    pub fn transformers_text(&self, decoded: String) -> String {
        if self.clean_up_spaces { clean_up_spaces(&decoded) } else { decoded }
    }
}

/// How a too long prompt loses its middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TruncationRule {
    /// Two halves of the token ids, joined as ids, after wrapping.
    MiddleIds,
    /// The official way: two halves decoded to text, joined, (wrapped,) encoded again.
    MiddleText,
    /// kvpress's way: the context is encoded apart from its question and loses its end.
    ContextRight,
}

/// Whether methods see the question before they compress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuestionView {
    /// The whole prompt is read, then compressed.
    #[default]
    Seen,
    /// The context is read and compressed, then the question is read.
    Unseen,
}

impl QuestionView {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Seen, Self::Unseen];

    /// The name as typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Unseen => "unseen",
        }
    }
}

/// How a data set's prompt falls into context, question and the beginning of the answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The context's text with `{context}`; where absent, what stands before the question in the official prompt.
    pub context: Option<String>,
    /// The question's text, with `{input}` where the row has one.
    pub question: String,
    /// How the answer begins.
    pub answer_prefix: String,
}

/// Which names a rule applies to: the lower-cased model name contains all of `all` and one of `any`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameMatch {
    /// One of these must occur (empty: none needed).
    #[serde(default)]
    pub any: Vec<String>,
    /// All of these must occur.
    #[serde(default)]
    pub all: Vec<String>,
}

impl NameMatch {
    /// Whether `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.all.iter().all(|part| name.contains(part))
            && (self.any.is_empty() || self.any.iter().any(|part| name.contains(part)))
    }
}

/// A prompt limit for some models. Of several that match, the last wins.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitRule {
    /// The models.
    pub model: NameMatch,
    /// The limit in tokens, special tokens included.
    pub tokens: usize,
}

/// Whether the chat template goes around the prompt before or after truncation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WrapTime {
    /// The wrapper is part of what is cut in halves.
    BeforeTruncation,
    /// The wrapper is never cut; the final prompt may exceed the limit.
    AfterTruncation,
}

/// A chat wrapping for some models. Of several that match, the first wins; without a match prompts stay raw.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatRule {
    /// The models.
    pub model: NameMatch,
    /// A text with `{prompt}`, or `model` for the model's own template.
    pub template: String,
    /// Before or after truncation.
    pub wrap: WrapTime,
    /// Leaves the official few-shot and code sets raw.
    pub skip_raw_sets: bool,
    /// The tokenizer adds its own special tokens around the wrapped text, too.
    pub add_special_tokens: bool,
}

/// What may end a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopSource {
    /// The ids of generation_config.json.
    GenerationConfig,
    /// The tokenizer's own end token.
    TokenizerEos,
    /// `<|eot_id|>` and `<|end_of_text|>` where the vocabulary has them.
    LlamaTurnEnds,
    /// The last id of `encode("\n")`.
    Newline,
}

/// Where the first generated token may not be a stop token (transformers' `min_length = prompt + 1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FirstTokenBan {
    /// Only samsum.
    Samsum,
    /// Every data set.
    All,
    /// No data set.
    Nowhere,
}

/// Stop rules.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopRules {
    /// For every data set but samsum.
    pub normal: Vec<StopSource>,
    /// For samsum, whose answers are one line.
    pub samsum: Vec<StopSource>,
    /// Where an empty answer is forbidden.
    pub ban_first: FirstTokenBan,
}

/// A change to predictions of some models before scoring.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostRule {
    /// The models.
    pub model: NameMatch,
    /// Keep only what is before the first occurrence of this.
    pub cut_at: Option<String>,
    /// Strip white space, then delete every occurrence of this.
    pub delete: Option<String>,
}

/// How the needle test is built and read.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeedleRules {
    /// A name of [`crate::needle`]'s variants.
    pub variant: String,
    /// Method profiles by method name where the needle script sets methods otherwise than the others do.
    #[serde(default)]
    pub methods: BTreeMap<String, String>,
}

/// Facts about the original runs that prompts do not depend on.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginalRun {
    /// The dtype of the model.
    pub dtype: Option<String>,
    /// The pinned transformers version.
    pub transformers: Option<String>,
}

/// A named, versioned set of evaluation choices.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Protocol {
    /// The name on the command line.
    pub name: String,
    /// Raised by every change that can move a score.
    pub version: u32,
    /// SHA-256 of all of it that can move a score, hexadecimal: its file without comments, layout and prose.
    #[serde(skip)]
    pub sha256: String,
    /// One line for lists.
    pub summary: String,
    /// The repository and files it was read from.
    pub source: String,
    /// What deviates from what a reader would expect, one sentence each.
    pub oddities: Vec<String>,
    /// Default data sets by suite; a suite that is not listed runs whole (LooGLE: its official four).
    #[serde(default)]
    pub datasets: BTreeMap<String, Vec<String>>,
    /// How prompts are truncated.
    pub truncation: TruncationRule,
    /// Whether methods see the question unless the user says otherwise.
    #[serde(default)]
    pub question: QuestionView,
    /// Parts of prompts by data set (LongBench name), for [`TruncationRule::ContextRight`]; the others fall where their
    /// context ends.
    #[serde(default)]
    pub parts: BTreeMap<String, Part>,
    /// New tokens beyond the official number, by suite.
    #[serde(default)]
    pub more_new_tokens: BTreeMap<String, usize>,
    /// Prompt limits by model; models that match none get their own positions less the answer.
    #[serde(default)]
    pub limits: Vec<LimitRule>,
    /// Cuts a prompt's BOS tokens down to one.
    #[serde(default)]
    pub one_bos: bool,
    /// Chat wrapping by model.
    #[serde(default)]
    pub chat: Vec<ChatRule>,
    /// Stop rules.
    pub stop: StopRules,
    /// Post-processing by model.
    #[serde(default)]
    pub post: Vec<PostRule>,
    /// Metric ids by data set (LongBench name) where they differ from the official ones.
    #[serde(default)]
    pub metrics: BTreeMap<String, String>,
    /// The averages its tables show.
    pub averages: Vec<String>,
    /// The needle test.
    pub needle: NeedleRules,
    /// Method profiles by method name.
    #[serde(default)]
    pub methods: BTreeMap<String, String>,
    /// The repository names a share of the cache by what is removed (`compression_ratio`), not by what is kept: tables
    /// show both.
    #[serde(default)]
    pub counts_removed: bool,
    /// About the original runs.
    #[serde(default)]
    pub original: OriginalRun,
}

/// Where a prompt limit came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitSource {
    /// The user's `max_prompt`.
    User,
    /// The protocol's table.
    Protocol,
    /// The model's positions less the answer: the protocol names no limit for this model.
    Model,
}

const FILES: [&str; 9] = [
    include_str!("../../protocols/kvsweep-1.toml"),
    include_str!("../../protocols/longbench-official.toml"),
    include_str!("../../protocols/compresskv.toml"),
    include_str!("../../protocols/headkv.toml"),
    include_str!("../../protocols/kvcache-factory.toml"),
    include_str!("../../protocols/kvcache-factory-before-46.toml"),
    include_str!("../../protocols/snapkv.toml"),
    include_str!("../../protocols/adakv.toml"),
    include_str!("../../protocols/kvpress.toml"),
];

// A file that does not parse is missing here; a test counts them.
static ALL: LazyLock<Vec<Protocol>> = LazyLock::new(|| FILES.iter().filter_map(|text| parse(text)).collect());

fn parse(text: &str) -> Option<Protocol> {
    let protocol: Protocol = toml::from_str(text).ok()?;
    let mut rules: toml::Table = toml::from_str(text).ok()?;
    rules.retain(|key, _| !PROSE.contains(&key));
    Some(Protocol { sha256: hex(&Sha256::digest(canonical(&toml::Value::Table(rules)))), ..protocol })
}

/// Fields that explain and decide nothing.
const PROSE: [&str; 5] = ["summary", "source", "oddities", "counts_removed", "original"];

/// The value as text, tables sorted by key.
fn canonical(value: &toml::Value) -> String {
    match value {
        toml::Value::Table(fields) => {
            let sorted: BTreeMap<&String, String> =
                fields.iter().map(|(key, value)| (key, canonical(value))).collect();
            format!("{sorted:?}")
        }
        toml::Value::Array(items) => format!("{:?}", items.iter().map(canonical).collect::<Vec<_>>()),
        other => other.to_string(),
    }
}

/// Every protocol; the default one first.
pub fn all() -> &'static [Protocol] {
    &ALL
}

/// The name of the default protocol.
pub const DEFAULT: &str = "kvsweep-1";

/// A protocol by name.
///
/// # Errors
/// An unknown name, with the nearest ones.
pub fn by_name(name: &str) -> Result<&'static Protocol, TaskError> {
    all()
        .iter()
        .find(|p| p.name == name)
        .ok_or_else(|| TaskError::unknown("protocol", name, all().iter().map(|p| p.name.as_str())))
}

impl Protocol {
    /// The data sets a suite runs by default under this protocol, in the protocol's order.
    ///
    /// # Errors
    /// An unknown suite, with the nearest ones.
    pub fn datasets(&self, suite: &str) -> Result<Vec<&'static DatasetInfo>, TaskError> {
        match self.datasets.get(suite) {
            Some(names) => datasets::pick(suite, names),
            // HeadKV's four are questions of `longdep_qa`: asked twice by nobody.
            None => Ok(datasets::suite(suite)?
                .into_iter()
                .filter(|info| !datasets::loogle::is_longdep_type(info.name))
                .collect()),
        }
    }

    /// The metric id that scores a data set under this protocol.
    pub fn metric(&self, dataset: &DatasetInfo) -> &str {
        self.metrics.get(dataset.base).map_or(dataset.metric, String::as_str)
    }

    /// The profile with which this protocol's repository runs a method, where it has one of its own; `needle` asks
    /// for the needle test's.
    pub fn profile(&self, method: &str, needle: bool) -> Option<&str> {
        let special = needle.then(|| self.needle.methods.get(method)).flatten();
        special.or_else(|| self.methods.get(method)).map(String::as_str)
    }

    /// The averages its tables show.
    pub fn averages(&self) -> Vec<Average> {
        self.averages.iter().filter_map(|name| Average::by_name(name)).collect()
    }

    /// The prompt limit in tokens for this model and answer length, and where it comes from.
    pub fn limit(&self, model: &ModelFacts, max_new: usize) -> (usize, LimitSource) {
        let room = model.max_positions.saturating_sub(max_new);
        if let Some(limit) = model.max_prompt {
            return (limit.min(room), LimitSource::User);
        }
        match self.limits.iter().rev().find(|rule| rule.model.matches(&model.name)) {
            Some(rule) => (rule.tokens, LimitSource::Protocol),
            None => (room, LimitSource::Model),
        }
    }

    /// The chat rule for this data set and model, if it is wrapped at all.
    pub fn chat_rule(&self, dataset: &DatasetInfo, model: &ModelFacts) -> Option<&ChatRule> {
        let rule = self.chat.iter().find(|rule| rule.model.matches(&model.name))?;
        (!(dataset.raw && rule.skip_raw_sets)).then_some(rule)
    }

    /// What is scored, from the decoded answer (special tokens skipped): tokenizer clean-up where transformers would
    /// do it, then the protocol's post-processing. Never strips otherwise.
    pub fn finish_prediction(&self, model: &ModelFacts, decoded: &str) -> String {
        let mut text = self.decoded_text(model, decoded.to_owned());
        for rule in self.post.iter().filter(|rule| rule.model.matches(&model.name)) {
            if let Some(cut) = &rule.cut_at {
                text = text.split(cut.as_str()).next().unwrap_or_default().to_owned();
            }
            if let Some(delete) = &rule.delete {
                text = text.trim().replace(delete.as_str(), "");
            }
        }
        text
    }

    /// Protocols of Python repositories decode as transformers does; ours keeps the text.
    fn decoded_text(&self, model: &ModelFacts, decoded: String) -> String {
        match self.truncation {
            TruncationRule::MiddleText | TruncationRule::ContextRight => model.transformers_text(decoded),
            TruncationRule::MiddleIds => decoded,
        }
    }

    /// Remarks for one model that a table made with this protocol should carry.
    pub fn notes(&self, model: &ModelFacts, suite: Suite) -> Vec<String> {
        let mut notes = Vec::new();
        if let (tokens, LimitSource::Model) = self.limit(model, 0)
            && self.truncation == TruncationRule::MiddleText
        {
            notes.push(format!(
                "protocol `{}` names no prompt limit for `{}`: its {tokens} positions less the answer are used",
                self.name, model.name
            ));
        }
        if suite == Suite::LooGle && self.name != "headkv" {
            notes.push(
                "LooGLE's own scripts decode with a repetition penalty of 2.0; this run is plain greedy"
                    .into(),
            );
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_moves_the_hash_and_prose_does_not() {
        let text = FILES[0];
        let hash = |text: &str| parse(text).unwrap().sha256;
        let summary = text.lines().find(|line| line.starts_with("summary = ")).unwrap();
        assert_eq!(hash(&text.replace(summary, "# reworded\n\nsummary = \"other words\"")), hash(text));
        let version = text.lines().find(|line| line.starts_with("version = ")).unwrap();
        assert_ne!(hash(&text.replace(version, "version = 1000")), hash(text));
        assert_ne!(hash(&text.replace("one_bos = true", "one_bos = false")), hash(text));
        let hashes: std::collections::BTreeSet<&String> = all().iter().map(|p| &p.sha256).collect();
        assert_eq!(hashes.len(), FILES.len());
    }

    #[test]
    fn every_file_parses_and_names_known_things() {
        for text in FILES {
            let protocol: Protocol = toml::from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
            assert_eq!(protocol.averages().len(), protocol.averages.len(), "{}", protocol.name);
            crate::needle::variants::by_name(&protocol.needle.variant).unwrap();
            assert!(!protocol.summary.is_empty() && !protocol.source.is_empty());
            for suite in protocol.datasets.keys() {
                protocol.datasets(suite).unwrap();
            }
            for (dataset, metric) in &protocol.metrics {
                datasets::by_name(dataset).unwrap();
                crate::metrics::by_id(metric).unwrap();
            }
            for rule in &protocol.chat {
                assert!(rule.template == "model" || rule.template.contains("{prompt}"), "{}", rule.template);
            }
            for part in protocol.limits.iter().flat_map(|l| l.model.any.iter().chain(&l.model.all)) {
                assert_eq!(*part, part.to_lowercase());
            }
        }
        assert_eq!(all().len(), FILES.len());
        let names = |protocol: &str, suite: &str| by_name(protocol).unwrap().datasets(suite).unwrap().len();
        assert_eq!((names("kvsweep-1", "loogle"), names("headkv", "loogle")), (4, 4));
        assert_eq!((names("kvsweep-1", "longbench"), names("compresskv", "longbench")), (21, 16));
        assert_eq!(all()[0].name, DEFAULT);
    }

    #[test]
    fn limits_follow_the_published_tables() {
        let limit = |protocol: &str, model: &str| {
            let facts = ModelFacts { name: model.into(), max_positions: 131_072, ..ModelFacts::default() };
            by_name(protocol).unwrap().limit(&facts, 512)
        };
        let llama31 = "meta-llama/Llama-3.1-8B-Instruct";
        assert_eq!(limit("compresskv", llama31), (127_500, LimitSource::Protocol));
        assert_eq!(limit("kvcache-factory", llama31), (7500, LimitSource::Protocol));
        assert_eq!(limit("headkv", llama31), (7950, LimitSource::Protocol));
        assert_eq!(limit("snapkv", "mistralai/Mistral-7B-Instruct-v0.2"), (31_500, LimitSource::Protocol));
        assert_eq!(limit("kvcache-factory", "meta-llama/Llama-2-7b-chat-hf"), (3950, LimitSource::Protocol));
        assert_eq!(
            limit("longbench-official", "meta-llama/Llama-2-7b-chat-hf"),
            (3500, LimitSource::Protocol)
        );
        assert_eq!(limit("kvsweep-1", llama31), (130_560, LimitSource::Model));
    }

    #[test]
    fn post_processing_is_official() {
        let protocol = by_name("longbench-official").unwrap();
        let facts = |name: &str| ModelFacts { name: name.into(), ..ModelFacts::default() };
        assert_eq!(protocol.finish_prediction(&facts("internlm-7b-8k"), " a<eoa>b"), " a");
        assert_eq!(protocol.finish_prediction(&facts("xgen-7b-8k"), " Assistant: a "), " a");
        assert_eq!(protocol.finish_prediction(&facts("other"), " a , b "), " a , b ");
        let cleaned = ModelFacts { clean_up_spaces: true, ..facts("other") };
        assert_eq!(protocol.finish_prediction(&cleaned, "a , b"), "a, b");
        assert_eq!(by_name("kvsweep-1").unwrap().finish_prediction(&cleaned, "a , b"), "a , b");
    }

    #[test]
    fn kvcache_factory_changed_prompts_and_stops_with_its_issue_46() {
        let stops = |name: &str| by_name(name).unwrap().stop.normal.clone();
        assert_eq!(stops("kvcache-factory-before-46"), [StopSource::TokenizerEos]);
        assert_eq!(stops("kvcache-factory").len(), 3);
        let model =
            ModelFacts { name: "meta-llama/Meta-Llama-3-8B-Instruct".into(), ..ModelFacts::default() };
        let qasper = datasets::by_name("qasper").unwrap();
        let wrapped = |name: &str| by_name(name).unwrap().chat_rule(qasper, &model).is_some();
        assert!(wrapped("kvcache-factory") && !wrapped("kvcache-factory-before-46"));
        let before = by_name("kvcache-factory-before-46").unwrap();
        assert_eq!(before.limit(&model, 128).0, 7500);
        let needle = crate::needle::variants::by_name(&before.needle.variant).unwrap();
        assert_eq!(needle.stop, [StopSource::TokenizerEos, StopSource::Newline]);
    }
}
