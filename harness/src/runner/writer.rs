//! Where scored examples go: the run directory, in the order they come, and the progress that a person sees.

use std::collections::BTreeSet;

use kvsweep_results::{ExampleKey, ExampleRecord, KeptPositions, RunDir};

use crate::progress::Progress;

/// An example as it is recorded.
pub(crate) struct Scored {
    /// Its record.
    pub record: ExampleRecord,
    /// Its kept positions, where they are stored.
    pub kept: Option<KeptPositions>,
}

/// The one writer of a run.
pub(crate) struct Writer<'a> {
    run: &'a mut RunDir,
    /// How far the run is.
    pub progress: Progress<'a>,
}

impl<'a> Writer<'a> {
    /// Writes to `run`, of which `progress` tells.
    pub(crate) fn new(run: &'a mut RunDir, progress: Progress<'a>) -> Self {
        Self { run, progress }
    }

    /// The examples that are recorded.
    pub(crate) fn finished(&self) -> &BTreeSet<ExampleKey> {
        self.run.finished_keys()
    }

    /// Appends an example; on return it is on disk.
    ///
    /// # Errors
    /// A failing disk.
    pub(crate) fn append(&mut self, scored: Scored) -> anyhow::Result<()> {
        self.run.append(&scored.record, scored.kept.as_ref())?;
        self.progress.recorded();
        Ok(())
    }
}
