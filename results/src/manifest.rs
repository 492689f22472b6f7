//! What a run is: everything its numbers depend on, written once when the run directory is made.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::budget::Budget;
use crate::io::hash_parts;
use crate::record::{SCHEMA, VariantKey};

/// The program that made the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramInfo {
    /// Version of kvsweep.
    pub version: String,
    /// Commit it was built from, `-dirty` and a hash of the program appended where the tree was changed, or `unknown`.
    pub commit: String,
}

/// The model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelInfo {
    /// Name as given: `tiny`, a hub id, or a directory's name.
    pub name: String,
    /// SHA-256 over the weights, hexadecimal.
    pub weights_sha256: String,
    /// SHA-256 of `tokenizer.json`, hexadecimal.
    pub tokenizer_sha256: String,
    /// SHA-256 of every other file that was read, hexadecimal, by its name: `config.json`, `generation_config.json`,
    /// `tokenizer_config.json`, `chat_template.jinja`, the index of the weights. Empty in schema 1, which did not state
    /// them.
    pub files: BTreeMap<String, String>,
    /// True for the tiny model inside the program, whose scores say nothing about real models.
    pub embedded: bool,
}

/// The protocol: prompt, template, truncation, stop rule, metric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProtocolInfo {
    /// Name in the registry.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of all its rules, hexadecimal. Empty in schema 1, which did not state it.
    pub sha256: String,
}

/// One data set of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunDataset {
    /// Registered name.
    pub name: String,
    /// SHA-256 of the file (or of all files, in order), hexadecimal.
    pub sha256: String,
    /// Examples of this run, after limit and shard.
    pub examples: u64,
    /// Examples of all parts of the run: as many, where it is not sharded. Of a part of schema 1, which did not state
    /// it, the least that it can be.
    pub total: u64,
}

/// One method with its resolved parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodInfo {
    /// Method with its profile, as typed.
    pub spec: String,
    /// Every parameter, by name, after defaults, profile and `--param`.
    pub params: BTreeMap<String, String>,
    /// `kv-head` or `query-head`.
    pub granularity: String,
    /// False where the method keeps everything and is run once, not once a budget.
    pub budgeted: bool,
}

impl MethodInfo {
    /// Eight hexadecimal digits that identify the resolved parameters.
    pub fn params_id(&self) -> String {
        hash_parts(self.params.iter().flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]), 8)
    }
}

/// Part `index` (from 1) of `count` parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Which part, from 1.
    pub index: u32,
    /// Of how many.
    pub count: u32,
}

/// Everything the numbers of a run depend on. Two runs with equal manifests give equal records, timings aside. What each
/// field is about, and where it must agree, is in `identity.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA`] at the time of writing.
    pub schema: u32,
    /// The program.
    pub program: ProgramInfo,
    /// The model.
    pub model: ModelInfo,
    /// `longbench`, `longbench-e`, `loogle`, `needle`.
    pub suite: String,
    /// `mini` or `full`.
    pub split: String,
    /// The protocol.
    pub protocol: ProtocolInfo,
    /// The data sets, in the order of the table's columns.
    pub datasets: Vec<RunDataset>,
    /// The methods, in the order of the table's rows.
    pub methods: Vec<MethodInfo>,
    /// The budgets of every budgeted method.
    pub budgets: Vec<Budget>,
    /// `cpu` or `cuda`.
    pub device: String,
    /// `f32`, `f16`, `bf16`.
    pub dtype: String,
    /// So many rows of each data set only: which ones, [`Manifest::limited`] says.
    pub limit: Option<u64>,
    /// Which part of the run this is; none for all of it.
    pub shard: Option<Shard>,
    /// Seed of everything random.
    pub seed: u64,
    /// What else the numbers depend on, by name: the needle's grid, masked heads, hashes of calibrations.
    pub settings: BTreeMap<String, String>,
}

/// The setting that names the heads masked in decode, as asked for.
pub const MASK_HEADS: &str = "mask-heads";

/// The setting that identifies the heads masked in decode: a hash over the heads themselves, which a ranking chose.
pub const MASKED_HEADS: &str = "masked-heads-sha256";

/// The setting that holds the shape of a model that is not embedded: a name alone proves nothing.
pub const MODEL_SHAPE: &str = "model-shape";

/// The setting that says that no chat template was found for a model that seems made for turns.
pub const NO_TEMPLATE: &str = "no-chat-template";

/// The setting that says that prompts have no context.
pub const WITHOUT_CONTEXT: &str = "without-context";

/// The setting that says, by [`UNSEEN`], that the cache was compressed before the question was read.
pub const QUESTION: &str = "question";

/// See [`QUESTION`].
pub const UNSEEN: &str = "unseen";

/// What tables call a run without [`QUESTION`] beside one with it.
pub(crate) const SEEN: &str = "seen";

/// The setting that lists the needle's context lengths.
pub const NEEDLE_LENGTHS: &str = "needle-lengths";

/// The setting that lists the needle's depths.
pub const NEEDLE_DEPTHS: &str = "needle-depths";

/// The setting that says which rows a limit takes, where they are not the first ones.
pub const LIMIT_TAKES: &str = "limit-takes";

/// See [`LIMIT_TAKES`].
pub const SPREAD: &str = "rows spread over their lengths";

/// The setting that lists RULER's context lengths.
pub const RULER_LENGTHS: &str = "ruler-lengths";

/// The setting that identifies the essays of the needle's haystack.
pub const ESSAYS: &str = "essays-sha256";

/// What the settings that identify a calibration begin with; the kind follows.
pub const CALIBRATION: &str = "calibration of ";

impl Manifest {
    /// Which part of each data set a limit leaves, in words.
    pub fn limited(&self) -> Option<String> {
        let limit = self.limit?;
        let spread = self.settings.get(LIMIT_TAKES).is_some_and(|takes| takes == SPREAD);
        let rows = if limit == 1 { "row".to_owned() } else { format!("{limit} rows") };
        Some(match self.suite.as_str() {
            // A needle's limit is one of trials or cells, by its variant.
            "needle" if spread => format!("limited to {limit} cells, spread over their lengths"),
            "needle" => format!("limited to {limit}"),
            "ruler" if self.split == "full" => format!("first {rows} of each length"),
            _ if spread && limit == 1 => "1 row of each data set, of the middle length".to_owned(),
            _ if spread => format!("{rows} of each data set, spread over their lengths"),
            _ => format!("first {rows} of each data set"),
        })
    }

    /// The variants of every example, in the order they are recorded: methods, and inside a method the budgets.
    pub fn variants(&self) -> Vec<VariantKey> {
        let of = |method: &MethodInfo| -> Vec<VariantKey> {
            let unbudgeted = VariantKey {
                method: method.spec.as_str().into(),
                budget: None,
                granularity: method.granularity.as_str().into(),
                params: method.params_id().into(),
            };
            let key = |budget| VariantKey { budget, ..unbudgeted.clone() };
            if method.budgeted {
                self.budgets.iter().map(|budget| key(Some(*budget))).collect()
            } else {
                vec![key(None)]
            }
        };
        self.methods.iter().flat_map(of).collect()
    }

    /// Examples the complete run has.
    pub fn examples(&self) -> u64 {
        self.datasets.iter().map(|dataset| dataset.examples).fold(0, u64::saturating_add)
    }

    /// Reads a manifest of any schema up to [`SCHEMA`].
    ///
    /// # Errors
    /// What is wrong with the text.
    pub(crate) fn from_json(bytes: &[u8], schema: u32) -> Result<Self, String> {
        let manifest = if schema == 1 {
            serde_json::from_slice(bytes).and_then(|mut value| {
                state_what_schema_1_did_not(&mut value);
                serde_json::from_value(value)
            })
        } else {
            serde_json::from_slice(bytes)
        };
        let manifest: Self = manifest.map_err(|error| error.to_string())?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Says what makes the manifest unusable, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !(1..=SCHEMA).contains(&self.schema) {
            return Err(format!("schema {} where 1 to {SCHEMA} are known", self.schema));
        }
        let variants = self.variants();
        let unique: BTreeSet<_> = variants.iter().collect();
        if unique.len() != variants.len() {
            return Err("a method or budget is listed twice".to_owned());
        }
        let names: BTreeSet<_> = self.datasets.iter().map(|d| &d.name).collect();
        if names.len() != self.datasets.len() {
            return Err("a data set is listed twice".to_owned());
        }
        let shard = self.shard.unwrap_or(Shard { index: 1, count: 1 });
        if shard.index == 0 || shard.index > shard.count {
            return Err(format!("shard {}/{} does not exist", shard.index, shard.count));
        }
        if let Some(dataset) = self.datasets.iter().find(|d| d.examples != shard.rows(d.total)) {
            return Err(format!(
                "data set `{}` has {} examples, where part {} of {} of {} rows has {}",
                dataset.name,
                dataset.examples,
                shard.index,
                shard.count,
                dataset.total,
                shard.rows(dataset.total)
            ));
        }
        Ok(())
    }
}

/// Puts into a manifest of schema 1 the fields that it lacks.
fn state_what_schema_1_did_not(manifest: &mut Value) {
    let part = |field: &str| manifest.get("shard").and_then(|shard| shard.get(field)).and_then(Value::as_u64);
    let (index, count) = (part("index").unwrap_or(1), part("count").unwrap_or(1));
    let object = |value: Option<&mut Value>, field: &str, content: Value| {
        if let Some(fields) = value.and_then(Value::as_object_mut) {
            fields.entry(field).or_insert(content);
        }
    };
    object(manifest.get_mut("model"), "files", Value::Object(serde_json::Map::new()));
    object(manifest.get_mut("protocol"), "sha256", Value::String(String::new()));
    for dataset in manifest.get_mut("datasets").and_then(Value::as_array_mut).into_iter().flatten() {
        let examples = dataset.get("examples").and_then(Value::as_u64).unwrap_or_default();
        let total =
            examples.checked_sub(1).map_or(0, |before| before.saturating_mul(count).saturating_add(index));
        object(Some(dataset), "total", total.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{manifest, part};

    #[test]
    fn schema_1_is_read_and_its_configuration_is_the_old_one() {
        let mut old = serde_json::to_value(manifest()).unwrap();
        old["schema"] = 1.into();
        old["model"].as_object_mut().unwrap().remove("files");
        old["protocol"].as_object_mut().unwrap().remove("sha256");
        for dataset in old["datasets"].as_array_mut().unwrap() {
            dataset.as_object_mut().unwrap().remove("total");
        }
        let read = |value: &Value| Manifest::from_json(value.to_string().as_bytes(), 1).unwrap();
        assert_eq!((read(&old).schema, read(&old).datasets[0].total), (1, 3));
        // What schema 2 wrote is no manifest of schema 2 without its fields.
        old["schema"] = 2.into();
        assert!(Manifest::from_json(old.to_string().as_bytes(), 2).unwrap_err().contains("missing field"));
        old["schema"] = 1.into();
        let whole = read(&old).configuration();
        old["shard"] = serde_json::json!({"index": 2, "count": 4});
        assert_eq!((read(&old).datasets[0].total, read(&old).configuration()), (10, whole));
    }

    #[test]
    fn impossible_numbers_of_examples_are_refused() {
        let mut edited = manifest();
        edited.datasets[0].examples = 0;
        let error = edited.check().unwrap_err();
        assert!(error.contains("`qasper` has 0 examples, where part 1 of 1 of 3 rows has 3"), "{error}");
        assert_eq!(part(&manifest(), 2, 2).check(), Ok(()));
    }

    #[test]
    fn parameters_have_one_id_a_content() {
        let mut method = manifest().methods[1].clone();
        let before = method.params_id();
        method.params.insert("kernel".into(), "5".into());
        assert_ne!(method.params_id(), before);
    }

    #[test]
    fn variants_come_method_by_method() {
        let names: Vec<String> = manifest()
            .variants()
            .iter()
            .map(|v| v.method.to_string() + &v.budget.map(Budget::suffix).unwrap_or_default())
            .collect();
        assert_eq!(names, ["full", "snapkv/64", "snapkv/128"]);
    }
}
