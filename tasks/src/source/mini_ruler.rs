//! The rows of an embedded RULER task, generated from a seed: contexts of several lengths, each with all its questions.

use super::{Dataset, Identity, Source, rows};
use crate::ask::Renderer;
use crate::datasets::{self, DatasetInfo};
use crate::error::TaskError;
use crate::mini::ruler;

/// One task of the embedded suite.
#[derive(Debug, Clone)]
pub struct MiniRuler {
    task: &'static ruler::MiniRuler,
    info: &'static DatasetInfo,
    lengths: Option<Vec<usize>>,
    seed: u64,
    limit: Option<usize>,
    without_context: bool,
}

impl MiniRuler {
    /// The first `limit` rows (the suite's number, if `None`) of a task under a seed. `lengths` are context lengths in
    /// tokens; the suite's own that the model has positions for, if `None`.
    ///
    /// # Errors
    /// A task that the registry does not know.
    pub fn new(
        task: &'static ruler::MiniRuler,
        lengths: Option<Vec<usize>>,
        seed: u64,
        limit: Option<usize>,
        without_context: bool,
    ) -> Result<Self, TaskError> {
        let info = datasets::by_name(task.set.name)?;
        Ok(Self { task, info, lengths, seed, limit, without_context })
    }
}

impl Source for MiniRuler {
    fn read(&self, renderer: &Renderer<'_>) -> Result<Dataset, TaskError> {
        let positions = renderer.model.max_positions;
        let lengths = self.lengths.clone().unwrap_or_else(|| ruler::lengths_within(positions));
        super::check_lengths(&lengths, ruler::SHORTEST, renderer.model)?;
        let count = self.limit.unwrap_or(ruler::RULER_ROWS);
        let mut rows = ruler::rows(self.task, self.seed, &lengths, count.max(ruler::RULER_ROWS));
        // The hash names the suite, however much of it is asked.
        let identity = Identity { sha256: datasets::mini::sha256(&rows)?, essays_sha256: None };
        rows.truncate(count);
        let examples = (0..).zip(rows).map(|(row, mini)| (row as u64, datasets::mini::example(row, mini)));
        let questions = rows::questions(examples, self.info, self.without_context);
        Dataset::new(self.info.name, identity, questions)
    }
}
