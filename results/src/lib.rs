//! What is kept of a sweep: records and their run store, score tables, statistics, published numbers beside
//! ours, and comparison across commits.
//!
//! The formats on disk are described in `docs/results.md`. This crate knows nothing of models, methods or
//! tasks: names, columns and categories are handed in by the caller.
//!
//! ```no_run
//! let run = kvsweep_results::Run::load("runs/sweep".as_ref())?;
//! for example in &run.examples {
//!     for answer in &example.variants {
//!         println!("{} {} {:.3} {}", example.key.example, answer.variant, answer.score, answer.kept.bytes);
//!     }
//! }
//! # Ok::<(), kvsweep_results::ResultsError>(())
//! ```

#![warn(unreachable_pub)]

mod answers;
pub mod baseline;
mod budget;
pub mod compare;
mod error;
#[cfg(test)]
mod fixture;
mod git;
mod identity;
mod io;
mod json;
mod kept;
mod manifest;
mod markup;
mod merge;
pub mod pairs;
pub mod paper;
mod parts;
pub mod published;
mod record;
mod render;
mod run;
mod shared;
mod stats;
mod status;
mod table;
mod text;
mod text_table;

pub use answers::{Answers, MergedVariant};
pub use budget::{Budget, Share};
pub use error::{Conflict, Difference, ResultsError};
pub use io::write_atomic;
pub use kept::{KeptPositions, LayerKept, VariantKept};
pub use manifest::{
    CALIBRATION, ESSAYS, LIMIT_TAKES, MASK_HEADS, MASKED_HEADS, MODEL_SHAPE, Manifest, MethodInfo, ModelInfo,
    NEEDLE_DEPTHS, NEEDLE_LENGTHS, NO_TEMPLATE, ProgramInfo, ProtocolInfo, QUESTION, RULER_LENGTHS,
    RunDataset, SPREAD, Shard, UNSEEN, WITHOUT_CONTEXT,
};
pub use merge::{Group, Merged, MergedExample};
pub use record::{
    CacheSize, ExampleInfo, ExampleKey, ExampleRecord, Finish, LayerHash, MetricScores, Needle, SCHEMA,
    SelectionDigest, Timings, VariantKey, VariantRecord, VariantTiming,
};
pub use render::{BudgetColumn, Format};
pub use run::{RecordProblem, Run, RunDir};
pub use shared::SharedText;
pub use stats::{Bootstrap, Estimate, PairedTest};
pub use status::{PartState, PartStatus, RunStatus};
pub use table::{Cell, CellScope, Column, ColumnKind, Mean, ScoreRow, ScoreTable, TableLayout};
pub use text::{is_hidden, printable, shell_word, visible};

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, ResultsError>;
