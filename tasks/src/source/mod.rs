//! Where contexts and questions come from: one file a source.

mod essay_needle;
mod mini_needle;
mod mini_rows;
mod mini_ruler;
mod needles;
mod row_file;
mod rows;
mod ruler;
mod spread;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::ask::{Ask, NeedleCell, Question, Renderer};
use crate::error::TaskError;
use crate::protocol::ModelFacts;

pub use essay_needle::EssayNeedle;
pub use mini_needle::MiniNeedle;
pub use mini_rows::MiniRows;
pub use mini_ruler::MiniRuler;
pub use row_file::RowFile;
pub use ruler::{GeneratedRuler, PublishedRuler};
pub use spread::rows as spread_rows;

/// The one data set of the needle test.
pub const NEEDLE: &str = "needle";

/// What one data set's contexts and questions are read from or made of.
pub trait Source {
    /// Reads or makes everything that is asked, in the order of rows.
    ///
    /// # Errors
    /// Files that are missing or malformed, a test that the model cannot hold, what the tokenizer says.
    fn read(&self, renderer: &Renderer<'_>) -> Result<Dataset, TaskError>;
}

/// The contexts and questions of one data set, and what they were made of.
#[derive(Clone)]
pub struct Dataset {
    /// The column of tables.
    pub name: &'static str,
    /// What decides the questions.
    pub identity: Identity,
    /// What is asked, in the order of rows.
    pub asks: Vec<Ask>,
    /// The first question of all, asked or not: profiles that freeze capacities start from it.
    pub first: Arc<dyn Question>,
}

/// What decides the questions of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// SHA-256 of the rows' file, of the generated rows, or of the needle's prompts, hexadecimal.
    pub sha256: String,
    /// SHA-256 of the essays that the needle lies in, hexadecimal, where it lies in essays.
    pub essays_sha256: Option<String>,
}

impl Dataset {
    fn new(
        name: &'static str,
        identity: Identity,
        questions: impl IntoIterator<Item = Arc<dyn Question>>,
    ) -> Result<Self, TaskError> {
        let asks = Ask::group(questions);
        let first = asks.iter().flat_map(|ask| &ask.questions).next().cloned();
        let first = first.ok_or_else(|| TaskError::NoRows(name.to_owned()))?;
        Ok(Self { name, identity, asks, first })
    }

    /// Keeps some rows. What profiles start from stays the first of all.
    fn retain(&mut self, row: impl Fn(u64) -> bool) {
        self.asks.iter_mut().for_each(|ask| ask.questions.retain(|question| row(question.row())));
        self.asks.retain(|ask| !ask.questions.is_empty());
    }

    /// Every question, in the order of rows.
    pub fn questions(&self) -> impl Iterator<Item = &Arc<dyn Question>> {
        self.asks.iter().flat_map(|ask| &ask.questions)
    }

    /// The context lengths in tokens of a suite that has several.
    pub fn lengths(&self) -> BTreeSet<usize> {
        self.questions().filter_map(|question| question.context_length()).collect()
    }

    /// The cells of the needle's heatmap that are asked.
    pub fn cells(&self) -> BTreeSet<NeedleCell> {
        self.questions().filter_map(|question| question.cell()).collect()
    }
}

/// Says whether prompts of these lengths can be made for a model: each at least `shortest`, none beyond its positions.
fn check_lengths(lengths: &[usize], shortest: usize, model: &ModelFacts) -> Result<(), TaskError> {
    for &length in lengths {
        if length > model.max_positions {
            let (positions, model) = (model.max_positions, model.name.clone());
            return Err(TaskError::LengthBeyondModel { length, positions, model });
        }
        if length < shortest {
            return Err(TaskError::LengthTooShort { length, shortest });
        }
    }
    Ok(())
}
