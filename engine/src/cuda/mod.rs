//! CUDA kernels of our own (`engine/kernels`, described in `docs/kernels.md`) as the host calls them.
//!
//! Whatever runs them is a [`card::Card`]: a GPU, or the emulator of the tests. Everything between the model and a
//! launch is the same code on both.

pub mod card;
pub mod decode;
pub mod kernels;
pub mod lists;
pub mod model;
pub mod prompt;
