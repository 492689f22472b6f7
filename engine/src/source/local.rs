//! Models on this machine: a directory in the hub's layout, or a GGUF file.

use std::{
    borrow::Cow,
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    path::Path,
};

use super::{CardFiles, CardLayout, GGUF_MAGIC, ModelFiles, Place, TINY, hub::hub_id};
use crate::{
    error::{EngineError, Result},
    files::{Blob, io_error, no_pointer},
};

const GGUF: &str = "gguf";

/// The model of a file, where `name` is that of a file.
///
/// # Errors
/// A file that is no GGUF, or a name that ends as theirs do and is not there.
pub(super) fn file(name: &str) -> Result<Option<Blob>> {
    let path = Path::new(name);
    if name == TINY || !path.is_file() {
        return match path.extension() {
            Some(ending) if ending == GGUF && !path.is_dir() => {
                let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
                Err(io_error(path, missing))
            }
            _ => Ok(None),
        };
    }
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(64).read_to_end(&mut start))
        .map_err(|source| io_error(path, source))?;
    if start.starts_with(GGUF_MAGIC) {
        return Ok(Some(Blob::File(path.to_path_buf())));
    }
    no_pointer(&start, path)?;
    Err(EngineError::NoModel {
        path: path.to_path_buf(),
        found: "no GGUF file",
        hint: "name a GGUF file, or the directory that holds config.json and *.safetensors",
    })
}

/// The card of a GGUF: it goes by the file's name without its ending.
pub(super) fn gguf_card(file: Blob) -> CardFiles {
    let name = file.path().file_stem().map_or("model".into(), OsStr::to_string_lossy).into_owned();
    CardFiles { name, layout: CardLayout::Gguf(file) }
}

/// What a directory without `config.json` holds instead, as a remedy.
pub(super) fn instead(dir: &Path) -> Cow<'static, str> {
    if let Some(file) = ending_in(dir, GGUF) {
        return format!("it has `{file}`: name that file, `--model {}`", dir.join(&file).display()).into();
    }
    if dir.join("adapter_config.json").is_file() {
        return "it has an adapter (adapter_config.json): merge it into its base model first (peft: \
                `merge_and_unload()`)"
            .into();
    }
    if let Some(inner) = directories(dir).into_iter().find(|inner| inner.join("config.json").is_file()) {
        return format!("one below does: `--model {}`", inner.display()).into();
    }
    "a model directory has the hub's layout: config.json, tokenizer.json, *.safetensors".into()
}

/// What a directory without weights holds instead, as a remedy.
pub(super) fn weights_instead(dir: &Path) -> Cow<'static, str> {
    if dir.join("adapter_model.safetensors").is_file() {
        return "it has an adapter (adapter_model.safetensors): merge it into its base model first (peft: \
                `merge_and_unload()`)"
            .into();
    }
    if let Some(file) = ending_in(dir, "safetensors") {
        return format!(
            "it has `{file}`, and no model.safetensors.index.json that says which file holds what: fetch or copy the index"
        )
        .into();
    }
    if let Some(file) = ending_in(dir, GGUF) {
        return format!("it has `{file}`: name that file, `--model {}`", dir.join(&file).display()).into();
    }
    "weights are read from that file, or from the shards that its index names".into()
}

/// The first file of a directory with an ending, by name.
fn ending_in(dir: &Path, ending: &str) -> Option<String> {
    let entries = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    let files =
        entries.filter(|path| path.extension().is_some_and(|found| found == ending) && path.is_file());
    files.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).min()
}

fn directories(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

/// A model in a directory.
///
/// # Errors
/// See [`super::resolve`].
pub fn from_dir(dir: &Path) -> Result<ModelFiles> {
    directory(dir)?.files()
}

pub(super) fn directory(dir: &Path) -> Result<Place> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_a_model_by_what_it_begins_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("Model.Q4_1.gguf");
        let name = path.to_str().unwrap();
        assert!(file(name).unwrap_err().to_string().starts_with(&format!("cannot read `{name}`")));
        fs::write(&path, b"GGUF\x03").unwrap();
        assert_eq!(gguf_card(file(name).unwrap().unwrap()).name, "Model.Q4_1");
        fs::write(&path, b"PK").unwrap();
        assert!(file(name).unwrap_err().to_string().contains("is no GGUF file; name a GGUF file"));
        for other in [TINY, "owner/name", dir.path().to_str().unwrap()] {
            assert!(file(other).unwrap().is_none(), "{other}");
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
}
