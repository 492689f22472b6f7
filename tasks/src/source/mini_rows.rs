//! The rows of an embedded mini data set, generated from a seed.

use super::{Dataset, Identity, Source, rows};
use crate::ask::Renderer;
use crate::datasets::{self, DatasetInfo};
use crate::error::TaskError;
use crate::mini::{self, MiniDataset};

/// One data set of the mini suite.
#[derive(Debug, Clone)]
pub struct MiniRows {
    set: &'static MiniDataset,
    info: &'static DatasetInfo,
    seed: u64,
    limit: Option<usize>,
    without_context: bool,
}

impl MiniRows {
    /// The first `limit` rows (all, if `None`) of a data set under a seed; a limit beyond the suite's rows makes more of
    /// them. The rows are generated in turn of their lengths, so the first ones have all of them. `without_context` leaves the context out of every prompt.
    ///
    /// # Errors
    /// A data set that the registry does not know.
    pub fn new(
        set: &'static MiniDataset,
        seed: u64,
        limit: Option<usize>,
        without_context: bool,
    ) -> Result<Self, TaskError> {
        Ok(Self { set, info: datasets::by_name(set.name)?, seed, limit, without_context })
    }
}

impl Source for MiniRows {
    fn read(&self, _: &Renderer<'_>) -> Result<Dataset, TaskError> {
        let mut rows = mini::rows(self.set, self.seed, self.limit.unwrap_or(0).max(mini::ROWS));
        // The hash names the suite, however much of it is asked.
        let identity = Identity { sha256: datasets::mini::sha256(&rows)?, essays_sha256: None };
        rows.truncate(self.limit.unwrap_or(usize::MAX));
        let examples = (0..).zip(rows).map(|(row, mini)| (row as u64, datasets::mini::example(row, mini)));
        let questions = rows::questions(examples, self.info, self.without_context);
        Dataset::new(self.set.name, identity, questions)
    }
}
