//! The arrows between crates point one way (ARCHITECTURE.md, "Rooms").

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

#[test]
fn crates_depend_only_downwards() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("harness", ["engine", "methods", "plots", "results", "tasks"].as_slice()),
        ("engine", &["methods"]),
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
