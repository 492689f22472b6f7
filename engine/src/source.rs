//! Where a model's files come from: the embedded model, a directory in the hub's layout, or the local cache of the
//! Hugging Face hub. Only [`fetch`] uses the network.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    ops::Deref,
    path::{Path, PathBuf},
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::{
        Progress,
        sync::{ApiBuilder, ApiError, ApiRepo},
    },
};
use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;
use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::{
    error::{EngineError, Result},
    model::parse_json,
};

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// The name of the embedded model.
pub const TINY: &str = "tiny";

const WEIGHTS: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
const OPTIONAL: [&str; 4] =
    ["generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// A file, on disk or in the program.
#[derive(Clone, Debug)]
pub enum Blob {
    /// On disk.
    File(PathBuf),
    /// In the program.
    Embedded {
        /// For messages.
        path: PathBuf,
        /// Its bytes.
        bytes: &'static [u8],
    },
}

impl Blob {
    /// Where it is, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Embedded { path, .. } => path,
        }
    }

    /// Reads it whole.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&self) -> Result<Cow<'static, [u8]>> {
        match self {
            Self::File(path) => fs::read(path).map(Cow::Owned).map_err(|source| io_error(path, source)),
            Self::Embedded { bytes, .. } => Ok(Cow::Borrowed(bytes)),
        }
    }

    /// Maps it into memory.
    pub(crate) fn map(&self) -> Result<BlobBytes> {
        match self {
            Self::File(path) => {
                let file = File::open(path).map_err(|source| io_error(path, source))?;
                // SAFETY: the map is read-only and lives only while weights are loaded. As with every mapped
                // file, another process that truncates it meanwhile ends this one; it cannot corrupt what is
                // already converted.
                let map = unsafe { Mmap::map(&file) }.map_err(|source| io_error(path, source))?;
                Ok(BlobBytes::Mapped(map))
            }
            Self::Embedded { bytes, .. } => Ok(BlobBytes::Embedded(bytes)),
        }
    }
}

/// The bytes of a mapped [`Blob`].
pub(crate) enum BlobBytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

impl BlobBytes {
    /// Says that a piece of these bytes was read and is not needed again: its pages stop counting as this process's
    /// memory.
    pub(crate) fn release(&self, piece: &[u8]) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            let start = piece.as_ptr().addr().saturating_sub(map.as_ptr().addr());
            // SAFETY: the mapping is read-only and backed by its file, so dropped pages come back unchanged when
            // they are read again. A refusal leaves them where they are.
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, piece.len()) };
        }
        #[cfg(not(unix))]
        let _ = piece;
    }
}

impl Deref for BlobBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }
}

/// Lower-case hexadecimal sha256.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The weight files of a model.
#[derive(Clone, Debug)]
pub struct WeightFiles {
    /// One file, or the shards in the order of their names.
    pub files: Vec<Blob>,
    /// Which shard holds which tensor.
    pub index: Option<WeightIndex>,
}

/// `model.safetensors.index.json`.
#[derive(Clone, Debug)]
pub struct WeightIndex {
    /// The index file.
    pub path: PathBuf,
    /// Hex sha256 of its bytes.
    pub sha256: String,
    /// For each tensor, its place in [`WeightFiles::files`].
    pub file_of: BTreeMap<String, usize>,
}

/// The files that say what a model is; its weights are not among them.
#[derive(Clone, Debug)]
pub struct CardFiles {
    /// What to call it: `tiny`, the hub id (also of a snapshot in the hub's cache), or the directory's name.
    pub name: String,
    /// `config.json`.
    pub config: Blob,
    /// `generation_config.json`.
    pub generation_config: Option<Blob>,
    /// `tokenizer.json`.
    pub tokenizer: Option<Blob>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<Blob>,
    /// `chat_template.jinja`.
    pub chat_template: Option<Blob>,
}

/// The files of one model.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    /// What it is.
    pub card: CardFiles,
    /// The weights.
    pub weights: WeightFiles,
}

/// Gives a file by its name, or `None` where there is none.
type Find = Box<dyn Fn(&str) -> Option<Blob>>;

/// Where a model's files are: its name, the directory for messages, a file by its name, and whether it is the hub's
/// cache.
struct Place {
    name: String,
    dir: PathBuf,
    find: Find,
    in_cache: bool,
}

impl Place {
    fn missing(&self, file: &str, hint: &'static str) -> EngineError {
        if self.in_cache {
            return EngineError::NotFetched {
                id: self.name.clone(),
                file: file.to_owned(),
                cache: self.dir.clone(),
            };
        }
        EngineError::MissingFile { dir: self.dir.clone(), file: file.to_owned(), hint }
    }

    fn card(&self) -> Result<CardFiles> {
        let config = (self.find)("config.json").ok_or_else(|| {
            self.missing(
                "config.json",
                "a model directory has the hub's layout: config.json, tokenizer.json, *.safetensors",
            )
        })?;
        let [generation_config, tokenizer, tokenizer_config, chat_template] = OPTIONAL.map(&self.find);
        Ok(CardFiles {
            name: self.name.clone(),
            config,
            generation_config,
            tokenizer,
            tokenizer_config,
            chat_template,
        })
    }

    fn weights(&self) -> Result<WeightFiles> {
        if let Some(file) = (self.find)(WEIGHTS) {
            return Ok(WeightFiles { files: vec![file], index: None });
        }
        if let Some(index) = (self.find)(INDEX) {
            let bytes = index.read()?;
            let (shards, file_of) = parse_index(&bytes, index.path())?;
            let files = shards
                .iter()
                .map(|shard| {
                    (self.find)(shard)
                        .ok_or_else(|| self.missing(shard, "its index names this shard: fetch or copy it"))
                })
                .collect::<Result<_>>()?;
            let sha256 = sha256_hex(&bytes);
            let index = Some(WeightIndex { path: index.path().to_path_buf(), sha256, file_of });
            return Ok(WeightFiles { files, index });
        }
        Err(match PICKLES.iter().find_map(|pickle| (self.find)(pickle)) {
            Some(pickle) => EngineError::PickledWeights { path: pickle.path().to_path_buf() },
            None => self
                .missing(WEIGHTS, "weights are read from that file, or from the shards that its index names"),
        })
    }

    fn files(&self) -> Result<ModelFiles> {
        Ok(ModelFiles { card: self.card()?, weights: self.weights()? })
    }
}

/// Pickles that explain why there are no weights.
const PICKLES: [&str; 5] =
    ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth", "model.pt", "model.pth"];

#[derive(Deserialize)]
struct RawIndex {
    weight_map: BTreeMap<String, String>,
}

/// Shards in the order of their names, and each tensor's shard. Names that are no plain file names are refused: an
/// index must not lead out of its directory.
fn parse_index(bytes: &[u8], path: &Path) -> Result<(Vec<String>, BTreeMap<String, usize>)> {
    let RawIndex { weight_map } = parse_json(bytes, path)?;
    let shards: Vec<String> = weight_map.values().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    if let Some(bad) = shards.iter().find(|name| !is_plain(name) || !name.ends_with(".safetensors")) {
        return Err(EngineError::InvalidField {
            path: path.to_path_buf(),
            field: "weight_map",
            found: format!("`{bad}`"),
            expected: "the name of a .safetensors file in the same directory".into(),
        });
    }
    let place: BTreeMap<&String, usize> =
        shards.iter().enumerate().map(|(place, name)| (name, place)).collect();
    let file_of =
        weight_map.iter().filter_map(|(tensor, file)| Some((tensor.clone(), *place.get(file)?))).collect();
    Ok((shards, file_of))
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0'])
}

/// Finds a model: `tiny`, an existing directory, or the id of a hub model that was fetched before
/// (`owner/name`, `owner/name@revision`). Never uses the network.
///
/// # Errors
/// A name that is none of these, a hub model not in the cache, a directory that lacks a file, pickled weights.
pub fn resolve(name: &str) -> Result<ModelFiles> {
    place(name)?.files()
}

/// As [`resolve`], for what needs no weights: they need not be there.
///
/// # Errors
/// See [`resolve`].
pub fn resolve_card(name: &str) -> Result<CardFiles> {
    place(name)?.card()
}

fn place(name: &str) -> Result<Place> {
    if name == TINY {
        return embedded();
    }
    let dir = Path::new(name);
    if dir.is_dir() {
        return directory(dir);
    }
    hub_cache(name, &Hub::from_env()?)
}

/// The model in the program.
fn embedded() -> Result<Place> {
    if EMBEDDED.is_empty() {
        return Err(EngineError::NoEmbeddedModel);
    }
    let find = |file: &str| {
        EMBEDDED
            .iter()
            .find(|(name, _)| *name == file)
            .map(|(name, bytes)| Blob::Embedded { path: Path::new(TINY).join(name), bytes })
    };
    Ok(Place { name: TINY.to_owned(), dir: TINY.into(), find: Box::new(find), in_cache: false })
}

/// A model in a directory.
///
/// # Errors
/// See [`resolve`].
pub fn from_dir(dir: &Path) -> Result<ModelFiles> {
    directory(dir)?.files()
}

fn directory(dir: &Path) -> Result<Place> {
    let name = directory_name(dir)?;
    let files = dir.to_path_buf();
    let find = move |file: &str| Some(files.join(file)).filter(|path| path.is_file()).map(Blob::File);
    Ok(Place { name, dir: dir.to_path_buf(), find: Box::new(find), in_cache: false })
}

/// What to call the model in a directory: by the directory's own name, also where that is a link; a snapshot in the
/// hub's cache (`models--OWNER--NAME/snapshots/COMMIT`) by its hub id. Protocols and published tables match names.
fn directory_name(dir: &Path) -> Result<String> {
    let absolute = std::path::absolute(dir).map_err(|source| io_error(dir, source))?;
    let absolute = match absolute.file_name() {
        Some(_) => absolute,
        // It ends in `..`.
        None => dir.canonicalize().map_err(|source| io_error(dir, source))?,
    };
    let name = |path: Option<&Path>| Some(path?.file_name()?.to_string_lossy().into_owned());
    let snapshots = absolute.parent().filter(|parent| parent.ends_with("snapshots"));
    let repository = name(snapshots.and_then(Path::parent)).as_deref().and_then(hub_id);
    Ok(repository.or_else(|| name(Some(&absolute))).unwrap_or_else(|| "model".to_owned()))
}

/// The hub id of a folder of the hub's cache.
fn hub_id(folder: &str) -> Option<String> {
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
            hint: "set HF_HOME to the directory for downloaded models",
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

/// A hub model from the local cache; see [`resolve`].
///
/// # Errors
/// See [`resolve`].
pub fn resolve_hub(id: &str, hub: &Hub) -> Result<ModelFiles> {
    hub_cache(id, hub)?.files()
}

fn hub_cache(id: &str, hub: &Hub) -> Result<Place> {
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
        .map_err(|error| hub_error(id, "config.json", &error))?
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
    let missing = |file: &str, hint| EngineError::MissingFile { dir: id.into(), file: file.to_owned(), hint };
    if !listed.contains("config.json") {
        return Err(missing(
            "config.json",
            "this hub repository holds no model in the layout of transformers",
        ));
    }
    get("config.json")?;
    for file in OPTIONAL.into_iter().filter(|&file| listed.contains(file)) {
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
    let sha256 = format!("{:x}", Sha256::digest(&*blob));
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

fn io_error(path: &Path, source: std::io::Error) -> EngineError {
    EngineError::Io { path: path.to_path_buf(), source }
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

    #[test]
    fn a_snapshot_of_the_cache_has_its_hub_id_and_a_link_its_own_name() {
        let root = tempfile::tempdir().unwrap();
        let name = |path: &Path| directory_name(path).unwrap();
        let snapshot = root.path().join("models--meta-llama--Llama-2-7b-chat-hf/snapshots/f5db");
        fs::create_dir_all(snapshot.join("sub")).unwrap();
        assert_eq!(name(&snapshot), "meta-llama/Llama-2-7b-chat-hf");
        assert_eq!(name(&snapshot.join("sub/..")), "meta-llama/Llama-2-7b-chat-hf");
        assert_eq!(name(&snapshot.join("sub")), "sub");
        assert_eq!(name(&root.path().join("snapshots/x")), "x");
        #[cfg(unix)]
        {
            let link = root.path().join("llama2-chat");
            std::os::unix::fs::symlink(&snapshot, &link).unwrap();
            assert_eq!(name(&link), "llama2-chat");
        }
    }

    #[test]
    fn an_index_stays_in_its_directory() {
        let parse = |file: &str| {
            let index = serde_json::json!({"weight_map": {"t": file, "u": "a.safetensors"}}).to_string();
            parse_index(index.as_bytes(), Path::new("i.json"))
        };
        let (shards, file_of) = parse("b.safetensors").unwrap();
        assert_eq!(
            (shards, file_of["t"], file_of["u"]),
            (vec!["a.safetensors".into(), "b.safetensors".into()], 1, 0)
        );
        for bad in [
            "../x.safetensors",
            "/x.safetensors",
            "d/x.safetensors",
            "..",
            "",
            "pytorch_model.bin",
            "C:x.safetensors",
        ] {
            let message = parse(bad).unwrap_err().to_string();
            assert!(message.starts_with(&format!("`i.json`: field `weight_map` is `{bad}`")), "{message}");
        }
        assert!(
            parse_index(b"{}", Path::new("i.json"))
                .unwrap_err()
                .to_string()
                .contains("missing field `weight_map`")
        );
    }
}
