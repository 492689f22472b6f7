//! The arrows between crates point one way, and those between the modules of a crate run in no circle
//! (ARCHITECTURE.md, "Rooms").

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Every crate and the crates that it may use.
fn may_use() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("harness", ["engine", "golden", "methods", "plots", "results", "tasks"].as_slice()),
        ("engine", &["methods"]),
        ("emulator", &["methods"]),
        ("golden", &["methods", "tasks"]),
        ("plots", &["results"]),
        ("methods", &[]),
        ("results", &[]),
        ("tasks", &[]),
    ])
}

#[test]
fn crates_depend_only_downwards() {
    let allowed = may_use();
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

/// A module's place in its crate: `["cpu", "forward"]`, nothing for the root.
type Module = Vec<String>;

/// The modules of a crate, one a file, with their code: no comments, no tests.
fn modules(src: &Path) -> BTreeMap<Module, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![src.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let inside = path.strip_prefix(src).unwrap().with_extension("");
                let mut module: Module =
                    inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
                module.pop_if(|last| last == "mod" || (inside.iter().count() == 1 && is_root(last)));
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("mod tests {").next().unwrap().lines();
                let code: Vec<&str> = code.filter(|line| !line.trim_start().starts_with("//")).collect();
                found.insert(module, code.join("\n"));
            }
        }
    }
    found
}

fn is_root(file: &str) -> bool {
    ["lib", "main"].contains(&file)
}

/// The paths that begin at the front of `text`: `a::{b, c::d}` is two. What follows them is left in `text`.
fn paths(text: &mut &str) -> Vec<Module> {
    *text = text.trim_start();
    if let Some(list) = text.strip_prefix('{') {
        let mut all = Vec::new();
        *text = list;
        while !text.trim_start().starts_with('}') && !text.trim_start().is_empty() {
            all.extend(paths(text));
            // `as name` ends a path, too.
            *text = text.trim_start_matches(|c| c != ',' && c != '}');
            *text = text.strip_prefix(',').unwrap_or(text);
        }
        *text = text.trim_start().strip_prefix('}').unwrap_or_default();
        return all;
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    *text = rest;
    let Some(rest) = rest.strip_prefix("::") else { return vec![vec![name.to_owned()]] };
    *text = rest;
    let mut tails = paths(text);
    tails.iter_mut().for_each(|tail| tail.insert(0, name.to_owned()));
    tails
}

/// The modules that a module's code names by `crate::` or `super::`, in `use` lines and elsewhere. A macro's `$crate::` is
/// its caller's affair, and `use child::Name` is how a module shows its own parts.
fn named(module: &Module, code: &str, all: &BTreeMap<Module, String>) -> BTreeSet<Module> {
    let mut found = BTreeSet::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || "_$:".contains(c)) {
                continue;
            }
            for path in paths(&mut &code[at..]) {
                let up = path.iter().take_while(|part| *part == "super").count();
                let mut place: Module = match up {
                    0 => path[1..].to_vec(),
                    up => [&module[..module.len().saturating_sub(up)], &path[up..]].concat(),
                };
                while !all.contains_key(&place) {
                    place.pop();
                }
                found.insert(place);
            }
        }
    }
    // A module and its own parts are one unit.
    found.retain(|other| !other.starts_with(module) && !module.starts_with(other));
    found
}

/// Groups of modules each of which reaches all others of its group.
fn circles(all: &BTreeMap<Module, String>) -> Vec<BTreeSet<String>> {
    let arrows: BTreeMap<&Module, BTreeSet<Module>> =
        all.iter().map(|(module, code)| (module, named(module, code, all))).collect();
    let reach = |from: &Module| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&Module> = arrows[from].iter().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module) {
                next.extend(&arrows[module]);
            }
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<&Module>> =
        all.keys().map(|module| (module, reach(module))).collect();
    let mut groups: Vec<BTreeSet<String>> = Vec::new();
    for (module, seen) in &reached {
        let group: BTreeSet<String> = seen
            .iter()
            .filter(|other| reached[*other].contains(module))
            .map(|other| other.join("::"))
            .collect();
        if group.len() > 1 && !groups.contains(&group) {
            groups.push(group);
        }
    }
    groups
}

/// Whether a module is there for tests alone.
fn is_for_tests(module: &Module, all: &BTreeMap<Module, String>) -> bool {
    let Some((name, parent)) = module.split_last() else { return false };
    let declared = |visibility: &str| {
        all.get(parent).is_some_and(|code| code.contains(&format!("#[cfg(test)]\n{visibility}mod {name};")))
    };
    ["", "pub(crate) ", "pub(super) "].into_iter().any(declared)
}

/// What clippy's `disallowed-methods` would say, were it not for tests, which make broken files on purpose.
#[test]
fn no_file_is_written_in_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut read = 0;
    for (room, _) in may_use() {
        let all = modules(&root.join(room).join("src"));
        for (module, code) in all.iter().filter(|(module, _)| !is_for_tests(module, &all)) {
            read += 1;
            for half_written in ["fs::write(", "fs_err::write(", "File::create(", "File::create_new("] {
                assert!(
                    !code.contains(half_written),
                    "{room}: `{half_written}` in `{}` leaves half a file when it is cut short; \
                     `kvsweep_results::write_atomic` does not",
                    module.join("::")
                );
            }
        }
    }
    assert!(read > 200, "{read} modules");
}

#[test]
fn modules_run_in_no_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (room, _) in may_use() {
        let circles = circles(&modules(&root.join(room).join("src")));
        assert!(circles.is_empty(), "{room}: these modules name each other: {circles:?}");
    }
}

#[test]
fn a_circle_is_found_in_lists_and_in_paths_within_code() {
    let crate_of = |files: &[(&str, &str)]| -> Vec<Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        for (file, code) in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, code).unwrap();
        }
        circles(&modules(dir.path())).into_iter().map(|circle| circle.into_iter().collect()).collect()
    };
    let root = ("lib.rs", "mod a;\nmod b;\npub use a::A;\n");
    let lists = [
        root,
        ("a.rs", "use std::{fmt, io};\nuse crate::{\n    b::{self as c, B},\n};"),
        ("b/mod.rs", "use super::a::A;"),
    ];
    assert_eq!(crate_of(&lists), [["a", "b"]]);
    let within = [root, ("a.rs", "fn f() {\n    crate::b::g()\n}"), ("b.rs", "fn g() -> crate::a::A {}")];
    assert_eq!(crate_of(&within), [["a", "b"]]);
    let parts = [
        root,
        ("a.rs", "use crate::b::B;"),
        ("b/mod.rs", "mod c;\npub use c::B;"),
        ("b/c.rs", "use super::D;"),
    ];
    assert_eq!(crate_of(&parts), Vec::<Vec<String>>::new());
    let elsewhere = [
        root,
        ("a.rs", "use crate::b::B;"),
        ("b.rs", "// crate::a\n$crate::a::A\n#[cfg(test)]\nmod tests {\n    use crate::a::A;"),
    ];
    assert_eq!(crate_of(&elsewhere), Vec::<Vec<String>>::new());
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
