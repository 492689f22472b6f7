//! The arrows between crates point one way (ARCHITECTURE.md, "Rooms").

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

#[test]
fn crates_depend_only_downwards() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("harness", ["engine", "methods", "plots", "results", "tasks"].as_slice()),
        ("engine", &["methods"]),
        ("emulator", &["methods"]),
        ("plots", &["results"]),
        ("methods", &[]),
        ("results", &[]),
        ("tasks", &[]),
    ]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let workspace: toml::Table =
        toml::from_str(&std::fs::read_to_string(root.join("Cargo.toml")).unwrap()).unwrap();
    let members: BTreeSet<&str> =
        workspace["workspace"]["members"].as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
    assert_eq!(members, allowed.keys().copied().collect(), "every crate has its place in the plan");
    for (room, may_use) in allowed {
        let manifest: toml::Table =
            toml::from_str(&std::fs::read_to_string(root.join(room).join("Cargo.toml")).unwrap()).unwrap();
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            for used in dependencies.keys().filter_map(|name| name.strip_prefix("kvsweep-")) {
                assert!(may_use.contains(&used), "{room} must not depend on {used} ({section})");
            }
        }
    }
}

/// The sections of a text that begin with `1. `, `2. `, …
fn numbered(text: &str) -> Vec<String> {
    let mut sections: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.starts_with(&format!("{}. ", sections.len() + 1)) {
            sections.push(String::new());
        }
        match sections.last_mut() {
            Some(section) if line.is_empty() && !section.is_empty() => break,
            Some(section) => *section += &format!("{line}\n"),
            None => {}
        }
    }
    sections
}

#[test]
fn every_invariant_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let plan = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    // `PATH::TEST` between backticks.
    let named = |text: &str| -> Vec<(String, String)> {
        let quoted = text.split('`').skip(1).step_by(2);
        let tests = quoted.filter_map(|quoted| quoted.split_once(".rs::"));
        tests.map(|(path, test)| (format!("{path}.rs"), test.to_owned())).collect()
    };
    let invariants = numbered(plan.split("## Invariants").nth(1).unwrap());
    assert_eq!(invariants.len(), 7);
    for invariant in invariants {
        assert!(!named(&invariant).is_empty(), "no test is named: {invariant}");
    }
    for (path, test) in named(&plan) {
        let source =
            std::fs::read_to_string(root.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let is_test = source.split("#[test]").skip(1).any(|rest| {
            rest.lines().take(4).any(|line| line.trim_start().starts_with(&format!("fn {test}(")))
        });
        assert!(is_test, "{path} has no test `{test}`");
    }
}
