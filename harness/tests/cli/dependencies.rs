//! What the program is built from: each crate has its line in docs/dependencies.md, a licence that lets the program be
//! given away, and comes from the registry.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Licences of which one, in each part of an `AND`, is enough.
const PERMISSIVE: [&str; 14] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "0BSD",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "BSL-1.0",
    "CC0-1.0",
    "MIT-0",
    // The root certificates.
    "CDLA-Permissive-2.0",
];

/// Crates under other licences, and why they may stay.
const EXCEPTIONS: [(&str, &str); 1] = [("option-ext", "MPL-2.0 binds its own files only; `dirs` needs it")];

fn is_permissive(licence: &str) -> bool {
    let licence = licence.replace(" / ", "/").replace('/', " OR ").replace(['(', ')'], "");
    licence.split(" AND ").all(|part| part.split(" OR ").any(|one| PERMISSIVE.contains(&one.trim())))
}

#[test]
fn every_crate_is_permissive_and_from_the_registry() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let compiler = Command::new("rustc").arg("-vV").output().unwrap();
    let about = String::from_utf8(compiler.stdout).unwrap();
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--offline", "--format-version", "1", "--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "{}", packages.len());
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or("none");
        let excepted = EXCEPTIONS.iter().any(|(exception, _)| *exception == name);
        assert!(is_permissive(licence) != excepted, "{name}: {licence}");
        let source = package["source"].as_str();
        let ours = name.starts_with("kvsweep-");
        let registry =
            source.is_some_and(|source| source.starts_with("registry+https://github.com/rust-lang/"));
        assert!(registry != ours, "{name}: {source:?}");
    }
}

#[test]
fn licences_are_read_as_written() {
    for licence in
        ["MIT OR Apache-2.0", "MIT/Apache-2.0", "Apache-2.0 / MIT", "(MIT OR GPL-3.0) AND Unicode-3.0"]
    {
        assert!(is_permissive(licence), "{licence}");
    }
    for licence in ["GPL-3.0", "MIT AND GPL-3.0", "none"] {
        assert!(!is_permissive(licence), "{licence}");
    }
}

#[test]
fn every_dependency_has_its_line() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    let (workspace, document) =
        (read("Cargo.toml").parse::<toml::Table>().unwrap(), read("docs/dependencies.md"));
    let named = |name: &str| {
        let part = |c: char| !c.is_alphanumeric() && c != '-' && c != '_';
        document
            .lines()
            .filter(|line| line.starts_with("| "))
            .any(|line| line.split(part).any(|word| word == name))
    };
    for name in workspace["workspace"]["dependencies"].as_table().unwrap().keys() {
        assert!(name.starts_with("kvsweep-") || named(name), "docs/dependencies.md says nothing of `{name}`");
    }
}
