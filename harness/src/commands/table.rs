//! `kvsweep table RUN…`: the score table of one or several runs.

use kvsweep_results::{Format, Run};

use crate::cli::{TableArgs, TableFormat};
use crate::exit::Exit;
use crate::tables;

/// Runs the command.
pub fn run(args: &TableArgs) -> anyhow::Result<Exit> {
    let runs = args.runs.iter().map(|path| Run::load(path)).collect::<Result<Vec<_>, _>>()?;
    let format = match args.format {
        TableFormat::Text => Format::Text,
        TableFormat::Md => Format::Markdown,
        TableFormat::Csv => Format::Csv,
        TableFormat::Latex => Format::Latex,
        TableFormat::Json => Format::Json,
    };
    let (table, merged) = tables::of(&runs, args.protocol.as_deref(), args.mixed)?;
    tables::print(&table, &merged, format)
}
