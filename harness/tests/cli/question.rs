//! A question that the methods do not see: the context alone is compressed, the question read behind it.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::common::{kvsweep, outcome, succeed};

/// Predictions of each example, by variant.
fn predictions(run: &Path) -> BTreeMap<(String, String), String> {
    let text = std::fs::read_to_string(run.join("records.jsonl")).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut predictions = BTreeMap::new();
    for record in records {
        for variant in record["variants"].as_array().unwrap() {
            let key = (record["key"]["example"].to_string(), variant["variant"]["method"].to_string());
            predictions.insert(key, variant["prediction"].as_str().unwrap().to_owned());
        }
    }
    predictions
}

#[test]
fn an_unseen_question_changes_what_methods_keep_and_nothing_of_the_full_cache() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let sweep = |view: &str| {
        let arguments = [
            "--limit",
            "2",
            "--datasets",
            "mini_people,mini_towns,mini_types",
            "--budget",
            "64",
            "--out",
            view,
        ];
        let methods = ["--methods", "full,snapkv,streamingllm", "--question", view];
        succeed(dir, &[&["run", "longbench"][..], &arguments, &methods].concat());
        predictions(&dir.join(view))
    };
    let (seen, unseen) = (sweep("seen"), sweep("unseen"));
    assert_eq!((seen.len(), unseen.len()), (18, 18));
    let of = |method: &'static str| {
        let same = |key: &&(String, String)| key.1.contains(method) && seen[*key] == unseen[*key];
        seen.keys().filter(same).count()
    };
    assert_eq!(of("full"), 6, "the full cache reads the same tokens at the same positions");
    assert!(of("snapkv") < 6, "snapkv looks through the context's last tokens, not the question's");

    // The two are different measurements, and a table says which one it is.
    let table = succeed(dir, &["table", "unseen"]);
    assert!(table.contains("question unseen"), "{table}");
    assert!(!succeed(dir, &["table", "seen"]).contains("question unseen"));
    let (code, _, stderr) = outcome(kvsweep(dir).args(["compare", "seen", "unseen"]));
    assert_ne!(code, 0);
    assert!(stderr.contains("question"), "{stderr}");
}

#[test]
fn nothing_is_compressed_without_a_context() {
    let temporary = tempfile::tempdir().unwrap();
    let arguments = ["run", "longbench", "--datasets", "mini_people", "--limit", "1", "--methods", "full"];
    let mut command = kvsweep(temporary.path());
    command.args(arguments).args(["--question", "unseen", "--without-context", "--out", "run"]);
    let (code, _, stderr) = outcome(&mut command);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("--without-context leaves nothing to compress"), "{stderr}");
}

/// Three questions about one document: it is read once, and each gets the answers that it gets alone.
#[test]
fn questions_about_one_document_share_its_cache() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    std::fs::create_dir(dir.join("rows")).unwrap();
    let facts: String = (0..60)
        .map(|i| format!("Box {i} holds {} red and {} blue stones. ", i * 7 % 13, i * 5 % 11))
        .collect();
    let row = |i: usize| {
        let question = format!("How many red stones does box {i} hold?");
        let answers = [(i * 7 % 13).to_string()];
        serde_json::json!({
            "input": question, "context": facts, "answers": answers, "length": 500, "dataset": "qasper",
            "language": "en", "all_classes": null, "_id": format!("row{i}"),
        })
        .to_string()
    };
    let rows = [3, 20, 41].map(row);
    std::fs::write(dir.join("rows/qasper.jsonl"), rows.join("\n")).unwrap();
    let sweep = |out: &str, more: &[&str]| {
        let arguments = ["run", "longbench", "--split", "full", "--data", "rows", "--datasets", "qasper"];
        let methods =
            ["--methods", "full,snapkv,keydiff", "--budget", "64", "--question", "unseen", "--out", out];
        succeed(dir, &[&arguments[..], &methods, more].concat());
        predictions(&dir.join(out))
    };
    let together = sweep("together", &[]);
    assert_eq!(together.len(), 9);
    let mut alone = BTreeMap::new();
    for part in ["1/3", "2/3", "3/3"] {
        alone.extend(sweep(&part.replace('/', "of"), &["--shard", part]));
    }
    assert_eq!(together, alone);
}
