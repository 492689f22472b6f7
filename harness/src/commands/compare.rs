//! `kvsweep compare BASE HEAD`: paired differences of two runs, or of two commits in a baseline store.

use std::path::{Path, PathBuf};

use anyhow::Context;
use kvsweep_results::baseline::{self, BaselineStore};
use kvsweep_results::compare::{CompareOptions, Comparison};
use kvsweep_results::{Bootstrap, Merged, Run};

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
pub fn run(args: &CompareArgs) -> anyhow::Result<Exit> {
    let both_runs =
        [&args.base, &args.head].iter().all(|name| Path::new(name).join("manifest.json").is_file());
    let (repository, store) = if both_runs {
        (PathBuf::new(), BaselineStore { path: PathBuf::new(), remedy: String::new() })
    } else {
        (repository()?, store(args.store.as_deref())?)
    };
    let base = if args.base == STORED { newest(&store, &repository, &args.head)? } else { args.base.clone() };
    let [(base_name, base), (head_name, head)] = store.open_pair(&repository, [&base, &args.head], None)?;
    let layout = tables::layout(&[&base.manifest, &head.manifest], None)?;
    let problems: Vec<String> = base.problems.iter().chain(&head.problems).map(ToString::to_string).collect();
    let comparison = Comparison::new(
        (&base_name, &Merged::of([base], false)?),
        (&head_name, &Merged::of([head], false)?),
        &layout,
        &CompareOptions::default(),
    )?;
    if args.json {
        output::json_text(&comparison.to_json()?)?;
    } else {
        output::data(&comparison.render(false))?;
    }
    for problem in &problems {
        output::note(problem);
    }
    let losses = comparison.losses().len();
    if args.gate && losses > 0 {
        output::note(&format!("gate: {losses} significant losses"));
        return Ok(Exit::Loss);
    }
    Ok(if problems.is_empty() { Exit::Done } else { Exit::Failed })
}

/// The newest commit of the store that has the configuration of the run `head`.
fn newest(store: &BaselineStore, repository: &Path, head: &str) -> anyhow::Result<String> {
    let run = Run::load(Path::new(head))?;
    let layout = tables::layout(&[&run.manifest], None)?;
    let history = store.history(repository, &run.manifest.configuration(), &layout, &Bootstrap::default())?;
    let newest = history.points.last().with_context(|| {
        format!("`{}` has no run of the configuration of `{head}`\nhint: {REMEDY}", store.path.display())
    })?;
    Ok(newest.commit.clone())
}

/// The store named, or the default one.
///
/// # Errors
/// No `--store` and no repository around.
pub fn store(named: Option<&Path>) -> anyhow::Result<BaselineStore> {
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
pub fn repository() -> anyhow::Result<PathBuf> {
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
pub fn record_baseline(run: &Run) -> anyhow::Result<()> {
    let commit = baseline::resolve_commit(&repository()?, "HEAD")?;
    let key = store(None)?.put(run, &commit)?;
    output::note(&format!(
        "stored as the baseline of {:.10}, configuration {}",
        key.commit, key.configuration
    ));
    Ok(())
}
