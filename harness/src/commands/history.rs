//! `kvsweep history`: a baseline store's averages over commits, as a table and a curve.

use std::collections::BTreeSet;

use kvsweep_plots::{history as picture, sweep};
use kvsweep_results::Bootstrap;

use crate::cli::HistoryArgs;
use crate::exit::Exit;
use crate::{destination, output, tables};

use super::compare::{repository, store};

/// Runs the command: one table a stored configuration.
pub(crate) fn run(args: &HistoryArgs) -> anyhow::Result<Exit> {
    let store = store(args.store.as_deref())?;
    let keys = store.list()?;
    let configurations: BTreeSet<&String> = keys.iter().map(|key| &key.configuration).collect();
    anyhow::ensure!(
        !configurations.is_empty(),
        "`{}` holds no baseline\nhint: {}",
        store.path.display(),
        store.remedy
    );
    let repository = repository()?;
    let mut histories = Vec::new();
    for configuration in configurations {
        let Some(key) = keys.iter().find(|key| key.configuration == *configuration) else { continue };
        let run = store.get(&key.commit, Some(configuration))?;
        let layout = tables::layout(&[&run.manifest], None)?;
        histories.push(store.history(&repository, configuration, &layout, &Bootstrap::default())?);
    }
    if let (Some(path), Some(longest)) = (&args.output, histories.iter().max_by_key(|h| h.points.len())) {
        destination::write_picture(path, &picture::draw(&sweep::history(longest))?)?;
        if destination::is_stdout(path) {
            return Ok(Exit::Done);
        }
        output::note(&format!("drew `{}`", path.display()));
    }
    if args.json {
        output::json(&histories)?;
    } else {
        for history in &histories {
            output::data(&history.text())?;
        }
    }
    Ok(Exit::Done)
}
