//! A run that is killed at any moment continues to the same records (invariant 1), and shards to the same table
//! (invariant 2).

use std::path::Path;
use std::time::Duration;

use crate::common::{kvsweep, run, succeed};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SWEEP: &[&str] = &[
    "run",
    "longbench",
    "--datasets",
    "mini_people,mini_variables",
    "--limit",
    "5",
    "--methods",
    "full,streamingllm,snapkv",
    "--budget",
    "64",
];

fn sweep_to(out: &str) -> Vec<&str> {
    [SWEEP, &["--out", out]].concat()
}

/// The records in order, without timings and the checksum over them.
fn records(run: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(run.join("records.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["timings"] = serde_json::Value::Null;
            record["checksum"] = serde_json::Value::Null;
            record.to_string()
        })
        .collect()
}

#[test]
fn killed_at_twenty_moments_the_run_ends_with_the_same_records() {
    let dir = tempfile::tempdir().unwrap();
    let started = std::time::Instant::now();
    succeed(dir.path(), &sweep_to("undisturbed"));
    let whole = started.elapsed();
    let mut chance = ChaCha8Rng::seed_from_u64(7);
    let mut killed = 0;
    for _ in 0..20 {
        let mut child = kvsweep(dir.path())
            .args(sweep_to("killed"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(chance.random_range(1..whole.as_millis() as u64)));
        if child.try_wait().unwrap().is_none() {
            killed += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(killed > 0, "the run was over before the first kill");
    succeed(dir.path(), &sweep_to("killed"));
    let expected = records(&dir.path().join("undisturbed"));
    assert_eq!(expected.len(), 10);
    assert_eq!(records(&dir.path().join("killed")), expected);

    // Complete: nothing is computed again, and the file does not change.
    let before = std::fs::read(dir.path().join("killed/records.jsonl")).unwrap();
    succeed(dir.path(), &sweep_to("killed"));
    assert_eq!(std::fs::read(dir.path().join("killed/records.jsonl")).unwrap(), before);

    // Another configuration is refused, with the difference.
    let other = [SWEEP, &["--out", "killed", "--param", "snapkv.kernel=5"]].concat();
    let (code, _, stderr) = run(dir.path(), &other);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("kernel"), "{stderr}");
}

/// A limit on the size of files stands in for a full disk: writing fails in the middle of a record.
#[cfg(unix)]
#[test]
fn a_full_disk_keeps_what_is_finished_and_the_run_continues() {
    let dir = tempfile::tempdir().unwrap();
    succeed(dir.path(), &sweep_to("undisturbed"));
    let expected = records(&dir.path().join("undisturbed"));
    let full = || {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_kvsweep")]);
        let output = command.args(sweep_to("full")).current_dir(dir.path()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for _ in 0..2 {
        let (code, stderr) = full();
        assert_eq!(code, Some(1), "{stderr}");
        let told = ["records.jsonl", "make room", "run the same command again"];
        assert!(told.iter().all(|part| stderr.contains(part)), "{stderr}");
        let kept = records(&dir.path().join("full"));
        assert!((1..10).contains(&kept.len()), "{} records", kept.len());
        assert_eq!(kept, expected[..kept.len()]);
    }
    succeed(dir.path(), &sweep_to("full"));
    assert_eq!(records(&dir.path().join("full")), expected);
}

#[test]
fn shards_merge_to_the_table_of_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    succeed(dir.path(), &[SWEEP, &["--out", "whole"]].concat());
    for shard in ["1/2", "2/2"] {
        succeed(dir.path(), &[SWEEP, &["--shard", shard, "--out", &shard.replace('/', "of")]].concat());
    }
    let whole = succeed(dir.path(), &["table", "whole", "--format", "csv"]);
    assert_eq!(succeed(dir.path(), &["table", "1of2", "2of2", "--format", "csv"]), whole);
}

#[cfg(unix)]
#[test]
fn an_interrupt_keeps_what_is_complete_and_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let child = kvsweep(dir.path())
        .args(["run", "longbench", "--methods", "full", "--out", "interrupted"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The first record shows that the sweep is under way.
    let records_file = dir.path().join("interrupted/records.jsonl");
    while std::fs::metadata(&records_file).map_or(0, |file| file.len()) == 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("run the same command again to continue"), "{stderr}");
    let kept = records(&dir.path().join("interrupted")).len();
    assert!((1..600).contains(&kept), "{kept} records");
}
