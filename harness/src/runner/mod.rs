//! The way of a sweep, top to bottom: plan -> prefill -> fork -> decode -> score -> record.

mod flight;
mod lanes;
mod record;
mod worker;
mod writer;

use kvsweep_engine::backend::Backend;
use kvsweep_engine::error::EngineError;

pub(crate) use worker::{Limits, Worker, again, without_room};
pub(crate) use writer::Writer;

use crate::plan::Plan;

/// How a sweep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Every example is recorded.
    Complete,
    /// Ctrl-C: what was in hand is dropped, every record before it is kept.
    Interrupted,
}

/// Records what `writer` does not hold yet; one record an example, in the order of the data sets' rows.
///
/// # Errors
/// The first example that cannot be rendered, computed or written; all records before it are kept. An example that
/// cannot be graded is recorded as skipped, with the reason, and the sweep goes on.
pub(crate) fn sweep<'p, B: Backend>(
    plan: &'p Plan,
    worker: &mut Worker<'p, B>,
    writer: &mut Writer<'_>,
) -> anyhow::Result<Ended> {
    match record_all(plan, worker, writer) {
        Err(error) if matches!(error.downcast_ref(), Some(EngineError::Interrupted)) => {
            Ok(Ended::Interrupted)
        }
        ended => ended.map(|()| Ended::Complete),
    }
}

fn record_all<'p, B: Backend>(
    plan: &'p Plan,
    worker: &mut Worker<'p, B>,
    writer: &mut Writer<'_>,
) -> anyhow::Result<()> {
    for dataset in &plan.datasets {
        worker.enter(dataset)?;
        // Found before the first prefill, so that a row that no answer can be graded against costs none.
        let mut waiting = Vec::new();
        for asked in dataset.questions() {
            if writer.finished().contains(&asked.key) {
                continue;
            }
            match asked.question.ungradable(plan.protocol) {
                Some(why) => writer.append(record::skipped(&asked, why.to_string())?)?,
                None => waiting.push(asked),
            }
        }
        let mut waiting = waiting.into_iter();
        loop {
            let flight = worker.prefill(&mut waiting, &mut writer.progress)?;
            if flight.is_empty() {
                break;
            }
            let answers = worker.decode(&flight, &mut writer.progress)?;
            for (example, answers) in flight.iter().zip(&answers) {
                writer.append(worker.score(example, answers)?)?;
            }
        }
    }
    Ok(())
}
