//! One file a kernel: a check of random cases against f64, and the test that runs it on every instance.

pub mod column_sums;
pub mod gather;
pub mod key_norms;
pub mod prefill;
pub mod prompt;
pub mod ragged_decode;
pub mod window_moments;
