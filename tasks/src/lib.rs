//! What is asked and how it is graded: examples, prompts, protocols, metrics, the embedded mini suite.
//!
//! Knows nothing of tensors, methods or run directories. A tokenizer and a chat template are seen through the two
//! small traits of [`tokenizer`], which the harness implements.

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
pub mod protocol;
pub mod python;
pub mod reader;
mod row;
pub mod score;
pub mod tokenizer;

pub use error::TaskError;
pub use example::Example;
pub use protocol::{ModelFacts, Protocol, Rendered, StopRule, Truncation};
pub use reader::{DatasetRows, find_dataset, read_rows};
pub use score::{other_scores, score_prediction};
pub use tokenizer::{ChatTemplate, Tokenizer};
