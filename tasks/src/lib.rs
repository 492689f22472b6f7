//! What is asked and how it is graded: examples, prompts, protocols, metrics, the embedded mini suite.
//!
//! Knows nothing of tensors, methods or run directories. A model's tokenizer and chat template are seen through one
//! small trait, [`ModelText`], which the harness implements.

pub mod ask;
pub mod averages;
pub mod datasets;
pub mod error;
pub mod estimate;
pub mod example;
pub mod fetch;
pub mod layouts;
pub mod metrics;
pub mod mini;
pub mod needle;
pub mod path;
pub mod prompt;
pub mod protocol;
pub mod python;
pub mod reader;
mod row;
pub mod score;
pub mod source;
pub mod suite;
pub mod text;

pub use ask::{Ask, ContextKey, Description, Grade, NeedleCell, Question, Renderer};
pub use error::TaskError;
pub use example::Example;
pub use prompt::{Prompt, StopRule, Truncation};
pub use protocol::{ModelFacts, Protocol};
pub use reader::{DatasetRows, find_dataset, read_rows};
pub use score::{other_scores, score_prediction};
pub use source::{Dataset, Source};
pub use suite::Suite;
pub use text::{ModelText, TextError};
