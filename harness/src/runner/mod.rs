//! The way of a sweep, top to bottom: plan -> survey -> prefill -> fork -> decode -> score -> record.

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
use crate::survey::{Survey, tell_skipped};

/// Records what `writer` does not hold yet and `survey` knows of; one record an example, in the order of the data sets' rows.
///
/// # Errors
/// The first example that cannot be computed or written; all records before it are kept. An example that cannot be graded is
/// recorded as skipped, with the reason, and the sweep goes on.
pub(crate) fn sweep<'p, B: Backend>(
    plan: &'p Plan,
    survey: &Survey,
    worker: &mut Worker<'p, B>,
    writer: &mut Writer<'_>,
) -> anyhow::Result<()> {
    for dataset in &plan.datasets {
        worker.enter(dataset)?;
        let mut waiting = Vec::new();
        for asked in dataset.questions() {
            if writer.finished().contains(&asked.key) {
                continue;
            }
            match survey.ungradable.get(&asked.key) {
                Some(why) => writer.append(record::skipped(&asked, why.clone())?)?,
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
                let scored = worker.score(example, answers)?;
                if let Some(why) = &scored.record.skipped {
                    tell_skipped(why);
                }
                writer.append(scored)?;
            }
        }
    }
    Ok(())
}

/// Whether what ended so was stopped by Ctrl-C: what was in hand is dropped, every record before it is kept.
pub(crate) fn was_interrupted<T>(ended: &anyhow::Result<T>) -> bool {
    let error = ended.as_ref().err().and_then(|error| error.downcast_ref());
    matches!(error, Some(EngineError::Interrupted))
}
