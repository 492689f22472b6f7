//! Every command, flag and id that a message, a help text or a document names must be there: commands and flags are held
//! against clap, ids against the registries, `just` verbs against the Justfile.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use kvsweep_methods::registry;
use kvsweep_results::published;
use kvsweep_tasks::{datasets, mini, protocol};

use crate::cli::Cli;

/// Flags of other programs that our texts name.
const FOREIGN: &[&str] = &[
    "absolute-git-dir",
    "account",
    "all",
    "all-targets",
    "allow-empty",
    "array",
    "comment",
    "dependency",
    "end-of-options",
    "eval",
    "example",
    "features",
    "force",
    "help",
    "is-ancestor",
    "job-name",
    "locked",
    "no-index",
    "nodes",
    "noheader",
    "ntasks",
    "open-mode",
    "parsable",
    "path",
    "porcelain",
    "quiet",
    "release",
    "requeue",
    "show-toplevel",
    "untracked-files",
    "verify",
    "version",
    "workspace",
];

/// Texts of people's eyes: sources without their tests, and documents, each with its path.
fn texts() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "Justfile"].map(|name| root.join(name)).into();
    let mut folders: Vec<PathBuf> = ["engine", "harness", "methods", "plots", "results", "tasks"]
        .map(|room| root.join(room).join("src"))
        .into();
    folders.push(root.join("docs"));
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension().and_then(|e| e.to_str()) {
                None if path.is_dir() => folders.push(path),
                Some("rs") if !path.ends_with("hints.rs") => files.push(path),
                Some("md") => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        // A text broken over source lines, in a literal or in a comment, is one text.
        let mut whole = String::new();
        for line in text.lines() {
            let line = line.trim_start();
            let comment = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
            let (body, joined) = match comment {
                Some(body) => (body, true),
                None => (line.strip_suffix('\\').unwrap_or(line), line.ends_with('\\')),
            };
            whole.push_str(body);
            whole.push(if joined { ' ' } else { '\n' });
        }
        (path, whole)
    };
    files.into_iter().map(read).collect()
}

/// What follows `name ` where a command of that name begins: in backticks, in a literal, or alone on a line.
fn commands<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(&format!("{name} ")) {
        let before = &text[..at];
        let before = before.strip_suffix("cargo ").unwrap_or(before);
        let (opens, quoted) = match before.chars().next_back() {
            Some('`') => (true, '`'),
            Some('"') => (true, '"'),
            Some('\n') | None => (true, '\n'),
            _ => (false, ' '),
        };
        let rest = &text[at + name.len() + 1..];
        if opens {
            found.push(rest.split([quoted, '\n']).next().unwrap_or_default());
        }
    }
    found
}

/// Whether a word stands for something that a person fills in.
fn is_placeholder(word: &str) -> bool {
    word.is_empty()
        || word.contains(['{', '…', '<', '$', '.', '/'])
        || !word.chars().any(|c| c.is_ascii_lowercase())
}

/// What is wrong with a command line of ours, if anything.
fn problem(line: &str, root: &Command) -> Option<String> {
    let mut words = line.split_whitespace().map(|word| word.trim_matches(['\'', ',', ';', ':', ')']));
    let name = words.next()?;
    if is_placeholder(name) || name.starts_with('-') {
        return None;
    }
    let Some(command) = root.find_subcommand(name) else { return Some(format!("no command `{name}`")) };
    let mut positionals = command.get_positionals().peekable();
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        if word.starts_with('#') || word.starts_with('(') {
            break;
        }
        let (argument, values) = match word.strip_prefix("--") {
            Some(flag) => {
                let (flag, value) =
                    flag.split_once('=').map_or((flag, None), |(flag, value)| (flag, Some(value)));
                let Some(argument) = command.get_arguments().find(|a| a.get_long() == Some(flag)) else {
                    return Some(format!("`{name}` has no --{flag}"));
                };
                let takes = argument.get_action().takes_values();
                let value = value.or_else(|| words.next_if(|_| takes));
                (argument, value.unwrap_or_default())
            }
            None if word.starts_with('-') => {
                let short = word.chars().nth(1);
                let Some(_) = command.get_arguments().find(|a| a.get_short() == short) else {
                    return Some(format!("`{name}` has no {word}"));
                };
                words.next();
                continue;
            }
            None => match positionals.next_if(|a| !repeats(a)).or_else(|| positionals.peek().copied()) {
                Some(argument) => (argument, word),
                // Prose may follow a command.
                None => break,
            },
        };
        for value in values.split([',', '|']).map(|value| value.trim_matches(['\\', '\''])) {
            if is_placeholder(value) {
                continue;
            }
            let possible = argument.get_possible_values();
            if !possible.is_empty() && !possible.iter().any(|p| p.matches(value, false)) {
                return Some(format!("`{value}` is no {} of `{name}`", argument.get_id()));
            }
            if !is_known(name, argument.get_id().as_str(), value) {
                return Some(format!(
                    "`{value}` is no {} of `{name}`: no registry has it",
                    argument.get_id()
                ));
            }
        }
    }
    None
}

fn repeats(argument: &clap::Arg) -> bool {
    matches!(argument.get_action(), clap::ArgAction::Append)
}

/// Whether the registry behind an argument holds a value; true where there is none.
fn is_known(command: &str, argument: &str, value: &str) -> bool {
    let base = crate::variants::base(value);
    match (command, argument) {
        ("paper", "id") => value == "list" || published::find(value).is_ok(),
        (_, "paper") => published::find(value).is_ok(),
        (_, "protocol") => protocol::by_name(value).is_ok(),
        (_, "methods") => registry::find(base).is_ok(),
        (_, "datasets") => {
            datasets::by_name(value).is_ok() || mini::datasets().iter().any(|set| set.name == value)
        }
        _ => true,
    }
}

#[test]
fn every_command_that_a_text_names_is_there() {
    let root = Cli::command();
    let (mut seen, mut wrong) = (0, Vec::new());
    for (path, text) in texts() {
        for line in commands(&text, "kvsweep") {
            seen += 1;
            wrong.extend(
                problem(line, &root).map(|why| format!("{}: `kvsweep {line}`: {why}", path.display())),
            );
        }
    }
    assert!(seen > 50, "only {seen} commands found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_flag_that_a_message_names_is_there() {
    let root = Cli::command();
    let known: BTreeSet<&str> = root
        .get_subcommands()
        .flat_map(|command| command.get_arguments().filter_map(clap::Arg::get_long))
        .chain(FOREIGN.iter().copied())
        .collect();
    let (mut seen, mut wrong) = (0, Vec::new());
    for (path, text) in texts().into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "rs")) {
        for (at, _) in text.match_indices("--") {
            let before = text[..at].chars().next_back().unwrap_or(' ');
            let flag: String =
                text[at + 2..].chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
            if flag.len() < 2 || flag.starts_with('-') || before.is_alphanumeric() || before == '-' {
                continue;
            }
            seen += 1;
            if !known.contains(flag.as_str()) {
                wrong.push(format!("{}: no command has --{flag}", path.display()));
            }
        }
    }
    assert!(seen > 50, "only {seen} flags found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_verb_of_just_is_in_the_justfile_and_its_commands_are_ours() {
    let root = Cli::command();
    let justfile =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Justfile")).unwrap();
    let recipe = |verb: &str| {
        justfile
            .lines()
            .any(|line| !line.starts_with([' ', '#']) && line.split([' ', ':']).next() == Some(verb))
    };
    // What a verb's own command begins with: `just paper ID` is `kvsweep paper ID`.
    let prefix = |verb: &str| match verb {
        "bench" => "run",
        "needle" => "run needle",
        "paper" => "paper",
        _ => "",
    };
    let mut wrong = Vec::new();
    for (path, text) in texts() {
        for line in commands(&text, "just") {
            let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
            if !verb.chars().all(|c| c.is_ascii_lowercase()) {
                continue;
            }
            if !recipe(verb) {
                wrong.push(format!("{}: no verb `just {verb}`", path.display()));
            } else if !prefix(verb).is_empty() {
                let line = format!("{} {rest}", prefix(verb));
                wrong.extend(problem(&line, &root).map(|why| format!("{}: {why}", path.display())));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_hint_is_seen() {
    let root = Cli::command();
    let wrong = |line: &str| problem(line, &root);
    assert_eq!(wrong("table a b --allow-different").as_deref(), Some("`table` has no --allow-different"));
    assert!(wrong("paper compresskv-table5 --split mini").is_some());
    assert!(wrong("calibrate heads --kind semantik").is_some());
    assert!(wrong("run longbench --methods snapkb").is_some() && wrong("rum longbench").is_some());
    assert_eq!(wrong("calibrate heads\\|layers"), None);
    assert_eq!(wrong("run {suite} --model {name} -- x"), Some("`run` has no --".to_owned()));
    assert_eq!(wrong("report RUN… -o FILE.html"), None);
}
