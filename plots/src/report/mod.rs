//! The report: one self-contained HTML page of a sweep, for people.
//!
//! The page opens from disk and loads nothing. Everything that came from a model, a data set or a file name
//! is text: the template escapes it, the example browser sets it with `textContent`, marks that reorder text
//! are written out, and a content policy allows only the page's own script, by its hash.

mod cut;
mod embed;
mod from_runs;
mod render;

pub use from_runs::{Options, TokenTexts, from_runs, paper};
pub use render::render;

use crate::Picture;
use kvsweep_results::SharedText;
use serde::Serialize;

/// Everything a report shows.
#[derive(Clone, Debug, Default)]
pub struct ReportData {
    /// The page's title.
    pub title: String,
    /// Model, protocol, split in one line.
    pub subtitle: String,
    /// What made it: program, version, commit.
    pub generator: String,
    /// What a reader must know first: rehearsal, embedded model, unfinished run.
    pub notices: Vec<String>,
    /// The headline numbers.
    pub summary: Vec<Fact>,
    /// Score tables.
    pub tables: Vec<Table>,
    /// Pictures in groups.
    pub figures: Vec<FigureGroup>,
    /// Published tables beside ours.
    pub papers: Vec<Table>,
    /// The examples to browse.
    pub examples: Vec<Example>,
    /// Names of the variants that [`Answer::variant`] counts, e.g. `snapkv · 128`.
    pub variants: Vec<String>,
    /// Where the numbers come from.
    pub provenance: Vec<Provenance>,
}

/// One labelled value.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Fact {
    /// What it is.
    pub label: String,
    /// The value.
    pub value: String,
    /// A remark; may be empty.
    pub note: String,
}

/// A block of provenance.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Provenance {
    /// e.g. `Model`.
    pub title: String,
    /// Hashes, versions, settings.
    pub facts: Vec<Fact>,
    /// Oddities of a protocol and other remarks, as a list.
    pub remarks: Vec<String>,
}

/// Pictures of one kind; the first is open, the others fold.
#[derive(Clone, Debug, Default)]
pub struct FigureGroup {
    /// e.g. `Needle in a haystack`.
    pub title: String,
    /// How to read them; may be empty.
    pub intro: String,
    /// The pictures.
    pub figures: Vec<Figure>,
}

/// One picture.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Its caption.
    pub caption: String,
    /// The picture.
    pub picture: Picture,
}

/// A table that sorts and filters.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub notes: Vec<String>,
    /// Heads; the first column names the row and stays in view.
    pub columns: Vec<TableHead>,
    /// Rows with one cell a column.
    pub rows: Vec<Vec<TableCell>>,
}

/// A column's head.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TableHead {
    /// What stands above it.
    pub title: String,
    /// Numbers, right-aligned.
    pub numeric: bool,
    /// Category or overall average: set off from the data sets.
    pub summary: bool,
}

/// One cell.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TableCell {
    /// What it shows.
    pub text: String,
    /// What it sorts by; by its text if none.
    pub sort: Option<f64>,
    /// Small print, e.g. the interval; may be empty.
    pub note: String,
    /// How it stands out.
    pub mark: Emphasis,
}

impl TableCell {
    /// A plain text cell.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// A number as it is to be shown.
    pub fn number(value: f64, text: impl Into<String>) -> Self {
        Self { text: text.into(), sort: Some(value), ..Self::default() }
    }
}

/// How a cell stands out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Emphasis {
    /// It does not.
    #[default]
    None,
    /// Best of its kind: bold.
    Best,
    /// Second: underlined.
    Second,
    /// Reproduced: the published number lies in our interval.
    Reproduced,
    /// Close to the published number.
    Close,
    /// Off.
    Off,
}

/// An example to browse. Long texts are cut when the page is made; the page says so.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Example {
    /// Data set.
    pub dataset: String,
    /// Its short name inside the data set, e.g. `row 3`.
    pub name: String,
    /// Its key, as `kvsweep explain` takes it; may be empty.
    pub key: String,
    /// Prompt length and truncation, e.g. `1,204 tokens, 96 cut from the middle`.
    pub about: String,
    /// The end of the prompt, where its tokens are not known.
    pub tail: String,
    /// The prompt's tokens as text: its beginning and its end.
    pub tokens: Option<Tokens>,
    /// The reference answers.
    pub answers: Vec<String>,
    /// What the variants said.
    pub results: Vec<Answer>,
}

/// The ends of a prompt, token by token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokens {
    /// Text of each shown token.
    pub pieces: Vec<String>,
    /// How many of them stand before the gap.
    pub head: usize,
    /// Tokens left out between them.
    pub gap: usize,
}

/// What one variant said about one example.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Index into [`ReportData::variants`].
    pub variant: usize,
    /// The answer. Untrusted, of any length.
    pub prediction: SharedText,
    /// Characters of the whole answer where it was cut; set by [`render`].
    pub cut: Option<usize>,
    /// Score, 0 to 100.
    pub score: f64,
    /// Mean entries held per head.
    pub entries: f64,
    /// Share of heads that kept each of [`Tokens::pieces`]: one digit a token, 0 (none) to 9 (all).
    pub kept: Option<String>,
    /// The same over the whole prompt in equal parts, one digit a part.
    pub strip: Option<String>,
}
