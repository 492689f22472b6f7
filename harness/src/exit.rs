//! Exit codes: the contract with scripts and CI.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Failed; the message names what, where and the remedy, and what was finished is kept.
    Failed,
    /// The command line or a configuration file is wrong.
    Usage,
    /// `--gate`: a significant loss.
    Loss,
    /// `verify`: a mismatch.
    Mismatch,
    /// Interrupted; run again to continue.
    Interrupted,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Loss => 3,
            Exit::Mismatch => 4,
            Exit::Interrupted => 130,
        })
    }
}

/// An error that is the command line's fault: exits 2 instead of 1.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Makes a [`UsageError`] out of anything that prints.
pub fn usage(message: impl std::fmt::Display) -> anyhow::Error {
    anyhow::Error::new(UsageError(message.to_string()))
}
