//! One stop rule: `generate` ends an answer where `run` ends it.

use std::path::Path;

use serde_json::Value;

use crate::common::{kvsweep, outcome, succeed, tiny_in};

/// The embedded model, whose configuration names an end that it never writes; the tokenizer has the right one.
fn stale(dir: &Path) {
    let model = dir.join("stale");
    tiny_in(&model);
    for file in ["config.json", "generation_config.json"] {
        let path = model.join(file);
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["eos_token_id"] = 0.into();
        std::fs::write(path, config.to_string()).unwrap();
    }
}

#[test]
fn generate_stops_at_the_end_of_the_tokenizer_as_run_does() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    stale(dir);
    let answer = |model: &[&str]| -> Value {
        let prompt = ["generate", "--chat", "--prompt", "Who lives here?", "--max-new", "120", "--json"];
        let answer: Value = serde_json::from_str(&succeed(dir, &[&prompt[..], model].concat())).unwrap();
        answer["answers"][0].clone()
    };
    let (right, stale) = (answer(&[]), answer(&["--model", "stale"]));
    assert_eq!(right["stopped_by"], 1, "{right}");
    assert_eq!((&stale["ids"], &stale["stopped_by"]), (&right["ids"], &right["stopped_by"]));
}

#[test]
fn heads_are_identified_under_the_same_rule() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    stale(dir);
    let heads =
        ["calibrate", "heads", "--kind", "semantic", "--lengths", "1:256..256", "--depths", "2", "-o"];
    let values = |more: &[&str]| -> Value {
        let text = succeed(dir, &[&heads[..], more].concat());
        serde_json::from_str::<Value>(&text).unwrap()["values"].clone()
    };
    assert_eq!(values(&["-", "--model", "stale"]), values(&["-"]));
}

/// Needles that no model could have passed: an answer is shown, and no file is touched.
#[test]
fn heads_that_nothing_was_measured_of_are_not_written() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    std::fs::create_dir_all(dir.join("needles/part0")).unwrap();
    let needle = serde_json::json!({
        "needle": "\nThe harbour master keeps a green ledger under the third bell.\n",
        "question": "What does the harbour master keep?",
        "real_needle": "The harbour master keeps a green ledger under the third bell.",
    });
    std::fs::write(dir.join("needles/needles.jsonl"), needle.to_string()).unwrap();
    std::fs::write(dir.join("needles/part0/p.txt"), "Nothing of note happened that year. ".repeat(200))
        .unwrap();
    std::fs::write(dir.join("heads.json"), "mine").unwrap();
    let heads = ["calibrate", "heads", "--kind", "retrieval", "--data", "needles", "--lengths", "1:400..400"];
    let mut command = kvsweep(dir);
    command.args(heads).args(["--depths", "2", "-o", "heads.json"]);
    let (code, _, stderr) = outcome(&mut command);
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("none of 2 needle tests passed") && stderr.contains("nothing was written"),
        "{stderr}"
    );
    let shown = "expected `The harbour master keeps a green ledger under the third bell.`, answered `";
    assert!(stderr.contains(shown), "{stderr}");
    assert_eq!(std::fs::read_to_string(dir.join("heads.json")).unwrap(), "mine");
}
