//! Score tables of runs: which columns a suite has, and how its protocol averages them.

use std::collections::BTreeSet;

use kvsweep_results::{
    Averaging, Bootstrap, Column, Format, Group, Manifest, Merged, NEEDLE_LENGTHS, Run, ScoreTable,
    TableLayout,
};
use kvsweep_tasks::averages::Average;
use kvsweep_tasks::{datasets, mini, protocol};

use crate::cli::Suite;
use crate::exit::Exit;
use crate::output;

/// LongBench-E's buckets.
const BUCKETS: [&str; 3] = ["0-4k", "4-8k", "8k+"];

/// Prints a table; lines of records that could not be used make the exit say so.
///
/// # Errors
/// A stdout that cannot be written to.
pub fn print(table: &ScoreTable, merged: &Merged, format: Format) -> anyhow::Result<Exit> {
    let text = table.render(format, terminal_width())?;
    if format == Format::Json {
        output::json_text(text.trim_end())?;
    } else {
        output::data(&text)?;
    }
    Ok(tell(merged))
}

/// Tells what the records lack: missing parts, and lines that could not be used, which make the exit say so. Every command
/// that reads runs ends so.
pub fn tell(merged: &Merged) -> Exit {
    for parts in merged.groups.iter().flat_map(Group::parts) {
        output::note(&parts);
    }
    for problem in &merged.problems {
        output::note(&problem.to_string());
    }
    if merged.problems.is_empty() { Exit::Done } else { Exit::Failed }
}

/// The runs of each suite, in the order in which the suites come first: a table each, since their columns and averages
/// have nothing in common.
pub fn by_suite(runs: Vec<Run>) -> Vec<Vec<Run>> {
    let mut suites: Vec<Vec<Run>> = Vec::new();
    for run in runs {
        let same =
            |suite: &&mut Vec<Run>| suite.iter().any(|other| other.manifest.suite == run.manifest.suite);
        match suites.iter_mut().find(same) {
            Some(suite) => suite.push(run),
            None => suites.push(vec![run]),
        }
    }
    suites
}

/// The table of `runs`, and the merged records behind it; they are moved there, since they may be many.
///
/// # Errors
/// Runs that do not belong into one table, an unknown protocol.
pub fn of(runs: Vec<Run>, protocol: Option<&str>, mixed: bool) -> anyhow::Result<(ScoreTable, Merged)> {
    let manifests: Vec<Manifest> = runs.iter().map(|run| run.manifest.clone()).collect();
    let merged = Merged::of(runs, mixed)?;
    let layout = layout(&manifests.iter().collect::<Vec<_>>(), protocol)?;
    let table = ScoreTable::new(&merged, &layout, &Bootstrap::default())?;
    Ok((table, merged))
}

/// The columns of the suite that the first manifest names; data sets of all manifests.
///
/// # Errors
/// An unknown protocol.
pub fn layout(manifests: &[&Manifest], protocol: Option<&str>) -> anyhow::Result<TableLayout> {
    let (suite, own_protocol) =
        manifests.first().map_or(("", ""), |m| (m.suite.as_str(), m.protocol.name.as_str()));
    let protocol = protocol::by_name(protocol.unwrap_or(own_protocol)).map_err(crate::exit::usage)?;
    let mut names: Vec<&str> = Vec::new();
    for dataset in manifests.iter().flat_map(|manifest| &manifest.datasets) {
        if !names.contains(&dataset.name.as_str()) {
            names.push(&dataset.name);
        }
    }
    let mut columns: Vec<Column> = Vec::new();
    for name in names {
        let column = Column {
            title: title(name).to_owned(),
            dataset: name.to_owned(),
            bucket: None,
            category: category(name).to_owned(),
        };
        if suite == Suite::LongbenchE.name() {
            columns.extend(BUCKETS.iter().map(|bucket| Column {
                title: format!("{} {bucket}", column.title),
                bucket: Some((*bucket).to_owned()),
                ..column.clone()
            }));
        } else if suite == Suite::Needle.name() {
            columns.extend(lengths(manifests).into_iter().map(|length| Column {
                title: length.to_string(),
                bucket: Some(length.to_string()),
                ..column.clone()
            }));
        } else {
            columns.push(column);
        }
    }
    // Columns of one category stand together, in the order in which the categories first appear.
    let mut order: Vec<String> = Vec::new();
    for column in &columns {
        if !order.contains(&column.category) {
            order.push(column.category.clone());
        }
    }
    columns.sort_by_key(|column| order.iter().position(|category| *category == column.category));
    let averaging = match protocol.averages().first() {
        _ if suite == Suite::Needle.name() => Averaging::Datasets,
        Some(Average::CompressKv) => Averaging::DatasetsRounded,
        Some(Average::Official) => Averaging::Categories,
        _ => Averaging::Datasets,
    };
    Ok(TableLayout { title: suite.to_owned(), columns, averaging })
}

/// The context lengths of needle runs, ascending.
fn lengths(manifests: &[&Manifest]) -> BTreeSet<usize> {
    let lists = manifests.iter().filter_map(|manifest| manifest.settings.get(NEEDLE_LENGTHS));
    lists.flat_map(|list| list.split(',')).filter_map(|length| length.parse().ok()).collect()
}

/// What a data set tests.
pub fn category(dataset: &str) -> &'static str {
    if let Ok(info) = datasets::by_name(dataset) {
        info.category.name()
    } else if let Some(mini) = mini::datasets().iter().find(|mini| mini.name == dataset) {
        mini.category
    } else {
        "needle"
    }
}

/// A data set's name without what all of its suite share.
fn title(dataset: &str) -> &str {
    dataset.strip_prefix("mini_").unwrap_or(dataset)
}

/// The terminal's width, where stdout is one.
fn terminal_width() -> Option<usize> {
    terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0))
}
