//! RULER: the embedded tasks, rows generated for a model, published rows, and kvpress's protocol and layout.

use std::path::Path;

use serde_json::Value;

use crate::common::{kvsweep, outcome, succeed};

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn records(run: &Path) -> Vec<Value> {
    read(&run.join("records.jsonl")).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn fails(dir: &Path, arguments: &[&str]) -> (i32, String) {
    let (code, _, stderr) = outcome(kvsweep(dir).args(arguments));
    assert_ne!(code, 0, "{arguments:?}");
    (code, stderr)
}

/// The embedded tasks: the full cache answers them, a small one does not, and a sheet shows it by task and length.
#[test]
fn the_embedded_tasks_tell_methods_apart() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let sweep = ["run", "ruler", "--lengths", "512,1024", "--limit", "12", "--methods", "full,streamingllm"];
    let table = succeed(dir, &[&sweep[..], &["--budget", "64", "--out", "run"]].concat());
    for column in ["multikey 512", "multivalue 1024", "multiquery 512", "vt 1024"] {
        assert!(table.contains(column), "{column}: {table}");
    }
    let mut means = [0.0, 0.0];
    let records = records(&dir.join("run"));
    assert_eq!(records.len(), 4 * 12);
    for record in &records {
        for (mean, variant) in means.iter_mut().zip(record["variants"].as_array().unwrap()) {
            *mean += variant["score"].as_f64().unwrap() / records.len() as f64;
        }
    }
    assert!(means[0] > 0.9 && means[1] < 0.5, "{means:?}");
    for picture in ["heatmap.svg", "heatmaps/streamingllm-64.svg"] {
        let svg = read(&dir.join("run").join(picture));
        assert!(svg.contains("multikey") && svg.contains("ask ↓"), "{picture}");
    }
    let manifest: Value = serde_json::from_str(&read(&dir.join("run/manifest.json"))).unwrap();
    assert_eq!(manifest["settings"]["ruler-lengths"], "512,1024");
    assert_eq!(manifest["settings"]["mini-ruler-version"], "1");
    // A row's prompt can be made again.
    let first = records[0]["key"]["example"].as_str().unwrap();
    let told = succeed(dir, &["explain", "run", first]);
    assert!(told.contains("Question: What is the password of"), "{told}");
}

/// Generated rows read a prompt of their length, and are the same however they are asked for.
#[test]
fn generated_rows_fill_their_length_and_are_made_again() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let sweep = |out: &str, more: &[&str]| {
        let arguments = ["run", "ruler", "--split", "full", "--lengths", "1024", "--methods", "full"];
        let sets = ["--datasets", "niah_single_2,niah_multikey_3,vt", "--out", out];
        succeed(dir, &[&arguments[..], &sets, more].concat());
        records(&dir.join(out))
    };
    let (one, two) = (sweep("one", &["--limit", "1"]), sweep("two", &["--limit", "2"]));
    assert_eq!((one.len(), two.len()), (3, 6));
    for record in &one {
        let tokens = record["info"]["prompt_tokens"].as_u64().unwrap();
        assert!((800..=1024).contains(&tokens), "{tokens}");
        let hash = |records: &[Value]| {
            let same = records.iter().find(|other| other["key"] == record["key"]).unwrap();
            same["info"]["prompt_sha256"].clone()
        };
        assert_eq!(hash(&one), hash(&two));
    }
    let seeded = sweep("seeded", &["--limit", "1", "--seed", "7"]);
    assert_ne!(seeded[0]["info"]["prompt_sha256"], one[0]["info"]["prompt_sha256"]);
    let key = two[5]["key"]["example"].as_str().unwrap();
    assert!(succeed(dir, &["explain", "two", key]).contains("Find all variables"), "{key}");
}

#[test]
fn what_cannot_be_asked_is_said_before_anything_runs() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let (_, stderr) = fails(dir, &["run", "ruler", "--lengths", "8192"]);
    assert!(stderr.contains("length 8192 exceeds the 4096 positions of model `tiny`"), "{stderr}");
    let (_, stderr) = fails(dir, &["run", "ruler", "--lengths", "64"]);
    assert!(stderr.contains("the shortest is 256"), "{stderr}");
    let (_, stderr) =
        fails(dir, &["run", "ruler", "--split", "full", "--lengths", "100000", "--datasets", "vt"]);
    assert!(stderr.contains("length 100000 exceeds the 4096 positions"), "{stderr}");
    let (_, stderr) =
        fails(dir, &["run", "ruler", "--split", "full", "--lengths", "1024", "--datasets", "qa_1"]);
    assert!(
        stderr.contains("`squad.json` (or `dev-v2.0.json`)") && stderr.contains("hint: fetch"),
        "{stderr}"
    );
    let (_, stderr) =
        fails(dir, &["run", "ruler", "--split", "full", "--lengths", "256", "--datasets", "vt"]);
    assert!(stderr.contains("a row of `vt` does not fit into length 256"), "{stderr}");
    let (code, stderr) = fails(dir, &["run", "longbench", "--lengths", "512"]);
    assert!(code == 2 && stderr.contains("--lengths belongs to the suites `needle` and `ruler`"), "{stderr}");
    let (code, stderr) = fails(dir, &["run", "ruler", "--depths", "50"]);
    assert!(code == 2 && stderr.contains("--depths belongs to the suite `needle`"), "{stderr}");
}

/// Rows as kvpress publishes them, its protocol, and its results folder written and scored again.
#[test]
fn kvpress_rows_protocol_and_layout_agree() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    std::fs::create_dir(dir.join("rows")).unwrap();
    let noise = "The grass is green. The sky is blue.\n".repeat(20);
    let row = |task: &str, new: u32, answer: &str| {
        serde_json::json!({
            "context": format!("Remember.\n{noise}The magic word is {answer}.\n{noise}"), "question": "Which word? ",
            "answer_prefix": "The word is", "answer": [answer, "the"], "task": task, "max_new_tokens": new,
        })
        .to_string()
    };
    let rows = [row("vt", 30, "red"), row("qa_2", 32, "blue"), row("vt", 30, "green")];
    std::fs::write(dir.join("rows/2048.jsonl"), rows.join("\n")).unwrap();
    let sweep = |out: &str, more: &[&str]| {
        let arguments = ["run", "ruler", "--data", "rows", "--split", "full", "--protocol", "kvpress"];
        let methods = ["--methods", "full,streamingllm", "--budget", "64", "--out", out];
        succeed(dir, &[&arguments[..], &methods, more].concat());
        records(&dir.join(out))
    };
    let (unseen, seen) = (sweep("unseen", &[]), sweep("seen", &["--question", "seen"]));
    assert_eq!((unseen.len(), seen.len()), (3, 3));
    let manifest: Value = serde_json::from_str(&read(&dir.join("unseen/manifest.json"))).unwrap();
    assert_eq!(manifest["settings"]["question"], "unseen");
    assert_eq!(unseen[0]["info"]["bucket"], "2048");
    for (one, other) in unseen.iter().zip(&seen) {
        let prediction = |record: &Value| record["variants"][0]["prediction"].clone();
        assert_eq!(prediction(one), prediction(other), "the full cache reads the same tokens");
    }
    let (code, stderr) = fails(
        dir,
        &["run", "ruler", "--data", "rows", "--split", "full", "--seed", "3", "--methods", "full"],
    );
    assert!(code == 2 && stderr.contains("--seed belongs to generated rows"), "{stderr}");
    let (_, stderr) = fails(dir, &["run", "ruler", "--data", "rows", "--split", "full", "--lengths", "4096"]);
    assert!(stderr.contains("has no rows of length 4096; it has 2048"), "{stderr}");

    succeed(dir, &["export", "unseen", "--layout", "kvpress", "-o", "out"]);
    let folder = dir.join("out/full/ruler__2048__tiny__no_press__0.00");
    let scored: Value = serde_json::from_str(&succeed(
        dir,
        &["score", folder.to_str().unwrap(), "--layout", "kvpress", "--json"],
    ))
    .unwrap();
    let metrics: Value = serde_json::from_str(&read(&folder.join("metrics.json"))).unwrap();
    for task in ["vt", "qa_2"] {
        assert_eq!(scored["scores"][task], metrics[task]["string_match"], "{task}");
        let of = |record: &&Value| record["key"]["dataset"] == task;
        let ours: Vec<f64> =
            unseen.iter().filter(of).map(|r| r["variants"][0]["score"].as_f64().unwrap()).collect();
        let mean = ours.iter().sum::<f64>() / ours.len() as f64 * 100.0;
        assert!((mean - scored["scores"][task].as_f64().unwrap()).abs() < 0.01, "{task}");
    }
}
