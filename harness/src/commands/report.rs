//! `kvsweep report RUN… -o FILE.html`: one self-contained page.

use kvsweep_plots::report::{self, Options};
use kvsweep_results::{ExampleKey, Run};
use kvsweep_tasks::protocol;

use crate::cli::ReportArgs;
use crate::exit::Exit;
use crate::{output, provenance, tables};

/// Runs the command.
pub fn run(args: &ReportArgs) -> anyhow::Result<Exit> {
    let runs = args.runs.iter().map(|path| Run::load(path)).collect::<Result<Vec<_>, _>>()?;
    let (table, merged) = tables::of(&runs, None, true)?;
    let oddities = |name: &str| protocol::by_name(name).map(|p| p.oddities.clone()).unwrap_or_default();
    let tokens = |_: &ExampleKey| None;
    let data = report::from_runs(
        &merged,
        Options {
            title: table.title.clone(),
            generator: format!("kvsweep {}", provenance::VERSION),
            tables: std::slice::from_ref(&table),
            papers: &[],
            oddities: &oddities,
            tokens: &tokens,
        },
    )?;
    let page = report::render(&data)?;
    kvsweep_results::write_atomic(&args.output, page.as_bytes())?;
    output::note(&format!("wrote `{}` ({:.1} MB)", args.output.display(), page.len() as f64 / 1e6));
    Ok(if merged.problems.is_empty() { Exit::Done } else { Exit::Failed })
}
