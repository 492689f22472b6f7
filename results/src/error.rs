//! Everything that can go wrong with results, said so that a person can mend it.

use std::path::PathBuf;

use crate::text::shell_word;

/// A field of two manifests that has two values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Dotted path of the field, such as `model.weights_sha256`.
    pub field: String,
    /// The value that is stored (or the first of two).
    pub stored: String,
    /// The value that was asked for (or the second of two).
    pub wanted: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "  {}: `{}` against `{}`", self.field, self.stored, self.wanted)
    }
}

/// Two records of one cell, or two data sets of one name, that do not agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The cell or data set.
    pub what: String,
    /// Where the first was read.
    pub first: String,
    /// Where the second was read.
    pub second: String,
}

fn lines<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// What can go wrong while results are written, read, merged, drawn or compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultsError {
    /// A file could not be read or written; the message names it.
    #[error("{0}{hint}", hint = remedy(.0.kind()))]
    Io(std::io::Error),
    /// The directory is not a run.
    #[error("`{}` is not a run directory: {why}\nhint: give the directory that `kvsweep run --out` wrote", path.display())]
    NotARun {
        /// The directory.
        path: PathBuf,
        /// What is missing or in the way.
        why: String,
    },
    /// A file's content is not what its format promises.
    #[error("`{}`: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line where there is one.
        why: String,
    },
    /// The file was written by a newer kvsweep.
    #[error("`{}` has schema {found}, this program reads up to {known}\nhint: update kvsweep", path.display())]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest schema known here.
        known: u32,
    },
    /// The run was written by an older kvsweep, whose manifest states less than a run is now.
    #[error(
        "`{}` was written by an older kvsweep (schema {found}, now {known}): it can be read, but not continued, because it \
         does not state every file that it was made from\nhint: choose another --out; `kvsweep table` takes both directories",
        path.display()
    )]
    OlderSchema {
        /// The run directory.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The schema that is written.
        known: u32,
    },
    /// The run directory belongs to another configuration.
    #[error(
        "`{}` belongs to another configuration (stored against wanted):\n{}\nhint: choose another --out, or repeat the stored configuration",
        path.display(),
        lines(differences)
    )]
    OtherConfiguration {
        /// The run directory.
        path: PathBuf,
        /// Every field that differs.
        differences: Vec<Difference>,
    },
    /// Another process writes to the run directory.
    #[error("`{}` is in use by process {holder}\nhint: wait for it to end, or choose another --out", path.display())]
    Locked {
        /// The run directory.
        path: PathBuf,
        /// Its process id, or `unknown`.
        holder: String,
    },
    /// A record handed in does not belong to the run.
    #[error("record of example `{example}` of data set `{dataset}` cannot be written: {why}")]
    BadRecord {
        /// The data set.
        dataset: String,
        /// The example.
        example: String,
        /// What is wrong with it.
        why: String,
    },
    /// Two sources disagree.
    #[error(
        "{} has two different results:\n  {}\n  {}\nhint: one of the two is from other code or other data; leave it out",
        .0.what, .0.first, .0.second
    )]
    Conflict(Box<Conflict>),
    /// Runs of different models, protocols or data were given for one table.
    #[error(
        "`{first}` and `{second}` cannot share one table:\n{}\nhint: `kvsweep table --mixed {} {}` prints a table of each",
        lines(differences),
        shell_word(first),
        shell_word(second)
    )]
    NotComparable {
        /// The first run.
        first: String,
        /// The second run.
        second: String,
        /// What differs.
        differences: Vec<Difference>,
    },
    /// Nothing to draw or compare.
    #[error("{0}")]
    Empty(String),
    /// A commit or branch is unknown to git.
    #[error("`{name}` is neither a run directory nor a commit or branch of `{}`: {why}", repository.display())]
    UnknownCommit {
        /// What was asked for.
        name: String,
        /// The repository asked.
        repository: PathBuf,
        /// What git says.
        why: String,
    },
    /// The baseline store has no run of this commit and configuration.
    #[error(
        "the baseline store `{}` has no run of commit {commit} with configuration {configuration}{}\nhint: {remedy}",
        store.display(),
        if known.is_empty() { String::new() } else { format!("; it has: {}", known.join(", ")) }
    )]
    NoBaseline {
        /// The store.
        store: PathBuf,
        /// The commit.
        commit: String,
        /// The configuration's hash, or a remark.
        configuration: String,
        /// What it has instead, as `commit/configuration`.
        known: Vec<String>,
        /// The command that makes the missing one.
        remedy: String,
    },
    /// A published table's id is unknown.
    #[error("unknown paper table `{id}`{}\nhint: `kvsweep paper list` names them", suggestion(nearest))]
    UnknownPaper {
        /// What was asked for.
        id: String,
        /// The nearest ids.
        nearest: Vec<String>,
    },
}

impl From<std::io::Error> for ResultsError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// What a person can do about a file that cannot be written.
fn remedy(kind: std::io::ErrorKind) -> &'static str {
    use std::io::ErrorKind;
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "\nhint: what was finished is kept; make room, and run the same command again to continue"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "\nhint: give a directory that may be written to"
        }
        _ => "",
    }
}

fn suggestion(nearest: &[String]) -> String {
    if nearest.is_empty() { String::new() } else { format!("; nearest: {}", nearest.join(", ")) }
}
