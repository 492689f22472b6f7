//! `kvsweep fetch model|data NAME`: downloads once, checks hashes; everything afterwards works offline.

use std::io::IsTerminal;
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kvsweep_engine::model::Card;
use kvsweep_engine::source::{self, Hub};

use kvsweep_results::shell_word;
use kvsweep_tasks::fetch::FetchOptions;

use crate::cli::{FetchArgs, FetchWhat};
use crate::exit::Exit;
use crate::output;

/// How often a broken download is taken up again.
const RETRIES: usize = 5;

/// Runs the command.
pub(crate) fn run(args: &FetchArgs) -> anyhow::Result<Exit> {
    let bar = Bar::new();
    match args.what {
        FetchWhat::Model if Path::new(&args.name).exists() => {
            Card::load(&source::resolve_card(&args.name)?)?;
            output::note(&format!(
                "`{}` is on this machine: nothing to fetch, `--model {}` names it",
                args.name,
                shell_word(&args.name)
            ));
        }
        FetchWhat::Model => {
            let files = source::fetch(&args.name, &Hub::from_env()?, &mut |file, done, total| {
                bar.show(file, done, total)
            })?;
            bar.clear();
            for file in files {
                output::line(&format!("{}  {:>13}  {}", file.sha256, file.bytes, file.path.display()))?;
            }
        }
        FetchWhat::Data => {
            let (name, revision) = match args.name.split_once('@') {
                Some((name, revision)) => (name, Some(revision.to_owned())),
                None => (args.name.as_str(), None),
            };
            let options = FetchOptions { revision, retries: RETRIES, ..FetchOptions::default() };
            let file =
                kvsweep_tasks::fetch::fetch(name, &options, &mut |done, total| bar.show(name, done, total))?;
            bar.clear();
            output::line(&format!("{}  {:>13}  {}", file.sha256, file.bytes, file.path.display()))?;
        }
    }
    Ok(Exit::Done)
}

/// A download's bar, on a terminal only.
struct Bar(Option<ProgressBar>);

impl Bar {
    fn new() -> Self {
        Self(std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            if let Ok(style) =
                ProgressStyle::with_template("{bar:24} {bytes}/{total_bytes}  {eta} left  {msg}")
            {
                bar.set_style(style);
            }
            bar
        }))
    }

    fn show(&self, file: &str, done: u64, total: u64) {
        if let Some(bar) = &self.0 {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(kvsweep_results::visible(file));
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
