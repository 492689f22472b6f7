//! What a sweep asks: the questions of a suite that this process answers.

mod selected;

use std::collections::BTreeSet;
use std::sync::Arc;

use kvsweep_results::{ExampleKey, Shard};
use kvsweep_tasks::source::Identity;
use kvsweep_tasks::{Ask, Dataset, NeedleCell, Protocol, Question, Renderer};

pub(crate) use kvsweep_tasks::source::NEEDLE;
pub(crate) use selected::{GENERATOR, MINI, Selected, check_generated, mini_sets};

/// The part of a data set that this process asks.
pub(crate) struct DatasetPart {
    /// The name of the table's column.
    pub name: &'static str,
    /// What decides the questions.
    pub identity: Identity,
    /// What this part asks, in the order of rows.
    pub asks: Vec<Ask>,
    /// How many there are of all parts.
    pub total: u64,
    /// The cells of the needle's heatmap, of all parts.
    pub cells: BTreeSet<NeedleCell>,
    /// The context lengths of a suite that has several, of all parts.
    pub lengths: BTreeSet<usize>,
    /// The first question of the whole data set, in this part or not: profiles that freeze capacities start from it.
    pub first: Arc<dyn Question>,
    /// The rows that are asked, of all parts, ascending.
    rows: Vec<u64>,
}

/// A question with the name that records give it.
#[derive(Clone)]
pub(crate) struct KeyedQuestion<'p> {
    /// Names it in records.
    pub key: ExampleKey,
    /// What it belongs to.
    pub ask: &'p Ask,
    /// What is asked.
    pub question: &'p dyn Question,
    /// Its place among everything that is asked of its data set, from 0, in this part or not.
    pub place: u64,
}

impl DatasetPart {
    fn of(dataset: Dataset, shard: Option<Shard>) -> Self {
        let rows: Vec<u64> = dataset.questions().map(|question| question.row()).collect();
        let total = rows.len() as u64;
        let (cells, lengths) = (dataset.cells(), dataset.lengths());
        let mut asks = dataset.asks;
        if let Some(Shard { index, count }) = shard {
            let is_ours = |row| place(&rows, row) % u64::from(count) + 1 == u64::from(index);
            asks.iter_mut().for_each(|ask| ask.questions.retain(|question| is_ours(question.row())));
            asks.retain(|ask| !ask.questions.is_empty());
        }
        Self {
            name: dataset.name,
            identity: dataset.identity,
            asks,
            total,
            cells,
            lengths,
            first: dataset.first,
            rows,
        }
    }

    /// The questions of this part, in the order of rows.
    pub(crate) fn questions(&self) -> impl Iterator<Item = KeyedQuestion<'_>> {
        self.questions_by_ask().flatten()
    }

    /// As [`DatasetPart::questions`], those about one context together.
    pub(crate) fn questions_by_ask(&self) -> impl Iterator<Item = impl Iterator<Item = KeyedQuestion<'_>>> {
        let key = |example: &str| ExampleKey { dataset: self.name.to_owned(), example: example.to_owned() };
        self.asks.iter().map(move |ask| {
            ask.questions.iter().map(move |question| KeyedQuestion {
                key: key(question.key()),
                ask,
                question: &**question,
                place: place(&self.rows, question.row()),
            })
        })
    }
}

/// The place of a row among ascending ones.
fn place(rows: &[u64], row: u64) -> u64 {
    rows.partition_point(|&other| other < row) as u64
}

/// Reads or generates what is selected.
///
/// # Errors
/// Missing or malformed rows, a needle grid that the model cannot hold.
pub(crate) fn read(selected: &Selected, renderer: &Renderer<'_>) -> anyhow::Result<Vec<DatasetPart>> {
    let sources = selected.sources(renderer.protocol, renderer.model)?;
    sources.iter().map(|source| Ok(DatasetPart::of(source.read(renderer)?, selected.shard))).collect()
}

/// Reads the rows of the full split, for which no tokenizer is needed.
///
/// # Errors
/// Missing or malformed rows.
pub(crate) fn read_files(selected: &Selected, protocol: &Protocol) -> anyhow::Result<Vec<DatasetPart>> {
    let files = selected.row_files(protocol)?;
    files.iter().map(|file| Ok(DatasetPart::of(file.rows()?, selected.shard))).collect()
}
