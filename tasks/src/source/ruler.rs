//! RULER's rows: generated from a seed for a model's tokenizer, or published ones.

use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Dataset, Identity, Source, rows};
use crate::ask::{Description, Grade, Question, Renderer};
use crate::datasets::DatasetInfo;
use crate::error::TaskError;
use crate::example::{Example, hex};
use crate::prompt::Prompt;
use crate::protocol::Protocol;
use crate::ruler::{Material, RULER_VERSION, RowId, RulerRow, Task, published};
use crate::text::{ModelText, TextError};

/// Rows of one task, made where they are asked. They are too long to be held: 500 of 128k tokens are a quarter gigabyte.
#[derive(Debug, Clone)]
pub struct GeneratedRuler {
    /// The task.
    pub info: &'static DatasetInfo,
    /// Context lengths in tokens, answer and chat template included.
    pub lengths: Vec<usize>,
    /// Rows of each length.
    pub rows: usize,
    /// The seed.
    pub seed: u64,
    /// Essays and questions.
    pub material: Arc<Material>,
    /// Leaves the context out of every prompt.
    pub without_context: bool,
}

/// A row that is made when its prompt is.
struct GeneratedQuestion {
    task: Task,
    info: &'static DatasetInfo,
    row: u64,
    id: RowId,
    /// Units of haystack that fit, about.
    units: usize,
    /// All but context and question.
    example: Example,
    material: Arc<Material>,
    without_context: bool,
}

/// How many tokens a row has with the chat template around it, whatever the protocol.
fn counter(text: &dyn ModelText) -> Result<impl Fn(&RulerRow) -> Result<usize, TextError>, TextError> {
    // Where parts meet, a token may be cut in two.
    const SEAM: usize = 4;
    let around = if text.has_chat_template() { text.encode(&text.render_user("")?, false)?.len() } else { 1 };
    Ok(move |row: &RulerRow| {
        let whole = [row.context.as_str(), &row.question, &row.answer_prefix].concat();
        Ok(text.encode(&whole, false)?.len() + around + SEAM)
    })
}

impl Source for GeneratedRuler {
    fn read(&self, renderer: &Renderer<'_>) -> Result<Dataset, TaskError> {
        let Self { info, seed, .. } = *self;
        super::check_lengths(&self.lengths, 0, renderer.model)?;
        let task = Task::by_name(info.name).ok_or_else(|| TaskError::NoRows(info.name.to_owned()))?;
        let count = counter(renderer.text)?;
        let mut hash = Sha256::new();
        hash.update(format!("kvsweep-ruler/{RULER_VERSION}/{}/{seed}", info.name));
        if let Some(sha256) = task.questions().and_then(|source| self.material.questions_sha256(source)) {
            hash.update(sha256);
        }
        let mut units = Vec::with_capacity(self.lengths.len());
        for &length in &self.lengths {
            let drawn = task.draw(RowId { seed, length, index: 0 }, &self.material)?;
            let room = length.saturating_sub(info.max_new_tokens);
            let most = drawn.most_units(task.least_units(), room, &count)?;
            let most = most.ok_or_else(|| too_short(info, length))?;
            // One row of each length stands for all: what makes them is named above.
            let row = drawn.write(most);
            for text in [&row.context, &row.question, &row.answer_prefix].into_iter().chain(&row.answers) {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
            units.push(most);
        }
        let ids =
            (0..self.rows as u64).flat_map(|index| self.lengths.iter().zip(&units).map(move |l| (index, l)));
        let question = |(row, (index, (&length, &units)))| -> Result<Arc<dyn Question>, TaskError> {
            let id = RowId { seed, length, index };
            let example = Example {
                key: format!("{}#{index}.{length}-{seed}", info.name),
                dataset: info.name.to_owned(),
                input: String::new(),
                answer_prefix: String::new(),
                context: Arc::default(),
                answers: task.draw(id, &self.material)?.answers(),
                all_classes: Vec::new(),
                length: length as u64,
                language: "en".to_owned(),
            };
            let (material, without_context) = (Arc::clone(&self.material), self.without_context);
            Ok(Arc::new(GeneratedQuestion { task, info, row, id, units, example, material, without_context }))
        };
        let questions: Vec<_> = (0..).zip(ids).map(question).collect::<Result<_, _>>()?;
        let essays_sha256 = self.material.essays_sha256.clone().filter(|_| task.reads_essays());
        let identity = Identity { sha256: hex(&hash.finalize()), essays_sha256 };
        Dataset::new(info.name, identity, questions)
    }
}

fn too_short(info: &DatasetInfo, length: usize) -> TaskError {
    TaskError::TaskTooLong { name: info.name, length }
}

impl Question for GeneratedQuestion {
    fn key(&self) -> &str {
        &self.example.key
    }

    fn row(&self) -> u64 {
        self.row
    }

    fn prompt(&self, renderer: &Renderer<'_>) -> Result<Prompt, TaskError> {
        let drawn = self.task.draw(self.id, &self.material)?;
        let room = self.id.length.saturating_sub(self.info.max_new_tokens);
        let row = drawn.fitting(self.task.least_units(), room, self.units, &counter(renderer.text)?)?;
        let row = row.ok_or_else(|| too_short(self.info, self.id.length))?;
        let context = if self.without_context { String::new() } else { row.context };
        let example = Example {
            context: context.into(),
            input: row.question,
            answer_prefix: row.answer_prefix,
            ..self.example.clone()
        };
        let Renderer { protocol, model, text, question } = *renderer;
        protocol.render_as(&example, self.info, model, text, question)
    }

    fn grade(&self, protocol: &Protocol, prediction: &str) -> Result<Grade, TaskError> {
        rows::grade(self.info, protocol, prediction, &self.example)
    }

    fn description(&self) -> Description<'_> {
        rows::description(self.info, &self.example)
    }

    fn dataset(&self) -> Option<&DatasetInfo> {
        Some(self.info)
    }

    fn context_length(&self) -> Option<usize> {
        Some(self.id.length)
    }
}

/// Published rows of one task.
#[derive(Debug, Clone)]
pub struct PublishedRuler {
    /// The task.
    pub info: &'static DatasetInfo,
    /// Context lengths in tokens, each with the file of its rows ([`published::find`]).
    pub files: Vec<(usize, PathBuf)>,
    /// The first so many rows of each length; all, if `None`.
    pub limit: Option<usize>,
    /// Leaves the context out of every prompt.
    pub without_context: bool,
}

impl PublishedRuler {
    /// Reads the rows, for which no tokenizer is needed.
    ///
    /// # Errors
    /// See [`published::read`].
    pub fn rows(&self) -> Result<Dataset, TaskError> {
        let mut hash = Sha256::new();
        let mut examples = Vec::new();
        for (length, path) in &self.files {
            let rows = published::read(path, self.info, *length)?;
            hash.update(format!("{length} {}\n", rows.sha256));
            examples.extend(rows.examples.into_iter().take(self.limit.unwrap_or(usize::MAX)));
        }
        let identity = Identity { sha256: hex(&hash.finalize()), essays_sha256: None };
        Dataset::new(
            self.info.name,
            identity,
            rows::questions((0..).zip(examples), self.info, self.without_context),
        )
    }
}

impl Source for PublishedRuler {
    fn read(&self, renderer: &Renderer<'_>) -> Result<Dataset, TaskError> {
        let lengths: Vec<usize> = self.files.iter().map(|(length, _)| *length).collect();
        super::check_lengths(&lengths, 0, renderer.model)?;
        self.rows()
    }
}
