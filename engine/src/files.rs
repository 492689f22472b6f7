//! Files of a model: their bytes, their JSON, their hashes, and how each failure is told.

use std::{
    borrow::Cow,
    fs::{self, File},
    io::Read,
    ops::Deref,
    path::{Path, PathBuf},
};

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::{EngineError, Result};

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

    /// Its name in its directory.
    pub(crate) fn file_name(&self) -> String {
        self.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Reads it whole.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&self) -> Result<Cow<'static, [u8]>> {
        let bytes = match self {
            Self::File(path) => Cow::Owned(fs::read(path).map_err(|source| io_error(path, source))?),
            Self::Embedded { bytes, .. } => Cow::Borrowed(*bytes),
        };
        no_pointer(&bytes, self.path())?;
        Ok(bytes)
    }

    /// Reads it whole, as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        parse_json(&self.read()?, self.path())
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
                no_pointer(&map, path)?;
                Ok(BlobBytes::Mapped(map))
            }
            Self::Embedded { bytes, .. } => Ok(BlobBytes::Embedded(bytes)),
        }
    }

    /// Lower-case hexadecimal sha256 of its bytes. The file is read, not mapped: mapped pages would count as memory
    /// that the model takes.
    pub(crate) fn sha256(&self) -> Result<String> {
        sha256_of(std::slice::from_ref(self))
    }
}

/// Lower-case hexadecimal sha256 of the files' bytes, one after the other.
pub(crate) fn sha256_of(files: &[Blob]) -> Result<String> {
    let mut hasher = Sha256::new();
    for blob in files {
        match blob {
            Blob::Embedded { bytes, .. } => hasher.update(bytes),
            Blob::File(path) => {
                let failed = |source| io_error(path, source);
                let mut file = File::open(path).map_err(failed)?;
                let mut piece = vec![0; 1 << 20];
                loop {
                    match file.read(&mut piece).map_err(failed)? {
                        0 => break,
                        count => hasher.update(&piece[..count]),
                    }
                }
            }
        }
    }
    Ok(format!("{:x}", hasher.finalize()))
}

/// Lower-case hexadecimal sha256.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// The bytes of a mapped [`Blob`].
#[derive(Debug)]
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

/// Parses JSON; the error names the file, the line and the column.
pub(crate) fn parse_json<T: DeserializeOwned>(bytes: &[u8], path: &Path) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| EngineError::Json { path: path.to_path_buf(), source })
}

/// Refuses what Git LFS leaves where a file was not downloaded.
pub(crate) fn no_pointer(bytes: &[u8], path: &Path) -> Result<()> {
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(EngineError::NoModel {
            path: path.to_path_buf(),
            found: "a pointer of Git LFS, not the file itself",
            hint: "run `git lfs pull` in its repository, or fetch the file",
        });
    }
    Ok(())
}

pub(crate) fn io_error(path: &Path, source: std::io::Error) -> EngineError {
    EngineError::Io { path: path.to_path_buf(), source }
}
