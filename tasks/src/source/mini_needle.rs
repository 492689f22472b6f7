//! The needle test in the embedded haystack: lengths x depths x trials, generated from a seed.

use super::{Dataset, Source, needles};
use crate::ask::Renderer;
use crate::error::TaskError;
use crate::mini::{LENGTHS, NeedleTrial};
use crate::needle::{self, NeedleGrading, variants};
use crate::protocol::ModelFacts;

/// A grid of the embedded needle test.
#[derive(Debug, Clone)]
pub struct MiniNeedle {
    /// Context lengths in tokens.
    pub lengths: Vec<usize>,
    /// Depths in percent.
    pub depths: Vec<u32>,
    /// Needles of each cell.
    pub trials: usize,
    /// Seed of the suite.
    pub seed: u64,
    /// Leaves the context out of every prompt.
    pub without_context: bool,
}

impl MiniNeedle {
    /// The suite's context lengths that a model has positions for.
    pub fn lengths_for(model: &ModelFacts) -> Vec<usize> {
        LENGTHS.into_iter().filter(|&length| length <= model.max_positions).collect()
    }

    /// The suite's depths in percent.
    pub fn depths() -> Vec<u32> {
        variants::DEPTHS_10.to_vec()
    }

    /// Cells of the heatmap.
    pub fn cells(&self) -> usize {
        self.lengths.len() * self.depths.len()
    }
}

impl Source for MiniNeedle {
    fn read(&self, renderer: &Renderer<'_>) -> Result<Dataset, TaskError> {
        let Renderer { model, text, .. } = *renderer;
        super::check_lengths(&self.lengths, 0, model)?;
        let mut cases = Vec::new();
        for &length in &self.lengths {
            for &depth in &self.depths {
                for number in 0..self.trials as u64 {
                    let trial = NeedleTrial { seed: self.seed, length, depth: depth as usize, number };
                    cases.push(needle::mini_case(trial, self.without_context, model, text)?);
                }
            }
        }
        needles::dataset(cases, NeedleGrading::Exact, None)
    }
}
