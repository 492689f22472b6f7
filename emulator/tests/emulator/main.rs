//! The emulator's own checks, and every kernel of `engine/kernels` on it against f64.

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
