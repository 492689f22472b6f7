//! Invariants of ARCHITECTURE.md that only the whole program can break.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{NEEDLE, kvsweep, outcome, succeed};

fn records(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("records.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What every variant answered, scored and kept, by example.
fn answers(run: &Path) -> BTreeMap<String, Value> {
    let of = |record: Value| {
        let answer = json!([record["info"]["prompt_sha256"], record["variants"]]);
        (record["key"]["example"].as_str().unwrap().to_owned(), answer)
    };
    records(run).into_iter().map(of).collect()
}

#[test]
fn predictions_do_not_depend_on_threads_batches_shards_or_order() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let sweep = |out: &str, threads: &str, more: &[&str]| {
        let mut command = kvsweep(dir);
        command.env("RAYON_NUM_THREADS", threads).args(NEEDLE).args(more).args(["--out", out]);
        let (code, _, stderr) = outcome(&mut command);
        assert_eq!(code, 0, "{out}: {stderr}");
        answers(&dir.join(out))
    };
    let whole = sweep("whole", "1", &[]);
    assert_eq!(whole.len(), 11);
    assert_eq!(sweep("threads", "3", &[]), whole);
    // Room for one prompt: every example decodes alone.
    assert_eq!(sweep("alone", "2", &["--memory", "0.003"]), whole);
    let mut parts = sweep("second", "2", &["--shard", "2/2"]);
    assert!((1..11).contains(&parts.len()));
    parts.extend(sweep("first", "1", &["--shard", "1/2"]));
    assert_eq!(parts, whole);
    let depths = NEEDLE.iter().position(|argument| argument.starts_with("0,10")).unwrap();
    let turned: Vec<&str> = NEEDLE[depths].rsplit(',').collect();
    let turned = turned.join(",");
    let mut arguments = NEEDLE.to_vec();
    arguments[depths] = &turned;
    arguments.extend(["--out", "turned"]);
    succeed(dir, &arguments);
    assert_eq!(answers(&dir.join("turned")), whole);
}

#[test]
fn every_number_of_a_table_is_a_mean_of_records_and_the_run_says_what_made_them() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    // Two lengths and a window that loses needles: means that are neither 0 nor 100.
    let sweep =
        ["run", "needle", "--lengths", "256,512", "--depths", "0,30,60,100", "--methods", "full,snapkv"];
    succeed(dir, &[&sweep[..], &["--budget", "64", "--param", "snapkv.window=60", "--out", "run"]].concat());
    let table: Value = serde_json::from_str(&succeed(dir, &["table", "run", "--format", "json"])).unwrap();
    let records = records(&dir.join("run"));
    let mut fractions = 0;
    for row in table["table"]["rows"].as_array().unwrap() {
        let score = |record: &Value| {
            let variants = record["variants"].as_array().unwrap();
            let of = |v: &&Value| {
                v["variant"]["method"] == row["method"] && v["variant"]["budget"] == row["budget"]
            };
            variants.iter().find(of).unwrap()["score"].as_f64().unwrap()
        };
        for (place, length) in [256, 512].into_iter().enumerate() {
            let of = |record: &&Value| record["info"]["needle"]["length"] == length;
            let scores: Vec<f64> = records.iter().filter(of).map(score).collect();
            assert_eq!(scores.len(), 4);
            let mean = 100.0 * scores.iter().sum::<f64>() / 4.0;
            let printed = row["cells"][place]["score"].as_f64().unwrap();
            assert!((printed - mean).abs() < 1e-9, "{row}: {mean}");
            fractions += usize::from(mean > 0.0 && mean < 100.0);
        }
    }
    assert!(fractions > 0, "no mean that could be wrong: {table}");

    let weights: Value =
        serde_json::from_str(&succeed(dir, &["generate", "--prompt", "x", "--max-new", "1", "--json"]))
            .unwrap();
    let manifest = std::fs::read_to_string(dir.join("run/manifest.json")).unwrap();
    for made_by in [
        weights["weights_sha256"].as_str().unwrap(),
        env!("KVSWEEP_COMMIT"),
        "\"kvsweep-1\"",
        "\"window\": \"60\"",
        "\"sha256\": \"",
    ] {
        assert!(manifest.contains(made_by), "{made_by}: {manifest}");
    }
}

#[test]
fn a_method_cannot_see_the_answer() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let context = "The old mill by the river grinds corn. ".repeat(30);
    let run = |answer: &str| {
        let row = json!({"input": "What does the mill grind?", "context": context, "answers": [answer],
            "length": 240, "dataset": "qasper", "language": "en", "all_classes": null, "_id": "1"});
        std::fs::create_dir_all(dir.join(answer)).unwrap();
        std::fs::write(dir.join(answer).join("qasper.jsonl"), format!("{row}\n")).unwrap();
        let out = format!("run-{answer}");
        let sweep = ["run", "longbench", "--split", "full", "--data", answer, "--datasets", "qasper"];
        succeed(dir, &[&sweep[..], &["--budget", "64", "--out", &out]].concat());
        let record = records(&dir.join(out)).remove(0);
        let variants = record["variants"].as_array().unwrap().iter();
        let seen: Vec<Value> =
            variants.map(|v| json!([v["variant"], v["prediction"], v["selection"]])).collect();
        (record["info"]["answers"].clone(), seen)
    };
    let ((corn, with_corn), (stone, with_stone)) = (run("corn"), run("stone"));
    assert_ne!(corn, stone);
    assert_eq!(with_corn.len(), kvsweep_methods::registry::HEADLINE.len());
    assert_eq!(with_corn, with_stone);
}

/// A command whose every way to the network leads to `address`.
fn towards(address: &str, dir: &Path) -> Command {
    let mut command = kvsweep(dir);
    for way in
        ["HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"]
    {
        command.env(way, address);
    }
    command
}

#[test]
fn nothing_of_the_network_is_used_for_the_embedded_model() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let network = TcpListener::bind("127.0.0.1:0").unwrap();
    network.set_nonblocking(true).unwrap();
    let address = format!("http://{}", network.local_addr().unwrap());
    let whole: [&[&str]; 8] = [
        &[NEEDLE, &["--out", "run"]].concat(),
        &["table", "run"],
        &["heatmap", "run", "-o", "map.png"],
        &["report", "run", "-o", "page.html"],
        &["compare", "run", "run"],
        &["explain", "run", "needle#256-0"],
        &[
            "calibrate",
            "heads",
            "--kind",
            "semantic",
            "--lengths",
            "1:200..200",
            "--depths",
            "2",
            "-o",
            "c.json",
        ],
        &["doctor"],
    ];
    for arguments in whole {
        let (code, _, stderr) = outcome(towards(&address, dir).args(arguments));
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        let asked = network.accept().map(|(_, from)| from);
        assert!(asked.is_err(), "{arguments:?} used the network");
    }
    // The way is open: what needs the hub asks there.
    let mut fetch = towards(&address, dir);
    fetch.args(["fetch", "model", "test/model"]).stderr(std::process::Stdio::null());
    let mut fetch = fetch.spawn().unwrap();
    let started = Instant::now();
    while network.accept().is_err() {
        assert!(started.elapsed() < Duration::from_secs(30), "`fetch` did not ask the hub");
        std::thread::sleep(Duration::from_millis(10));
    }
    fetch.kill().unwrap();
    fetch.wait().unwrap();
}

/// The same where there is no network at all, which only some systems let a test arrange.
#[cfg(target_os = "linux")]
#[test]
fn a_whole_run_works_without_a_network_device() {
    let apart = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", program]);
        command
    };
    if !apart("true").status().is_ok_and(|status| status.success()) {
        println!("skipped: this system lets no test leave the network");
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let mut command = apart(env!("CARGO_BIN_EXE_kvsweep"));
    command.current_dir(temporary.path()).args(NEEDLE).args(["--out", "run"]);
    let (code, stdout, stderr) = outcome(&mut command);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("snapkv"), "{stdout}");
}
