//! Remedies are commands that do what they say: each hint that is provoked here is pasted into a shell.

use std::path::Path;
use std::process::Command;

use crate::common::{kvsweep, run, succeed, tiny_in};

/// The commands that a message names.
fn commands(stderr: &str) -> Vec<&str> {
    let quoted = stderr.split('`').skip(1).step_by(2);
    quoted.filter(|text| text.starts_with("kvsweep ")).collect()
}

/// Runs a command line as a person would who copies it; `more` makes it shorter.
fn paste(dir: &Path, line: &str, more: &str) -> String {
    let of_tests = kvsweep(dir);
    let folder = Path::new(of_tests.get_program()).parent().unwrap().to_path_buf();
    let path = std::env::join_paths(
        std::iter::once(folder).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let mut shell = Command::new("sh");
    shell.current_dir(dir).env("PATH", path.unwrap()).env("HF_HOME", dir.join("hub"));
    let output = shell.args(["-c", &format!("{line} {more}")]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line} {more}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Other weights than the embedded ones, so that no calibration is at hand, in a folder whose name needs quotes.
fn uncalibrated(dir: &Path) {
    let model = dir.join("my model");
    tiny_in(&model);
    let weights = model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
}

#[cfg(unix)]
#[test]
fn missing_calibrations_are_made_by_the_commands_that_are_named() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    uncalibrated(dir);
    let sweep = ["run", "longbench", "--split", "mini", "--datasets", "mini_people", "--limit", "1"];
    let model =
        ["--model", "my model", "--methods", "headkv-r2,compresskv", "--budget", "64", "--out", "out"];
    let sweep = [&sweep[..], &model].concat();
    let (code, _, stderr) = run(dir, &sweep);
    assert_eq!(code, 1, "{stderr}");
    let named = commands(&stderr);
    assert_eq!(named.len(), 3, "all that is needed at once: {stderr}");
    for line in named {
        let shorter = if line.contains("heads") { "--lengths 1:256..256 --depths 3" } else { "--limit 1" };
        paste(dir, line, shorter);
    }
    succeed(dir, &sweep);

    // A file of other heads: the remedy is for the model that was named.
    std::fs::write(dir.join("other_retrieval_heads.json"), "{}").unwrap();
    let foreign = [&sweep[..6], &["--model", "my model", "--methods", "headkv-r", "--calibration"]].concat();
    let (code, _, stderr) = run(dir, &[&foreign[..], &["other_retrieval_heads.json"]].concat());
    assert_eq!(code, 1, "{stderr}");
    let expected = "kvsweep calibrate heads --kind retrieval --model 'my model'";
    assert_eq!(commands(&stderr), [expected], "{stderr}");
}

#[cfg(unix)]
#[test]
fn runs_that_share_no_table_are_printed_by_the_command_that_is_named() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    uncalibrated(dir);
    let sweep = ["run", "longbench", "--split", "mini", "--datasets", "mini_people", "--limit", "1"];
    let full = [&sweep[..], &["--methods", "full", "--out"]].concat();
    succeed(dir, &[&full[..], &["a run"]].concat());
    succeed(dir, &[&full[..], &["b", "--model", "my model"]].concat());
    let (code, _, stderr) = run(dir, &["table", "a run", "b"]);
    assert_eq!(code, 1, "{stderr}");
    let [line] = commands(&stderr)[..] else { panic!("{stderr}") };
    let table = paste(dir, line, "");
    assert!(table.contains("my model") && table.contains("tiny"), "{table}");
}

/// A run goes by its model's name; where the model lies, the reader says.
#[test]
fn a_model_that_lies_elsewhere_is_named_to_explain_and_report() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    tiny_in(&dir.join("models/mine"));
    let sweep = ["run", "longbench", "--split", "mini", "--datasets", "mini_people", "--limit", "1"];
    let out = ["--methods", "full,snapkv", "--budget", "64", "--model", "models/mine", "--out", "run"];
    succeed(dir, &[&sweep[..], &out].concat());
    let (code, _, stderr) = run(dir, &["explain", "run", "mini_people"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("hint: `--model` names the run's model"), "{stderr}");
    let explained = succeed(dir, &["explain", "run", "mini_people", "--model", "models/mine"]);
    assert!(explained.contains("<|user|>"), "{explained}");
    let page = |more: &[&str]| {
        let (code, _, stderr) = run(dir, &[&["report", "run", "-o", "page.html"], more].concat());
        assert_eq!(code, 0, "{stderr}");
        (std::fs::read_to_string(dir.join("page.html")).unwrap().contains(r#""pieces":["#), stderr)
    };
    let (tokens, stderr) = page(&[]);
    assert!(!tokens && stderr.contains("shown without its prompts' tokens"), "{stderr}");
    assert!(page(&["--model", "models/mine"]).0);
    // Another model's tokenizer would make other prompts.
    let tokenizer = dir.join("models/other/tokenizer.json");
    tiny_in(&dir.join("models/other"));
    let text = std::fs::read_to_string(&tokenizer).unwrap() + "\n";
    std::fs::write(tokenizer, text).unwrap();
    let (code, _, stderr) = run(dir, &["explain", "run", "mini_people", "--model", "models/other"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("another tokenizer than the run's model `mine`"), "{stderr}");
}
