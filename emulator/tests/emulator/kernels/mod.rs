//! One file a kernel: a check of random cases against f64, and the test that runs it on every instance.

pub mod add_norm;
pub mod argmax;
pub mod column_sums;
pub mod embedding;
mod far;
pub mod gather;
pub mod key_norms;
pub mod prefill;
pub mod prompt;
pub mod ragged_decode;
pub mod rope;
pub mod silu_times_up;
pub mod window_moments;
