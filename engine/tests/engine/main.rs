//! Tests of the engine through its public interface.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking and say what they skip"
)]

mod bad_files;
mod chat;
mod found;
mod gguf;
mod hub;
mod made;
mod parity;
mod real;
mod stories;
mod support;
mod tiny;
mod tokens;
