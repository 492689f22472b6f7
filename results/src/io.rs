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
    let mut file = fs_err::File::create(&part)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    drop(file);
    if let Err(error) = written.and_then(|()| fs_err::rename(&part, path)) {
        // A full disk must not be kept full by our half file.
        let _ = fs_err::remove_file(&part);
        return Err(error);
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => sync_dir(folder),
        _ => sync_dir(Path::new(".")),
    }
}

/// Makes a created or renamed entry of `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> std::io::Result<()> {
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
    let mut hex: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    hex.truncate(digits);
    hex
}
