//! The needle test in a folder of essays, as the protocol's repository builds it.

use std::path::PathBuf;

use super::{Dataset, Source, needles};
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
    /// The first so many cells; all, if `None`.
    pub limit: Option<usize>,
}

impl Source for EssayNeedle {
    fn read(&self, renderer: &Renderer<'_>) -> Result<Dataset, TaskError> {
        let Renderer { model, text, .. } = *renderer;
        let essays = Essays::read(&self.folder)?;
        let mut cases = needle::cases(self.variant, model, &self.lengths, &self.depths, &essays, text)?;
        cases.truncate(self.limit.unwrap_or(usize::MAX));
        needles::dataset(cases, NeedleGrading::Variant(self.variant), Some(essays.sha256))
    }
}
