//! What is asked and how it is graded: examples, prompts, protocols, metrics, the embedded mini suite.

pub mod metrics;
pub mod needle;
pub mod python;
pub mod verify;
