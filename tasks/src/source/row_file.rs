//! The rows of a data set's file.

use std::path::PathBuf;

use super::{Dataset, Identity, Source, rows};
use crate::ask::Renderer;
use crate::datasets::DatasetInfo;
use crate::error::TaskError;
use crate::reader::read_rows;

/// A file that [`crate::find_dataset`] found.
#[derive(Debug, Clone)]
pub struct RowFile {
    /// The data set.
    pub info: &'static DatasetInfo,
    /// Its file.
    pub path: PathBuf,
    /// The first so many rows; all, if `None`.
    pub limit: Option<usize>,
    /// Leaves the context out of every prompt.
    pub without_context: bool,
}

impl RowFile {
    /// Reads the rows, for which no model is needed.
    ///
    /// # Errors
    /// See [`read_rows`].
    pub fn rows(&self) -> Result<Dataset, TaskError> {
        let rows = read_rows(&self.path, self.info.name, self.limit)?;
        let identity = Identity { sha256: rows.sha256, essays_sha256: None };
        let questions = rows::questions(rows.examples, self.info, self.without_context);
        Dataset::new(self.info.name, identity, questions)
    }
}

impl Source for RowFile {
    fn read(&self, _: &Renderer<'_>) -> Result<Dataset, TaskError> {
        self.rows()
    }
}
