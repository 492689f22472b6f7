//! Stamps the commit into the program, so that every record can name it.

use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn main() {
    let commit = git(&["rev-parse", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|list| !list.is_empty());
    println!("cargo::rustc-env=KVSWEEP_COMMIT={commit}{}", if changed { "-dirty" } else { "" });
    // A commit, or a change to any crate's sources, makes the stamp stale.
    for room in ["engine", "methods", "plots", "results", "tasks", "harness"] {
        println!("cargo::rerun-if-changed=../{room}/src");
    }
    if let Some(folder) = git(&["rev-parse", "--absolute-git-dir"]) {
        for file in ["HEAD", "logs/HEAD", "index"] {
            println!("cargo::rerun-if-changed={folder}/{file}");
        }
    }
}
