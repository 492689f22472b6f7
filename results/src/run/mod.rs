//! The run directory: a manifest, append-only records, kept positions; safe against a kill at any moment.
//!
//! ```text
//! manifest.json    what the run is; written once, atomically, before the first record
//! records.jsonl    one line a finished example, appended and synced
//! kept/HASH.kept   kept positions of one example, written before its record; optional
//! damaged.jsonl    lines of records.jsonl that were unreadable when the run was continued; usually absent
//! lock             held while a process writes; empty otherwise
//! ```

mod dir;
mod guard;
mod records;
mod repair;

use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};

pub use dir::RunDir;
pub use records::RecordProblem;
use records::{Selections, parse_records};

use crate::Result;
use crate::error::ResultsError;
use crate::io::hash_parts;
use crate::kept::KeptPositions;
use crate::manifest::Manifest;
use crate::record::{ExampleKey, ExampleRecord, SCHEMA, SchemaOnly};

pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const RECORDS: &str = "records.jsonl";
const DAMAGED: &str = "damaged.jsonl";
const KEPT: &str = "kept";
pub(crate) const LOCK: &str = "lock";

/// A run as it is read: its manifest, the records that are whole, and what could not be used.
#[derive(Clone, Debug)]
pub struct Run {
    /// The directory it was read from.
    pub path: PathBuf,
    /// What the run is.
    pub manifest: Manifest,
    /// Finished examples, ordered by data set (in the manifest's order), row and name.
    pub examples: Vec<ExampleRecord>,
    /// Lines that were not used. Not empty: report them and exit with 1 after using the rest.
    pub problems: Vec<RecordProblem>,
}

impl Run {
    /// Reads a run without locking or changing it; a run in work can be read.
    ///
    /// # Errors
    /// Not a run directory, a newer schema, two lines that contradict each other, or a file that cannot be read.
    pub fn load(path: &Path) -> Result<Self> {
        Self::read(path, Selections::Whole)
    }

    /// As [`Run::load`], without the entries of every head, which take most of the memory of a large model's run and which
    /// no score or comparison needs.
    ///
    /// # Errors
    /// As [`Run::load`].
    pub fn load_for_scores(path: &Path) -> Result<Self> {
        Self::read(path, Selections::Hashes)
    }

    fn read(path: &Path, selections: Selections) -> Result<Self> {
        let manifest = read_manifest(path)?;
        let file = path.join(RECORDS);
        let (mut examples, problems) = match fs_err::File::open(&file) {
            Ok(content) => parse_records(BufReader::new(content), &file, &manifest, selections)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Default::default(),
            Err(error) => return Err(error.into()),
        };
        let order: BTreeMap<&str, usize> = manifest
            .datasets
            .iter()
            .enumerate()
            .map(|(index, dataset)| (dataset.name.as_str(), index))
            .collect();
        examples.sort_by(|a, b| {
            let place = |r: &ExampleRecord| order.get(r.key.dataset.as_str()).copied();
            (place(a), a.info.row, &a.key).cmp(&(place(b), b.info.row, &b.key))
        });
        Ok(Self { path: path.to_owned(), manifest, examples, problems })
    }

    /// Says whether every example of the manifest is there.
    pub fn is_complete(&self) -> bool {
        is_complete(&self.manifest, self.examples.iter().map(|record| &record.key))
    }

    /// The kept positions of one example, where they were stored.
    ///
    /// # Errors
    /// The file is damaged or cannot be read.
    pub fn kept(&self, key: &ExampleKey) -> Result<Option<KeptPositions>> {
        kept_of(&self.path, key)
    }
}

/// The kept positions of one example of the run in `run`, where they were stored.
pub(crate) fn kept_of(run: &Path, key: &ExampleKey) -> Result<Option<KeptPositions>> {
    let path = kept_path(run, key);
    match fs_err::read_to_string(&path) {
        Ok(text) => KeptPositions::from_text(&text, &path).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn read_if_present(path: &Path) -> Result<Vec<u8>> {
    match fs_err::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

fn is_complete<'a>(manifest: &Manifest, keys: impl Iterator<Item = &'a ExampleKey>) -> bool {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for key in keys {
        *counts.entry(&key.dataset).or_default() += 1;
    }
    manifest.datasets.iter().all(|d| counts.get(d.name.as_str()).copied().unwrap_or(0) >= d.examples)
}

/// The file of an example's kept positions. Names of data sets and examples are untrusted: only their hash becomes a
/// path.
pub(crate) fn kept_path(run: &Path, key: &ExampleKey) -> PathBuf {
    let hash = hash_parts([key.dataset.as_bytes(), key.example.as_bytes()], 24);
    run.join(KEPT).join(format!("{hash}.kept"))
}

pub(crate) fn to_json<T: serde::Serialize>(value: &T, path: &Path) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value)
        .map_err(|error| ResultsError::Malformed { path: path.to_owned(), why: error.to_string() })
}

pub(crate) fn read_manifest(run: &Path) -> Result<Manifest> {
    let path = run.join(MANIFEST);
    let bytes = fs_err::read(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => ResultsError::NotARun {
            path: run.to_owned(),
            why: if run.exists() { format!("it has no {MANIFEST}") } else { "it does not exist".to_owned() },
        },
        _ => error.into(),
    })?;
    let malformed = |why: String| ResultsError::Malformed { path: path.clone(), why };
    let SchemaOnly { schema } =
        serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
    if schema > SCHEMA {
        return Err(ResultsError::NewerSchema { path, found: schema, known: SCHEMA });
    }
    Manifest::from_json(&bytes, schema).map_err(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{kept, manifest, record};

    const SCORES: [f64; 3] = [1.0, 0.25, 0.1 + 0.2];

    #[test]
    fn a_name_never_becomes_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = manifest();
        manifest.datasets[0].name = "../../up".into();
        let mut run = RunDir::create_or_continue(dir.path(), &manifest).unwrap();
        let mut hostile = record(&manifest, "../../up", 0, &SCORES);
        hostile.key.example = "/etc/passwd\0\n".into();
        run.append(&hostile, Some(&kept(&manifest, 0))).unwrap();
        let read = run.records().unwrap();
        assert_eq!(read.examples[0].key.example, "/etc/passwd\0\n");
        assert!(read.kept(&hostile.key).unwrap().is_some());
        assert_eq!(std::fs::read_dir(dir.path().join(KEPT)).unwrap().count(), 1);
    }
}
