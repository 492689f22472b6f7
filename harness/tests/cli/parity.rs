//! The judges: golden vectors of the papers' code, and prediction trees with the scores that the official scripts wrote.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::common::{run, shared, succeed};

#[test]
fn verify_passes_every_golden_case_and_names_what_fails() {
    let golden = |what: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden").join(what);
    let dir = tempfile::tempdir().unwrap();
    for what in ["methods", "metrics"] {
        let folder = golden(what).display().to_string();
        let stdout = succeed(dir.path(), &["verify", what, "--golden", &folder]);
        assert!(stdout.ends_with(" passed, 0 failed\n"), "{stdout}");
        let passed: usize = stdout.trim().rsplit(' ').nth(3).unwrap().parse().unwrap();
        assert!(passed > 500, "{stdout}");
    }
    // A changed answer is found, named, and exits 4.
    let name = "count_score.jsonl";
    let text = std::fs::read_to_string(golden("metrics").join(name)).unwrap();
    let first = text.lines().next().unwrap();
    let mut case: Value = serde_json::from_str(first).unwrap();
    case["score"] = 0.123.into();
    std::fs::write(dir.path().join(name), format!("{case}\n")).unwrap();
    let (code, stdout, _) = run(dir.path(), &["verify", "metrics", "--golden", "."]);
    assert_eq!(code, 4, "{stdout}");
    assert!(stdout.contains(case["id"].as_str().unwrap()), "{stdout}");
}

/// `{"scores": …}` of a tree.
fn scores(dir: &Path, tree: &Path, layout: &str) -> BTreeMap<String, Value> {
    let tree = tree.display().to_string();
    let stdout = succeed(dir, &["score", &tree, "--layout", layout, "--json"]);
    let value: Value = serde_json::from_str(&stdout).unwrap();
    value["scores"].as_object().unwrap().clone().into_iter().collect()
}

#[test]
fn published_prediction_trees_score_as_the_official_scripts_say() {
    let Some(predictions) = shared("data/predictions") else { return };
    let dir = tempfile::tempdir().unwrap();
    for (tree, layout) in [
        ("adakv_mistral7b-v0.2_full", "adakv"),
        ("adakv_mistral7b-v0.2_snapkv-256", "adakv"),
        ("adakv_mistral7b-v0.2_ada-snapkv-1024", "adakv"),
        ("longbench-fork_llama3-8b-instruct_full", "longbench"),
        ("magicpig_llama2-7b-chat_longbench-e", "longbench-e"),
    ] {
        let path = predictions.join(tree);
        let official: BTreeMap<String, Value> =
            serde_json::from_str(&std::fs::read_to_string(path.join("result.json")).unwrap()).unwrap();
        let ours = scores(dir.path(), &path, layout);
        let compared = official.iter().filter(|(name, _)| ours.contains_key(*name)).count();
        assert!(compared >= 13, "{tree}: only {compared} data sets in common");
        for (name, score) in &official {
            assert_eq!(ours.get(name), Some(score), "{tree} {name}");
        }
        println!("{tree}: {compared} data sets equal");
    }
}

#[test]
fn our_export_reads_back_to_our_own_scores() {
    let dir = tempfile::tempdir().unwrap();
    succeed(
        dir.path(),
        &[
            "run",
            "longbench",
            "--datasets",
            "mini_people,mini_gates",
            "--limit",
            "4",
            "--methods",
            "full",
            "--out",
            "run",
        ],
    );
    let table: Value =
        serde_json::from_str(&succeed(dir.path(), &["table", "run", "--format", "json"])).unwrap();
    let own = |index: usize| table["table"]["rows"][0]["cells"][index]["score"].as_f64().unwrap();
    let written = succeed(dir.path(), &["export", "run", "--layout", "longbench", "-o", "out"]);
    let tree = dir.path().join(written.lines().next().unwrap());
    let back = scores(dir.path(), tree.parent().unwrap(), "longbench");
    for (index, name) in ["mini_people", "mini_gates"].into_iter().enumerate() {
        let score = back.get(name).and_then(Value::as_f64).unwrap_or_else(|| panic!("{name} in {back:?}"));
        assert!((score - own(index)).abs() < 0.005, "{name}: {score} against {}", own(index));
    }
}

/// One row of LongBench through a real model (`scripts/real_models.sh`): the full cache and SnapKV.
#[test]
fn a_real_model_answers_a_row() {
    const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
    let Some(model) = crate::common::real_model() else { return };
    let Some(rows) = shared("data/longbench_samples") else { return };
    let dir = tempfile::tempdir().unwrap();
    let table = succeed(
        dir.path(),
        &[
            "run",
            "longbench",
            "--model",
            model.to_str().unwrap(),
            "--data",
            rows.to_str().unwrap(),
            "--datasets",
            "lcc",
            "--limit",
            "1",
            "--methods",
            "full,snapkv",
            "--budget",
            "128",
            "--out",
            "run",
        ],
    );
    assert!(table.contains("SmolLM2-135M-Instruct.Q4_1") && table.contains("snapkv"), "{table}");
    let manifest = std::fs::read_to_string(dir.path().join("run/manifest.json")).unwrap();
    assert!(manifest.contains(SHA256) && manifest.contains("30 layers of 576"), "{manifest}");
    let records = std::fs::read_to_string(dir.path().join("run/records.jsonl")).unwrap();
    assert_eq!(records.lines().count(), 1);
}
