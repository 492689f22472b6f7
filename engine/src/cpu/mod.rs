//! The CPU kernels: f32, deterministic, the same bits whatever the batch, the threads or the instruction set.

pub(crate) mod attention;
pub(crate) mod buffer;
pub(crate) mod forward;
pub(crate) mod matrix;
pub(crate) mod product;
pub mod rates;
pub(crate) mod received;
pub(crate) mod simd;
mod stored;
