//! What a run is: everything its numbers depend on, written once when the run directory is made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Difference;
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
    /// SHA-256 of the tokenizer file, hexadecimal.
    pub tokenizer_sha256: String,
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
}

/// One data set of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetInfo {
    /// Registered name.
    pub name: String,
    /// SHA-256 of the file (or of all files, in order), hexadecimal.
    pub sha256: String,
    /// Examples of this run, after limit and shard.
    pub examples: u64,
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

/// Everything the numbers of a run depend on. Two runs with equal manifests give equal records, timings aside.
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
    pub datasets: Vec<DatasetInfo>,
    /// The methods, in the order of the table's rows.
    pub methods: Vec<MethodInfo>,
    /// The budgets of every budgeted method.
    pub budgets: Vec<u32>,
    /// `cpu` or `cuda`.
    pub device: String,
    /// `f32`, `f16`, `bf16`.
    pub dtype: String,
    /// First rows of each data set only.
    pub limit: Option<u64>,
    /// Which part of the run this is; none for all of it.
    pub shard: Option<Shard>,
    /// Seed of everything random.
    pub seed: u64,
    /// What else the numbers depend on, by name: the needle's grid, masked heads, hashes of calibrations.
    pub settings: BTreeMap<String, String>,
}

/// The setting that names the heads masked in decode.
pub const MASK_HEADS: &str = "mask-heads";

/// The setting that holds the shape of a model that is not embedded: a name alone proves nothing.
pub const MODEL_SHAPE: &str = "model-shape";

/// The setting that says that prompts have no context.
pub const WITHOUT_CONTEXT: &str = "without-context";

impl Manifest {
    /// The variants of every example, in the order they are recorded: methods, and inside a method the budgets.
    pub fn variants(&self) -> Vec<VariantKey> {
        let key = |method: &MethodInfo, budget| VariantKey {
            method: method.spec.clone(),
            budget,
            granularity: method.granularity.clone(),
            params: method.params_id(),
        };
        self.methods
            .iter()
            .flat_map(|method| -> Vec<VariantKey> {
                if method.budgeted {
                    self.budgets.iter().map(|budget| key(method, Some(*budget))).collect()
                } else {
                    vec![key(method, None)]
                }
            })
            .collect()
    }

    /// Examples the complete run has.
    pub fn examples(&self) -> u64 {
        self.datasets.iter().map(|dataset| dataset.examples).sum()
    }

    /// Identifies the configuration across commits: everything but the program and the shard. Sixteen hexadecimal
    /// digits.
    ///
    /// The weights' hash is part of it: retraining the embedded model starts a new history.
    pub fn configuration(&self) -> String {
        let mut fields = flatten(self);
        fields.retain(|field, _| !field.starts_with("program.") && !field.starts_with("shard"));
        hash_parts(fields.iter().flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]), 16)
    }

    /// Every field in which `self` (stored) and `wanted` differ, with both values.
    pub fn differences(&self, wanted: &Self) -> Vec<Difference> {
        differences(&flatten(self), &flatten(wanted))
    }

    /// What must agree before the records of two runs may stand in one table: model, protocol, split, dtype, device,
    /// seed, and the content of data sets both have. Suites may differ: HeadKV's table has LongBench and LooGLE.
    pub(crate) fn incomparable(&self, other: &Self) -> Vec<Difference> {
        let own = |manifest: &Self| -> BTreeMap<String, String> {
            let mut fields = flatten(manifest);
            fields.retain(|field, _| {
                ["model.", "protocol.", "split", "device", "dtype", "seed"]
                    .iter()
                    .any(|prefix| field.starts_with(prefix))
            });
            for dataset in &manifest.datasets {
                fields.insert(format!("data set {}", dataset.name), dataset.sha256.clone());
            }
            fields
        };
        let (first, second) = (own(self), own(other));
        differences(&first, &second)
            .into_iter()
            // A data set that only one of them has is no contradiction.
            .filter(|d| first.contains_key(&d.field) && second.contains_key(&d.field))
            .collect()
    }

    /// Says what makes the manifest unusable, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.schema != SCHEMA {
            return Err(format!("schema {} where {SCHEMA} is written", self.schema));
        }
        let variants = self.variants();
        let unique: std::collections::BTreeSet<_> = variants.iter().collect();
        if unique.len() != variants.len() {
            return Err("a method or budget is listed twice".to_owned());
        }
        let names: std::collections::BTreeSet<_> = self.datasets.iter().map(|d| &d.name).collect();
        if names.len() != self.datasets.len() {
            return Err("a data set is listed twice".to_owned());
        }
        if let Some(shard) = self.shard.filter(|shard| shard.index == 0 || shard.index > shard.count) {
            return Err(format!("shard {}/{} does not exist", shard.index, shard.count));
        }
        Ok(())
    }
}

fn differences(stored: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> Vec<Difference> {
    let fields: std::collections::BTreeSet<&String> = stored.keys().chain(wanted.keys()).collect();
    let value =
        |map: &BTreeMap<String, String>, field| map.get(field).cloned().unwrap_or_else(|| "none".to_owned());
    fields
        .into_iter()
        .filter(|field| stored.get(*field) != wanted.get(*field))
        .map(|field| Difference {
            field: field.clone(),
            stored: value(stored, field),
            wanted: value(wanted, field),
        })
        .collect()
}

/// Every leaf of the manifest by its dotted path; list entries go by their name where they have one, so that an
/// inserted method does not shift all that follow.
fn flatten(manifest: &Manifest) -> BTreeMap<String, String> {
    fn walk(path: &str, value: &serde_json::Value, out: &mut BTreeMap<String, String>) {
        let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match value {
            serde_json::Value::Object(fields) => {
                for (key, value) in fields {
                    walk(&join(key), value, out);
                }
            }
            serde_json::Value::Array(items) if items.iter().any(serde_json::Value::is_object) => {
                let mut used = std::collections::BTreeSet::new();
                for (index, item) in items.iter().enumerate() {
                    let name = ["name", "spec"].iter().find_map(|key| item.get(key)?.as_str());
                    let mut key = name.map_or_else(|| index.to_string(), str::to_owned);
                    // A method may be there twice, with other parameters.
                    if !used.insert(key.clone()) {
                        key = format!("{key} #{index}");
                    }
                    walk(&format!("{path}[{key}]"), item, out);
                }
            }
            serde_json::Value::Null => {}
            serde_json::Value::String(text) => {
                out.insert(path.to_owned(), text.clone());
            }
            other => {
                out.insert(path.to_owned(), other.to_string());
            }
        }
    }
    let mut out = BTreeMap::new();
    // A manifest has string keys only, so this cannot fail; an empty map would compare as different.
    if let Ok(value) = serde_json::to_value(manifest) {
        walk("", &value, &mut out);
    }
    // The order of the lists is part of the configuration too.
    out.insert("order of datasets".into(), names(manifest.datasets.iter().map(|d| &d.name)));
    out.insert("order of methods".into(), names(manifest.methods.iter().map(|m| &m.spec)));
    out
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::tests::manifest;

    type Edit = fn(&mut Manifest);

    /// One edit for every field, with the path that must be named.
    const EDITS: &[(&str, Edit)] = &[
        ("program.version", |m| m.program.version.push('x')),
        ("program.commit", |m| m.program.commit.push('x')),
        ("model.name", |m| m.model.name.push('x')),
        ("model.weights_sha256", |m| m.model.weights_sha256.push('x')),
        ("model.tokenizer_sha256", |m| m.model.tokenizer_sha256.push('x')),
        ("model.embedded", |m| m.model.embedded = !m.model.embedded),
        ("suite", |m| m.suite.push('x')),
        ("split", |m| m.split.push('x')),
        ("protocol.name", |m| m.protocol.name.push('x')),
        ("protocol.version", |m| m.protocol.version.push('x')),
        ("datasets[qasper].sha256", |m| m.datasets[0].sha256.push('x')),
        ("datasets[qasper].examples", |m| m.datasets[0].examples += 1),
        ("order of datasets", |m| m.datasets.reverse()),
        ("methods[snapkv].params.window", |m| {
            m.methods[1].params.insert("window".into(), "9".into());
        }),
        ("methods[snapkv].granularity", |m| m.methods[1].granularity = "query-head".into()),
        ("methods[snapkv].budgeted", |m| m.methods[1].budgeted = false),
        ("order of methods", |m| m.methods.reverse()),
        ("budgets", |m| m.budgets.push(4096)),
        ("device", |m| m.device = "cuda".into()),
        ("dtype", |m| m.dtype = "bf16".into()),
        ("limit", |m| m.limit = Some(1)),
        ("shard.index", |m| m.shard = Some(Shard { index: 1, count: 2 })),
        ("seed", |m| m.seed += 1),
        ("settings.depths", |m| {
            m.settings.insert("depths".into(), "50".into());
        }),
    ];

    #[test]
    fn every_field_is_part_of_the_identity() {
        let stored = manifest();
        assert_eq!(stored.differences(&stored), []);
        for (field, edit) in EDITS {
            let mut wanted = manifest();
            edit(&mut wanted);
            let differences = stored.differences(&wanted);
            assert!(differences.iter().any(|d| d.field == *field), "{field}: {differences:?}");
            let same_configuration = field.starts_with("program") || field.starts_with("shard");
            assert_eq!(stored.configuration() == wanted.configuration(), same_configuration, "{field}");
        }
    }

    #[test]
    fn a_method_that_is_there_twice_counts_twice() {
        let twice = |window: &str| {
            let mut m = manifest();
            let mut second = m.methods[1].clone();
            second.params.insert("window".into(), "16".into());
            m.methods.push(second);
            m.methods[1].params.insert("window".into(), window.into());
            m
        };
        assert_eq!(twice("8").differences(&twice("9")).len(), 1);
    }

    #[test]
    fn a_difference_shows_both_values() {
        let (stored, mut wanted) = (manifest(), manifest());
        wanted.dtype = "bf16".into();
        assert_eq!(stored.differences(&wanted)[0].to_string(), "  dtype: `f32` against `bf16`");
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
        let names: Vec<String> =
            manifest().variants().iter().map(|v| format!("{}@{:?}", v.method, v.budget)).collect();
        assert_eq!(names, ["full@None", "snapkv@Some(64)", "snapkv@Some(128)"]);
    }
}
