//! Runs against runs and against stored commits: the gate, the baseline store, the history.

use std::path::Path;
use std::process::Command;

use kvsweep_results::baseline::BaselineStore;
use kvsweep_results::{Run, RunDir};
use serde_json::Value;

use crate::common::{NEEDLE, run, succeed};

/// The sweep with another window of SnapKV.
fn sweep(dir: &Path, window: &str, out: &str) {
    let window = format!("snapkv.window={window}");
    succeed(dir, &[NEEDLE, &["--param", &window, "--out", out]].concat());
}

/// A repository with two commits, the older first.
fn repository(dir: &Path) -> [String; 2] {
    let git = |day: &str, arguments: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(dir).args(["-c", "user.name=t", "-c", "user.email=t@localhost"]).args(arguments);
        let done = git.env("GIT_COMMITTER_DATE", format!("2026-01-{day}T00:00:00Z")).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    };
    git("01", &["init", "-q"]);
    ["01", "02"].map(|day| {
        git(day, &["commit", "-q", "--allow-empty", "-m", day]);
        git(day, &["rev-parse", "HEAD"])
    })
}

/// Writes the records of the run `from` as a clean program would have under the settings of the run `like`: what a
/// change of the code does, which no manifest tells.
fn disguise(from: &Path, like: &Path, to: &Path) -> Run {
    let mut manifest = Run::load(like).unwrap().manifest;
    manifest.program.commit = "0".repeat(40);
    let keys = manifest.variants();
    let mut written = RunDir::create_or_continue(to, &manifest).unwrap();
    for mut record in Run::load(from).unwrap().examples {
        for (variant, key) in record.variants.iter_mut().zip(&keys) {
            variant.variant = key.clone();
        }
        written.append(&record, None).unwrap();
    }
    Run::load(to).unwrap()
}

fn store(dir: &Path) -> BaselineStore {
    BaselineStore { path: dir.join("baselines"), remedy: String::new() }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn the_gate_exits_three_on_a_significant_loss_and_on_nothing_else() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    sweep(dir, "32", "base");
    // One entry beside the window: SnapKV loses most needles.
    sweep(dir, "63", "worse");
    let found = json(&succeed(dir, &["compare", "base", "worse", "--json"]));
    let of = |variant: &str| -> Vec<&Value> {
        let changes = found["comparison"]["changes"].as_array().unwrap().iter();
        changes.filter(|change| change["variant"] == variant).map(|change| &change["change"]).collect()
    };
    assert!(of("snapkv/64").iter().all(|change| *change == "worse"), "{found}");
    assert!(of("full").iter().all(|change| *change == "unchanged"), "{found}");
    for (pair, gate, expected) in [
        (["base", "worse"], false, 0),
        (["base", "worse"], true, 3),
        (["worse", "base"], true, 0),
        (["base", "base"], true, 0),
    ] {
        let gate: &[&str] = if gate { &["--gate"] } else { &[] };
        let (code, stdout, stderr) = run(dir, &[&["compare"], &pair[..], gate].concat());
        assert_eq!(code, expected, "{pair:?} {gate:?}\n{stdout}{stderr}");
        assert_eq!(stderr.contains("significant loss"), expected == 3, "{stderr}");
    }
}

#[test]
fn a_silent_change_of_the_window_shows_between_commits() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let commits = repository(dir);
    sweep(dir, "32", "before");
    sweep(dir, "31", "after");
    for (from, commit) in ["before", "after"].into_iter().zip(&commits) {
        let silent = disguise(&dir.join(from), &dir.join("before"), &dir.join(format!("silent-{from}")));
        store(dir).put(&silent, commit).unwrap();
    }
    let found = json(&succeed(dir, &["compare", "HEAD~1", "HEAD", "--json"]));
    assert!(!found["comparison"]["notes"].to_string().contains("window"), "no setting tells: {found}");
    let moved = |variant: &str| {
        let overlaps = found["comparison"]["overlaps"].as_array().unwrap().iter();
        overlaps.filter(|o| o["variant"] == variant && o["identical"].as_f64() < Some(1.0)).count()
    };
    assert_eq!((moved("full"), moved("snapkv/64")), (0, 8), "every layer of the eight: {found}");
    let text = succeed(dir, &["compare", "HEAD~1", "HEAD"]);
    assert!(text.contains("What is kept has changed"), "{text}");
    let same = succeed(dir, &["compare", "HEAD", "HEAD"]);
    assert!(same.contains("every stored selection is the same in every layer"), "{same}");

    let (code, _, stderr) = run(dir, &["compare", "HEAD", "nosuch"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("nosuch"), "{stderr}");
}

#[test]
fn stored_baselines_are_compared_with_and_shown_over_commits() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let [older, newer] = repository(dir);
    let (code, _, stderr) = run(dir, &["history"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("--record-baseline"), "{stderr}");

    // What a changed tree computed is no commit's result.
    let record = [NEEDLE, &["--param", "snapkv.window=32", "--out", "run", "--record-baseline"]].concat();
    let (code, stdout, stderr) = run(dir, &record);
    assert!(stdout.contains("snapkv"), "the table is printed in any case: {stdout}");
    let dirty = env!("KVSWEEP_COMMIT").ends_with("-dirty");
    assert_eq!(code, i32::from(dirty), "{stderr}");
    if dirty {
        assert!(stderr.contains("changed tree"), "{stderr}");
        assert!(store(dir).list().unwrap().is_empty(), "nothing is stored");
    } else {
        let stored: Vec<_> = store(dir).list().unwrap().into_iter().map(|key| key.commit).collect();
        assert_eq!(stored, std::slice::from_ref(&newer));
    }
    let base = disguise(&dir.join("run"), &dir.join("run"), &dir.join("clean"));
    for commit in [&older, &newer] {
        store(dir).put(&base, commit).unwrap();
    }

    // `stored` is the newest commit with the head's configuration.
    let text = succeed(dir, &["compare", "stored", "run", "--gate"]);
    assert!(text.contains(&newer[..12]) && !text.contains(&older[..12]), "{text}");
    sweep(dir, "63", "other");
    disguise(&dir.join("other"), &dir.join("run"), &dir.join("regressed"));
    let (code, stdout, stderr) = run(dir, &["compare", "stored", "regressed", "--gate"]);
    assert_eq!(code, 3, "{stdout}{stderr}");
    let (code, _, stderr) = run(dir, &["compare", "stored", "other"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("no run of"), "{stderr}");

    let histories = json(&succeed(dir, &["history", "--json"]));
    let [history] = histories.as_array().unwrap().as_slice() else { panic!("{histories}") };
    let commits: Vec<&Value> =
        history["points"].as_array().unwrap().iter().map(|point| &point["commit"]).collect();
    assert_eq!(commits, [&older, &newer], "oldest first");
    let text = succeed(dir, &["history", "-o", "history.svg"]);
    assert!(text.contains("snapkv") && text.contains("2026-01-01") && text.contains("2026-01-02"), "{text}");
    let picture = std::fs::read_to_string(dir.join("history.svg")).unwrap();
    assert!(picture.contains(&older[..7]) && picture.contains(&newer[..7]), "{picture}");
}
