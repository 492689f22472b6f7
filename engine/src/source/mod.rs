//! Where a model's files come from: the embedded model, a directory in the hub's layout, a GGUF file, or the local cache
//! of the Hugging Face hub. Only [`fetch`] uses the network.

mod embedded;
mod hub;
mod local;
mod shards;

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use crate::{
    error::{EngineError, Result},
    files::{Blob, sha256_hex},
};
use shards::parse_index;

pub use hub::{FetchedFile, Hub, OnProgress, cached_models, fetch, resolve_hub};
pub use local::from_dir;
pub use shards::WeightIndex;

/// The name of the embedded model.
pub const TINY: &str = "tiny";

/// What a GGUF begins with.
pub(crate) const GGUF_MAGIC: &[u8] = b"GGUF";
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// What is read beside `config.json` and the weights, where it is there: `docs/models.md` says what for.
const BESIDE: [&str; 6] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
];

/// The weights of a model.
#[derive(Clone, Debug)]
pub enum WeightFiles {
    /// Files of the hub.
    Safetensors {
        /// One file, or the shards in the order of their names.
        files: Vec<Blob>,
        /// Which shard holds which tensor.
        index: Option<WeightIndex>,
    },
    /// A file of llama.cpp.
    Gguf(Blob),
}

impl WeightFiles {
    /// The files, in the order in which they are hashed.
    pub(crate) fn blobs(&self) -> &[Blob] {
        match self {
            Self::Safetensors { files, .. } => files,
            Self::Gguf(file) => std::slice::from_ref(file),
        }
    }
}

/// The files that say what a model is; its weights are not among them.
#[derive(Clone, Debug)]
pub struct CardFiles {
    /// What to call it: `tiny`, the hub id (also of a snapshot in the hub's cache), the directory's name, or that of a
    /// GGUF without its ending.
    pub name: String,
    /// The files.
    pub layout: CardLayout,
}

/// How a model's files are laid out.
#[derive(Clone, Debug)]
pub enum CardLayout {
    /// As on the hub: one file a purpose.
    Hub(Box<HubFiles>),
    /// One file of llama.cpp.
    Gguf(Blob),
}

/// The files of the hub's layout.
#[derive(Clone, Debug)]
pub struct HubFiles {
    /// `config.json`.
    pub config: Blob,
    /// `generation_config.json`.
    pub generation_config: Option<Blob>,
    /// `tokenizer.json`.
    pub tokenizer: Option<Blob>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<Blob>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<Blob>,
    /// `added_tokens.json`.
    pub added_tokens: Option<Blob>,
    /// `chat_template.jinja`.
    pub chat_template: Option<Blob>,
    /// `chat_template.json`, which only processors of images and sounds read.
    pub processor_template: Option<Blob>,
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
    fn missing(&self, file: &str, hint: impl Into<Cow<'static, str>>) -> EngineError {
        if self.in_cache {
            return EngineError::NotFetched {
                id: self.name.clone(),
                file: file.to_owned(),
                cache: self.dir.clone(),
            };
        }
        EngineError::MissingFile { dir: self.dir.clone(), file: file.to_owned(), hint: hint.into() }
    }

    fn card(&self) -> Result<CardFiles> {
        let config = (self.find)(CONFIG).ok_or_else(|| self.missing(CONFIG, local::instead(&self.dir)))?;
        let [generation_config, tokenizer, tokenizer_config, special_tokens_map, added_tokens, chat_template] =
            BESIDE.map(&self.find);
        let processor_template = (self.find)("chat_template.json");
        let files = HubFiles {
            config,
            generation_config,
            tokenizer,
            tokenizer_config,
            special_tokens_map,
            added_tokens,
            chat_template,
            processor_template,
        };
        Ok(CardFiles { name: self.name.clone(), layout: CardLayout::Hub(Box::new(files)) })
    }

    fn weights(&self) -> Result<WeightFiles> {
        if let Some(file) = (self.find)(WEIGHTS) {
            return Ok(WeightFiles::Safetensors { files: vec![file], index: None });
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
            return Ok(WeightFiles::Safetensors { files, index });
        }
        Err(match PICKLES.iter().find_map(|pickle| (self.find)(pickle)) {
            Some(pickle) => EngineError::PickledWeights { path: pickle.path().to_path_buf() },
            None => self.missing(WEIGHTS, local::weights_instead(&self.dir)),
        })
    }

    fn files(&self) -> Result<ModelFiles> {
        Ok(ModelFiles { card: self.card()?, weights: self.weights()? })
    }
}

/// Pickles that explain why there are no weights.
const PICKLES: [&str; 5] =
    ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth", "model.pt", "model.pth"];

fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0'])
}

/// Finds a model: `tiny`, an existing directory or GGUF file, or the id of a hub model that was fetched before
/// (`owner/name`, `owner/name@revision`). Never uses the network.
///
/// # Errors
/// A name that is none of these, a hub model not in the cache, a directory that lacks a file, pickled weights.
pub fn resolve(name: &str) -> Result<ModelFiles> {
    match local::file(name)? {
        Some(file) => {
            Ok(ModelFiles { weights: WeightFiles::Gguf(file.clone()), card: local::gguf_card(file) })
        }
        None => place(name)?.files(),
    }
}

/// As [`resolve`], for what needs no weights: they need not be there.
///
/// # Errors
/// See [`resolve`].
pub fn resolve_card(name: &str) -> Result<CardFiles> {
    match local::file(name)? {
        Some(file) => Ok(local::gguf_card(file)),
        None => place(name)?.card(),
    }
}

fn place(name: &str) -> Result<Place> {
    if name == TINY {
        return embedded::embedded();
    }
    let dir = Path::new(name);
    if dir.is_dir() {
        return local::directory(dir);
    }
    hub::hub_cache(name, &Hub::from_env()?)
}
