//! What a finished run is drawn as, in its own directory.

use std::path::{Path, PathBuf};

use anyhow::Context;
use kvsweep_plots::curve::{self, XAxis};
use kvsweep_plots::heatmap::Grid;
use kvsweep_plots::sweep::Columns;
use kvsweep_plots::{Picture, heatmap, retention, sweep};
use kvsweep_results::{Group, Merged, ScoreTable, VariantKey};
use kvsweep_tasks::path;

use crate::destination;

/// Draws the heatmaps of a run that has context lengths: one a variant in `heatmaps/`, what each kept of a needle in
/// `retention/`, and all heatmaps on one sheet; PNG and SVG. Gives what a person wants to open first.
///
/// # Errors
/// A picture that cannot be drawn or written.
pub(crate) fn heatmaps(merged: &Merged, out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for group in &merged.groups {
        for variant in &group.variants {
            let name = variant_file_name(group, variant);
            if let Some(map) = sweep::needle_map(group, variant).or_else(|| sweep::task_map(group, variant)) {
                both(&out.join("heatmaps").join(&name), &heatmap::draw(&map)?)?;
            }
            // The full cache keeps everything everywhere: nothing to see.
            if variant.budget.is_some()
                && let Some(map) = sweep::retention(group, variant)
            {
                both(&out.join("retention").join(&name), &retention::draw(&map)?)?;
            }
        }
        if let Some(grid) = sheet(group) {
            written.push(both(&out.join("heatmap"), &heatmap::grid(&grid)?)?);
        }
    }
    Ok(written)
}

/// All heatmaps of a group on one sheet: the needle test's, else RULER's.
pub(crate) fn sheet(group: &Group) -> Option<Grid> {
    sweep::needle_grid(group).or_else(|| sweep::task_grid(group))
}

/// Draws a table: scores of the categories against the budget or the share kept, and the average against the bytes held.
///
/// # Errors
/// A picture that cannot be drawn or written.
pub(crate) fn scores(table: &ScoreTable, out: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for (name, columns, x) in [
        ("score-by-budget", Columns::Categories, XAxis::Budget),
        ("score-by-share", Columns::Categories, XAxis::Share),
        ("score-by-bytes", Columns::Average, XAxis::Bytes),
    ] {
        if let Some(curves) = sweep::score_curves(table, columns, x) {
            written.push(both(&out.join(name), &curve::draw(&curves)?)?);
        }
    }
    Ok(written)
}

/// Draws a table's average against the share kept, where it has shares, else against the budget.
///
/// # Errors
/// Fewer than two budgets; a picture that cannot be drawn or written.
pub(crate) fn average(table: &ScoreTable, path: &Path) -> anyhow::Result<()> {
    let curves = [XAxis::Share, XAxis::Budget]
        .into_iter()
        .find_map(|x| sweep::score_curves(table, Columns::Average, x))
        .context("a curve needs two budgets or shares of a method")?;
    destination::write_picture(path, &curve::draw(&curves)?)
}

/// Writes a picture as PNG and SVG; gives the PNG's path.
fn both(stem: &Path, picture: &Picture) -> anyhow::Result<PathBuf> {
    if let Some(folder) = stem.parent() {
        fs_err::create_dir_all(folder)?;
    }
    let with = |ending: &str| {
        let mut path = stem.as_os_str().to_owned();
        path.push(ending);
        PathBuf::from(path)
    };
    destination::write_picture(&with(".svg"), picture)?;
    destination::write_picture(&with(".png"), picture)?;
    Ok(with(".png"))
}

/// A variant as a file name: `snapkv-64`, `snapkv-0.5`, with its granularity or its parameters' id where another variant of the
/// group would read the same.
pub(crate) fn variant_file_name(group: &Group, variant: &VariantKey) -> String {
    path::component(&sweep::variant_title(group, variant).replace(", budget ", "-").replace(", share ", "-"))
}
