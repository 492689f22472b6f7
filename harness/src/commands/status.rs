//! `kvsweep status DIR`: how far a run is, part by part.

use kvsweep_results::RunStatus;

use crate::cli::StatusArgs;
use crate::exit::Exit;
use crate::output;

/// Runs the command.
pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<Exit> {
    let status = RunStatus::of(&args.run)?;
    if args.json {
        output::json(&status)?;
    } else {
        output::data(&status.text())?;
    }
    Ok(Exit::Done)
}
