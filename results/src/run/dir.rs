//! A run directory that is written to.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::guard::{refuse_files_but, refuse_links, remove_leftovers, take_lock};
use super::records::{RecordProblem, Selections, check_record, parse_records};
use super::repair::repair;
use super::{
    DAMAGED, KEPT, LOCK, MANIFEST, RECORDS, Run, is_complete, kept_path, read_if_present, read_manifest,
    to_json,
};
use crate::Result;
use crate::error::ResultsError;
use crate::io::{create_dirs, sync_dir, write_atomic};
use crate::kept::KeptPositions;
use crate::manifest::Manifest;
use crate::record::{ExampleKey, ExampleRecord, VariantKey};

/// A run directory open for writing. Only one process can hold it.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    manifest: Manifest,
    variants: Vec<VariantKey>,
    records: fs_err::File,
    length: u64,
    lock: fs_err::File,
    finished: BTreeSet<ExampleKey>,
    repairs: Vec<RecordProblem>,
}

impl RunDir {
    /// Makes the run directory, or continues it where its manifest is equal to `manifest`.
    ///
    /// The program's commit is part of the manifest: a run is never continued by other code, because its table
    /// could not be traced to one program then. A torn last line (a write that a kill cut short) is dropped; an
    /// unreadable line elsewhere is moved to `damaged.jsonl`; both are told by [`RunDir::repairs`] and their
    /// examples are run again.
    ///
    /// # Errors
    /// Another configuration (every differing field with both values), a run of an older schema, another process at
    /// work, a directory that is neither empty nor a run, a link inside it, a newer schema, or a failing disk.
    pub fn create_or_continue(path: &Path, manifest: &Manifest) -> Result<Self> {
        manifest.check().map_err(|why| ResultsError::Malformed { path: path.join(MANIFEST), why })?;
        create_dirs(path)?;
        // A foreign directory is left alone, without even a lock in it. What is ours may change until the lock is taken.
        if !path.join(MANIFEST).exists() {
            refuse_files_but(path, &[MANIFEST, RECORDS, DAMAGED, KEPT, LOCK])?;
        }
        refuse_links(path)?;
        let lock = take_lock(path)?;
        if path.join(MANIFEST).exists() {
            let stored = read_manifest(path)?;
            if stored.schema < manifest.schema {
                let (found, known) = (stored.schema, manifest.schema);
                return Err(ResultsError::OlderSchema { path: path.to_owned(), found, known });
            }
            let differences = stored.identity().differences(&manifest.identity());
            if !differences.is_empty() {
                return Err(ResultsError::OtherConfiguration { path: path.to_owned(), differences });
            }
        } else {
            // Our own leftovers of a start that was killed are no foreign files.
            refuse_files_but(path, &[LOCK, KEPT])?;
            let mut text = to_json(manifest, &path.join(MANIFEST))?;
            text.push(b'\n');
            write_atomic(&path.join(MANIFEST), &text)?;
        }
        remove_leftovers(path)?;
        let file = path.join(RECORDS);
        let bytes = read_if_present(&file)?;
        let (examples, repairs) = parse_records(bytes.as_slice(), &file, manifest, Selections::Hashes)?;
        let length = if repairs.is_empty() { bytes.len() as u64 } else { repair(path, &bytes, &repairs)? };
        let records = fs_err::OpenOptions::new().create(true).append(true).open(&file)?;
        sync_dir(path)?;
        let finished = examples.into_iter().map(|record| record.key).collect();
        Ok(Self {
            path: path.to_owned(),
            manifest: manifest.clone(),
            variants: manifest.variants(),
            records,
            length,
            lock,
            finished,
            repairs,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the run is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What was dropped or set aside when the directory was opened. Their examples are run again.
    pub fn repairs(&self) -> &[RecordProblem] {
        &self.repairs
    }

    /// The examples that need no work any more.
    pub fn finished_keys(&self) -> &BTreeSet<ExampleKey> {
        &self.finished
    }

    /// Says whether every example of the manifest is finished.
    pub fn is_complete(&self) -> bool {
        is_complete(&self.manifest, self.finished.iter())
    }

    /// Appends one finished example, with its kept positions where they are to be stored. On return it is on disk.
    ///
    /// # Errors
    /// A record that is not of this run, is there already, or has impossible numbers; a failing disk, after which
    /// the file is as before.
    pub fn append(&mut self, record: &ExampleRecord, kept: Option<&KeptPositions>) -> Result<()> {
        let refuse = |why: String| ResultsError::BadRecord {
            dataset: record.key.dataset.clone(),
            example: record.key.example.clone(),
            why,
        };
        check_record(record, &self.manifest, &self.variants).map_err(refuse)?;
        if self.finished.contains(&record.key) {
            return Err(refuse("it is already there".to_owned()));
        }
        if let Some(kept) = kept {
            let path = kept_path(&self.path, &record.key);
            create_dirs(&self.path.join(KEPT))?;
            write_atomic(&path, kept.to_text().as_bytes())?;
        }
        let line = record.to_line().map_err(|error| refuse(error.to_string()))?;
        let written = self.records.write_all(&line).and_then(|()| self.records.sync_data());
        if let Err(error) = written {
            // A full disk: take back the part that fitted, so that the file ends with a whole line.
            let _ = self.records.set_len(self.length).and_then(|()| self.records.sync_data());
            return Err(error.into());
        }
        self.length += line.len() as u64;
        self.finished.insert(record.key.clone());
        Ok(())
    }

    /// Reads back everything that is finished.
    ///
    /// # Errors
    /// As [`Run::load`].
    pub fn records(&self) -> Result<Run> {
        Run::load(&self.path)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // The holder's number goes with the holder; the lock itself ends when the file is closed.
        let _ = self.lock.set_len(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{kept, manifest, record, write_run};

    const SCORES: [f64; 3] = [1.0, 0.25, 0.1 + 0.2];

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/run");
        let manifest = manifest();
        let mut run = RunDir::create_or_continue(&path, &manifest).unwrap();
        // Out of order on purpose: reading sorts.
        let second = record(&manifest, "trec", 0, &SCORES);
        let first = record(&manifest, "qasper", 1, &SCORES);
        run.append(&second, None).unwrap();
        run.append(&first, Some(&kept(&manifest, 0))).unwrap();
        let read = run.records().unwrap();
        assert_eq!(read.manifest, manifest);
        assert_eq!(read.examples, [first.clone(), second.clone()]);
        assert_eq!(read.problems, []);
        assert_eq!(read.kept(&first.key).unwrap(), Some(kept(&manifest, 0)));
        assert_eq!(read.kept(&second.key).unwrap(), None);
        // For scores, all but the heads' counts.
        let mut scores = Run::load_for_scores(&path).unwrap();
        for (record, whole) in scores.examples.iter_mut().zip(&read.examples) {
            for (variant, whole) in record.variants.iter_mut().zip(&whole.variants) {
                let selection = variant.selection.as_ref().unwrap();
                assert_eq!(selection.counts(), [[0; 0]; 0]);
                assert_eq!(selection.layers, whole.selection.as_ref().unwrap().layers);
                variant.selection = whole.selection.clone();
            }
        }
        assert_eq!(scores.examples, read.examples);
        assert!(!read.is_complete() && !run.is_complete());
    }

    #[test]
    fn a_complete_run_says_so_and_refuses_a_repetition() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = manifest();
        assert!(write_run(dir.path(), &manifest, |_, _, _| 0.5).is_complete());
        let mut run = RunDir::create_or_continue(dir.path(), &manifest).unwrap();
        assert!(run.is_complete());
        let error = run.append(&record(&manifest, "trec", 0, &SCORES), None).unwrap_err().to_string();
        assert!(error.contains("already there"), "{error}");
    }

    #[test]
    fn another_configuration_is_refused_with_the_difference() {
        let dir = tempfile::tempdir().unwrap();
        drop(RunDir::create_or_continue(dir.path(), &manifest()).unwrap());
        let mut other = manifest();
        other.budgets = vec![crate::Budget::Entries(64)];
        other.program.commit = "def".into();
        let error = RunDir::create_or_continue(dir.path(), &other).unwrap_err().to_string();
        assert!(error.contains("budgets: `[64,128]` against `[64]`"), "{error}");
        assert!(error.contains("program.commit: `abc` against `def`"), "{error}");
        assert!(!error.contains("model"), "{error}");
        // Nothing was changed by the refusal.
        RunDir::create_or_continue(dir.path(), &manifest()).unwrap();
    }

    #[test]
    fn a_record_that_is_not_of_the_run_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = manifest();
        let mut run = RunDir::create_or_continue(dir.path(), &manifest).unwrap();
        let good = || record(&manifest, "qasper", 0, &SCORES);
        type Edit = fn(&mut ExampleRecord);
        let edits: [(&str, Edit); 7] = [
            ("not in the manifest", |r| r.key.dataset = "other".into()),
            ("variants", |r| {
                r.variants.pop();
            }),
            ("where the manifest has", |r| r.variants.swap(0, 1)),
            ("not in 0..1", |r| r.variants[1].score = f64::NAN),
            ("not in 0..1", |r| r.variants[1].score = 37.5),
            ("timings", |r| r.timings.as_mut().unwrap().variants.truncate(1)),
            ("schema", |r| r.schema = 0),
        ];
        for (why, edit) in edits {
            let mut bad = good();
            edit(&mut bad);
            let error = run.append(&bad, None).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(run.records().unwrap().examples, []);
        run.append(&good(), None).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = manifest();
        let mut run = RunDir::create_or_continue(dir.path(), &manifest).unwrap();
        run.append(&record(&manifest, "qasper", 0, &SCORES), None).unwrap();
        let real = std::mem::replace(
            &mut run.records,
            fs_err::OpenOptions::new().append(true).open("/dev/full").unwrap(),
        );
        let next = record(&manifest, "qasper", 1, &SCORES);
        let error = run.append(&next, None).unwrap_err().to_string();
        let told = ["/dev/full", "No space left", "make room"].iter().all(|part| error.contains(part));
        assert!(told, "{error}");
        assert_eq!(run.finished_keys().len(), 1);
        run.records = real;
        run.append(&next, None).unwrap();
        assert_eq!(run.records().unwrap().examples.len(), 2);
    }

    #[test]
    fn new_directories_and_files_are_durable_in_their_parents() {
        use crate::io::tests::SYNCED;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs/one");
        SYNCED.take();
        let mut run = RunDir::create_or_continue(&path, &manifest()).unwrap();
        let synced = SYNCED.take();
        assert_eq!(synced[..2], [dir.path().to_owned(), dir.path().join("runs")]);
        assert!(synced[2..].contains(&path), "{synced:?}");
        let first = record(&manifest(), "qasper", 0, &SCORES);
        run.append(&first, Some(&kept(&manifest(), 0))).unwrap();
        assert_eq!(SYNCED.take(), [path.clone(), path.join(KEPT)]);
    }

    #[test]
    fn a_skipped_example_is_finished_and_has_no_answers() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = manifest();
        let mut run = RunDir::create_or_continue(dir.path(), &manifest).unwrap();
        let mut skipped = record(&manifest, "qasper", 0, &SCORES);
        skipped.skipped = Some("no number in its answer".into());
        assert!(run.append(&skipped, None).unwrap_err().to_string().contains("3 variants"));
        skipped.variants.clear();
        assert!(run.append(&skipped, None).unwrap_err().to_string().contains("skipped and has answers"));
        skipped.timings = None;
        run.append(&skipped, None).unwrap();
        assert_eq!(run.records().unwrap().examples, [skipped]);
        assert_eq!(run.finished_keys().len(), 1);
    }

    #[test]
    fn an_older_run_is_read_and_not_continued() {
        let dir = tempfile::tempdir().unwrap();
        let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/run-v1");
        for name in [MANIFEST, RECORDS] {
            std::fs::copy(old.join(name), dir.path().join(name)).unwrap();
        }
        let before = std::fs::read(dir.path().join(RECORDS)).unwrap();
        let error = RunDir::create_or_continue(dir.path(), &manifest()).unwrap_err().to_string();
        assert!(error.contains("schema 1, now 2") && error.contains("--out"), "{error}");
        assert_eq!(std::fs::read(dir.path().join(RECORDS)).unwrap(), before);
        assert_eq!(Run::load(dir.path()).unwrap().examples.len(), 3);
    }

    #[test]
    fn a_start_that_was_killed_before_the_manifest_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("manifest.json.part"), "{\"sch").unwrap();
        std::fs::write(dir.path().join(LOCK), "99999\n").unwrap();
        drop(RunDir::create_or_continue(dir.path(), &manifest()).unwrap());
        assert_eq!(Run::load(dir.path()).unwrap().examples, []);
        assert!(!dir.path().join("manifest.json.part").exists());
    }
}
