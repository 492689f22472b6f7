//! The baseline store: runs kept by configuration and commit, as text files that git diffs line by line.
//!
//! ```text
//! STORE/CONFIGURATION/COMMIT/manifest.json
//!                            examples.jsonl   one line an example, sorted
//!                            cells.jsonl      one line an example and variant, sorted
//!                            timings.jsonl    one line an example: the only file that differs between repetitions
//!                            kept/HASH.kept   kept positions of the first examples of each data set
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::compare::grid;
use crate::error::{Conflict, ResultsError};
use crate::identity::Identity;
use crate::io::{create_dirs, sync_dir, write_atomic};
use crate::manifest::Shard;
use crate::merge::Merged;
use crate::record::{ExampleInfo, ExampleKey, ExampleRecord, SCHEMA, Timings, VariantRecord};
use crate::run::{MANIFEST, Run, kept_of, kept_path, read_manifest, to_json};
use crate::stats::Bootstrap;
use crate::table::{ScoreTable, TableLayout};
use crate::text::{excerpt, visible};

const EXAMPLES: &str = "examples.jsonl";
const CELLS: &str = "cells.jsonl";
const TIMINGS: &str = "timings.jsonl";

/// Examples of each data set whose kept positions are stored: enough to see a change, small enough to commit.
const KEPT_EXAMPLES: usize = 2;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExampleLine {
    schema: u32,
    key: ExampleKey,
    info: ExampleInfo,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CellLine {
    key: ExampleKey,
    cell: VariantRecord,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimingLine {
    key: ExampleKey,
    timings: Timings,
}

/// A baseline store.
#[derive(Clone, Debug)]
pub struct BaselineStore {
    /// Its directory.
    pub path: PathBuf,
    /// The command that adds the current commit's run, for messages.
    pub remedy: String,
}

/// One stored run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BaselineKey {
    /// [`crate::Manifest::configuration`].
    pub configuration: String,
    /// Full commit hash.
    pub commit: String,
}

impl BaselineStore {
    /// All stored runs, sorted. An absent store is empty.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Vec<BaselineKey>> {
        let mut keys = Vec::new();
        for configuration in hex_dirs(&self.path)? {
            for commit in hex_dirs(&self.path.join(&configuration))? {
                keys.push(BaselineKey { configuration: configuration.clone(), commit });
            }
        }
        Ok(keys)
    }

    /// Stores a complete run under `commit` (a full hash, see [`resolve_commit`]). Storing the same results again does
    /// nothing.
    ///
    /// # Errors
    /// An incomplete run, a part of a run, a run of a changed tree or of an older schema, other results for the same
    /// commit and configuration.
    pub fn put(&self, run: &Run, commit: &str) -> Result<BaselineKey> {
        let refuse = |why: &str| ResultsError::NotARun { path: run.path.clone(), why: why.to_owned() };
        if !run.is_complete() || !run.problems.is_empty() {
            return Err(refuse("it is not complete, so it cannot be a baseline; run it again to continue"));
        }
        if let Some(Shard { index, count }) = run.manifest.shard {
            return Err(refuse(&format!("it is part {index} of {count}, and a baseline is the whole run")));
        }
        if run.manifest.schema != SCHEMA {
            return Err(refuse(&format!(
                "it is of schema {}; run it again with this program",
                run.manifest.schema
            )));
        }
        if run.manifest.program.commit.contains("-dirty") {
            return Err(refuse("its program was built from a changed tree; commit the change first"));
        }
        if !is_hex(commit) {
            return Err(refuse(&format!("`{}` is no commit hash", visible(commit))));
        }
        let key = BaselineKey { configuration: run.manifest.configuration(), commit: commit.to_owned() };
        let place = self.place(&key);
        let examples: Vec<&ExampleRecord> = {
            let mut all: Vec<&ExampleRecord> = run.examples.iter().collect();
            all.sort_by(|a, b| a.key.cmp(&b.key));
            all
        };
        let json = |value: std::result::Result<String, serde_json::Error>| {
            value.map(|text| text + "\n").map_err(|error| refuse(&error.to_string()))
        };
        let (mut lines, mut cells, mut timings) = (String::new(), String::new(), String::new());
        for record in &examples {
            let line = ExampleLine {
                schema: SCHEMA,
                key: record.key.clone(),
                info: record.info.clone(),
                skipped: record.skipped.clone(),
            };
            lines += &json(serde_json::to_string(&line))?;
            for cell in &record.variants {
                let line = CellLine { key: record.key.clone(), cell: cell.clone() };
                cells += &json(serde_json::to_string(&line))?;
            }
            if let Some(seconds) = &record.timings {
                let line = TimingLine { key: record.key.clone(), timings: seconds.clone() };
                timings += &json(serde_json::to_string(&line))?;
            }
        }
        if place.exists() {
            let same = fs_err::read_to_string(place.join(EXAMPLES))? == lines
                && fs_err::read_to_string(place.join(CELLS))? == cells;
            return if same {
                Ok(key)
            } else {
                Err(ResultsError::Conflict(Box::new(Conflict {
                    what: format!("commit {commit} with configuration {}", key.configuration),
                    first: place.display().to_string(),
                    second: run.path.display().to_string(),
                })))
            };
        }
        // Built aside and renamed: a baseline is there whole or not at all.
        let part = place.with_extension("part");
        if part.exists() {
            fs_err::remove_dir_all(&part)?;
        }
        create_dirs(&part.join("kept"))?;
        let mut manifest = to_json(&run.manifest, &part.join(MANIFEST))?;
        manifest.push(b'\n');
        for (name, bytes) in [
            (MANIFEST, manifest.as_slice()),
            (EXAMPLES, lines.as_bytes()),
            (CELLS, cells.as_bytes()),
            (TIMINGS, timings.as_bytes()),
        ] {
            write_atomic(&part.join(name), bytes)?;
        }
        let mut stored: BTreeMap<&str, usize> = BTreeMap::new();
        for record in examples {
            let count = stored.entry(&record.key.dataset).or_default();
            if *count < KEPT_EXAMPLES
                && let Some(kept) = kept_of(&run.path, &record.key)?
            {
                write_atomic(&kept_path(&part, &record.key), kept.to_text().as_bytes())?;
                *count += 1;
            }
        }
        fs_err::rename(&part, &place)?;
        place.parent().map_or(Ok(()), sync_dir)?;
        Ok(key)
    }

    /// Reads the run of a commit. Without `configuration` the commit must have exactly one.
    ///
    /// # Errors
    /// No such run (with what there is and the command that makes it), several configurations, a damaged file.
    pub fn get(&self, commit: &str, configuration: Option<&str>) -> Result<Run> {
        let all = self.list()?;
        let fits = |key: &&BaselineKey| {
            key.commit == commit && configuration.is_none_or(|wanted| key.configuration == wanted)
        };
        let found: Vec<&BaselineKey> = all.iter().filter(fits).collect();
        match found.as_slice() {
            [key] => self.read(key),
            several => Err(ResultsError::NoBaseline {
                store: self.path.clone(),
                commit: commit.to_owned(),
                configuration: match configuration {
                    Some(configuration) => configuration.to_owned(),
                    None if several.is_empty() => "(any)".to_owned(),
                    None => "(it has several: name one, or give a run instead of a commit)".to_owned(),
                },
                known: all.iter().map(|key| format!("{:.12}/{}", key.commit, key.configuration)).collect(),
                remedy: self.remedy.clone(),
            }),
        }
    }

    /// Opens what `compare` was given: each of the two a run directory, the directories of a run's parts separated by
    /// commas, or a commit or branch of the repository.
    ///
    /// A commit is looked up with the measurement of the other side's run. Where it has no such run but exactly one
    /// that can be compared (same suite, model, protocol and data; other methods or parameters), that one is taken: the
    /// comparison tells what differs. Two commits need one configuration in common, or `configuration`.
    ///
    /// # Errors
    /// A name that is neither, a missing baseline (with the command that makes it), a damaged file.
    pub fn open_pair(
        &self,
        repository: &Path,
        names: [&str; 2],
        configuration: Option<&str>,
    ) -> Result<[(String, Vec<Run>); 2]> {
        let labelled = |name: &str, commit: &str| format!("{name} ({commit:.12})");
        let [base, head] = names;
        match (load_parts(base)?, load_parts(head)?) {
            (Some(a), Some(b)) => Ok([(base.to_owned(), a), (head.to_owned(), b)]),
            (Some(a), None) => {
                let commit = resolve_commit(repository, head)?;
                let b = self.like(&commit, &a)?;
                Ok([(base.to_owned(), a), (labelled(head, &commit), vec![b])])
            }
            (None, Some(b)) => {
                let commit = resolve_commit(repository, base)?;
                let a = self.like(&commit, &b)?;
                Ok([(labelled(base, &commit), vec![a]), (head.to_owned(), b)])
            }
            (None, None) => {
                let (a, b) = (resolve_commit(repository, base)?, resolve_commit(repository, head)?);
                let shared = match configuration {
                    Some(configuration) => Some(configuration.to_owned()),
                    None => self.shared_configuration(&a, &b)?,
                };
                let open = |commit: &str| self.get(commit, shared.as_deref()).map(|run| vec![run]);
                Ok([(labelled(base, &a), open(&a)?), (labelled(head, &b), open(&b)?)])
            }
        }
    }

    /// The stored run of a commit that fits `runs`: the same measurement, else the only one that can be compared.
    fn like(&self, commit: &str, runs: &[Run]) -> Result<Run> {
        let Some(Run { manifest: wanted, .. }) = runs.first() else {
            return Err(ResultsError::Empty("no run was given".to_owned()));
        };
        let identity = wanted.identity();
        let (mut same, mut fitting) = (Vec::new(), Vec::new());
        for key in self.list()?.into_iter().filter(|key| key.commit == commit) {
            let stored = read_manifest(&self.place(&key))?;
            if stored.identity().same_measurement(&identity) {
                same.push((stored.schema, key));
            } else if stored.suite == wanted.suite && stored.identity().incomparable(&identity).is_empty() {
                fitting.push(key);
            }
        }
        // A run that was stored by an older schema too is known better by the newer one.
        match (same.iter().max_by_key(|(schema, _)| *schema), fitting.as_slice()) {
            (Some((_, key)), _) | (None, [key]) => self.read(key),
            _ => self.get(commit, Some(&identity.configuration())),
        }
    }

    /// The newest stored commit that has the measurement of the run in `run`, or of its parts.
    ///
    /// # Errors
    /// No such commit, a manifest that cannot be read.
    pub fn newest(&self, repository: &Path, run: &str) -> Result<String> {
        let runs = match load_parts(run)? {
            Some(runs) => runs,
            None => vec![Run::load(Path::new(run))?],
        };
        let wanted: Vec<Identity> = runs.iter().map(|run| run.manifest.identity()).collect();
        let mut newest: Option<(i64, String)> = None;
        for key in self.list()? {
            let stored = read_manifest(&self.place(&key))?.identity();
            if wanted.iter().all(|wanted| stored.same_measurement(wanted)) {
                let time = commit_time(repository, &key.commit).unwrap_or(i64::MIN);
                newest = newest.max(Some((time, key.commit)));
            }
        }
        let configuration = wanted.first().map(Identity::configuration).unwrap_or_default();
        match newest {
            Some((_, commit)) => Ok(commit),
            None => Err(self.none_of(configuration)?),
        }
    }

    /// That no commit has the configuration, with those that some have.
    ///
    /// # Errors
    /// The store cannot be read.
    fn none_of(&self, configuration: String) -> Result<ResultsError> {
        let known: BTreeSet<String> = self.list()?.into_iter().map(|key| key.configuration).collect();
        Ok(ResultsError::NoBaseline {
            store: self.path.clone(),
            commit: "(any)".to_owned(),
            configuration,
            known: known.into_iter().collect(),
            remedy: self.remedy.clone(),
        })
    }

    /// The configuration that both commits have, if there is exactly one.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn shared_configuration(&self, a: &str, b: &str) -> Result<Option<String>> {
        let all = self.list()?;
        let of = |commit: &str| -> BTreeSet<&str> {
            all.iter().filter(|key| key.commit == commit).map(|key| key.configuration.as_str()).collect()
        };
        let shared: Vec<&str> = of(a).intersection(&of(b)).copied().collect();
        Ok(match shared.as_slice() {
            [one] => Some((*one).to_owned()),
            _ => None,
        })
    }

    fn place(&self, key: &BaselineKey) -> PathBuf {
        self.path.join(&key.configuration).join(&key.commit)
    }

    fn read(&self, key: &BaselineKey) -> Result<Run> {
        let path = self.place(key);
        let manifest = read_manifest(&path)?;
        let mut examples: BTreeMap<ExampleKey, ExampleRecord> = BTreeMap::new();
        for_each_line(&path.join(EXAMPLES), |line: ExampleLine| {
            if line.schema > SCHEMA {
                return Err(format!("schema {} is newer than {SCHEMA}; update kvsweep", line.schema));
            }
            let record = ExampleRecord {
                schema: line.schema,
                key: line.key.clone(),
                info: line.info,
                skipped: line.skipped,
                variants: Vec::new(),
                timings: None,
            };
            examples.insert(line.key, record).map_or(Ok(()), |_| Err("the example is there twice".to_owned()))
        })?;
        let missing = || "its example is not in examples.jsonl".to_owned();
        for_each_line(&path.join(CELLS), |line: CellLine| {
            examples.get_mut(&line.key).ok_or_else(missing)?.variants.push(line.cell);
            Ok(())
        })?;
        for_each_line(&path.join(TIMINGS), |line: TimingLine| {
            examples.get_mut(&line.key).ok_or_else(missing)?.timings = Some(line.timings);
            Ok(())
        })?;
        let examples: Vec<ExampleRecord> = examples.into_values().collect();
        for record in &examples {
            record.check().map_err(|why| ResultsError::Malformed { path: path.join(CELLS), why })?;
        }
        Ok(Run { path, manifest, examples, problems: Vec::new() })
    }

    /// The averages of one configuration over the commits that have it, oldest first.
    ///
    /// # Errors
    /// No run of the configuration, a damaged file, git that cannot be started.
    pub fn history(
        &self,
        repository: &Path,
        configuration: &str,
        layout: &TableLayout,
        bootstrap: &Bootstrap,
    ) -> Result<History> {
        let mut points = Vec::new();
        for key in self.list()?.into_iter().filter(|key| key.configuration == configuration) {
            let merged = Merged::of(&[self.read(&key)?], false)?;
            let table = ScoreTable::new(&merged, layout, bootstrap)?;
            // Seconds since 1970, the date, the subject; a commit of another clone has none and comes last.
            let shown =
                git(repository, &["log", "-1", "--format=%ct%x09%cs%x09%s", "--end-of-options", &key.commit]);
            let shown = shown.unwrap_or_default();
            let mut words = shown.trim_end().splitn(3, '\t');
            let time: Option<i64> = words.next().and_then(|time| time.parse().ok());
            let date = words.next().unwrap_or("unknown").to_owned();
            let subject = words.next().unwrap_or_default().to_owned();
            points
                .push((time.unwrap_or(i64::MAX), HistoryPoint { commit: key.commit, date, subject, table }));
        }
        if points.is_empty() {
            return Err(self.none_of(configuration.to_owned())?);
        }
        points.sort_by(|a, b| (a.0, &a.1.commit).cmp(&(b.0, &b.1.commit)));
        Ok(History {
            configuration: configuration.to_owned(),
            points: points.into_iter().map(|(_, point)| point).collect(),
        })
    }
}

/// One commit of a history.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HistoryPoint {
    /// Full hash.
    pub commit: String,
    /// Day of the commit, or `unknown`.
    pub date: String,
    /// First line of its message. Untrusted.
    pub subject: String,
    /// Its table.
    pub table: ScoreTable,
}

/// A configuration's averages over commits.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct History {
    /// The configuration's hash.
    pub configuration: String,
    /// Oldest first.
    pub points: Vec<HistoryPoint>,
}

impl History {
    /// Method and budget of every variant in any point, in table order.
    pub fn variants(&self) -> Vec<(String, Option<u32>)> {
        let mut all: Vec<(String, Option<u32>)> = Vec::new();
        for row in self.points.iter().flat_map(|point| &point.table.rows) {
            let name = (row.method.clone(), row.budget);
            if !all.contains(&name) {
                all.push(name);
            }
        }
        all
    }

    /// The last column (the average) of a variant in a point.
    pub fn average(point: &HistoryPoint, (method, budget): &(String, Option<u32>)) -> Option<crate::Cell> {
        let row = point.table.rows.iter().find(|row| row.method == *method && row.budget == *budget)?;
        row.cells.last().copied().flatten()
    }

    /// Writes everything as versioned JSON.
    ///
    /// # Errors
    /// Never for a history made by [`BaselineStore::history`].
    pub fn to_json(&self) -> Result<String> {
        #[derive(Serialize)]
        struct Versioned<'a> {
            format: &'static str,
            version: u32,
            history: &'a History,
        }
        serde_json::to_string_pretty(&Versioned { format: "kvsweep-history", version: 1, history: self })
            .map_err(|error| ResultsError::Empty(error.to_string()))
    }

    /// Writes one line a commit, one column a variant.
    pub fn render(&self, markdown: bool) -> String {
        let variants = self.variants();
        let names: Vec<String> = variants
            .iter()
            .map(|(method, budget)| {
                budget.map_or_else(|| method.clone(), |budget| format!("{method}/{budget}"))
            })
            .collect();
        let head: Vec<&str> = ["commit", "date"]
            .into_iter()
            .chain(names.iter().map(String::as_str))
            .chain(["subject"])
            .collect();
        let rows = self.points.iter().map(|point| {
            let mut row = vec![point.commit.chars().take(12).collect(), point.date.clone()];
            row.extend(variants.iter().map(|variant| {
                let cell = Self::average(point, variant);
                cell.map_or_else(|| "-".to_owned(), |cell| format!("{:.2}", cell.score))
            }));
            row.push(excerpt(&point.subject, 60));
            row
        });
        grid(&head, rows.collect(), markdown)
    }
}

/// The run in a directory, or the parts of one in directories separated by commas; none where there is no run.
fn load_parts(names: &str) -> Result<Option<Vec<Run>>> {
    let is_run = |name: &str| Path::new(name).join(MANIFEST).exists();
    if is_run(names) {
        return Run::load(Path::new(names)).map(|run| Some(vec![run]));
    }
    if !(names.contains(',') && names.split(',').any(is_run)) {
        return Ok(None);
    }
    names.split(',').map(|name| Run::load(Path::new(name))).collect::<Result<_>>().map(Some)
}

/// When a commit was made, in seconds since 1970; none for a commit of another clone.
fn commit_time(repository: &Path, commit: &str) -> Option<i64> {
    git(repository, &["log", "-1", "--format=%ct", "--end-of-options", commit]).ok()?.trim().parse().ok()
}

/// Reads one JSON value a line.
fn for_each_line<T: for<'a> Deserialize<'a>>(
    path: &Path,
    mut each: impl FnMut(T) -> std::result::Result<(), String>,
) -> Result<()> {
    for (index, line) in fs_err::read_to_string(path)?.lines().enumerate() {
        let value = serde_json::from_str(line).map_err(|error| error.to_string());
        value.and_then(&mut each).map_err(|why| ResultsError::Malformed {
            path: path.to_owned(),
            why: format!("line {}: {why}", index + 1),
        })?;
    }
    Ok(())
}

fn is_hex(name: &str) -> bool {
    name.len() >= 7 && name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The subdirectories that are named by a hash, sorted.
fn hex_dirs(path: &Path) -> Result<Vec<String>> {
    let entries = match fs_err::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_hex(&name) && entry.file_type()?.is_dir() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The full hash of a commit, branch or tag of the repository.
///
/// # Errors
/// An unknown name, no repository, or no git.
pub fn resolve_commit(repository: &Path, name: &str) -> Result<String> {
    let unknown = |why: String| ResultsError::UnknownCommit {
        name: name.to_owned(),
        repository: repository.to_owned(),
        why,
    };
    let revision = format!("{name}^{{commit}}");
    let hash = git(repository, &["rev-parse", "--verify", "--quiet", "--end-of-options", &revision])
        .map_err(|why| unknown(if why.is_empty() { "git does not know it".to_owned() } else { why }))?;
    let hash = hash.trim().to_owned();
    if is_hex(&hash) { Ok(hash) } else { Err(unknown("git gave no hash".to_owned())) }
}

/// Runs git in the repository; its output, or what it says went wrong.
fn git(repository: &Path, arguments: &[&str]) -> std::result::Result<String, String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(repository)
        .args(arguments)
        // Set inside git hooks; they would override the directory.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .output()
        .map_err(|error| format!("git cannot be started: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{CompareOptions, Comparison};
    use crate::render::tests::layout;
    use crate::run::tests::{manifest, part, write_run};

    fn store(path: &Path) -> BaselineStore {
        BaselineStore { path: path.join("store"), remedy: "just regress --record".into() }
    }

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_stored_run_comes_back_and_diffs_to_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let run = write_run(&dir.path().join("run"), &manifest(), |_, row, v| (row as f64 + v as f64) / 10.0);
        let store = store(dir.path());
        assert_eq!(store.list().unwrap(), []);
        let key = store.put(&run, COMMIT).unwrap();
        assert_eq!(store.put(&run, COMMIT).unwrap(), key, "storing it again does nothing");
        assert_eq!(store.list().unwrap(), std::slice::from_ref(&key));
        let back = store.get(COMMIT, None).unwrap();
        assert_eq!(back.examples, run.examples);
        assert_eq!(back.manifest, run.manifest);
        assert_eq!(store.get(COMMIT, Some(&key.configuration)).unwrap().examples.len(), 6);
        let place = store.path.join(&key.configuration).join(COMMIT);
        assert_eq!(std::fs::read_dir(place.join("kept")).unwrap().count(), 4, "two examples a data set");
        assert_eq!(std::fs::read_to_string(place.join(CELLS)).unwrap().lines().count(), 18);
        let [base, head] = [back, run].map(|run| Merged::of(&[run], false).unwrap());
        let all = Comparison::new(("a", &base), ("b", &head), &layout(), &CompareOptions::default()).unwrap();
        assert_eq!((all.changed_texts, all.losses().len()), (0, 0));
        assert!(all.overlaps.iter().all(|overlap| overlap.jaccard == Some(1.0) && overlap.n_jaccard == 4));
    }

    #[test]
    fn what_must_not_be_a_baseline_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let run = write_run(&dir.path().join("run"), &manifest(), |_, _, _| 0.5);
        let error = |run: &Run, commit: &str| store.put(run, commit).unwrap_err().to_string();
        assert!(error(&run, "../../etc").contains("no commit hash"));
        let mut part = run.clone();
        part.examples.pop();
        assert!(error(&part, COMMIT).contains("not complete"));
        let half = crate::run::tests::part(&manifest(), 1, 2);
        let shard = write_run(&dir.path().join("part"), &half, |_, _, _| 0.5);
        assert!(error(&shard, COMMIT).contains("part 1 of 2"), "{}", error(&shard, COMMIT));
        let mut old = run.clone();
        old.manifest.schema = 1;
        assert!(error(&old, COMMIT).contains("schema 1"));
        let mut dirty = run.clone();
        dirty.manifest.program.commit = "abc-dirty".into();
        assert!(error(&dirty, COMMIT).contains("changed tree"));
        store.put(&run, COMMIT).unwrap();
        let mut other = run.clone();
        other.examples[0].variants[0].score = 0.0;
        assert!(error(&other, COMMIT).contains("two different results"));
    }

    #[test]
    fn a_missing_baseline_names_the_command_that_makes_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let run = write_run(&dir.path().join("run"), &manifest(), |_, _, _| 0.5);
        let key = store.put(&run, COMMIT).unwrap();
        let error = store.get("fedcba9876", None).unwrap_err().to_string();
        assert!(error.contains("just regress --record") && error.contains(&key.configuration), "{error}");
        let error = store.get(COMMIT, Some("0000000000000000")).unwrap_err().to_string();
        assert!(error.contains("configuration 0000000000000000"), "{error}");
        let mut more = manifest();
        more.budgets = vec![64];
        let second = store.put(&write_run(&dir.path().join("more"), &more, |_, _, _| 0.5), COMMIT).unwrap();
        assert!(store.get(COMMIT, None).unwrap_err().to_string().contains("several"));
        assert!(store.get(COMMIT, Some(&second.configuration)).is_ok());
        assert_eq!(store.shared_configuration(COMMIT, "fedcba9876").unwrap(), None);
        assert_eq!(store.shared_configuration(COMMIT, COMMIT).unwrap(), None, "two are not one");
    }

    #[test]
    fn damage_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let key = store.put(&write_run(&dir.path().join("run"), &manifest(), |_, _, _| 0.5), COMMIT).unwrap();
        let cells = store.path.join(&key.configuration).join(COMMIT).join(CELLS);
        let text = std::fs::read_to_string(&cells).unwrap();
        std::fs::write(&cells, &text[..text.len() - 9]).unwrap();
        let error = store.get(COMMIT, None).unwrap_err().to_string();
        assert!(error.contains("cells.jsonl") && error.contains("line 18"), "{error}");
    }

    #[test]
    fn a_run_that_schema_1_stored_is_found_by_what_it_states() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/baseline-v1");
        let place = store.path.join("8c4e759a680838c8").join(COMMIT);
        std::fs::create_dir_all(&place).unwrap();
        for name in [MANIFEST, EXAMPLES, CELLS, TIMINGS] {
            std::fs::copy(old.join(name), place.join(name)).unwrap();
        }
        let mut now = store.get(COMMIT, None).unwrap().manifest;
        assert_eq!(now.configuration(), "8c4e759a680838c8");
        now.schema = SCHEMA;
        now.model.files.insert("config.json".into(), "c".into());
        now.protocol.sha256 = "p".into();
        assert_ne!(now.configuration(), "8c4e759a680838c8");
        let path = dir.path().join("run");
        write_run(&path, &now, |_, _, _| 0.5);
        let run = path.display().to_string();
        assert_eq!(store.newest(dir.path(), &run).unwrap(), COMMIT);
        assert_eq!(store.like(COMMIT, &[Run::load(&path).unwrap()]).unwrap().examples.len(), 3);
        now.dtype = "bf16".into();
        let path = dir.path().join("other");
        write_run(&path, &now, |_, _, _| 0.5);
        let error = store.newest(dir.path(), path.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("8c4e759a680838c8") && error.contains("just regress"), "{error}");
    }

    fn run_git(path: &Path, arguments: &[&str]) -> String {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"];
        git(path, &[&identity, arguments].concat()).unwrap()
    }

    #[test]
    fn commits_are_resolved_and_ordered_by_git() {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("repository");
        std::fs::create_dir(&repository).unwrap();
        run_git(&repository, &["init", "-q", "-b", "main"]);
        let store = store(dir.path());
        let mut commits = Vec::new();
        for (index, score) in [0.25, 0.75].into_iter().enumerate() {
            let date = format!("--date=2026-01-0{}T00:00:00", index + 1);
            let mut commit = Command::new("git");
            commit.arg("-C").arg(&repository).args(["-c", "user.name=t", "-c", "user.email=t@example.org"]);
            commit.args(["-c", "commit.gpgsign=false", "commit", "-q", "--allow-empty", &date, "-m"]);
            commit.arg(format!("change {index}\u{1b}[2J"));
            commit.env("GIT_COMMITTER_DATE", format!("2026-01-0{}T00:00:00Z", index + 1));
            assert!(commit.status().unwrap().success());
            let hash = resolve_commit(&repository, "main").unwrap();
            let run = write_run(&dir.path().join(index.to_string()), &manifest(), |_, _, _| score);
            store.put(&run, &hash).unwrap();
            commits.push(hash);
        }
        assert_eq!(resolve_commit(&repository, "HEAD~1").unwrap(), commits[0]);
        assert_eq!(resolve_commit(&repository, &commits[1][..10]).unwrap(), commits[1]);
        let error = resolve_commit(&repository, "no-such-branch").unwrap_err().to_string();
        assert!(error.contains("`no-such-branch` is neither a run directory nor a commit"), "{error}");
        assert!(resolve_commit(&repository, "--help").is_err(), "an option is no name");
        assert!(resolve_commit(dir.path(), "main").is_err(), "not a repository");

        let configuration = manifest().configuration();
        let history = store.history(&repository, &configuration, &layout(), &Bootstrap::default()).unwrap();
        let order: Vec<&String> = history.points.iter().map(|point| &point.commit).collect();
        assert_eq!(order, commits.iter().collect::<Vec<_>>());
        let text = history.render(false);
        assert!(text.contains("2026-01-01") && text.contains("25.00") && text.contains("75.00"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        let json: serde_json::Value = serde_json::from_str(&history.to_json().unwrap()).unwrap();
        assert_eq!(json["history"]["points"][1]["table"]["rows"][0]["cells"][0]["score"], 75.0);
        assert_eq!(store.shared_configuration(&commits[0], &commits[1]).unwrap(), Some(configuration));
        let open = |names| store.open_pair(&repository, names, None);
        let [(label, base), (_, head)] = open(["main~1", "main"]).unwrap();
        assert_eq!(label, format!("main~1 ({:.12})", commits[0]));
        let first = |runs: &[Run]| runs[0].examples[0].variants[0].score;
        assert_eq!((first(&base), first(&head)), (0.25, 0.75));
        let run = dir.path().join("1").display().to_string();
        let [(_, base), (label, head)] = open(["main~1", &run]).unwrap();
        let stored = |runs: &[Run]| runs[0].path.starts_with(&store.path);
        assert_eq!((stored(&base), stored(&head)), (true, false));
        assert_eq!(label, run);
        assert_eq!(store.newest(&repository, &run).unwrap(), commits[1]);
        // The parts of a run are the run that is stored whole.
        let parts = [1, 2].map(|index| {
            let path = dir.path().join(format!("part-{index}"));
            write_run(&path, &part(&manifest(), index, 2), |_, _, _| 0.5);
            path.display().to_string()
        });
        let named = [parts[0].clone(), parts.join(",")];
        for (parts, count) in named.iter().zip([1, 2]) {
            assert_eq!(store.newest(&repository, parts).unwrap(), commits[1]);
            let [(_, base), (_, head)] = open(["main", parts]).unwrap();
            assert_eq!((base.len(), head.len()), (1, count));
        }
        let absent = format!("{},absent", parts[0]);
        let error = open(["main", &absent]).unwrap_err().to_string();
        assert!(error.contains("`absent`"), "{error}");
        // Another parameter: the only run that can be compared is taken. Other weights: none is.
        let mut other = manifest();
        other.methods[1].params.insert("window".into(), "9".into());
        let run = dir.path().join("window").display().to_string();
        write_run(Path::new(&run), &other, |_, _, _| 0.5);
        assert!(open([&run, "main"]).is_ok());
        other.model.weights_sha256 = "retrained".into();
        let run = dir.path().join("weights").display().to_string();
        write_run(Path::new(&run), &other, |_, _, _| 0.5);
        let error = open(["main", &run]).unwrap_err().to_string();
        assert!(error.contains("just regress --record"), "{error}");
        assert!(open(["main", "no-such-thing"]).unwrap_err().to_string().contains("neither a run directory"));

        assert!(store.history(&repository, "0000000000000000", &layout(), &Bootstrap::default()).is_err());
    }
}
