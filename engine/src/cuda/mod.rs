//! CUDA kernels of our own (`engine/kernels`, described in `docs/kernels.md`) as the host calls them.
//!
//! Whatever runs them is a [`launcher::Launcher`]: a GPU, or the emulator of the tests. Everything between the model and a
//! launch is the same code on both.

pub mod decode;
pub mod kernels;
pub mod launcher;
pub mod lists;
pub mod model;
pub mod prompt;
