//! What is kept of a sweep: records and their run store, score tables, statistics, published numbers beside
//! ours, and comparison across commits.
//!
//! The formats on disk are described in `docs/results.md`. This crate knows nothing of models, methods or
//! tasks: names, columns and categories are handed in by the caller.

pub mod baseline;
pub mod compare;
mod error;
mod identity;
mod io;
mod kept;
mod manifest;
mod merge;
pub mod pairs;
pub mod paper;
mod parts;
pub mod published;
mod record;
mod render;
mod run;
pub mod stats;
mod table;
mod text;

pub use error::{Conflict, Difference, ResultsError};
pub use identity::Identity;
pub use io::write_atomic;
pub use kept::{KeptPositions, LayerKept, VariantKept, jaccard};
pub use manifest::{
    CALIBRATION, DatasetInfo, ESSAYS, MASK_HEADS, MASKED_HEADS, MODEL_SHAPE, Manifest, MethodInfo, ModelInfo,
    NEEDLE_DEPTHS, NEEDLE_LENGTHS, NO_TEMPLATE, ProgramInfo, ProtocolInfo, Shard, WITHOUT_CONTEXT,
};
pub use merge::{Group, Merged, MergedExample, MergedVariant};
pub use parts::{MissingParts, missing_parts};
pub use record::{
    CellKey, ExampleInfo, ExampleKey, ExampleRecord, Finish, Kept, LayerHash, Needle, SCHEMA,
    SelectionDigest, Timings, VariantKey, VariantRecord, VariantTiming,
};
pub use render::Format;
pub use run::{RecordProblem, Run, RunDir};
pub use stats::{Bootstrap, Estimate, Sample};
pub use table::{Cell, CellScope, Column, ColumnKind, FLOOR, Mean, Row, ScoreTable, TableLayout};
pub use text::{excerpt, is_hidden, printable, visible};

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, ResultsError>;
