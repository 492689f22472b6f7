//! `kvsweep heatmap RUN…`: all variants' heatmaps of a needle or RULER run on one sheet, methods x budgets.

use anyhow::Context;
use kvsweep_plots::heatmap;
use kvsweep_results::{Merged, Run};

use crate::cli::HeatmapArgs;
use crate::exit::Exit;
use crate::{destination, output, pictures, tables};

/// Runs the command.
pub(crate) fn run(args: &HeatmapArgs) -> anyhow::Result<Exit> {
    let runs = args.runs.iter().map(|path| Run::load(path)).collect::<Result<Vec<_>, _>>()?;
    let merged = Merged::of(&runs, false)?;
    let grid = merged
        .groups
        .first()
        .and_then(pictures::sheet)
        .context("no records with a context length in these runs; `kvsweep run needle` and `kvsweep run ruler` make them")?;
    let path = match (&args.output, args.runs.first()) {
        (Some(path), _) => path.clone(),
        (None, run) => run.map(|run| run.join("heatmap.png")).unwrap_or_default(),
    };
    destination::write_picture(&path, &heatmap::grid(&grid)?)?;
    output::note(&format!("drew `{}`", path.display()));
    Ok(tables::tell(&merged))
}
