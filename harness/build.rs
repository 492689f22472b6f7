//! Stamps the commit into the program, so that every record can name it; `-dirty` where anything that the program is
//! built from is changed.

use std::process::Command;

/// Everything of the repository but what cannot reach the program.
const BUILT_FROM: &[&str] = &[
    ":(top)",
    ":(top,exclude)baselines",
    ":(top,exclude)docs",
    ":(top,exclude)golden/methods",
    ":(top,exclude)golden/kvpress",
    ":(top,exclude)golden/metrics",
    ":(top,exclude)scripts",
    ":(top,exclude)training",
    ":(top,exclude,glob)**/*.md",
    ":(top,exclude,glob)*/benches/**",
    ":(top,exclude,glob)*/examples/**",
    ":(top,exclude,glob)*/tests/**",
];

/// Folders of which every file is embedded, whether git knows it or not.
const EMBEDDED: &str = ":(top,glob)*/assets/**";

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn main() {
    let commit = git(&["rev-parse", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let lists = [
        git(&[&["status", "--porcelain", "--untracked-files=no", "--"], BUILT_FROM].concat()),
        git(&["ls-files", "--others", "--exclude-standard", "--", EMBEDDED]),
    ];
    let changed = lists.iter().flatten().any(|list| !list.is_empty());
    println!("cargo::rustc-env=KVSWEEP_COMMIT={commit}{}", if changed { "-dirty" } else { "" });
    // A commit, or a change to any of these files, makes the stamp stale.
    let files = git(&[&["ls-files", "-z", "--"], BUILT_FROM].concat()).unwrap_or_default();
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        println!("cargo::rerun-if-changed={file}");
    }
    let folders: std::collections::BTreeSet<&str> = files
        .split('\0')
        .filter_map(|file| Some(&file[..file.find("/assets/")? + "/assets".len()]))
        .collect();
    for folder in folders {
        println!("cargo::rerun-if-changed={folder}");
    }
    if let Some(folder) = git(&["rev-parse", "--absolute-git-dir"]) {
        for file in ["HEAD", "logs/HEAD", "index"] {
            println!("cargo::rerun-if-changed={folder}/{file}");
        }
    }
}
