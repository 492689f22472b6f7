//! The emulator's own checks, and every kernel of `engine/kernels` on it against f64.

#![expect(
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, and say what they skip and how much they did"
)]

#[path = "../../../engine/src/cuda/mod.rs"]
mod cuda;

mod checks;
mod kernels;
mod model;
mod muted;
mod plain;
mod ptxas;
mod seeded;
mod support;
