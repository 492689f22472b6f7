//! `kvsweep report RUN… -o FILE.html`: one self-contained page.

use std::collections::BTreeSet;
use std::path::PathBuf;

use kvsweep_plots::report::{self, Options};
use kvsweep_results::paper::PaperComparison;
use kvsweep_results::{Budget, ExampleKey, Manifest, Merged, MergedExample, Run, published};
use kvsweep_tasks::{Suite, protocol};

use crate::cli::ReportArgs;
use crate::exit::{Exit, usage};
use crate::recorded::Recorded;
use crate::{destination, output, provenance, tables};

/// Runs the command.
pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<Exit> {
    let runs = args.runs.iter().map(|path| Run::load(path)).collect::<Result<Vec<_>, _>>()?;
    let suites = tables::by_suite(runs);
    let origins: Vec<Origin> = suites
        .iter()
        .flatten()
        .map(|run| Origin { path: run.path.clone(), manifest: run.manifest.clone() })
        .collect();
    let (score_tables, merged) = match <[Vec<Run>; 1]>::try_from(suites) {
        Ok([runs]) => {
            let (table, merged) = tables::of(runs, None, true)?;
            (vec![table], merged)
        }
        Err(suites) => {
            let table = |runs: &Vec<Run>| Ok(tables::of(runs.clone(), None, true)?.0);
            let tables = suites.iter().map(table).collect::<anyhow::Result<Vec<_>>>()?;
            (tables, Merged::of(suites.into_iter().flatten(), true)?)
        }
    };
    let papers = papers(&args.paper, &merged)?;
    let oddities = |name: &str| protocol::by_name(name).map(|p| p.oddities.clone()).unwrap_or_default();
    let recorded = recorded(&origins, args);
    // A prompt is shown token by token where any run's model and rows give the recorded one again.
    let tokens = |key: &ExampleKey, example: &MergedExample| {
        recorded.iter().find_map(|recorded| recorded.tokens(key, &example.info.prompt_sha256).ok())
    };
    let data = report::from_runs(
        &merged,
        Options {
            title: title(&origins, &merged),
            generator: format!("kvsweep {}", provenance::VERSION),
            tables: &score_tables,
            papers: &papers,
            oddities: &oddities,
            tokens: &tokens,
        },
    )?;
    let page = report::render(&data)?;
    destination::write(&args.output, page.as_bytes())?;
    output::note(&format!("wrote `{}` ({:.1} MB)", args.output.display(), page.len() as f64 / 1e6));
    Ok(tables::tell(&merged))
}

/// Where records came from; they themselves are merged.
struct Origin {
    path: PathBuf,
    manifest: Manifest,
}

/// `LongBench on the embedded model tiny, 12 methods, budgets 64 to 512`.
fn title(runs: &[Origin], merged: &Merged) -> String {
    let mut suites: Vec<&str> = Vec::new();
    for run in runs {
        let name = run.manifest.suite.as_str();
        let name = Suite::by_name(name).map_or(name, |suite| suite.title());
        if !suites.contains(&name) {
            suites.push(name);
        }
    }
    let models: BTreeSet<String> = merged
        .groups
        .iter()
        .map(|group| &group.manifest.model)
        .map(|m| if m.embedded { format!("the embedded model {}", m.name) } else { m.name.clone() })
        .collect();
    let models: Vec<String> = models.into_iter().collect();
    let variants = || merged.groups.iter().flat_map(|group| &group.variants);
    let methods: BTreeSet<&str> = variants().map(|variant| &*variant.method).collect();
    let budgets: BTreeSet<Budget> = variants().filter_map(|variant| variant.budget).collect();
    let methods = match methods.first() {
        Some(only) if methods.len() == 1 => format!("method {only}"),
        _ => format!("{} methods", methods.len()),
    };
    let budgets = match (budgets.first(), budgets.last()) {
        (Some(first), Some(last)) if first != last => {
            let what = if first.share().is_some() { "shares" } else { "budgets" };
            format!(", {what} {first} to {last}")
        }
        (Some(only), _) => format!(", {}", only.title()),
        _ => String::new(),
    };
    format!("{} on {}: {methods}{budgets}", suites.join(" and "), models.join(" and "))
}

/// The published tables named, or those of the runs' own models and protocols.
fn papers(ids: &[String], merged: &Merged) -> anyhow::Result<Vec<PaperComparison>> {
    let mut shown = Vec::new();
    for id in ids {
        let paper = published::find(id).map_err(usage)?;
        let found = merged.groups.iter().map(|group| super::paper::compare(paper, group));
        let before = shown.len();
        shown.extend(found.filter(PaperComparison::has_common_cells));
        anyhow::ensure!(
            shown.len() > before,
            "no number of table `{id}` has one of these runs beside it: `kvsweep paper {id}` runs its methods"
        );
    }
    if ids.is_empty() {
        for (paper, group) in
            published::tables()?.iter().flat_map(|p| merged.groups.iter().map(move |g| (p, g)))
        {
            if paper.is_of(&group.manifest) {
                shown.extend(
                    Some(super::paper::compare(paper, group)).filter(PaperComparison::has_common_cells),
                );
            }
        }
    }
    Ok(shown)
}

/// What renders the runs' prompts again; a run whose model or rows are not here any more is shown without.
fn recorded(runs: &[Origin], args: &ReportArgs) -> Vec<Recorded> {
    let mut all = Vec::new();
    for run in runs {
        let names = run.manifest.datasets.iter().map(|dataset| dataset.name.clone()).collect();
        match Recorded::of(&run.manifest, Some(names), args.data.as_deref(), &args.model) {
            Ok(recorded) => all.push(recorded),
            Err(error) => output::note(&format!(
                "`{}` is shown without its prompts' tokens: {}",
                run.path.display(),
                output::causes(&error)
            )),
        }
    }
    all
}
