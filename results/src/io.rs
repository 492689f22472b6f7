//! File access: writes that are whole or absent, and hashes.

use std::io::Write;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Writes `bytes` to `path` so that after any crash the file is the old one or the new one, whole.
///
/// The temporary file has a fixed name: one left by a killed process is overwritten, never accumulated. The
/// caller holds the directory's lock.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    let part = path.with_file_name(name);
    // Made anew: a link of that name, in a directory from someone else, would lead the bytes to its target.
    if part.symlink_metadata().is_ok() {
        fs_err::remove_file(&part)?;
    }
    let mut file = fs_err::OpenOptions::new().write(true).create_new(true).open(&part)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    drop(file);
    if let Err(error) = written.and_then(|()| fs_err::rename(&part, path)) {
        // A full disk must not be kept full by our half file.
        let _ = fs_err::remove_file(&part);
        return Err(error);
    }
    sync_dir(folder_of(path))
}

/// The folder that `path` is an entry of.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes a directory and those above it that are missing, each durable in its parent.
pub(crate) fn create_dirs(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = folder_of(path);
    create_dirs(parent)?;
    match fs_err::create_dir(path) {
        // Another process may have been faster.
        Err(error) if !(error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir()) => Err(error),
        _ => sync_dir(parent),
    }
}

/// Makes a created or renamed entry of `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> std::io::Result<()> {
    #[cfg(test)]
    tests::SYNCED.with_borrow_mut(|synced| synced.push(dir.to_owned()));
    // Directories can be opened and synced on Unix only; elsewhere the rename itself has to do.
    if cfg!(unix) { fs_err::File::open(dir)?.sync_all() } else { Ok(()) }
}

/// The SHA-256 of the parts (each preceded by its length, so that no two lists collide) in hexadecimal, cut to
/// `digits`.
pub(crate) fn hash_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>, digits: usize) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut hex = format!("{:x}", hasher.finalize());
    hex.truncate(digits);
    hex
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::path::PathBuf;

    thread_local! {
        /// The directories that this thread made durable.
        pub(crate) static SYNCED: RefCell<Vec<PathBuf>> = const { RefCell::new(Vec::new()) };
    }

    #[test]
    fn every_new_directory_is_synced_in_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("one/two"));
        SYNCED.take();
        create_dirs(&two).unwrap();
        assert_eq!(SYNCED.take(), [dir.path(), &one]);
        create_dirs(&two).unwrap();
        assert!(SYNCED.take().is_empty());
        std::fs::write(one.join("file"), "").unwrap();
        assert!(create_dirs(&one.join("file")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_the_place_of_the_temporary_file_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("file.part")).unwrap();
        write_atomic(&dir.path().join("file"), b"ours").unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"ours");
        // What a killed process left is written anew, and nothing stays beside the file.
        std::fs::write(dir.path().join("file.part"), "half").unwrap();
        write_atomic(&dir.path().join("file"), b"again").unwrap();
        assert_eq!(std::fs::read(dir.path().join("file")).unwrap(), b"again");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
