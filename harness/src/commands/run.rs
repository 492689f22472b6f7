//! `kvsweep run SUITE`: plans a sweep, runs or continues it, prints the table; for `needle` and `ruler` also draws the
//! heatmaps.

use std::path::Path;

use kvsweep_engine::backend::Backend;
use kvsweep_engine::session::{AnySession, Session};
use kvsweep_engine::with_session;
use kvsweep_results::{Format, Run, RunDir};
use kvsweep_tasks::Suite;

use crate::cli::RunArgs;
use crate::cost::{Load, Target};
use crate::exit::{Exit, usage};
use crate::lengths::Lengths;
use crate::plan::{Plan, Request};
use crate::progress::Progress;
use crate::runner::{self, Limits, Worker, Writer};
use crate::variants::base;
use crate::{interrupt, machine, output, pictures, tables};

/// Sequences that decode together, where several examples fill a batch.
const BATCH: usize = 32;

/// Examples of each data set whose kept positions are stored.
const STORE_KEPT: u64 = 2;

/// Runs the command.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<Exit> {
    let memory = memory_limit(args.memory)?;
    if args.dry_run {
        return print_load(&load(args)?, args.json);
    }
    if args.record_baseline && args.shard.is_some() {
        return Err(usage("--record-baseline stores a whole run; leave --shard out"));
    }
    let (plan, session) = Plan::of(args)?;
    let exit = execute(&plan, &session, memory)?;
    if exit == Exit::Interrupted {
        output::note(&format!("run the same command again to continue `{}`", plan.out.display()));
        return Ok(exit);
    }
    finish(&plan.out, args)
}

/// Runs what is missing, with `memory` bytes for prompts in flight and their variants; by default four fifths of what is
/// free where the model computes.
///
/// # Errors
/// See [`runner::sweep`]; a run directory of another configuration.
pub(crate) fn execute(plan: &Plan, session: &AnySession, memory: Option<u64>) -> anyhow::Result<Exit> {
    let mut run = RunDir::create_or_continue(&plan.out, &plan.manifest)?;
    for problem in run.repairs() {
        output::note(&format!("{problem}"));
    }
    if run.is_complete() {
        output::note(&format!("`{}` is complete: nothing to run", plan.out.display()));
        return Ok(Exit::Done);
    }
    // The weights are loaded: what is free now is for prompts and their variants.
    let memory =
        memory.unwrap_or_else(|| crate::model::free_memory(&session.device).unwrap_or(4 << 30) / 5 * 4);
    interrupt::listen()?;
    let limits = Limits { batch: BATCH, memory, store_kept: STORE_KEPT };
    with_session!(session, session => sweep(plan, session, limits, &mut run))
}

fn sweep<B: Backend>(
    plan: &Plan,
    session: &Session<B>,
    limits: Limits,
    run: &mut RunDir,
) -> anyhow::Result<Exit> {
    let ended = (|| -> anyhow::Result<()> {
        let mut worker = Worker::new(plan, session, limits)?;
        let finished = run.finished_keys();
        let survey = worker.survey(finished)?;
        let progress =
            Progress::new(plan.manifest.examples(), finished.len() as u64, worker.remaining(&survey));
        let mut writer = Writer::new(run, progress);
        let ended = runner::sweep(plan, &survey, &mut worker, &mut writer);
        writer.progress.finish();
        ended
    })();
    if runner::was_interrupted(&ended) {
        return Ok(Exit::Interrupted);
    }
    ended.map(|()| Exit::Done)
}

/// Bytes that prompts in flight and their variants may take, if the options say it.
///
/// # Errors
/// A number that makes no byte.
fn memory_limit(gib: Option<f64>) -> anyhow::Result<Option<u64>> {
    match gib {
        Some(gib) if gib.is_finite() && gib * f64::from(1 << 30) >= 1.0 => {
            Ok(Some((gib * f64::from(1 << 30)) as u64))
        }
        Some(gib) => Err(usage(format!("`--memory {gib}`: expected a positive number of GiB, e.g. 0.5"))),
        None => Ok(None),
    }
}

/// Prints the table of a finished run, and draws what its suite shows.
fn finish(out: &Path, args: &RunArgs) -> anyhow::Result<Exit> {
    let run = Run::load(out)?;
    let format = if args.json { Format::Json } else { tables::text_format(args.wide) };
    let suite = run.manifest.suite.clone();
    let (table, merged) = tables::of(vec![run], None, false)?;
    tables::print(&table, &merged, format)?;
    let drawn = match Suite::by_name(&suite) {
        Some(Suite::Needle) => pictures::heatmaps(&merged, out)?,
        Some(Suite::Ruler) => {
            let mut drawn = pictures::heatmaps(&merged, out)?;
            drawn.extend(pictures::scores(&table, out)?);
            drawn
        }
        _ => pictures::scores(&table, out)?,
    };
    for path in drawn {
        output::note(&format!("drew `{}`", path.display()));
    }
    if args.record_baseline {
        crate::commands::compare::record_baseline(&Run::load(out)?)?;
    }
    output::note(&format!("run directory: `{}`", out.display()));
    Ok(if merged.problems.is_empty() { Exit::Done } else { Exit::Failed })
}

/// What a sweep would take, from the model's configuration and what there is of rows and tokenizer.
///
/// # Errors
/// Whatever is wrong with the command line, the model's configuration or the data.
pub(crate) fn load(args: &RunArgs) -> anyhow::Result<Load> {
    let Request { protocol, variants, selected } = Request::of(args)?;
    let (cuda, dtype) = args.model.place()?;
    let (card, stand_in) = args.model.card()?;
    let mut lengths = Lengths::of(&selected, protocol, &card, args.question.unwrap_or(protocol.question))?;
    lengths.assumed.extend(stand_in);
    for spec in &variants.specs {
        if card.name != crate::model::TINY && !spec.needs().is_empty() {
            let name = base(spec.label());
            lengths.assumed.push(format!("`{name}` has the inputs that `kvsweep calibrate` makes"));
        }
    }
    let target = Target {
        name: format!("{}, {}", if cuda.is_some() { "cuda" } else { "cpu" }, dtype.as_str()),
        element: cuda.map(|_| dtype.size_in_bytes()),
        threads: machine::processors(),
    };
    Ok(Load::of(&card.name, &card.config, lengths, &variants.all, &target))
}

/// Prints what a sweep would take.
pub(crate) fn print_load(load: &Load, as_json: bool) -> anyhow::Result<Exit> {
    if as_json {
        output::json(load)?;
    } else {
        output::data(&load.to_string())?;
    }
    Ok(Exit::Done)
}
