//! The rows of a data set's file.

use std::path::PathBuf;

use super::{Dataset, Identity, Source, rows, spread};
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
    /// So many rows, spread evenly over their lengths; all, if `None`.
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
        let rows = read_rows(&self.path, self.info.name)?;
        let identity = Identity { sha256: rows.sha256, essays_sha256: None };
        let lengths: Vec<u64> = rows.examples.iter().map(|example| example.length).collect();
        let questions = rows::questions((0..).zip(rows.examples), self.info, self.without_context);
        let mut dataset = Dataset::new(self.info.name, identity, questions)?;
        if let Some(limit) = self.limit {
            let drawn = spread::rows(&lengths, limit);
            dataset.retain(|row| drawn.contains(&row));
        }
        Ok(dataset)
    }
}

impl Source for RowFile {
    fn read(&self, _: &Renderer<'_>) -> Result<Dataset, TaskError> {
        self.rows()
    }
}
