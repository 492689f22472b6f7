//! `kvsweep table RUN…`: the score table of one or several runs, one a suite, or the paired differences of its methods.

use kvsweep_results::pairs::MethodPairs;
use kvsweep_results::{Bootstrap, Format, Manifest, Merged, Run};

use crate::cli::{TableArgs, TableFormat};
use crate::exit::{Exit, usage};
use crate::{output, pictures, tables};

/// Runs the command.
pub(crate) fn run(args: &TableArgs) -> anyhow::Result<Exit> {
    let runs = args.runs.iter().map(|path| Run::load_for_scores(path)).collect::<Result<Vec<_>, _>>()?;
    let suites = tables::by_suite(runs);
    if suites.len() > 1 && matches!(args.format, TableFormat::Csv | TableFormat::Json) {
        return Err(usage("the runs are of several suites; name those of one to write csv or json"));
    }
    if suites.len() > 1 && args.output.is_some() {
        return Err(usage("the runs are of several suites; name those of one to draw them"));
    }
    let mut exit = Exit::Done;
    for (number, runs) in suites.into_iter().enumerate() {
        if number > 0 {
            output::line("")?;
        }
        let printed = if args.pairs { pairs(args, runs)? } else { scores(args, runs)? };
        if printed != Exit::Done {
            exit = printed;
        }
    }
    Ok(exit)
}

fn scores(args: &TableArgs, runs: Vec<Run>) -> anyhow::Result<Exit> {
    let format = match args.format {
        TableFormat::Text => tables::text_format(args.wide),
        TableFormat::Md => Format::Markdown,
        TableFormat::Csv => Format::Csv,
        TableFormat::Latex => Format::Latex,
        TableFormat::Json => Format::Json,
    };
    let (table, merged) = tables::of(runs, args.protocol.as_deref(), args.mixed)?;
    if let Some(path) = &args.output {
        pictures::average(&table, path)?;
        output::note(&format!("drew `{}`", path.display()));
    }
    tables::print(&table, &merged, format)
}

/// Method against method, and every variant against the full cache.
fn pairs(args: &TableArgs, runs: Vec<Run>) -> anyhow::Result<Exit> {
    let manifests: Vec<Manifest> = runs.iter().map(|run| run.manifest.clone()).collect();
    let merged = Merged::of(runs, args.mixed)?;
    let layout = tables::layout(&manifests.iter().collect::<Vec<_>>(), args.protocol.as_deref())?;
    for group in &merged.groups {
        let pairs = MethodPairs::new(group, &layout, &Bootstrap::default())?;
        match args.format {
            TableFormat::Text => output::data(&match tables::text_format(args.wide) {
                Format::Terminal(width) => pairs.fitted_text(width),
                _ => pairs.text(),
            })?,
            TableFormat::Md => output::data(&pairs.markdown())?,
            TableFormat::Json => output::json_text(&pairs.to_json()?)?,
            TableFormat::Csv | TableFormat::Latex => {
                return Err(usage("--pairs is written as text, md or json"));
            }
        }
    }
    Ok(tables::tell(&merged))
}
