//! Runs the real program in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A `kvsweep` command that starts in `dir` and sees no hub, no colours and no terminal.
pub fn kvsweep(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvsweep"));
    command.current_dir(dir).env("HF_HOME", dir.join("hub")).env("NO_COLOR", "1");
    for outside in ["HF_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN"] {
        command.env_remove(outside);
    }
    command
}

/// A sweep of eleven prompts of 256 tokens: a second of work, and enough examples for a verdict.
pub const NEEDLE: &[&str] = &[
    "run",
    "needle",
    "--lengths",
    "256",
    "--depths",
    "0,10,20,30,40,50,60,70,80,90,100",
    "--methods",
    "full,snapkv",
    "--budget",
    "64",
];

/// Runs the program and gives its exit code, stdout and stderr.
pub fn run(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    outcome(kvsweep(dir).args(arguments))
}

/// Runs a command and gives its exit code, stdout and stderr, in which no control character and no override of the
/// reading order may be, whatever the data.
pub fn outcome(command: &mut Command) -> (i32, String, String) {
    let output: Output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    let obeyed =
        |c: &char| c.is_control() && !matches!(c, '\n' | '\t') || ('\u{202a}'..='\u{202e}').contains(c);
    let found: Vec<char> = stdout.chars().chain(stderr.chars()).filter(obeyed).collect();
    assert!(found.is_empty(), "{command:?} printed {found:?}");
    (output.status.code().unwrap_or(-1), stdout, stderr)
}

/// Runs the program and expects exit code 0; gives stdout.
pub fn succeed(dir: &Path, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = run(dir, arguments);
    assert_eq!(code, 0, "{arguments:?}\n{stdout}\n{stderr}");
    stdout
}

/// Data that is not part of this repository. `None`, with a word about it, where it is absent; in CI that fails.
pub fn shared(what: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(what);
    if path.exists() {
        return Some(path.canonicalize().unwrap());
    }
    assert!(std::env::var_os("CI").is_none(), "{} must be present in CI", path.display());
    println!("skipped: {} is not present", path.display());
    None
}

/// The embedded model's files in a folder.
pub fn tiny_in(folder: &Path) {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/assets/tiny");
    std::fs::create_dir_all(folder).unwrap();
    for entry in std::fs::read_dir(assets).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
    }
}

/// A row of a LongBench data set with a context of so many words.
pub fn row(dataset: &str, id: &str, words: usize, answer: &str) -> String {
    let context: Vec<String> = (0..words).map(|word| format!("word{}", word % 90)).collect();
    let row = serde_json::json!({
        "input": "Which word is meant?", "context": context.join(" "), "answers": [answer], "length": words,
        "dataset": dataset, "language": "en", "all_classes": null, "_id": id,
    });
    format!("{row}\n")
}

/// SmolLM2-135M-Instruct, where `scripts/real_models.sh` put it; `None`, with a word about it, where it is absent. Where the
/// folder is named, as CI does, that fails.
pub fn real_model() -> Option<PathBuf> {
    let named = std::env::var_os("KVSWEEP_REAL_MODELS").map(PathBuf::from);
    let folder =
        named.clone().unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/models"));
    let model = std::path::absolute(folder.join("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    if model.is_file() {
        return Some(model);
    }
    assert!(named.is_none(), "{} is not there", model.display());
    println!("skipped: {} not present (scripts/real_models.sh)", model.display());
    None
}
