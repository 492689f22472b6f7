//! The needle-in-a-haystack test: a sentence hidden at a depth of a long text, and a question about it.

mod cases;
mod essays;
mod grading;
pub mod insert;
pub mod variants;

pub use cases::{NeedleCase, cases, mini_case};
pub use essays::Essays;
pub use grading::NeedleGrading;
pub use variants::{NeedleScoring, NeedleVariant};
