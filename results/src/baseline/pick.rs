//! Which stored run is meant: by what `compare` is given, and by what a run measures.

use std::collections::BTreeSet;
use std::path::Path;

use super::BaselineStore;
use crate::Result;
use crate::error::ResultsError;
use crate::git::{commit_time, resolve_commit};
use crate::identity::Identity;
use crate::manifest::Manifest;
use crate::run::{MANIFEST, Run, read_manifest};

impl BaselineStore {
    /// Opens what `compare` was given: each of the two a run directory, the directories of a run's parts separated by
    /// commas, or a commit or branch of the repository.
    ///
    /// A commit is looked up with the measurement of the other side's run. Where it has no such run but exactly one
    /// that can be compared (same suite, model, protocol and data; other methods or parameters), that one is taken: the
    /// comparison tells what differs. Two commits need one configuration in common.
    ///
    /// # Errors
    /// A name that is neither, a missing baseline (with the command that makes it), a damaged file.
    pub fn open_pair(&self, repository: &Path, names: [&str; 2]) -> Result<[(String, Vec<Run>); 2]> {
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
                let shared = self.shared_configuration(&a, &b)?;
                let open = |commit: &str| self.get(commit, shared.as_deref()).map(|run| vec![run]);
                Ok([(labelled(base, &a), open(&a)?), (labelled(head, &b), open(&b)?)])
            }
        }
    }

    /// The configuration that both commits have, if there is exactly one.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn shared_configuration(&self, a: &str, b: &str) -> Result<Option<String>> {
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

    /// The stored run of a commit that fits `runs`: the same measurement, else the only one that can be compared.
    pub(super) fn like(&self, commit: &str, runs: &[Run]) -> Result<Run> {
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
        let directories = directories(run).unwrap_or_else(|| vec![Path::new(run)]);
        let manifests = directories.into_iter().map(read_manifest).collect::<Result<Vec<_>>>()?;
        let wanted: Vec<Identity> = manifests.iter().map(Manifest::identity).collect();
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
}

/// The run directory named, or those of a run's parts, separated by commas; none where there is no run.
fn directories(names: &str) -> Option<Vec<&Path>> {
    let is_run = |name: &str| Path::new(name).join(MANIFEST).exists();
    if is_run(names) {
        return Some(vec![Path::new(names)]);
    }
    (names.contains(',') && names.split(',').any(is_run)).then(|| names.split(',').map(Path::new).collect())
}

/// The runs in [`directories`].
fn load_parts(names: &str) -> Result<Option<Vec<Run>>> {
    directories(names).map(|parts| parts.into_iter().map(Run::load_for_scores).collect()).transpose()
}
