//! The needle test in a folder of essays, as the protocol's repository builds it.

use std::path::PathBuf;

use super::{Dataset, Source, needles, spread};
use crate::ask::Renderer;
use crate::error::TaskError;
use crate::needle::{self, Essays, NeedleGrading, NeedleVariant};

/// A grid of one repository's needle test.
#[derive(Debug, Clone)]
pub struct EssayNeedle {
    /// How prompts are built and graded.
    pub variant: &'static NeedleVariant,
    /// Context lengths in tokens.
    pub lengths: Vec<usize>,
    /// Depths in percent.
    pub depths: Vec<u32>,
    /// The essays.
    pub folder: PathBuf,
    /// So many cells, spread evenly over the lengths; all, if `None`.
    pub limit: Option<usize>,
}

impl Source for EssayNeedle {
    fn read(&self, renderer: &Renderer<'_>) -> Result<Dataset, TaskError> {
        let Renderer { model, text, .. } = *renderer;
        let essays = Essays::read(&self.folder)?;
        let mut cases = needle::cases(self.variant, model, &self.lengths, &self.depths, &essays, text)?;
        if let Some(limit) = self.limit {
            let lengths: Vec<u64> = cases.iter().map(|case| case.cell.length as u64).collect();
            let drawn = spread::rows(&lengths, limit);
            let mut rows = 0u64..;
            cases.retain(|_| rows.next().is_some_and(|row| drawn.contains(&row)));
        }
        needles::dataset(cases, NeedleGrading::Variant(self.variant), Some(essays.sha256))
    }
}
