//! The baseline store: runs kept by configuration and commit, as text files that git diffs line by line.
//!
//! ```text
//! STORE/CONFIGURATION/COMMIT/manifest.json
//!                            examples.jsonl   one line an example, sorted
//!                            cells.jsonl      one line an example and variant, sorted
//!                            timings.jsonl    one line an example: the only file that differs between repetitions
//!                            kept/HASH.kept   kept positions of the first examples of each data set
//! ```

mod files;
mod history;
mod pick;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use history::{History, HistoryPoint};

use crate::Result;
use crate::error::ResultsError;
use crate::git::is_hex;
pub use crate::git::resolve_commit;
use crate::run::Run;

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

    fn place(&self, key: &BaselineKey) -> PathBuf {
        self.path.join(&key.configuration).join(&key.commit)
    }
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::files::{CELLS, EXAMPLES, TIMINGS};
    use super::*;
    use crate::compare::Comparison;
    use crate::fixture::layout;
    use crate::fixture::{manifest, part, write_run};
    use crate::git::git;
    use crate::merge::Merged;
    use crate::record::SCHEMA;
    use crate::run::MANIFEST;
    use crate::stats::Bootstrap;

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
        let all = Comparison::new(("a", &base), ("b", &head), &layout(), &Bootstrap::default()).unwrap();
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
        let half = crate::fixture::part(&manifest(), 1, 2);
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
        more.budgets = vec![crate::Budget::Entries(64)];
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
        let text = history.text();
        assert!(text.contains("2026-01-01") && text.contains("25.00") && text.contains("75.00"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        let json: serde_json::Value = serde_json::from_str(&history.to_json().unwrap()).unwrap();
        assert_eq!(json["history"]["points"][1]["table"]["rows"][0]["cells"][0]["score"], 75.0);
        assert_eq!(store.shared_configuration(&commits[0], &commits[1]).unwrap(), Some(configuration));
        let open = |names| store.open_pair(&repository, names);
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
