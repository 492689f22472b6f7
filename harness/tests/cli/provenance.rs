//! The stamp of the commit, made by the real build script in a small repository.

use std::path::Path;
use std::process::Command;

fn git(repository: &Path, arguments: &[&str]) {
    let mut command = Command::new("git");
    command.arg("-C").arg(repository);
    command.args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]);
    let done = command.args(arguments).env_remove("GIT_DIR").env_remove("GIT_INDEX_FILE").output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_change_to_anything_that_is_built_in_makes_the_stamp_dirty() {
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("repository");
    let built_in = [
        "Cargo.lock",
        "Cargo.toml",
        ".cargo/config.toml",
        "engine/assets/tiny/config.json",
        "engine/build.rs",
        "golden/src/lib.rs",
        "harness/src/main.rs",
        "results/published/snapkv.csv",
        "tasks/protocols/kvsweep-1.toml",
        "a-crate-to-come/src/lib.rs",
    ];
    let not_built_in = [
        "README.md",
        "docs/results.md",
        "baselines/0/1/cells.jsonl",
        "results/tests/store.rs",
        "engine/benches/kernels.rs",
        "golden/methods/manifest.json",
        "scripts/make.py",
    ];
    for file in built_in.iter().chain(&not_built_in) {
        let path = repository.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "as committed").unwrap();
    }
    git(&repository, &["init", "-q"]);
    git(&repository, &["add", "."]);
    git(&repository, &["commit", "-q", "-m", "all"]);

    let script = dir.path().join("build-script");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs");
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut compile = Command::new(compiler);
    compile.args(["--edition", "2024", "-o"]).arg(&script).arg(source);
    assert!(compile.status().unwrap().success());
    let stamp = || {
        let mut command = Command::new(&script);
        command.current_dir(repository.join("harness")).env_remove("GIT_DIR").env_remove("GIT_INDEX_FILE");
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let dirty = |stamp: &str| stamp.lines().next().unwrap().ends_with("-dirty");
    let clean = stamp();
    assert!(clean.starts_with("cargo::rustc-env=KVSWEEP_COMMIT=") && !dirty(&clean), "{clean}");
    let watched = |file: &str| clean.lines().any(|line| line == format!("cargo::rerun-if-changed={file}"));
    for file in built_in {
        let path = repository.join(file);
        std::fs::write(&path, "changed").unwrap();
        assert!(dirty(&stamp()), "{file}");
        std::fs::write(&path, "as committed").unwrap();
        // Where it is not watched, cargo does not ask for a new stamp.
        let seen = file.strip_prefix("harness/").map_or_else(|| format!("../{file}"), str::to_owned);
        assert!(watched(&seen), "{file} is not in\n{clean}");
    }
    for file in not_built_in {
        std::fs::write(repository.join(file), "changed").unwrap();
    }
    assert!(!dirty(&stamp()), "{}", stamp());
    std::fs::write(repository.join("engine/assets/tiny/new.safetensors"), "unknown to git").unwrap();
    assert!(dirty(&stamp()) && watched("../engine/assets"), "{clean}");
}
