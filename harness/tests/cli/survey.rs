//! What is known before the first prompt is read is said before it, and by `--dry-run`.

use std::path::Path;

use crate::common::{row, run};

fn write(dir: &Path, dataset: &str, rows: &str) {
    std::fs::write(dir.join(format!("{dataset}.jsonl")), rows).unwrap();
}

fn records(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("out/records.jsonl")).map_or(0, |text| text.lines().count())
}

const SWEEP: &[&str] = &["run", "longbench", "--data", ".", "--methods", "full"];

#[test]
fn rows_that_no_answer_can_be_graded_against_are_named_before_the_first_prompt() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    write(dir, "qasper", &row("qasper", "a", 30, "word1"));
    let retrieval =
        row("passage_retrieval_en", "b", 30, "none") + &row("passage_retrieval_en", "c", 30, "Paragraph 1");
    write(dir, "passage_retrieval_en", &retrieval);
    let sweep = [SWEEP, &["--datasets", "qasper,passage_retrieval_en"]].concat();
    let (code, stdout, stderr) = run(dir, &[&sweep[..], &["--dry-run"]].concat());
    assert_eq!((code, stderr.matches("skipped: cannot score").count()), (0, 1), "{stderr}");
    let prompts = stdout.lines().find_map(|line| line.strip_prefix("prompts "));
    assert_eq!(prompts.and_then(|rest| rest.split_whitespace().next()), Some("2"), "{stdout}");
    // Once, though the sweep comes to it later; the first data set is run before.
    let (code, _, stderr) = run(dir, &[&sweep[..], &["--out", "out"]].concat());
    assert_eq!((code, stderr.matches("skipped: cannot score").count()), (0, 1), "{stderr}");
    assert_eq!(records(dir), 3);
}

/// The template refuses a row of the second data set.
#[test]
fn a_row_that_cannot_be_asked_costs_no_prompt_before_it() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    write(dir, "qasper", &row("qasper", "a", 30, "word1"));
    write(dir, "hotpotqa", &row("hotpotqa", "b", 30, "word1").replace("Which word", "Which FORBIDDEN word"));
    crate::common::tiny_in(&dir.join("strict"));
    let template = "{% if 'FORBIDDEN' in messages[0].content %}{{ raise_exception('refused') }}{% endif %}\
                    {{ messages[0].content }}";
    std::fs::write(dir.join("strict/chat_template.jinja"), template).unwrap();
    let sweep = [SWEEP, &["--datasets", "qasper,hotpotqa", "--model", "strict"]].concat();
    for more in [&["--dry-run"][..], &["--out", "out"]] {
        let (code, _, stderr) = run(dir, &[&sweep[..], more].concat());
        assert_eq!((code, records(dir)), (1, 0), "{stderr}");
        assert!(stderr.contains("example `hotpotqa#0-b`") && stderr.contains("refused"), "{stderr}");
    }
}

/// What needs more memory than may be taken is the last of the rows.
#[test]
fn the_largest_prompt_is_held_against_the_memory_before_the_first_is_read() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    write(dir, "qasper", &(row("qasper", "short", 20, "word1") + &row("qasper", "long", 900, "word1")));
    let sweep = [SWEEP, &["--out", "out", "--memory"]].concat();
    let (code, _, stderr) = run(dir, &[&sweep[..], &["0.003"]].concat());
    assert_eq!((code, records(dir)), (1, 0), "{stderr}");
    assert!(stderr.contains("example `qasper#1-long`: a prompt of"), "{stderr}");
    let enough = stderr.split("`--memory ").nth(1).unwrap().split('`').next().unwrap();
    let (code, _, stderr) = run(dir, &[&sweep[..], &[enough]].concat());
    assert_eq!((code, records(dir)), (0, 2), "the hint does: {stderr}");
}
