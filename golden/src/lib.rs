//! Checks a build against golden vectors: answers that the papers' own code and the official metrics gave
//! (`kvsweep verify`). The vectors lie in `methods/` and `metrics/` beside this source, each with a README about their
//! format.
//!
//! ```
//! let report = kvsweep_golden::metrics::check("metrics".as_ref())?;
//! assert!(report.passed > 3000 && report.failed.is_empty());
//! # Ok::<(), kvsweep_golden::metrics::UnreadableVectors>(())
//! ```

pub mod methods;
pub mod metrics;
mod vectors;
