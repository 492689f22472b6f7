//! `kvsweep compare BASE HEAD`: paired differences of two runs, or of two commits in a baseline store.

use std::path::{Path, PathBuf};

use anyhow::Context;
use kvsweep_results::baseline::{self, BaselineStore};
use kvsweep_results::compare::{CompareOptions, Comparison};
use kvsweep_results::{Merged, Run};

use crate::cli::CompareArgs;
use crate::exit::Exit;
use crate::{output, tables};

/// The store inside the repository one stands in.
const STORE: &str = "baselines";

/// Runs the command; exits 3 with `--gate` on a significant loss.
pub fn run(args: &CompareArgs) -> anyhow::Result<Exit> {
    let (base, head) = sides(args)?;
    let layout = tables::layout(&[&base.manifest, &head.manifest], None)?;
    let problems: Vec<String> = base.problems.iter().chain(&head.problems).map(ToString::to_string).collect();
    let merged = |run: Run| Merged::of(&[run], false);
    let comparison = Comparison::new(
        (&args.base, &merged(base)?),
        (&args.head, &merged(head)?),
        &layout,
        &CompareOptions::default(),
    )?;
    if args.json {
        output::line(&comparison.to_json()?)?;
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

/// Loads both sides: a run directory where the name is one, else a commit of the store.
fn sides(args: &CompareArgs) -> anyhow::Result<(Run, Run)> {
    let is_run = |name: &str| Path::new(name).join("manifest.json").is_file();
    match (is_run(&args.base), is_run(&args.head)) {
        (true, true) => Ok((Run::load(Path::new(&args.base))?, Run::load(Path::new(&args.head))?)),
        (false, false) => {
            let store = store(args.store.as_deref())?;
            let repository = repository()?;
            let base = baseline::resolve_commit(&repository, &args.base)?;
            let head = baseline::resolve_commit(&repository, &args.head)?;
            let configuration = store.shared_configuration(&base, &head)?;
            Ok((store.get(&base, configuration.as_deref())?, store.get(&head, configuration.as_deref())?))
        }
        (base_is_run, _) => {
            // One run, one commit: the commit's run of the same configuration.
            let (run, commit) = if base_is_run { (&args.base, &args.head) } else { (&args.head, &args.base) };
            let run = Run::load(Path::new(run))?;
            let commit = baseline::resolve_commit(&repository()?, commit)?;
            let stored = store(args.store.as_deref())?.get(&commit, Some(&run.manifest.configuration()))?;
            Ok(if base_is_run { (run, stored) } else { (stored, run) })
        }
    }
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
    Ok(BaselineStore { path, remedy: "kvsweep run longbench --record-baseline".to_owned() })
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
