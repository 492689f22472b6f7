//! The run directory: a manifest, append-only records, kept positions; safe against a kill at any moment.
//!
//! ```text
//! manifest.json    what the run is; written once, atomically, before the first record
//! records.jsonl    one line a finished example, appended and synced
//! kept/HASH.kept   kept positions of one example, written before its record; optional
//! damaged.jsonl    lines of records.jsonl that were unreadable when the run was continued; usually absent
//! lock             held while a process writes; empty otherwise
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::TryLockError;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::error::{Conflict, ResultsError};
use crate::io::{create_dirs, hash_parts, sync_dir, write_atomic};
use crate::kept::KeptPositions;
use crate::manifest::Manifest;
use crate::record::{ExampleKey, ExampleRecord, LineProblem, SCHEMA, SchemaOnly, VariantKey};
use crate::text::visible;

pub(crate) const MANIFEST: &str = "manifest.json";
const RECORDS: &str = "records.jsonl";
const DAMAGED: &str = "damaged.jsonl";
const KEPT: &str = "kept";
const LOCK: &str = "lock";

/// What the names of pictures begin with while they are written.
const PICTURE_PART: &str = ".kvsweep-";

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
        let manifest = read_manifest(path)?;
        let file = path.join(RECORDS);
        let (mut examples, problems) = match fs_err::File::open(&file) {
            Ok(content) => parse_records(BufReader::new(content), &file, &manifest)?,
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
        let (examples, repairs) = parse_records(bytes.as_slice(), &file, manifest)?;
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

/// Refuses a directory that holds other files than `ours` and ones in work.
fn refuse_files_but(path: &Path, ours: &[&str]) -> Result<()> {
    for entry in fs_err::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !ours.contains(&name.as_str()) && !is_part(&name) {
            let why = format!("it holds `{}` and no {MANIFEST}", visible(&name));
            return Err(ResultsError::NotARun { path: path.to_owned(), why });
        }
    }
    Ok(())
}

/// Refuses a directory with links in it: they would lead what is written to files elsewhere.
fn refuse_links(path: &Path) -> Result<()> {
    for entry in fs_err::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_symlink() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let why = format!("`{}` in it is a link, which is not followed for writing", visible(&name));
            return Err(ResultsError::NotARun { path: path.to_owned(), why });
        }
    }
    Ok(())
}

/// Whether a file of that name is one that a killed process was writing.
fn is_part(name: &str) -> bool {
    name.ends_with(".part") || name.starts_with(PICTURE_PART)
}

/// Removes what killed processes were writing, in the run directory and in its folders. The lock is held.
fn remove_leftovers(path: &Path) -> Result<()> {
    for entry in fs_err::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_leftovers(&entry.path())?;
        } else if is_part(&entry.file_name().to_string_lossy()) {
            fs_err::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Takes the directory's lock and writes this process's number into it, for the message another one gets.
fn take_lock(path: &Path) -> Result<fs_err::File> {
    let file = path.join(LOCK);
    let mut lock =
        fs_err::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&file)?;
    match lock.file().try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = fs_err::read_to_string(&file).unwrap_or_default();
            let holder =
                holder.trim().parse::<u32>().map_or_else(|_| "unknown".to_owned(), |pid| pid.to_string());
            return Err(ResultsError::Locked { path: path.to_owned(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    lock.set_len(0)?;
    lock.seek(SeekFrom::Start(0))?;
    writeln!(lock, "{}", std::process::id())?;
    Ok(lock)
}

/// Rewrites the records without the problem lines, after adding the damaged ones (not a torn end, which is the normal
/// trace of a kill) to `damaged.jsonl`. Returns the new length.
fn repair(path: &Path, bytes: &[u8], problems: &[RecordProblem]) -> Result<u64> {
    let bad: BTreeSet<usize> = problems.iter().map(|problem| problem.line).collect();
    let (mut good, mut damaged) = (Vec::with_capacity(bytes.len()), Vec::new());
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if !bad.contains(&(index + 1)) {
            good.extend_from_slice(line);
        } else if line.ends_with(b"\n") {
            damaged.extend_from_slice(line);
        }
    }
    if damaged.is_empty() {
        // Only the end is torn: cutting it is enough, and cheaper than a rewrite.
        let file = fs_err::OpenOptions::new().write(true).open(path.join(RECORDS))?;
        file.set_len(good.len() as u64)?;
        file.sync_all()?;
    } else {
        let mut aside = read_if_present(&path.join(DAMAGED))?;
        // A kill between the two writes leaves the lines set aside, and in the records still.
        if !aside.ends_with(&damaged) {
            aside.extend_from_slice(&damaged);
            write_atomic(&path.join(DAMAGED), &aside)?;
        }
        write_atomic(&path.join(RECORDS), &good)?;
    }
    Ok(good.len() as u64)
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

/// Reads all lines that can be used. Two equal lines count once; two lines of one example that contradict each other
/// are an error.
fn parse_records(
    mut content: impl BufRead,
    file: &Path,
    manifest: &Manifest,
) -> Result<(Vec<ExampleRecord>, Vec<RecordProblem>)> {
    let mut records: Vec<ExampleRecord> = Vec::new();
    let mut seen: BTreeMap<ExampleKey, (usize, usize)> = BTreeMap::new();
    let mut problems = Vec::new();
    let variants = manifest.variants();
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
        let record = match ExampleRecord::from_line(text, manifest.schema) {
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
fn check_record(
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
pub(crate) mod tests {
    use super::*;
    use crate::kept::{LayerKept, VariantKept};
    use crate::manifest::{DatasetInfo, MethodInfo, ModelInfo, ProgramInfo, ProtocolInfo, Shard};
    use crate::record::{
        ExampleInfo, Finish, Kept, Needle, SelectionDigest, Timings, VariantRecord, VariantTiming,
    };

    /// Two methods, two data sets of three examples.
    pub(crate) fn manifest() -> Manifest {
        let method = |spec: &str, budgeted| MethodInfo {
            spec: spec.into(),
            params: [("window".to_owned(), "8".to_owned())].into_iter().filter(|_| budgeted).collect(),
            granularity: "kv-head".into(),
            budgeted,
        };
        let dataset = |name: &str| DatasetInfo {
            name: name.into(),
            sha256: format!("hash of {name}"),
            examples: 3,
            total: 3,
        };
        Manifest {
            schema: SCHEMA,
            program: ProgramInfo { version: "0.1.0".into(), commit: "abc".into() },
            model: ModelInfo {
                name: "tiny".into(),
                weights_sha256: "w".into(),
                tokenizer_sha256: "t".into(),
                files: [("config.json".to_owned(), "c".to_owned())].into(),
                embedded: true,
            },
            suite: "longbench".into(),
            split: "mini".into(),
            protocol: ProtocolInfo { name: "longbench".into(), version: "1".into(), sha256: "p".into() },
            datasets: vec![dataset("qasper"), dataset("trec")],
            methods: vec![method("full", false), method("snapkv", true)],
            budgets: vec![64, 128],
            device: "cpu".into(),
            dtype: "f32".into(),
            limit: None,
            shard: None,
            seed: 0,
            settings: Default::default(),
        }
    }

    /// The record of one example; `scores` by variant in the manifest's order.
    pub(crate) fn record(manifest: &Manifest, dataset: &str, row: u64, scores: &[f64]) -> ExampleRecord {
        let layers = [LayerKept::All, LayerKept::Heads(vec![vec![0, 1, 5], vec![2]])];
        let variants = manifest.variants();
        assert_eq!(variants.len(), scores.len());
        let variant = |(variant, score): (crate::VariantKey, &f64)| VariantRecord {
            prediction: format!("answer {row} of {} \u{202e} <script>\n", variant.method),
            prediction_sha256: "p".into(),
            new_tokens: 5,
            finish: Finish::Stop,
            metric: "qa_f1".into(),
            score: *score,
            other_scores: [("rouge1".to_owned(), 0.5)].into(),
            kept: Kept {
                entries_mean: f64::from(variant.budget.unwrap_or(500)),
                entries_max: variant.budget.unwrap_or(500) * 2,
                entries_nominal: f64::from(variant.budget.unwrap_or(500)),
                bytes: u64::from(variant.budget.unwrap_or(500)) * 1024,
            },
            selection: Some(SelectionDigest::of(&layers)),
            retention: Some(vec![vec![1.0, 0.1], vec![0.0, 1.0 / 3.0]]),
            variant,
        };
        ExampleRecord {
            schema: SCHEMA,
            key: ExampleKey { dataset: dataset.into(), example: format!("{dataset}-{row}") },
            info: ExampleInfo {
                row,
                language: "en".into(),
                length: Some(4321),
                bucket: Some("4-8k".into()),
                context: None,
                answers: vec!["yes".into()],
                all_classes: Vec::new(),
                prompt_sha256: "q".into(),
                prompt_tail: "Answer:".into(),
                prompt_tokens: 500,
                truncated_tokens: 0,
                needle: Some(Needle { length: 512, depth: 11.0, start: Some(50), end: Some(60) }),
            },
            skipped: None,
            timings: Some(Timings {
                prefill_s: 0.25,
                variants: vec![VariantTiming { select_s: 0.001, decode_s: 0.5 }; variants.len()],
            }),
            variants: variants.into_iter().zip(scores).map(variant).collect(),
        }
    }

    /// Part `index` of `count` of a run.
    pub(crate) fn part(whole: &Manifest, index: u32, count: u32) -> Manifest {
        let mut part = whole.clone();
        let shard = Shard { index, count };
        part.shard = Some(shard);
        part.datasets.iter_mut().for_each(|dataset| dataset.examples = shard.rows(dataset.total));
        part
    }

    pub(crate) fn kept(manifest: &Manifest, shift: u32) -> KeptPositions {
        let layers = |_| vec![LayerKept::All, LayerKept::Heads(vec![vec![0, 1, 5 + shift], vec![2 + shift]])];
        let variants = manifest.variants().into_iter().enumerate();
        KeptPositions {
            variants: variants
                .map(|(i, v)| VariantKept { variant: v.to_string(), layers: layers(i) })
                .collect(),
        }
    }

    /// Writes a run with the given scores for each (data set, row).
    pub(crate) fn write_run(
        path: &Path,
        manifest: &Manifest,
        score: impl Fn(&str, u64, usize) -> f64,
    ) -> Run {
        let mut run = RunDir::create_or_continue(path, manifest).unwrap();
        let variants = manifest.variants().len();
        for dataset in &manifest.datasets {
            let Shard { index, count } = manifest.shard.unwrap_or(Shard { index: 1, count: 1 });
            for row in (0..dataset.total).filter(|row| row % u64::from(count) == u64::from(index) - 1) {
                let scores: Vec<f64> = (0..variants).map(|v| score(&dataset.name, row, v)).collect();
                run.append(&record(manifest, &dataset.name, row, &scores), Some(&kept(manifest, 0))).unwrap();
            }
        }
        run.records().unwrap()
    }

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
        other.budgets = vec![64];
        other.program.commit = "def".into();
        let error = RunDir::create_or_continue(dir.path(), &other).unwrap_err().to_string();
        assert!(error.contains("budgets: `[64,128]` against `[64]`"), "{error}");
        assert!(error.contains("program.commit: `abc` against `def`"), "{error}");
        assert!(!error.contains("model"), "{error}");
        // Nothing was changed by the refusal.
        RunDir::create_or_continue(dir.path(), &manifest()).unwrap();
    }

    #[test]
    fn a_foreign_directory_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "precious").unwrap();
        let error = RunDir::create_or_continue(dir.path(), &manifest()).unwrap_err().to_string();
        assert!(error.contains("thesis.tex"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = Run::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("no manifest.json"), "{error}");
        let error = Run::load(&dir.path().join("absent")).unwrap_err().to_string();
        assert!(error.contains("does not exist"), "{error}");
    }

    #[test]
    fn one_writer_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunDir::create_or_continue(dir.path(), &manifest()).unwrap();
        let error = RunDir::create_or_continue(dir.path(), &manifest()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        RunDir::create_or_continue(dir.path(), &manifest()).unwrap();
        assert_eq!(std::fs::read(dir.path().join(LOCK)).unwrap(), b"");
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

    /// A kill during the write of the last line leaves any prefix of it: whatever the prefix, continuing gives the
    /// undisturbed file.
    #[test]
    fn a_torn_last_line_at_every_byte() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = manifest();
        // A short line: the test syncs the disk once a byte.
        manifest.methods.truncate(1);
        let run = write_run(dir.path(), &manifest, |_, row, _| row as f64 / 4.0);
        let file = dir.path().join(RECORDS);
        let whole = std::fs::read(&file).unwrap();
        let last = run.examples.last().unwrap();
        let start = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        for cut in start..whole.len() {
            std::fs::write(&file, &whole[..cut]).unwrap();
            let torn = usize::from(cut > start);
            let read = Run::load(dir.path()).unwrap();
            assert_eq!((read.examples.len(), read.problems.len()), (5, torn), "cut at {cut}");
            let mut writer = RunDir::create_or_continue(dir.path(), &manifest).unwrap();
            assert_eq!(writer.repairs().len(), torn, "cut at {cut}");
            assert_eq!(std::fs::read(&file).unwrap(), whole[..start], "cut at {cut}");
            assert!(!writer.is_complete());
            writer.append(last, None).unwrap();
            assert_eq!(std::fs::read(&file).unwrap(), whole, "cut at {cut}");
        }
        assert!(!dir.path().join(DAMAGED).exists());
    }

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
    fn the_lock_is_asked_before_the_files_are_judged() {
        let dir = tempfile::tempdir().unwrap();
        let holder = RunDir::create_or_continue(dir.path(), &manifest()).unwrap();
        // What another process sees of one that has the lock and writes: a manifest that is there one moment later.
        std::fs::remove_file(dir.path().join(MANIFEST)).unwrap();
        let error = RunDir::create_or_continue(dir.path(), &manifest()).unwrap_err();
        assert!(matches!(error, ResultsError::Locked { .. }), "{error}");
        drop(holder);
        // Without a writer, records without a manifest are nothing that can be continued.
        let error = RunDir::create_or_continue(dir.path(), &manifest()).unwrap_err().to_string();
        assert!(error.contains("`records.jsonl` and no manifest.json"), "{error}");
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

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed_for_writing() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let path = dir.path().join("run");
        for name in [LOCK, RECORDS, DAMAGED, "manifest.json.part", KEPT] {
            drop(RunDir::create_or_continue(&path, &manifest()).unwrap());
            let _ = std::fs::remove_file(path.join(name));
            std::os::unix::fs::symlink(&victim, path.join(name)).unwrap();
            let error = RunDir::create_or_continue(&path, &manifest()).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}` in it is a link")), "{error}");
            assert_eq!(std::fs::read(&victim).unwrap(), b"precious", "{name}");
            std::fs::remove_file(path.join(name)).unwrap();
        }
    }

    #[test]
    fn what_killed_processes_were_writing_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        write_run(dir.path(), &manifest(), |_, _, _| 0.5);
        std::fs::create_dir(dir.path().join("heatmaps")).unwrap();
        for name in [".kvsweep-a1B2c3", "heatmaps/.kvsweep-a1B2c3", "kept/x.kept.part", "records.jsonl.part"]
        {
            std::fs::write(dir.path().join(name), "half").unwrap();
        }
        std::fs::write(dir.path().join("heatmap.png"), "whole").unwrap();
        drop(RunDir::create_or_continue(dir.path(), &manifest()).unwrap());
        let names = |folder: &str| -> Vec<String> {
            let entries = std::fs::read_dir(dir.path().join(folder)).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        assert!(names("").contains(&"heatmap.png".to_owned()));
        let all = [names(""), names("heatmaps"), names("kept")].concat();
        assert!(!all.iter().any(|name| is_part(name)), "{all:?}");
    }

    #[test]
    fn a_kill_while_repairing_lists_a_damaged_line_once() {
        let dir = tempfile::tempdir().unwrap();
        write_run(dir.path(), &manifest(), |_, _, _| 0.5);
        let file = dir.path().join(RECORDS);
        let damaged = std::fs::read_to_string(&file).unwrap().replacen("\"score\":0.5", "\"score\":0.6", 1);
        for _ in 0..2 {
            // The second time as a kill leaves it: set aside already, and in the records still.
            std::fs::write(&file, &damaged).unwrap();
            let run = RunDir::create_or_continue(dir.path(), &manifest()).unwrap();
            assert_eq!((run.repairs().len(), run.finished_keys().len()), (1, 5));
        }
        assert_eq!(std::fs::read_to_string(dir.path().join(DAMAGED)).unwrap().lines().count(), 1);
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
                let (records, problems) = parse_records(bytes.as_slice(), &file, &manifest).unwrap();
                // A flip that makes a line break makes two damaged lines of one.
                let lines: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
                assert!(records.len() == 2 && lines.starts_with(&[1]), "byte {at} bit {bit}: {problems:?}");
            }
        }
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
