//! Checks this build against golden vectors: answers that the papers' own code gave (`kvsweep verify
//! methods`). The format is described in the README beside the vectors.
//!
//! A case never stops the check: what is wrong with it, the file included, becomes a named failure.

use std::path::Path;

use kvsweep_methods::{CacheShape, LayerShape, MethodError, Reach};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::vectors::{get, inside};

mod case;
mod identification;
mod layer_error;
mod observer;
mod report;
mod tables;
mod tensors;

pub use observer::{Observer, PlainObserver};
pub use report::{Failure, Report};

/// Checks every case of every kind in `dir` with the CPU's observations.
///
/// # Errors
/// Only when `dir` holds no manifest that can be read.
pub fn check(dir: &Path) -> Result<Report, MethodError> {
    check_with(dir, &PlainObserver)
}

/// The same with other observations.
///
/// # Errors
/// Only when `dir` holds no manifest that can be read.
pub fn check_with(dir: &Path, observer: &dyn Observer) -> Result<Report, MethodError> {
    let path = dir.join("manifest.json");
    let text = std::fs::read_to_string(&path)
        .map_err(|source| MethodError::Unreadable { path: path.clone(), source })?;
    let manifest: Value = serde_json::from_str(&text)
        .map_err(|error| MethodError::BadFile { path: path.clone(), problem: error.to_string() })?;
    if manifest.get("format_version") != Some(&json!(1)) {
        return Err(MethodError::BadFile {
            path,
            problem: format!("`format_version` must be 1, found {}", manifest["format_version"]),
        });
    }
    let mut report = Report::default();
    let cases = manifest.get("cases").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for (index, case) in cases.iter().enumerate() {
        let name =
            case.get("id").and_then(Value::as_str).map_or_else(|| format!("case {index}"), str::to_owned);
        report.add(name, check_tensors(dir, case, observer));
    }
    let listed: Vec<&str> = manifest
        .get("budgets")
        .and_then(Value::as_array)
        .map(|files| files.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    for file in listed {
        tables::check(dir, file, &mut report);
    }
    if let Some(file) = manifest.get("head_identification").and_then(Value::as_str) {
        identification::check(dir, file, &mut report);
    }
    Ok(report)
}

/// Checks one tensor case of the manifest.
fn check_tensors(dir: &Path, entry: &Value, observer: &dyn Observer) -> Result<(), String> {
    let method: String = get(entry, "method")?;
    let layer = LayerShape {
        query_heads: get(entry, "q_heads")?,
        kv_heads: get(entry, "kv_heads")?,
        head_dim: get(entry, "head_dim")?,
        reach: Reach::All,
    };
    let shape = CacheShape::uniform(get::<u16>(entry, "layers")?.into(), layer, get(entry, "prompt_len")?);
    shape.check().map_err(|error| error.to_string())?;
    let path = inside(dir, &get::<String>(entry, "file")?)?;
    let bytes = std::fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    let case = case::Case { entry, params: get(entry, "params")?, shape, layer, tensors };
    match method.as_str() {
        "layer_error" => layer_error::check(&case, observer),
        "compresskv" => tensors::check_compresskv(&case, observer),
        _ => tensors::check_spec(&method, &case, observer),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::PathBuf;

    use kvsweep_methods::observe::{self, LayerTensors};
    use kvsweep_methods::{Granularity, MethodSpec, Observation, Observed, profile, registry};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// The vectors that are part of the repository.
    fn committed() -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/methods"))
    }

    /// Those made by `scripts/make_kvpress_goldens.py`.
    fn of_kvpress() -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/kvpress"))
    }

    /// The larger set that they were taken from. `None`, with a word about it, where it is absent; in CI that fails.
    fn larger() -> Option<PathBuf> {
        let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/golden/methods"));
        if dir.is_dir() {
            return Some(dir);
        }
        assert!(std::env::var_os("CI").is_none(), "the golden vectors are missing: {}", dir.display());
        println!("skipped: {} not present", dir.display());
        None
    }

    fn read(dir: &Path, file: &str) -> Value {
        serde_json::from_str(&std::fs::read_to_string(dir.join(file)).unwrap()).unwrap()
    }

    fn cases() -> Vec<Value> {
        read(&committed(), "manifest.json")["cases"].as_array().unwrap().clone()
    }

    #[test]
    fn every_committed_case_passes() {
        let report = check(&committed()).unwrap();
        assert_eq!(report.failures, [], "{} passed", report.passed);
        assert!(report.passed > 500, "{}", report.passed);
    }

    #[test]
    fn every_case_of_kvpress_passes() {
        let report = check(&of_kvpress()).unwrap();
        assert_eq!(report.failures, [], "{} passed", report.passed);
        assert_eq!(report.passed, 114);
    }

    #[test]
    fn every_case_of_the_larger_set_passes() {
        let Some(dir) = larger() else { return };
        let report = check(&dir).unwrap();
        assert_eq!(report.failures, [], "{} passed", report.passed);
        assert!(report.passed > 600, "{}", report.passed);
    }

    #[test]
    fn committed_cases_are_those_of_the_larger_set() {
        let Some(dir) = larger() else { return };
        let theirs = read(&dir, "manifest.json");
        for case in cases() {
            assert!(theirs["cases"].as_array().unwrap().contains(&case), "{}", case["id"]);
            let file = case["file"].as_str().unwrap();
            let same =
                std::fs::read(committed().join(file)).unwrap() == std::fs::read(dir.join(file)).unwrap();
            assert!(same, "{file}");
        }
        for file in ["budgets/pyramidkv.json", "budgets/cake.json", "head_identification.json"] {
            assert_eq!(read(&committed(), file), read(&dir, file), "{file}");
        }
        let rows = |dir: &Path| read(dir, "budgets/compresskv.json")["cases"].as_array().unwrap().clone();
        assert!(rows(&committed()).iter().all(|row| rows(&dir).contains(row)));
    }

    /// The name that the vectors have for a method: one implementation runs both score files of HeadKV.
    fn vector_name(method: &str) -> &str {
        if method.starts_with("headkv-") { "headkv" } else { method }
    }

    /// Methods without vectors, and why.
    const METHODS_WITHOUT: [(&str, &str); 3] = [
        ("full", "keeps everything"),
        ("random", "a control of ours"),
        ("tova", "of kvpress, which `scripts/compare_kvpress.py` runs beside us"),
    ];

    #[test]
    fn every_method_has_a_committed_case() {
        let mut cases = cases();
        cases.extend(read(&of_kvpress(), "manifest.json")["cases"].as_array().unwrap().clone());
        let has = |name: &str| cases.iter().any(|case| case["method"] == vector_name(name));
        let without: Vec<_> =
            registry::METHODS.iter().map(|entry| entry.name).filter(|name| !has(name)).collect();
        assert_eq!(without, METHODS_WITHOUT.map(|(name, _)| name));
    }

    /// Profiles without vectors, and why.
    const PROFILES_WITHOUT: [(&str, &str); 7] = [
        ("cakekv", "CAKE's vectors are those of CompressKV's copy"),
        ("kvcache-factory-needle", "`kvcache-factory` with other parameters"),
        ("uniform", "equal settings for every method, of ours"),
        ("snapkv@headkv", "the code of `snapkv@kvcache-factory`"),
        ("snapkv@kvpress", "inside `chunkkv` and `criticalkv`, which have vectors"),
        ("streamingllm@kvpress", "`scripts/compare_kvpress.py` runs kvpress beside us"),
        ("tova@kvpress", "`scripts/compare_kvpress.py` runs kvpress beside us"),
    ];

    #[test]
    fn every_profile_has_a_committed_case() {
        let mut cases = cases();
        cases.extend(read(&of_kvpress(), "manifest.json")["cases"].as_array().unwrap().clone());
        let mut without = BTreeSet::new();
        for (profile, file) in profile::all() {
            let has = |method: &str| {
                let implementation = profile.replace('-', "_");
                cases.iter().any(|case| {
                    case["method"] == vector_name(method) && case["impl"] == implementation.as_str()
                })
            };
            let missing: Vec<&String> = file.methods.keys().filter(|method| !has(method)).collect();
            if missing.len() == file.methods.len() {
                without.insert((*profile).to_owned());
            } else {
                without.extend(missing.into_iter().map(|method| format!("{method}@{profile}")));
            }
        }
        assert_eq!(without, PROFILES_WITHOUT.iter().map(|(name, _)| (*name).to_owned()).collect());
    }

    #[test]
    fn every_budget_rule_has_a_committed_case() {
        let rules = |file: &str, key: &str| -> BTreeSet<String> {
            let table = read(&committed(), file);
            let rows = table["cases"].as_array().unwrap().iter();
            rows.filter_map(|row| row[key].as_str().map(str::to_owned)).collect()
        };
        let pyramid = rules("budgets/pyramidkv.json", "variant");
        assert_eq!(pyramid, BTreeSet::from(["per_prompt".to_owned(), "stateful".to_owned()]));
        assert!(!read(&committed(), "budgets/pyramidkv.json")["kvpress"].as_array().unwrap().is_empty());
        for file in ["budgets/compresskv.json", "budgets/cake.json"] {
            assert!(read(&committed(), file)["cases"].as_array().unwrap().len() > 20, "{file}");
        }
        // HeadKV's capacities and AdaKV's split are in the tensor cases, for either base capacity and every floor.
        for implementation in ["headkv", "kvcache_factory"] {
            let is =
                |case: &Value| case["impl"] == implementation && !case["tensors"]["head_capacity"].is_null();
            assert!(cases().iter().any(is), "{implementation}");
        }
        for floor in [0.0, 0.2, 0.5, 1.0] {
            assert!(cases().iter().any(|case| case["params"]["floor"] == floor), "{floor}");
        }
    }

    /// An edge: its name, the methods that have it, and what a case of it looks like.
    type Edge = (&'static str, &'static [&'static str], fn(&Value) -> bool);

    /// Prompt length less the budget.
    fn surplus(case: &Value) -> Option<i64> {
        Some(case["prompt_len"].as_i64()? - case["params"]["budget"].as_i64()?)
    }

    fn group(case: &Value) -> Option<u64> {
        Some(case["q_heads"].as_u64()? / case["kv_heads"].as_u64()?)
    }

    const EDGES: [Edge; 30] = [
        ("ties at the cut", &["snapkv", "pyramidkv", "adakv", "headkv", "compresskv"], |case| {
            case["compare"] == "ties"
        }),
        ("keys that are equal", &["snapkv"], |case| case["explicit_ties"] == true),
        (
            "a prompt one below the budget",
            &["snapkv", "pyramidkv", "adakv", "headkv", "streamingllm"],
            |case| surplus(case) == Some(-1),
        ),
        (
            "a prompt of the budget",
            &["snapkv", "pyramidkv", "adakv", "headkv", "streamingllm", "h2o"],
            |case| surplus(case) == Some(0),
        ),
        ("a prompt one above the budget", &["snapkv", "pyramidkv", "adakv", "streamingllm"], |case| {
            surplus(case) == Some(1)
        }),
        ("a prompt of budget and window", &["cake"], |case| {
            surplus(case) == case["params"]["window"].as_i64()
        }),
        ("layers above and below their budget", &["pyramidkv", "compresskv"], |case| {
            let compressed = case["compressed"].as_array();
            compressed.is_some_and(|all| all.contains(&json!(true)) && all.contains(&json!(false)))
        }),
        ("a budget one above the window", &["snapkv"], |case| {
            case["params"]["budget"].as_i64() == case["params"]["window"].as_i64().map(|window| window + 1)
        }),
        ("query heads", &["snapkv", "pyramidkv", "adakv", "headkv", "h2o", "streamingllm"], |case| {
            case["semantics"]["head_axis"] == "query"
        }),
        ("KV heads", &["snapkv", "pyramidkv", "adakv", "headkv", "h2o", "streamingllm", "cake"], |case| {
            case["semantics"]["head_axis"] == "kv"
        }),
        ("groups of 1", &["snapkv", "compresskv"], |case| group(case) == Some(1)),
        ("groups of 2", &["snapkv", "pyramidkv", "adakv", "headkv", "compresskv", "cake", "h2o"], |case| {
            group(case) == Some(2)
        }),
        ("groups of 4", &["snapkv", "pyramidkv", "adakv", "headkv", "compresskv", "cake", "h2o"], |case| {
            group(case) == Some(4)
        }),
        ("32 over 8 heads", &["snapkv"], |case| case["q_heads"] == 32 && case["kv_heads"] == 8),
        ("strided groups", &["snapkv", "pyramidkv"], |case| case["semantics"]["group_layout"] == "strided"),
        ("the group before pooling", &["snapkv", "pyramidkv", "adakv", "headkv"], |case| {
            case["semantics"]["order"] == "group_then_pool"
        }),
        ("the group after pooling", &["snapkv", "pyramidkv", "cake"], |case| {
            case["semantics"]["order"] == "pool_then_group"
        }),
        ("the group's mean", &["snapkv", "adakv", "h2o"], |case| case["params"]["group_reduce"] == "mean"),
        ("the group's maximum", &["snapkv", "adakv", "h2o"], |case| case["params"]["group_reduce"] == "max"),
        ("the group's sum", &["snapkv"], |case| case["params"]["group_reduce"] == "sum"),
        ("average pooling", &["snapkv", "pyramidkv", "adakv", "headkv", "compresskv"], |case| {
            case["params"]["pooling"] == "avgpool"
        }),
        ("maximum pooling", &["snapkv", "pyramidkv", "adakv", "headkv", "compresskv"], |case| {
            case["params"]["pooling"] == "maxpool"
        }),
        ("no pooling", &["snapkv"], |case| case["params"]["kernel"] == 1),
        ("a first prompt that was shorter", &["pyramidkv"], |case| {
            case["params"]["init_prompt_len"].as_i64() < case["prompt_len"].as_i64()
                && !case["params"]["init_prompt_len"].is_null()
        }),
        ("a first prompt that was longer", &["pyramidkv"], |case| {
            case["params"]["init_prompt_len"].as_i64() > case["prompt_len"].as_i64()
        }),
        ("scores weighed by concentration", &["adakv"], |case| case["params"]["normalize"] == true),
        ("a layer that is skipped", &["adakv"], |case| !case["params"]["skip"].is_null()),
        ("a pyramid below AdaKV", &["adakv"], |case| !case["params"]["pyramid_beta"].is_null()),
        ("a temperature", &["headkv"], |case| case["params"]["temp"] != 1.0),
        ("one selecting head, and all of them", &["compresskv"], |case| {
            case["params"]["first_k"] == 1 || case["params"]["first_k"] == case["q_heads"]
        }),
    ];

    #[test]
    fn every_edge_has_a_committed_case() {
        let cases = cases();
        for (edge, methods, is) in EDGES {
            for method in methods {
                let found = cases.iter().any(|case| case["method"] == *method && is(case));
                assert!(found, "{method}: no case with {edge}");
            }
        }
    }

    /// The check itself sets every parameter that a case names. Here the profiles alone must agree with what
    /// the cases say about the implementation.
    #[test]
    fn profiles_say_what_the_implementations_do() {
        let mut compared = 0;
        for case in cases() {
            let method = match case["method"].as_str().unwrap() {
                "layer_error" => continue,
                "headkv" => "headkv-r",
                method => method,
            };
            let implementation = case["impl"].as_str().unwrap().replace('_', "-");
            let spec = MethodSpec::parse(&format!("{method}@{implementation}"), &[], None).unwrap();
            let params = spec.resolved().params;
            let semantics = &case["semantics"];
            // AdaKV's profile is its GQA mode; other repositories' KV-head modes are asked for.
            if implementation != "adakv" && case["params"].get("group_reduce").is_none() {
                let axis = if spec.granularity() == Granularity::KvHead { "kv" } else { "query" };
                assert_eq!(semantics["head_axis"], axis, "{}", case["id"]);
            }
            if let Some(layout) = params.get("group_layout") {
                assert_eq!(&semantics["group_layout"], layout, "{}", case["id"]);
            }
            let order = match semantics["order"].as_str().unwrap() {
                "group_then_pool" => "before-pooling",
                "pool_then_group" => "after-pooling",
                _ => continue,
            };
            if let Some(found) = params.get("group_order") {
                assert_eq!(found, order, "{}", case["id"]);
                compared += 1;
            }
        }
        assert!(compared > 20, "{compared}");
    }

    /// Observations with a fault: keys of the wrong head, as a strided gather would give.
    struct Faulty;

    impl Observer for Faulty {
        fn observe(
            &self,
            wanted: &[Observation],
            shape: &LayerShape,
            tensors: &LayerTensors<'_>,
        ) -> Result<BTreeMap<Observation, Observed>, MethodError> {
            let mut seen = observe::observe_layer(wanted, shape, tensors)?;
            for observed in seen.values_mut() {
                if let Observed::Rows { values, columns, .. } = observed {
                    values.rotate_left(*columns);
                }
            }
            Ok(seen)
        }
    }

    #[test]
    fn a_fault_is_found_and_named() {
        let report = check_with(&committed(), &Faulty).unwrap();
        assert!(report.failures.iter().any(|failure| failure.case == "snapkv-compresskv-01"), "{report:?}");
        assert!(report.failed > 40, "{}", report.failed);
    }

    /// Replaces one value somewhere in a JSON document by something absurd.
    fn spoil(value: &mut Value, rng: &mut ChaCha8Rng) {
        let absurd = [
            json!(null),
            json!(-1),
            json!(0),
            json!(1),
            json!(2),
            json!(7),
            json!(u64::MAX),
            json!(i64::MIN),
            json!(1u64 << 40),
            json!(1e300),
            json!(-0.5),
            json!("x"),
            json!([]),
            json!({}),
            json!(true),
            json!([[1]]),
            json!("kv"),
            json!("../x"),
        ];
        match value {
            Value::Array(items) if !items.is_empty() && rng.random_bool(0.9) => {
                let index = rng.random_range(0..items.len());
                spoil(&mut items[index], rng);
            }
            Value::Object(fields) if !fields.is_empty() && rng.random_bool(0.95) => {
                let index = rng.random_range(0..fields.len());
                let key = fields.keys().nth(index).cloned().unwrap_or_default();
                if rng.random_bool(0.1) {
                    fields.remove(&key);
                } else if let Some(field) = fields.get_mut(&key) {
                    spoil(field, rng);
                }
            }
            other => *other = absurd[rng.random_range(0..absurd.len())].clone(),
        }
    }

    #[test]
    fn spoiled_vectors_never_panic() {
        let (dir, cases) = (committed(), cases());
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        let temporary = tempfile::tempdir().unwrap();
        for round in 0..3000 {
            let mut case = cases[round % cases.len()].clone();
            let file = case["file"].as_str().unwrap().to_owned();
            let mut from = dir.as_path();
            if round % 5 == 0 {
                // Spoil the tensors instead: header or data.
                let mut bytes = std::fs::read(dir.join(&file)).unwrap();
                for _ in 0..3 {
                    let at = rng.random_range(0..bytes.len().min(4000));
                    bytes[at] = rng.random();
                }
                bytes.truncate(if rng.random_bool(0.2) {
                    rng.random_range(0..bytes.len())
                } else {
                    bytes.len()
                });
                case["file"] = json!("case.safetensors");
                std::fs::write(temporary.path().join("case.safetensors"), bytes).unwrap();
                from = temporary.path();
            } else {
                spoil(&mut case, rng);
                spoil(&mut case, rng);
            }
            let _ = check_tensors(from, &case, &PlainObserver);
        }
        for file in [
            "budgets/pyramidkv.json",
            "budgets/compresskv.json",
            "budgets/cake.json",
            "head_identification.json",
        ] {
            let mut whole = read(&dir, file);
            for list in whole.as_object_mut().unwrap().values_mut().filter_map(Value::as_array_mut) {
                list.truncate(40);
            }
            for _ in 0..100 {
                let mut spoiled = whole.clone();
                for _ in 0..8 {
                    spoil(&mut spoiled, rng);
                }
                let name = Path::new(file).file_name().unwrap().to_str().unwrap();
                std::fs::write(temporary.path().join(name), spoiled.to_string()).unwrap();
                let mut report = Report::default();
                match name {
                    "head_identification.json" => identification::check(temporary.path(), name, &mut report),
                    _ => tables::check(temporary.path(), name, &mut report),
                }
            }
        }
    }

    #[test]
    fn malformed_input_is_a_failure_not_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check(dir.path()).is_err());
        let manifest = json!({
            "format_version": 1,
            "cases": [
                7,
                {"id": "escape", "file": "../x", "method": "snapkv", "impl": "headkv"},
                {"id": "no-such-method", "method": "zip", "impl": "x", "file": "cases/a.safetensors", "layers": 1, "q_heads": 2,
                 "kv_heads": 1, "head_dim": 4, "prompt_len": 9, "params": {}, "semantics": {}, "out_heads": 1},
                {"id": "zero-heads", "method": "snapkv", "impl": "headkv", "file": "cases/a.safetensors", "layers": 0, "q_heads": 0,
                 "kv_heads": 0, "head_dim": 0, "prompt_len": 0, "params": {"window": 8}, "semantics": {}, "out_heads": 1},
            ],
            "budgets": ["budgets/absent.json", "budgets/cake.json", "budgets/pyramidkv.json", "budgets/compresskv.json"],
            "head_identification": "ids.json",
        });
        std::fs::create_dir(dir.path().join("budgets")).unwrap();
        std::fs::write(dir.path().join("manifest.json"), manifest.to_string()).unwrap();
        let cake = json!({"format_version": 1, "cases": [{"raw": "many"}, {"raw": [], "total": -1}]});
        std::fs::write(dir.path().join("budgets/cake.json"), cake.to_string()).unwrap();
        let huge = json!({"format_version": 1, "cases": [
            {"variant": "stateful", "layers": 1u64 << 60, "budget": 64, "window": 8, "beta": 0, "prompt_len": 9, "init_prompt_len": 9, "kept": []},
            {"variant": "stateful", "layers": 4, "budget": u64::MAX, "window": 8, "beta": 0, "prompt_len": 9, "init_prompt_len": i64::MIN, "kept": []},
            {"importance": [1e300, -1e300], "total": u64::MAX, "min": u64::MAX, "max": u64::MAX, "budgets": []}]});
        std::fs::write(dir.path().join("budgets/pyramidkv.json"), huge.to_string()).unwrap();
        std::fs::write(dir.path().join("budgets/compresskv.json"), huge.to_string()).unwrap();
        let ids = json!({"format_version": 1, "accumulate": [{"prompt_ids": [1], "needle_start": 5, "needle_end": 2,
            "generated_ids": [1], "attention": [], "scores": {"srh": [[1.0]]}}], "find_needle": [3]});
        std::fs::write(dir.path().join("ids.json"), ids.to_string()).unwrap();
        let report = check(dir.path()).unwrap();
        assert_eq!((report.passed, report.failed), (0, 15), "{report:?}");
    }
}
