//! What is asked and how it is graded: examples, prompts, protocols, metrics, the embedded mini suite.
//!
//! Knows nothing of tensors, methods or run directories. A model's tokenizer and chat template are seen through one
//! small trait, [`ModelText`], which the harness implements.

#![warn(unreachable_pub)]

mod ask;
pub mod averages;
pub mod datasets;
mod error;
pub mod estimate;
mod example;
pub mod fetch;
pub mod layouts;
pub mod metrics;
pub mod mini;
pub mod needle;
pub mod path;
mod prompt;
pub mod protocol;
pub mod python;
mod reader;
mod row;
pub mod ruler;
mod score;
pub mod source;
mod suite;
mod text;

pub use ask::{Ask, ContextKey, Description, Grade, NeedleCell, Question, Renderer};
pub use error::{NeedleError, PromptError, TaskError};
pub use example::Example;
pub use prompt::{Prompt, StopRule, Truncation};
pub use protocol::{ModelFacts, Protocol, QuestionView};
pub use reader::{DatasetRows, find_dataset, read_rows};
pub use score::{other_scores, score_prediction};
pub use source::{Dataset, Source};
pub use suite::Suite;
pub use text::{ModelText, TextError};
