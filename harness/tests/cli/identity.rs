//! What a run is: every file and setting that decides its numbers keeps it from being continued, merged or compared as
//! another one.

use std::path::{Path, PathBuf};

use crate::common::{run, succeed};

const SWEEP: &[&str] = &["run", "longbench", "--datasets", "mini_people", "--limit", "2", "--budget", "64"];

/// The embedded model's files in a directory of their own.
fn model(dir: &Path) -> PathBuf {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/assets/tiny");
    let copy = dir.join("model");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(files).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    copy
}

fn edit_json(file: &Path, edit: impl Fn(&mut serde_json::Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(file, value.to_string()).unwrap();
}

#[test]
fn an_edited_model_is_another_model() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let sweep = |out: &'static str| {
        [SWEEP, &["--split", "mini", "--methods", "full", "--model", "model", "--out", out]].concat()
    };
    succeed(dir.path(), &sweep("run"));
    type Edit = fn(&mut serde_json::Value);
    let edits: [(&str, Edit); 4] = [
        ("config.json", |v| v["rope_theta"] = 20_000.0.into()),
        ("config.json", |v| v["rms_norm_eps"] = 1e-3.into()),
        ("generation_config.json", |v| v["eos_token_id"] = 5.into()),
        ("tokenizer_config.json", |v| v["clean_up_tokenization_spaces"] = true.into()),
    ];
    let refused = |file: &str| {
        let (code, _, stderr) = run(dir.path(), &sweep("run"));
        assert_eq!(code, 1, "{file}: {stderr}");
        assert!(
            stderr.contains("another configuration") && stderr.contains(&format!("model.files[{file}]")),
            "{stderr}"
        );
    };
    for (file, edit) in edits {
        let before = std::fs::read(model.join(file)).unwrap();
        edit_json(&model.join(file), edit);
        refused(file);
        std::fs::write(model.join(file), before).unwrap();
    }
    std::fs::write(model.join("chat_template.jinja"), "{{ messages[0]['content'] }}").unwrap();
    refused("chat_template.jinja");
    // Neither one table nor a comparison takes it for the same model.
    succeed(dir.path(), &sweep("edited"));
    for command in ["table", "compare"] {
        let (code, _, stderr) = run(dir.path(), &[command, "run", "edited"]);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains("model.files[chat_template.jinja]"), "{stderr}");
    }
    let table = succeed(dir.path(), &["table", "run", "edited", "--mixed"]);
    assert!(table.contains("model.files[chat_template.jinja] none"), "{table}");
}

#[test]
fn masked_heads_do_not_join_a_plain_run() {
    let dir = tempfile::tempdir().unwrap();
    succeed(dir.path(), &[SWEEP, &["--methods", "full", "--out", "plain"]].concat());
    succeed(
        dir.path(),
        &[SWEEP, &["--methods", "snapkv", "--mask-heads", "semantic:16", "--out", "masked"]].concat(),
    );
    for names in [["plain", "masked"], ["masked", "plain"]] {
        let (code, stdout, stderr) = run(dir.path(), &["table", names[0], names[1]]);
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
        assert!(stderr.contains("settings.mask-heads: ") && stderr.contains("`semantic:16`"), "{stderr}");
        let table = succeed(dir.path(), &["table", names[0], names[1], "--mixed"]);
        assert!(table.contains("mask-heads semantic:16") && table.contains("mask-heads none"), "{table}");
    }
}

#[test]
fn parts_are_compared_and_missing_ones_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let sweep = [
        "run",
        "longbench",
        "--datasets",
        "mini_people",
        "--limit",
        "5",
        "--budget",
        "64",
        "--methods",
        "full,snapkv",
    ];
    succeed(dir.path(), &[&sweep[..], &["--out", "whole"]].concat());
    for shard in ["1/2", "2/2"] {
        succeed(dir.path(), &[&sweep[..], &["--shard", shard, "--out", &shard.replace('/', "of")]].concat());
    }
    let missing = "part 1 of 2; part 2 missing: 2 examples";
    for arguments in [
        &["table", "1of2"][..],
        &["table", "1of2", "--format", "csv"],
        &["table", "1of2", "--pairs"],
        &["compare", "whole", "1of2"],
        &["compare", "1of2", "1of2", "--gate"],
        &["export", "1of2", "--layout", "longbench", "-o", "exported"],
        &["report", "1of2", "-o", "page.html"],
    ] {
        let (code, _, stderr) = run(dir.path(), arguments);
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        assert!(stderr.contains(missing), "{arguments:?}: {stderr}");
    }
    assert!(succeed(dir.path(), &["table", "1of2"]).lines().next().unwrap().contains(missing));
    let (code, stdout, stderr) = run(dir.path(), &["compare", "whole", "1of2,2of2", "--gate"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert!(!stdout.contains("missing") && stdout.contains("0 of 10 answers differ"), "{stdout}");
    let arguments = [&sweep[..], &["--shard", "1/2", "--record-baseline"]].concat();
    let (code, _, stderr) = run(dir.path(), &arguments);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("--shard"), "{stderr}");
}

#[test]
fn a_row_that_cannot_be_graded_is_skipped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let row = |set: &str, number: usize, answer: &str| {
        serde_json::json!({
            "input": "Which paragraph is meant?", "context": format!("Paragraph 1: about {number}."),
            "answers": [answer], "length": 6, "dataset": set, "language": "en", "all_classes": null,
            "_id": format!("{set}-{number}"),
        })
        .to_string()
            + "\n"
    };
    let retrieval = ["Paragraph 1", "none", "Paragraph 1"];
    let rows = retrieval.iter().enumerate().map(|(n, answer)| row("passage_retrieval_en", n, answer));
    std::fs::write(dir.path().join("passage_retrieval_en.jsonl"), rows.collect::<String>()).unwrap();
    std::fs::write(dir.path().join("qasper.jsonl"), row("qasper", 0, "one")).unwrap();
    let sweep = [
        "run",
        "longbench",
        "--data",
        ".",
        "--datasets",
        "passage_retrieval_en,qasper",
        "--methods",
        "full",
        "--out",
        "run",
    ];
    let (code, table, stderr) = run(dir.path(), &sweep);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("skipped: cannot score"), "{stderr}");
    for table in [table, succeed(dir.path(), &["table", "run"])] {
        assert!(table.contains("skipped, cannot be graded: passage_retrieval_en 1 of 3 (`"), "{table}");
        assert!(!table.contains("not finished"), "{table}");
    }
    let records = std::fs::read_to_string(dir.path().join("run/records.jsonl")).unwrap();
    assert_eq!(records.lines().count(), 4);
    assert!(records.contains("\"dataset\":\"qasper\""), "the sweep went on");
    let (code, _, stderr) = run(dir.path(), &sweep);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("nothing to run"), "{stderr}");
}

/// Made for turns, and no template to be found: the prompts run raw, which everybody is told.
#[test]
fn a_missing_chat_template_is_told_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let sweep = |out: &'static str| {
        [SWEEP, &["--split", "mini", "--methods", "full", "--model", "model", "--out", out]].concat()
    };
    let told = "no chat template was found for `model`, which seems made for turns";
    let (code, table, stderr) = run(dir.path(), &sweep("whole"));
    assert!(code == 0 && !stderr.contains(told) && !table.contains("chat template"), "{stderr}{table}");
    edit_json(&model.join("tokenizer_config.json"), |v| {
        drop(v.as_object_mut().unwrap().remove("chat_template"))
    });
    let (code, table, stderr) = run(dir.path(), &sweep("raw"));
    assert!(code == 0 && stderr.contains(told), "{stderr}");
    assert!(table.contains("no chat template found"), "{table}");
    let manifest = std::fs::read_to_string(dir.path().join("raw/manifest.json")).unwrap();
    assert!(manifest.contains("\"no-chat-template\""), "{manifest}");
    let (code, _, stderr) = run(dir.path(), &[&sweep("dry")[..], &["--dry-run"]].concat());
    assert!(code == 0 && stderr.contains(told), "{stderr}");
    // A protocol with a wrapping of its own needs none.
    let (_, table, _) = run(dir.path(), &[&sweep("own")[..], &["--protocol", "headkv"]].concat());
    assert!(!table.contains("no chat template found"), "{table}");
}

/// A GGUF is a model as any other: it runs, and its hash names the run.
#[test]
fn a_gguf_is_not_mistaken_for_another() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cut.gguf"), b"GGUF\x03\0\0\0").unwrap();
    for (name, expected) in [
        ("cut.gguf", "error: `cut.gguf` is not a whole GGUF file"),
        ("none.gguf", "error: cannot read `none.gguf`"),
    ] {
        let (code, stdout, stderr) = run(dir.path(), &["generate", "--model", name, "--prompt", "x"]);
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
}
