//! `kvsweep compare BASE HEAD`: paired differences of two runs, or of two commits in a baseline store.

use std::path::{Path, PathBuf};

use anyhow::Context;
use kvsweep_results::baseline::{self, BaselineStore};
use kvsweep_results::compare::Comparison;
use kvsweep_results::{Bootstrap, Manifest, Merged, Run};

use crate::cli::CompareArgs;
use crate::exit::Exit;
use crate::{output, tables};

/// The store inside the repository one stands in.
const STORE: &str = "baselines";

/// What a person can do who finds no baseline.
const REMEDY: &str = "repeat the run on a clean tree of that commit with `--record-baseline`; `just baseline` stores the \
                      one that `just regress` compares with";

/// The name that stands for the newest stored commit with the head's configuration.
const STORED: &str = "stored";

/// Runs the command; exits 3 with `--gate` on a significant loss.
pub(crate) fn run(args: &CompareArgs) -> anyhow::Result<Exit> {
    let is_run = |name: &str| Path::new(name).join("manifest.json").is_file();
    let both_runs = [&args.base, &args.head].iter().all(|name| is_run(name) || name.split(',').all(is_run));
    let (repository, store) = if both_runs {
        (PathBuf::new(), BaselineStore { path: PathBuf::new(), remedy: String::new() })
    } else {
        (repository()?, store(args.store.as_deref())?)
    };
    let base = if args.base == STORED { store.newest(&repository, &args.head)? } else { args.base.clone() };
    let [(base_name, base), (head_name, head)] = store.open_pair(&repository, [&base, &args.head])?;
    let manifests: Vec<&Manifest> = base.iter().chain(&head).map(|run| &run.manifest).collect();
    let layout = tables::layout(&manifests, None)?;
    let (base, head) = (Merged::of(base, false)?, Merged::of(head, false)?);
    let comparison =
        Comparison::new((&base_name, &base), (&head_name, &head), &layout, &Bootstrap::default())?;
    if args.json {
        output::json_text(&comparison.to_json()?)?;
    } else {
        output::data(&comparison.text())?;
    }
    let told = [tables::tell(&base), tables::tell(&head)];
    let losses = comparison.losses().len();
    if args.gate && losses > 0 {
        output::note(&format!("gate: {losses} significant losses"));
        return Ok(Exit::Loss);
    }
    Ok(if told.contains(&Exit::Failed) { Exit::Failed } else { Exit::Done })
}

/// The store named, or the default one.
///
/// # Errors
/// No `--store` and no repository around.
pub(crate) fn store(named: Option<&Path>) -> anyhow::Result<BaselineStore> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => repository()?.join(STORE),
    };
    Ok(BaselineStore { path, remedy: REMEDY.to_owned() })
}

/// The top folder of the repository one stands in.
///
/// # Errors
/// No git, or no repository.
pub(crate) fn repository() -> anyhow::Result<PathBuf> {
    let output = std::process::Command::new("git")
        .args(["rev-parse", "--show-toplevel"])
        .output()
        .context("cannot start `git`, which names commits")?;
    anyhow::ensure!(
        output.status.success(),
        "not inside a git repository: commits cannot be named; give run directories, or --store DIR from inside one"
    );
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Stores a finished run as the baseline of the current commit.
///
/// # Errors
/// An incomplete run, a changed tree, other results for the same commit.
pub(crate) fn record_baseline(run: &Run) -> anyhow::Result<()> {
    let commit = baseline::resolve_commit(&repository()?, "HEAD")?;
    let key = store(None)?.put(run, &commit)?;
    output::note(&format!(
        "stored as the baseline of {:.10}, configuration {}",
        key.commit, key.configuration
    ));
    Ok(())
}
