//! A part of a data set: which rows it has, and where that is said.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::common::{row, succeed};

/// The ids of the rows that a run asked.
fn asked(run: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(run.join("records.jsonl")).unwrap();
    text.lines()
        .map(|line| {
            let record: Value = serde_json::from_str(line).unwrap();
            record["key"]["example"].as_str().unwrap().rsplit_once('-').unwrap().1.to_owned()
        })
        .collect()
}

/// A file that is sorted by length, as some are: its first rows are no sample.
#[test]
fn a_limit_spreads_over_the_lengths_of_a_file_and_says_so() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let rows: String = (1..=8).map(|n| row("qasper", &format!("w{n}"), 20 * n, "word1")).collect();
    std::fs::write(dir.join("qasper.jsonl"), rows).unwrap();
    let run = |limit: &str, more: &[&str]| {
        let out = format!("{limit}{}", more.concat().replace('/', "of"));
        let sweep = ["run", "longbench", "--data", ".", "--methods", "full", "--limit", limit, "--out", &out];
        let table = succeed(dir, &[&sweep[..], more].concat());
        (asked(&dir.join(&out)), table)
    };
    let ids = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect::<BTreeSet<_>>();
    let (two, table) = run("2", &[]);
    assert_eq!(two, ids(&["w3", "w5"]));
    assert!(table.contains("partial: 2 rows of each data set, spread over their lengths"), "{table}");
    let (four, _) = run("4", &[]);
    assert_eq!(four, ids(&["w2", "w3", "w5", "w7"]));
    assert!(two.is_subset(&four), "a larger part holds the smaller one");
    assert_eq!(run("9", &[]).0.len(), 8);

    // Its parts are as large as those of a whole run, and the records name the file's rows.
    let (first, second) = (run("4", &["--shard", "1/2"]).0, run("4", &["--shard", "2/2"]).0);
    assert_eq!((first.len(), second.len()), (2, 2));
    assert_eq!(first.union(&second).cloned().collect::<BTreeSet<_>>(), four);
    let records = std::fs::read_to_string(dir.join("2/records.jsonl")).unwrap();
    let numbers: Vec<u64> = records
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["info"]["row"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [2, 4]);
    // The first of them, not of the file, keep their positions; an example is explained from its key.
    let key = serde_json::from_str::<Value>(records.lines().next().unwrap()).unwrap();
    let explained = succeed(dir, &["explain", "2", key["key"]["example"].as_str().unwrap(), "--data", "."]);
    assert!(explained.contains("word59"), "{explained}");
    assert_eq!(std::fs::read_dir(dir.join("2/kept")).unwrap().count(), 2);
    // The two runs have rows in common, which are the same.
    let both = succeed(dir, &["table", "2", "4"]);
    assert!(both.contains("qasper"), "{both}");

    let manifest = std::fs::read_to_string(dir.join("2/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["settings"]["limit-takes"], "rows spread over their lengths");
}

/// The mini rows come in turn of all lengths, so the first ones are a sample; stored runs are of them.
#[test]
fn a_limit_of_the_mini_split_takes_the_first_rows() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let sweep = ["run", "longbench", "--datasets", "mini_people", "--methods", "full", "--limit", "2"];
    let table = succeed(dir, &[&sweep[..], &["--out", "run"]].concat());
    assert!(table.contains("partial: first 2 rows of each data set"), "{table}");
    assert!(!std::fs::read_to_string(dir.join("run/manifest.json")).unwrap().contains("limit-takes"));
}
