//! Shares of the cache instead of numbers of entries: `--ratios`.

use std::path::Path;

use serde_json::Value;

use crate::common::{run, succeed};

const SWEEP: &[&str] =
    &["run", "longbench", "--limit", "2", "--datasets", "mini_people,mini_towns", "--methods"];

fn json(dir: &Path, arguments: &[&str]) -> Value {
    serde_json::from_str(&succeed(dir, &[arguments, &["--json"]].concat())).unwrap()
}

fn records(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("records.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// `int(len * (1 - r))`, as kvpress rounds.
fn entries(len: f64, kept: f64) -> f64 {
    (len * (1.0 - (1.0 - kept))).floor()
}

#[test]
fn a_share_is_of_what_is_compressed_and_every_output_names_it() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let arguments = [SWEEP, &["full,streamingllm,keydiff", "--ratios", "0.5,0.25"]].concat();
    let table = json(dir, &[&arguments[..], &["--out", "seen"]].concat());
    let rows = table["table"]["rows"].as_array().unwrap();
    let budgets: Vec<String> = rows.iter().map(|row| row["budget"].to_string()).collect();
    assert_eq!(budgets, ["null", "0.25", "0.5", "0.25", "0.5"]);
    succeed(dir, &[&arguments[..], &["--out", "unseen", "--question", "unseen"]].concat());
    for (name, compressed) in [("seen", "prompt_tokens"), ("unseen", "compressed_tokens")] {
        for record in records(&dir.join(name)) {
            let info = &record["info"];
            assert_eq!(info.get("compressed_tokens").is_some(), name == "unseen");
            let len = info[compressed].as_f64().unwrap();
            for variant in record["variants"].as_array().unwrap() {
                let allowed = variant["variant"]["budget"].as_f64().map_or(len, |kept| entries(len, kept));
                assert_eq!(variant["kept"]["entries_nominal"].as_f64(), Some(allowed), "{name}: {variant}");
                assert_eq!(variant["kept"]["entries_mean"].as_f64(), Some(allowed), "{name}: {variant}");
            }
        }
        let text = succeed(dir, &["table", name]);
        let row = text.lines().find(|line| line.starts_with("streamingllm")).unwrap();
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[1], "0.25", "{text}");
        let held: f64 = cells[cells.iter().position(|cell| *cell == "%").unwrap() - 1].parse().unwrap();
        assert!((held - 25.0).abs() < 0.3, "{text}");
        let csv = succeed(dir, &["table", name, "--format", "csv"]);
        assert!(
            csv.contains("share_held") && csv.contains(",streamingllm,") && csv.contains(",0.25,"),
            "{csv}"
        );
    }

    // Run again, nothing is left to do; another share is another measurement.
    succeed(dir, &[&arguments[..], &["--out", "seen"]].concat());
    let other = [SWEEP, &["full,streamingllm,keydiff", "--ratios", "0.5", "--out", "seen"]].concat();
    let (code, _, stderr) = run(dir, &other);
    assert!(code == 1 && stderr.contains("budgets: `[0.25,0.5]` against `[0.5]`"), "{stderr}");

    let compared = succeed(dir, &["compare", "seen", "seen"]);
    assert!(compared.contains("streamingllm@0.25"), "{compared}");
    let example = records(&dir.join("seen"))[0]["key"]["example"].as_str().unwrap().to_owned();
    let explained = succeed(dir, &["explain", "seen", &example]);
    assert!(explained.contains("streamingllm@0.25/kv-head#"), "{explained}");
    succeed(dir, &["report", "seen", "-o", "page.html"]);
    let page = std::fs::read_to_string(dir.join("page.html")).unwrap();
    assert!(page.contains("average against share kept") && page.contains("shares 0.25 to 0.5"));
    assert!(dir.join("seen/score-by-share.png").exists() && !dir.join("seen/score-by-budget.png").exists());

    // Seen and unseen beside each other, on one scale.
    let both = succeed(dir, &["table", "seen", "unseen", "--mixed", "-o", "both.svg"]);
    assert!(both.contains("question seen") && both.contains("question unseen"), "{both}");
    let svg = std::fs::read_to_string(dir.join("both.svg")).unwrap();
    assert!(svg.contains("\nquestion seen\n") && svg.contains("\nquestion unseen\n"), "{svg}");
    assert!(svg.contains("Share of the entries kept"), "{svg}");
}

#[test]
fn a_share_gives_what_as_many_entries_give() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let ids: Vec<u32> = (0..401).map(|place| 100 + place * 7 % 300).collect();
    std::fs::write(dir.join("ids.json"), serde_json::to_string(&ids).unwrap()).unwrap();
    let generate = |budget: &[&str]| {
        let arguments = ["generate", "--ids", "ids.json", "--max-new", "6", "--methods", "snapkv,knorm,h2o"];
        json(dir, &[&arguments[..], budget].concat())["answers"].as_array().unwrap().clone()
    };
    let (shares, entries) = (generate(&["--ratios", "0.5"]), generate(&["--budget", "200"]));
    let names: Vec<&str> = shares.iter().map(|answer| answer["variant"].as_str().unwrap()).collect();
    assert_eq!(names, ["snapkv@0.5", "knorm@0.5", "h2o@0.5"]);
    for (share, entries) in shares.iter().zip(&entries) {
        for field in ["ids", "kept_entries", "bytes"] {
            assert_eq!(share[field], entries[field], "{field} of {}", share["variant"]);
        }
    }
    // Four entries hold no window of 32: they are the last four, whatever the method.
    let (code, stdout, stderr) = run(
        dir,
        &[
            "generate",
            "--ids",
            "ids.json",
            "--max-new",
            "1",
            "--methods",
            "snapkv",
            "--ratios",
            "0.01",
            "--json",
        ],
    );
    assert_eq!(code, 0, "{stderr}");
    let answer: Value = serde_json::from_str(&stdout).unwrap();
    assert!(answer["answers"][0]["kept_entries"].to_string().starts_with("[[4,4"), "{answer}");
    assert!(
        stderr.contains("`snapkv@0.01` keeps the last 4 of 401 entries: its window of 32 tokens"),
        "{stderr}"
    );
}

#[test]
fn wrong_shares_and_budgets_say_what_was_meant() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let mut wrong = Vec::new();
    for (arguments, message) in [
        (&["--ratios", "0"][..], "`0` is not above 0 and at most 1"),
        (&["--ratios", "1.5"], "`1.5` is not above 0 and at most 1"),
        (&["--ratios", "-0.5"], "`-0.5` is not above 0 and at most 1"),
        (&["--ratios", "NaN"], "`NaN` is not above 0 and at most 1"),
        (&["--ratios", "half"], "`half` is not a number"),
        (&["--ratios", "0.3333333"], "more than six decimals"),
        (&["--ratios", "25%"], "write 0.25"),
        (&["--ratios", "128"], "`--budgets 128`"),
        (&["--ratios", "0.5,0.25,0.50"], "0.5 is listed twice"),
        (&["--ratios", "0.5", "--budgets", "64"], "cannot be used with"),
        (&["--ratios", "0.5", "--budget", "64"], "cannot be used with"),
        (&["--budgets", "0.1"], "`--ratios 0.1`"),
        (&["--budget", "10%"], "`--ratios 0.1`"),
        (&["--budgets", "64,12.5 %"], "`--ratios 0.125`"),
        (&["--budget", "64k"], "a whole number without a unit"),
        (&["--budget", "64, 128"], "`--budgets 64,128`"),
        (&["--budgets", "64 128"], "`--budgets 64,128`"),
        (&["--budget", "many"], "entries per KV head"),
    ] {
        let (code, _, stderr) = run(dir, &[&["run", "longbench", "--dry-run"], arguments].concat());
        if code != 2 || !stderr.contains(message) {
            wrong.push(format!("{arguments:?}: exit {code}, expected `{message}`\n{stderr}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Blanks around numbers are no error, and a file's budgets give way to the command line's shares.
    let dry = |arguments: &[&str]| {
        json(dir, &[arguments, &["--dry-run", "--limit", "1", "--methods", "snapkv"]].concat())
    };
    assert_eq!(dry(&["run", "longbench", "--budgets", "64, 128"])["answers"], 2 * 12);
    std::fs::write(dir.join("sweep.toml"), "suite = \"longbench\"\nbudgets = [64, 128, 256]\n").unwrap();
    assert_eq!(dry(&["run", "--config", "sweep.toml", "--ratios", "0.5"])["answers"], 12);
    std::fs::write(dir.join("shares.toml"), "suite = \"longbench\"\nratios = [0.25, 0.5, 1.0]\n").unwrap();
    assert_eq!(dry(&["run", "--config", "shares.toml"])["answers"], 3 * 12);
    assert_eq!(dry(&["run", "--config", "shares.toml", "--budget", "64"])["answers"], 12);
}

/// Two documents with three questions each, and one alone.
#[test]
fn a_dry_run_counts_prefills_and_what_sharing_saves() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    std::fs::create_dir(dir.join("rows")).unwrap();
    let row = |(document, question): (usize, usize)| {
        let context: String =
            (0..40).map(|i| format!("Box {i} of room {document} holds {} stones. ", i % 13)).collect();
        serde_json::json!({
            "input": format!("How many stones does box {question} hold?"), "context": context, "answers": ["1"],
            "length": 240, "dataset": "qasper", "language": "en", "all_classes": null,
            "_id": format!("{document}-{question}"),
        })
        .to_string()
    };
    let rows = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 1)].map(row);
    std::fs::write(dir.join("rows/qasper.jsonl"), rows.join("\n")).unwrap();
    let sweep = ["run", "longbench", "--split", "full", "--data", "rows", "--datasets", "qasper"];
    let methods = ["--methods", "full,snapkv,keydiff", "--ratios", "0.01,0.5", "--dry-run"];
    let of = |view: &str| json(dir, &[&sweep[..], &methods, &["--question", view]].concat());
    let (seen, unseen) = (of("seen"), of("unseen"));
    assert_eq!(
        (&seen["prompts"], &seen["prefills"], &seen["prefills_unshared"]),
        (&7.into(), &7.into(), &35.into())
    );
    assert_eq!(
        (&unseen["prompts"], &unseen["prefills"], &unseen["prefills_unshared"]),
        (&7.into(), &3.into(), &15.into())
    );
    assert_eq!(seen["prompt_tokens"], unseen["prompt_tokens"]);
    let seconds = |load: &Value| load["prefill_shared"]["flops"].as_f64().unwrap();
    assert!(seconds(&unseen) < 0.45 * seconds(&seen), "{} of {}", seconds(&unseen), seconds(&seen));
    let assumed = seen["assumed"].to_string();
    assert!(assumed.contains("`snapkv@0.01` keeps the last entries of 7 of 7 prompts"), "{assumed}");
    assert!(!assumed.contains("keydiff@") && !assumed.contains("snapkv@0.5"), "{assumed}");
    let text = succeed(dir, &[&sweep[..], &methods, &["--question", "unseen"]].concat());
    let line = text.lines().find(|line| line.starts_with("prefills")).unwrap();
    assert!(line.contains(" 3  15 with a pass for each method and budget"), "{text}");
}
