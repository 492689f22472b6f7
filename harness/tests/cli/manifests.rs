//! Run directories from elsewhere: a manifest that was edited is refused with its name, or shown without doing harm.

use serde_json::{Value, json};

use crate::common::{run, succeed};

type Edit = fn(&mut Value);

/// What is changed, and a word of the message.
const REFUSED: [(&str, Edit, &str); 8] = [
    ("an unknown field", |manifest| manifest["surprise"] = json!(1), "surprise"),
    ("a newer schema", |manifest| manifest["schema"] = json!(99), "99"),
    ("a part of none", |manifest| manifest["shard"] = json!({"index": 0, "count": 0}), "shard"),
    ("a budget twice", |manifest| manifest["budgets"] = json!([64, 64]), "twice"),
    ("a budget of text", |manifest| manifest["budgets"] = json!(["64"]), "64"),
    ("no methods", |manifest| manifest["methods"] = json!("many"), "many"),
    ("a negative count", |manifest| manifest["datasets"][0]["examples"] = json!(-1), "-1"),
    ("no model", |manifest| manifest["model"] = Value::Null, "null"),
];

#[test]
fn a_hostile_manifest_is_refused_with_its_name() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let sweep = [
        "run",
        "needle",
        "--lengths",
        "256",
        "--depths",
        "50",
        "--methods",
        "full,snapkv",
        "--budget",
        "64",
        "--out",
        "run",
    ];
    succeed(dir, &sweep);
    let path = dir.join("run/manifest.json");
    let sound: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for (what, edit, word) in REFUSED {
        let mut manifest = sound.clone();
        edit(&mut manifest);
        std::fs::write(&path, manifest.to_string()).unwrap();
        for command in [
            &["table", "run"][..],
            &["report", "run", "-o", "page.html"],
            &["compare", "run", "run"],
            &["export", "run", "--layout", "needle-headkv", "-o", "out"],
            &["heatmap", "run", "-o", "map.png"],
        ] {
            let (code, _, stderr) = run(dir, command);
            let told = stderr.contains("manifest.json") && stderr.contains(word);
            if code != 1 || !told || stderr.contains("panicked") {
                wrong.push(format!("{what}, {command:?}: exit {code}\n{stderr}"));
            }
        }
        // Nor is it continued or overwritten.
        let before = std::fs::read(&path).unwrap();
        let (code, _, stderr) = run(dir, &sweep);
        if code != 1 || std::fs::read(&path).unwrap() != before {
            wrong.push(format!("{what}, run again: exit {code}\n{stderr}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for output in ["page.html", "out", "map.png"] {
        assert!(!dir.join(output).exists(), "a refused command left `{output}`");
    }
}
