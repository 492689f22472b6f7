//! `calibrate` on the embedded model: files that other commands read, made again to the same values.

use std::path::Path;

use serde_json::Value;

use crate::common::{run, succeed};

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn head_scores_are_made_drawn_and_used() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let heads = ["calibrate", "heads", "--kind", "semantic", "--lengths", "2:200..256", "--depths", "3"];
    let printed = succeed(dir, &[&heads[..], &["-o", "heads.json", "--map", "heads.svg"]].concat());
    assert_eq!(printed.lines().collect::<Vec<_>>(), ["heads.json", "tiny_head_idx.json"]);
    let found = read(&dir.join("heads.json"));
    assert_eq!((&found["params"]["tests"], &found["params"]["passed"]), (&6.into(), &6.into()), "{found}");
    let picture = std::fs::read_to_string(dir.join("heads.svg")).unwrap();
    assert!(picture.contains("Semantic retrieval heads") && picture.contains("6 of 6 needle tests passed"));
    // The papers' own format: the heads of every layer, best first.
    let published = read(&dir.join("tiny_head_idx.json"));
    let layers = published.as_object().unwrap();
    assert_eq!(layers.len(), 8);
    for heads in layers.values() {
        let mut heads: Vec<u64> =
            heads.as_array().unwrap().iter().map(|head| head.as_u64().unwrap()).collect();
        heads.sort_unstable();
        assert!(heads.iter().copied().eq(0..8), "{published}");
    }
    succeed(dir, &[&heads[..], &["-o", "again.json"]].concat());
    assert_eq!(read(&dir.join("again.json"))["values"], found["values"], "the same heads every time");

    let sweep =
        ["run", "needle", "--lengths", "256", "--depths", "50", "--methods", "compresskv", "--budget", "64"];
    succeed(dir, &[&sweep[..], &["--calibration", "heads.json", "--out", "ours"]].concat());
    let manifest = std::fs::read_to_string(dir.join("ours/manifest.json")).unwrap();
    succeed(dir, &[&sweep[..], &["--out", "embedded"]].concat());
    assert_ne!(
        manifest,
        std::fs::read_to_string(dir.join("embedded/manifest.json")).unwrap(),
        "the run names its calibration"
    );

    let (code, _, stderr) = run(dir, &["calibrate", "heads"]);
    assert_eq!(code, 2, "{stderr}");
    let (code, _, stderr) =
        run(dir, &["calibrate", "heads", "--kind", "semantic", "--lengths", "2:200..90000"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("90000"), "{stderr}");
}

#[test]
fn layer_scores_are_shares_of_every_data_set() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    succeed(dir, &["calibrate", "layers", "--limit", "1", "-o", "layers.json"]);
    let published = read(&dir.join("tiny_layer_score.jsonl"));
    let sets = published.as_object().unwrap();
    let data_sets = kvsweep_tasks::mini::datasets();
    assert_eq!(sets.len(), data_sets.len() + 1, "and the average");
    for name in data_sets.iter().map(|set| set.name).chain(["avg_score"]) {
        let shares: Vec<f64> =
            sets[name].as_array().unwrap().iter().map(|share| share.as_f64().unwrap()).collect();
        assert_eq!(shares.len(), 8, "{name}");
        assert!(shares.iter().all(|share| *share >= 0.0), "{name}: {shares:?}");
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{name}: {shares:?}");
    }
}
