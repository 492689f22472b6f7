//! A model in a directory.

use std::path::Path;

use super::{ModelFiles, Place, hub::hub_id};
use crate::{
    error::Result,
    files::{Blob, io_error},
};

/// A model in a directory.
///
/// # Errors
/// See [`resolve`].
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
    use std::fs;

    use super::*;

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
