//! What the documents name: files that exist, and commands that the program takes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::common::succeed;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every document of the repository: its folder below the root, its name and its text.
fn documents() -> Vec<(PathBuf, String, String)> {
    let mut found = Vec::new();
    for folder in ["", "docs", "golden/kvpress", "golden/methods", "golden/metrics", "engine/assets"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "md") {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                found.push((PathBuf::from(folder), name, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(found.len() > 10, "{}", found.len());
    found
}

/// The parts of a text between two marks.
fn between<'a>(text: &'a str, open: &str, close: char) -> Vec<&'a str> {
    text.split(open).skip(1).filter_map(|rest| rest.split_once(close)).map(|(part, _)| part).collect()
}

/// The code of a document: spans within lines, and the lines of blocks.
fn code(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (index, part) in text.split("```").enumerate() {
        if index % 2 == 0 {
            found.extend(part.split('`').skip(1).step_by(2));
        } else {
            found.extend(part.lines().skip(1));
        }
    }
    found
}

#[test]
fn links_and_paths_lead_to_files() {
    // Folders that a path in a document may begin with.
    const FOLDERS: [&str; 14] = [
        ".ci",
        "baselines",
        "docs",
        "emulator",
        "engine",
        "golden",
        "harness",
        "methods",
        "plots",
        "results",
        "scripts",
        "tasks",
        "training",
        ".cargo",
    ];
    // What a reader is told to make.
    const TO_MAKE: [&str; 2] = ["methods/src/method/yours.rs", "methods/src/method/snapsink.rs"];
    let (mut links, mut paths) = (0, 0);
    for (folder, name, text) in documents() {
        for link in between(&text, "](", ')').into_iter().chain(between(&text, "src=\"", '"')) {
            let file = link.split('#').next().unwrap();
            if !file.is_empty() && !file.starts_with("http") {
                links += 1;
                assert!(root().join(&folder).join(file).exists(), "{name} links to `{file}`");
            }
        }
        for span in code(&text) {
            let path = span.split(':').next().unwrap();
            let is_path = path.split_once('/').is_some_and(|(first, _)| FOLDERS.contains(&first))
                && !path.contains(|c: char| c.is_whitespace() || "<*{…".contains(c));
            if is_path && !TO_MAKE.contains(&path) {
                paths += 1;
                assert!(root().join(path).exists(), "{name} names `{path}`");
            } else if path.contains('/') && path.ends_with(".rs") && !path.contains(['<', ' ']) && !is_path {
                // `cpu/product.rs`: below some crate's sources.
                let below = FOLDERS.iter().any(|room| root().join(room).join("src").join(path).exists());
                assert!(below, "{name} names `{path}`, which no crate has");
            }
        }
    }
    assert!(links > 20 && paths > 40, "{links} links, {paths} paths");
}

/// The words of a command after `kvsweep`, up to where a shell would end it.
fn command(code: &str) -> Option<Vec<&str>> {
    let code = code.trim_start();
    let rest = code.strip_prefix("cargo ").unwrap_or(code).strip_prefix("kvsweep ")?;
    Some(rest.split_whitespace().take_while(|word| !["#", "|", "&&", ">", "2>"].contains(word)).collect())
}

#[test]
fn commands_are_those_of_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let overview = succeed(dir.path(), &["--help"]);
    let subcommands: BTreeSet<&str> = overview
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty() && *name != "help")
        .collect();
    assert!(subcommands.contains("run"), "{overview}");
    let help: BTreeMap<&str, String> =
        subcommands.iter().map(|name| (*name, succeed(dir.path(), &[name, "--help"]))).collect();
    let justfile = std::fs::read_to_string(root().join("Justfile")).unwrap();
    let mut checked = 0;
    for (_, name, text) in documents() {
        for span in code(&text) {
            if let Some(verb) = span.strip_prefix("just ").and_then(|rest| rest.split_whitespace().next()) {
                let known = justfile.lines().any(|line| line.split([' ', ':']).next() == Some(verb));
                assert!(known, "{name}: the Justfile has no `{verb}`");
            }
            let Some(words) = command(span) else { continue };
            // `heads\|layers` in a table is two words; what is no word stands for one.
            let Some(first) = words.first().filter(|first| first.chars().all(|c| c.is_ascii_lowercase()))
            else {
                continue;
            };
            let Some(help) = help.get(first) else { panic!("{name}: no command `kvsweep {first}`") };
            for word in &words[1..] {
                let flag = word.split('=').next().unwrap().trim_end_matches([',', '.', ')']);
                if flag.starts_with("--") {
                    let known = help.split([' ', '\n', ',']).any(|known| known == flag);
                    assert!(known, "{name}: `kvsweep {first}` has no `{flag}`");
                }
            }
            checked += 1;
        }
    }
    assert!(checked > 40, "{checked} commands");
}

/// Every command that names a model does with a GGUF file in its place: as `--dry-run` where it would compute, which needs
/// no card, and with rows where the document has a folder of them.
#[test]
fn commands_that_name_a_model_take_a_gguf() {
    let Some(model) = crate::common::real_model() else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("rows")).unwrap();
    for name in ["qasper", "lcc"] {
        let row = crate::common::row(name, "x", 30, "word1");
        std::fs::write(dir.path().join(format!("rows/{name}.jsonl")), row).unwrap();
    }
    let mut tried = 0;
    for (_, name, text) in documents() {
        for span in code(&text) {
            let Some(mut words) = command(span).filter(|words| !words.iter().any(|word| word.contains('…')))
            else {
                continue;
            };
            let value = words.iter().position(|word| *word == "--model").map(|at| at + 1);
            let value = if words.starts_with(&["fetch", "model"]) { Some(2) } else { value };
            let Some(value) = value.filter(|&at| words.len() > at && words[at] != "M") else { continue };
            if words[value].contains(['<', '{']) || words[value] == "OWNER/NAME" || words[value] == "tiny" {
                continue;
            }
            words[value] = model.to_str().unwrap();
            // Written for a cluster's machines, over two lines.
            if words[0] == "slurm" {
                continue;
            }
            // The method that the document tells a reader to write.
            let methods: Vec<String> = words.iter().map(|word| word.replace(",snapsink", "")).collect();
            let mut words: Vec<&str> = methods.iter().map(String::as_str).collect();
            if words[0] == "run" && !words.contains(&"--dry-run") {
                words.push("--dry-run");
            }
            let (code, _, stderr) = crate::common::run(dir.path(), &words);
            assert_eq!(code, 0, "{name}: `{}`: {stderr}", words.join(" "));
            tried += 1;
        }
    }
    assert!(tried >= 5, "{tried} commands");
}
