//! What is asked of git: which commit a name is, when it was made and why.

use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::error::ResultsError;

/// The full hash of a commit, branch or tag of the repository.
///
/// # Errors
/// An unknown name, no repository, or no git.
pub fn resolve_commit(repository: &Path, name: &str) -> Result<String> {
    let unknown = |why: String| ResultsError::UnknownCommit {
        name: name.to_owned(),
        repository: repository.to_owned(),
        why,
    };
    let revision = format!("{name}^{{commit}}");
    let hash = git(repository, &["rev-parse", "--verify", "--quiet", "--end-of-options", &revision])
        .map_err(|why| unknown(if why.is_empty() { "git does not know it".to_owned() } else { why }))?;
    let hash = hash.trim().to_owned();
    if is_hex(&hash) { Ok(hash) } else { Err(unknown("git gave no hash".to_owned())) }
}

/// Runs git in the repository; its output, or what it says went wrong.
pub(crate) fn git(repository: &Path, arguments: &[&str]) -> std::result::Result<String, String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(repository)
        .args(arguments)
        // Set inside git hooks; they would override the directory.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .output()
        .map_err(|error| format!("git cannot be started: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned())
    }
}

/// When a commit was made, in seconds since 1970; none for a commit of another clone.
pub(crate) fn commit_time(repository: &Path, commit: &str) -> Option<i64> {
    git(repository, &["log", "-1", "--format=%ct", "--end-of-options", commit]).ok()?.trim().parse().ok()
}

/// Whether a name is a commit's or a configuration's hash.
pub(crate) fn is_hex(name: &str) -> bool {
    name.len() >= 7 && name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}
