//! Checks a build against golden vectors: answers that the papers' own code and the official metrics gave
//! (`kvsweep verify`). The vectors lie in `methods/` and `metrics/` beside this source, each with a README about their
//! format.

pub mod methods;
pub mod metrics;
mod vectors;
