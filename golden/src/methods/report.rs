//! The outcome of a check of methods.

use serde::Serialize;

/// One case that did not come out right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// File and case.
    pub case: String,
    /// Expected and found.
    pub problem: String,
}

/// The outcome of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Cases that came out right.
    pub passed: usize,
    /// Cases that did not.
    pub failed: usize,
    /// What went wrong.
    pub failures: Vec<Failure>,
}

impl Report {
    pub(super) fn add(&mut self, case: impl Into<String>, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(problem) => {
                self.failed += 1;
                self.failures.push(Failure { case: case.into(), problem });
            }
        }
    }
}
