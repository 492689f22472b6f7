//! The Hugging Face hub: its cache on this machine, and [`fetch`], which alone uses the network.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::{
        Progress,
        sync::{ApiBuilder, ApiError, ApiRepo},
    },
};
use sha1::Sha1;
use sha2::Digest;

use super::{BESIDE, CONFIG, INDEX, ModelFiles, PICKLES, Place, WEIGHTS, is_plain, parse_index};
use crate::{
    error::{EngineError, Result},
    files::{Blob, io_error, sha256_hex},
};

/// The hub id of a folder of the hub's cache.
pub(super) fn hub_id(folder: &str) -> Option<String> {
    Some(folder.strip_prefix("models--")?.replacen("--", "/", 1))
}

/// The hub: where its cache is and how to reach it.
#[derive(Clone, Debug)]
pub struct Hub {
    /// The cache, shared with every other Hugging Face program.
    pub cache: PathBuf,
    /// The server.
    pub endpoint: String,
    /// Access token for gated and private models.
    pub token: Option<String>,
}

impl Hub {
    /// As `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT` and `HF_TOKEN` say, else `~/.cache/huggingface/hub`, the public
    /// hub, and the token that `hf auth login` stored.
    ///
    /// # Errors
    /// If neither `HF_HOME` nor `HOME` says where the cache is.
    pub fn from_env() -> Result<Self> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = var("HF_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface")));
        let cache = var("HF_HUB_CACHE").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join("hub")));
        let cache = cache.ok_or_else(|| EngineError::MissingFile {
            dir: PathBuf::from("~"),
            file: ".cache/huggingface".into(),
            hint: "set HF_HOME to the directory for downloaded models".into(),
        })?;
        let stored = || fs::read_to_string(home.as_ref()?.join("token")).ok();
        let token =
            var("HF_TOKEN").or_else(stored).map(|token| token.trim().to_owned()).filter(|t| !t.is_empty());
        Ok(Self {
            cache,
            endpoint: var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            token,
        })
    }
}

/// Splits `owner/name@revision`.
fn parse_id(id: &str) -> Result<Repo> {
    let (repo, revision) = id.split_once('@').unwrap_or((id, "main"));
    let word = |word: &str| {
        is_plain(word) && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    match repo.split_once('/') {
        Some((owner, name)) if word(owner) && word(name) && revision.split('/').all(word) => {
            Ok(Repo::with_revision(repo.to_owned(), RepoType::Model, revision.to_owned()))
        }
        _ => Err(EngineError::UnknownModel { name: id.to_owned() }),
    }
}

/// The hub models in the local cache, by id, with the folder of each.
#[must_use]
pub fn cached_models() -> Vec<(String, PathBuf)> {
    let Ok(hub) = Hub::from_env() else { return Vec::new() };
    let Ok(entries) = fs::read_dir(&hub.cache) else { return Vec::new() };
    let mut models: Vec<(String, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some((hub_id(&name)?, entry.path()))
        })
        .collect();
    models.sort();
    models
}

/// A hub model from the local cache; see [`super::resolve`].
///
/// # Errors
/// See [`super::resolve`].
pub fn resolve_hub(id: &str, hub: &Hub) -> Result<ModelFiles> {
    hub_cache(id, hub)?.files()
}

pub(super) fn hub_cache(id: &str, hub: &Hub) -> Result<Place> {
    let cached = Cache::new(hub.cache.clone()).repo(parse_id(id)?);
    let find = move |file: &str| cached.get(file).map(Blob::File);
    Ok(Place { name: id.to_owned(), dir: hub.cache.clone(), find: Box::new(find), in_cache: true })
}

/// One file that [`fetch`] put, or found, in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedFile {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Hex sha256 of its bytes.
    pub sha256: String,
}

/// How far a download is: file, bytes done, bytes in all.
pub type OnProgress<'a> = &'a mut dyn FnMut(&str, u64, u64);

/// Downloads the files of a hub model that are not in the cache, and checks all against the hashes that the hub
/// announced. Pickles are never downloaded.
///
/// # Errors
/// A network failure, a refusal by the hub, a wrong hash, a model without safetensors.
pub fn fetch(id: &str, hub: &Hub, on_progress: OnProgress<'_>) -> Result<Vec<FetchedFile>> {
    let repo = parse_id(id)?;
    let cached = Cache::new(hub.cache.clone()).repo(repo.clone());
    let api = ApiBuilder::from_cache(Cache::new(hub.cache.clone()))
        .with_endpoint(hub.endpoint.trim_end_matches('/').to_owned())
        .with_token(hub.token.clone())
        .with_progress(false)
        .build()
        .map_err(|error| hub_error(id, CONFIG, &error))?
        .repo(repo);
    let listed = api.info().map_err(|error| hub_error(id, "list of files", &error))?;
    let listed: BTreeSet<String> = listed.siblings.into_iter().map(|sibling| sibling.rfilename).collect();

    let mut fetched = Vec::new();
    let mut get = |file: &str| -> Result<PathBuf> {
        let (path, is_new) = match cached.get(file) {
            Some(path) => (path, false),
            None => (download(&api, id, file, on_progress)?, true),
        };
        let checked = check_hash(file, &path);
        if checked.is_err() && is_new {
            // No program may find it. Best effort: the error names the file.
            let _ = path.canonicalize().map(fs::remove_file);
            let _ = fs::remove_file(&path);
        }
        fetched.push(checked?);
        Ok(path)
    };
    let missing = |file: &str, hint: &'static str| EngineError::MissingFile {
        dir: id.into(),
        file: file.to_owned(),
        hint: hint.into(),
    };
    if !listed.contains(CONFIG) {
        let hint = if listed.iter().any(|file| file.ends_with(".gguf")) {
            "this hub repository holds GGUF files: download one and name it, `--model FILE.gguf`"
        } else {
            "this hub repository holds no model in the layout of transformers"
        };
        return Err(missing(CONFIG, hint));
    }
    get(CONFIG)?;
    for file in BESIDE.into_iter().filter(|&file| listed.contains(file)) {
        get(file)?;
    }
    if listed.contains(WEIGHTS) {
        get(WEIGHTS)?;
    } else if listed.contains(INDEX) {
        let index = get(INDEX)?;
        let bytes = fs::read(&index).map_err(|source| io_error(&index, source))?;
        for shard in parse_index(&bytes, &index)?.0 {
            get(&shard)?;
        }
    } else if let Some(pickle) = PICKLES.iter().find(|&&pickle| listed.contains(pickle)) {
        return Err(EngineError::PickledWeights { path: Path::new(id).join(pickle) });
    } else {
        return Err(missing(WEIGHTS, "only safetensors are read"));
    }
    Ok(fetched)
}

struct Report<'a, 'b> {
    file: &'a str,
    done: u64,
    total: u64,
    on_progress: &'a mut OnProgress<'b>,
}

impl Progress for Report<'_, '_> {
    fn init(&mut self, size: usize, _: &str) {
        (self.done, self.total) = (0, size as u64);
        self.update(0);
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        (self.on_progress)(self.file, self.done, self.total);
    }

    fn finish(&mut self) {}
}

fn download(api: &ApiRepo, id: &str, file: &str, mut on_progress: OnProgress<'_>) -> Result<PathBuf> {
    let report = Report { file, done: 0, total: 0, on_progress: &mut on_progress };
    api.download_with_progress(file, report).map_err(|error| hub_error(id, file, &error))
}

/// The cache names a file's bytes after the hash that the hub announced: sha256 for large files, git's sha1 for
/// small ones.
fn check_hash(name: &str, path: &Path) -> Result<FetchedFile> {
    let blob = Blob::File(path.to_path_buf()).map()?;
    let sha256 = sha256_hex(&blob);
    let target = path.canonicalize().map_err(|source| io_error(path, source))?;
    let announced = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let found = match announced.len() {
        64 => Some(sha256.clone()),
        40 => {
            let git = Sha1::new_with_prefix(format!("blob {}\0", blob.len())).chain_update(&*blob);
            Some(format!("{:x}", git.finalize()))
        }
        _ => None,
    };
    let is_hash = announced.bytes().all(|byte| byte.is_ascii_hexdigit());
    match found {
        Some(found) if is_hash && !found.eq_ignore_ascii_case(&announced) => {
            Err(EngineError::HashMismatch { path: target, expected: announced, found })
        }
        _ => Ok(FetchedFile {
            name: name.to_owned(),
            bytes: blob.len() as u64,
            path: path.to_path_buf(),
            sha256,
        }),
    }
}

fn hub_error(id: &str, file: &str, error: &ApiError) -> EngineError {
    let reason = error.to_string();
    let hint = if matches!(error, ApiError::InvalidResume) {
        "; delete the .part files in the model's blobs directory of the cache"
    } else if reason.contains("401") || reason.contains("403") {
        "; the model is gated, private or misspelt: accept its licence on the hub and set HF_TOKEN"
    } else if reason.contains("404") {
        "; check the id and the revision"
    } else {
        "; run the command again, it continues where it stopped"
    };
    EngineError::Hub { id: id.into(), file: file.into(), reason, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids() {
        let repo = parse_id("meta-llama/Llama-3.1-8B-Instruct").unwrap();
        assert_eq!(
            (repo.folder_name().as_str(), repo.revision()),
            ("models--meta-llama--Llama-3.1-8B-Instruct", "main")
        );
        assert_eq!(parse_id("a/b@refs/pr/1").unwrap().revision(), "refs/pr/1");
        for bad in ["b", "a/b/c", "../b", "a/..", "/a/b", "a/b@", "a/b@../x", "a/b c", "", "a/", "./b"] {
            let message = parse_id(bad).unwrap_err().to_string();
            assert!(
                message.contains(&format!("model `{bad}` is neither `tiny`, nor an existing directory")),
                "{bad}"
            );
        }
    }
}
