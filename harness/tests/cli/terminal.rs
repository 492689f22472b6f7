//! What is printed on a terminal of 80 columns. `script` of util-linux gives the program one.

#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{kvsweep, succeed};

/// What a terminal of so many columns shows of a command, or none, with a word about it, where there is no `script`.
fn on_a_terminal(dir: &Path, columns: u32, arguments: &[&str]) -> Option<String> {
    let program = kvsweep(dir);
    let typed = format!(
        "stty rows 24 cols {columns} && '{}' {}",
        program.get_program().to_str().unwrap(),
        arguments.join(" ")
    );
    let mut script = Command::new("script");
    script.args(["-qec", &typed, "/dev/null"]).current_dir(dir).stdin(Stdio::null());
    script.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let Ok(output) = script.output() else {
        assert!(std::env::var_os("CI").is_none(), "`script` must be present in CI");
        println!("skipped: there is no `script` to make a terminal");
        return None;
    };
    let text = String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n");
    assert!(output.status.success(), "{typed}: {text}");
    Some(text)
}

#[test]
fn tables_fit_the_terminal_and_are_whole_elsewhere() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    let sweep =
        ["run", "longbench", "--limit", "1", "--methods", "full,streamingllm,snapkv", "--budgets", "64,128"];
    let sweep = [&sweep[..], &["--out", "out"]].concat();
    let whole = succeed(dir, &sweep);
    let longest = whole.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(longest > 200 && whole.contains("passage_retrieval") && whole.contains("stored per"), "{whole}");
    assert_eq!(succeed(dir, &["table", "out"]), whole);

    let table = ["table", "out"];
    let pairs = ["table", "out", "--pairs"];
    for (arguments, wanted) in [
        (&sweep[..], &["Average", "single-doc", "code", "share", "KV held", "--wide also shows"][..]),
        (&table, &["Average", "single-doc", "code", "share", "KV held", "--wide also shows"]),
        (&pairs, &["difference", "95 %", "(Holm)", "verdict"]),
    ] {
        let Some(shown) = on_a_terminal(dir, 80, arguments) else { return };
        let wide: Vec<&str> = shown.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "{arguments:?}: {wide:?}\n{shown}");
        assert!(wanted.iter().all(|part| shown.contains(part)), "{arguments:?}: {shown}");
    }
    assert_eq!(on_a_terminal(dir, 80, &["table", "out", "--wide"]).unwrap(), whole);
    let wider = on_a_terminal(dir, 160, &table).unwrap();
    assert!(wider.contains("people") && wider.matches("budget").count() == 1, "{wider}");
}
