//! The lines of `records.jsonl` that can be used.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::error::{Conflict, ResultsError};
use crate::manifest::Manifest;
use crate::record::{ExampleKey, ExampleRecord, LineProblem, SCHEMA, VariantKey};
use crate::shared::Pool;

/// A line of a records file that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordProblem {
    /// The records file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

impl std::fmt::Display for RecordProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` line {} is not used: {}", self.file.display(), self.line, self.why)
    }
}

/// What is held of a record's selections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selections {
    /// Hashes, and the entries of every head.
    Whole,
    /// Hashes only.
    Hashes,
}

/// Reads all lines that can be used. Two equal lines count once; two lines of one example that contradict each other
/// are an error.
pub(super) fn parse_records(
    mut content: impl BufRead,
    file: &Path,
    manifest: &Manifest,
    selections: Selections,
) -> Result<(Vec<ExampleRecord>, Vec<RecordProblem>)> {
    let mut records: Vec<ExampleRecord> = Vec::new();
    let mut seen: BTreeMap<ExampleKey, (usize, usize)> = BTreeMap::new();
    let mut problems = Vec::new();
    let variants = manifest.variants();
    let mut names = Pool::default();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if content.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let mut problem =
            |why: String| problems.push(RecordProblem { file: file.to_owned(), line: number, why });
        let Some(text) = line.strip_suffix(b"\n") else {
            problem("it was cut short while being written".to_owned());
            break;
        };
        let mut record = match ExampleRecord::from_line(text, manifest.schema) {
            Ok(record) => record,
            Err(LineProblem::Newer(found)) => {
                return Err(ResultsError::NewerSchema { path: file.to_owned(), found, known: SCHEMA });
            }
            Err(LineProblem::Damaged(why)) => {
                problem(why);
                continue;
            }
        };
        if let Err(why) = check_record(&record, manifest, &variants) {
            problem(why);
            continue;
        }
        record.share(&variants, &mut names);
        if selections == Selections::Hashes {
            record.forget_counts();
        }
        match seen.get(&record.key) {
            None => {
                seen.insert(record.key.clone(), (records.len(), number));
                records.push(record);
            }
            Some(&(place, first)) => {
                if records[place].without_timings() != record.without_timings() {
                    let at = |line| format!("`{}` line {line}", file.display());
                    return Err(ResultsError::Conflict(Box::new(Conflict {
                        what: format!(
                            "example `{}` of data set `{}`",
                            record.key.example, record.key.dataset
                        ),
                        first: at(first),
                        second: at(number),
                    })));
                }
                problem(format!("it repeats line {first}"));
            }
        }
    }
    Ok((records, problems))
}

/// Says why a record does not belong into a run of `manifest`, if so.
pub(super) fn check_record(
    record: &ExampleRecord,
    manifest: &Manifest,
    wanted: &[VariantKey],
) -> std::result::Result<(), String> {
    if record.schema != manifest.schema {
        return Err(format!("schema {} where {} is expected", record.schema, manifest.schema));
    }
    if !manifest.datasets.iter().any(|dataset| dataset.name == record.key.dataset) {
        return Err(format!("data set `{}` is not in the manifest", record.key.dataset));
    }
    let wanted = if record.skipped.is_some() { &[] } else { wanted };
    if record.variants.len() != wanted.len() {
        return Err(format!("{} variants where the manifest has {}", record.variants.len(), wanted.len()));
    }
    let other = record.variants.iter().zip(wanted).find(|(have, want)| have.variant != **want);
    if let Some((have, want)) = other {
        return Err(format!("variant {} where the manifest has {want}", have.variant));
    }
    record.check()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{manifest, record, write_run};
    use crate::run::{DAMAGED, MANIFEST, RECORDS, Run, RunDir};

    const SCORES: [f64; 3] = [1.0, 0.25, 0.1 + 0.2];

    #[test]
    fn a_damaged_line_in_the_middle_is_reported_and_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = manifest();
        write_run(dir.path(), &manifest, |_, _, _| 0.5);
        let file = dir.path().join(RECORDS);
        let whole = std::fs::read(&file).unwrap();
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        let cut: &[u8] = &[&lines[2][..40], b"\n"].concat();
        let not_text: &[u8] = b"\xff\xfe\n";
        let damaged = [lines[0], lines[1], cut, lines[3], not_text, lines[5]].concat();
        std::fs::write(&file, &damaged).unwrap();

        let read = Run::load(dir.path()).unwrap();
        assert_eq!(read.examples.len(), 4);
        let at: Vec<usize> = read.problems.iter().map(|problem| problem.line).collect();
        assert_eq!(at, [3, 5]);
        assert!(read.problems[0].to_string().contains("records.jsonl` line 3"), "{}", read.problems[0]);
        assert_eq!(std::fs::read(&file).unwrap(), damaged, "reading changes nothing");

        let writer = RunDir::create_or_continue(dir.path(), &manifest).unwrap();
        assert_eq!((writer.finished_keys().len(), writer.repairs().len()), (4, 2));
        assert_eq!(std::fs::read(dir.path().join(DAMAGED)).unwrap(), [cut, not_text].concat());
        assert_eq!(Run::load(dir.path()).unwrap().problems, []);
    }

    #[test]
    fn a_repeated_line_counts_once_and_a_contradiction_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = manifest();
        let mut run = RunDir::create_or_continue(dir.path(), &manifest).unwrap();
        let mut again = record(&manifest, "qasper", 0, &SCORES);
        run.append(&again, None).unwrap();
        drop(run);
        let file = dir.path().join(RECORDS);
        let once = std::fs::read_to_string(&file).unwrap();
        let line = |record: &ExampleRecord| String::from_utf8(record.to_line().unwrap()).unwrap();
        again.timings = None;
        std::fs::write(&file, format!("{once}{}", line(&again))).unwrap();
        let read = Run::load(dir.path()).unwrap();
        assert_eq!((read.examples.len(), read.problems.len()), (1, 1));
        again.variants[0].score = 0.0;
        std::fs::write(&file, format!("{once}{}", line(&again))).unwrap();
        let error = Run::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn a_newer_schema_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = manifest();
        write_run(dir.path(), &manifest, |_, _, _| 0.5);
        let file = dir.path().join(RECORDS);
        let good = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{good}{{\"schema\":3,\"brand_new\":[]}}\n")).unwrap();
        for error in [
            Run::load(dir.path()).map(|_| ()).unwrap_err(),
            RunDir::create_or_continue(dir.path(), &manifest).map(|_| ()).unwrap_err(),
        ] {
            assert!(matches!(error, ResultsError::NewerSchema { found: 3, .. }), "{error}");
        }
        std::fs::write(&file, good).unwrap();
        let file = dir.path().join(MANIFEST);
        let text = std::fs::read_to_string(&file).unwrap().replace("\"schema\": 2", "\"schema\": 7");
        std::fs::write(&file, text).unwrap();
        assert!(matches!(Run::load(dir.path()), Err(ResultsError::NewerSchema { found: 7, .. })));
    }

    #[test]
    fn an_unknown_field_is_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = manifest();
        let run = write_run(dir.path(), &manifest, |_, _, _| 0.5);
        let mut value = serde_json::to_value(&run.examples[0]).unwrap();
        value["extra"] = 0.into();
        assert!(serde_json::from_value::<ExampleRecord>(value).is_err());
    }

    #[test]
    fn every_flipped_bit_is_told_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = manifest();
        // Short lines: every bit of a file is tried.
        manifest.methods.truncate(1);
        manifest.datasets.truncate(1);
        write_run(dir.path(), &manifest, |_, _, _| 0.5);
        let file = dir.path().join(RECORDS);
        let whole = std::fs::read(&file).unwrap();
        let end = whole.iter().position(|byte| *byte == b'\n').unwrap();
        for at in 0..end {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                let (records, problems) =
                    parse_records(bytes.as_slice(), &file, &manifest, Selections::Whole).unwrap();
                // A flip that makes a line break makes two damaged lines of one.
                let lines: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
                assert!(records.len() == 2 && lines.starts_with(&[1]), "byte {at} bit {bit}: {problems:?}");
            }
        }
    }
}
