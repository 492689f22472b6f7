//! The haystack: a folder of `.txt` essays, read in sorted order.
//!
//! gkamradt, HeadKV and CompressKV read in the order of Python's `glob`, which is the file system's and differs between
//! machines; KVCache-Factory sorts, and so do we.

use std::path::Path;

use crate::error::TaskError;
use crate::example::hex;

/// The most text accepted, in bytes. Paul Graham's essays have 0.6 MB.
const MAX_BYTES: u64 = 256 << 20;

/// A haystack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Essays {
    /// The essays one after the other, without separators.
    pub text: String,
    /// SHA-256 of `text`.
    pub sha256: String,
    /// How many files.
    pub files: usize,
}

impl Essays {
    /// A haystack from text at hand.
    pub fn from_text(text: String) -> Self {
        use sha2::{Digest, Sha256};
        let sha256 = hex(&Sha256::digest(text.as_bytes()));
        Self { text, sha256, files: 1 }
    }

    /// Reads every `.txt` file of `dir` in sorted order. CRLF becomes LF, as Python's text mode does (the copies of
    /// KVCache-Factory and FranxYao have CRLF).
    ///
    /// # Errors
    /// The folder cannot be read or has no essays; a file is not UTF-8 (named).
    pub fn read(dir: &Path) -> Result<Self, TaskError> {
        let mut paths: Vec<_> = fs_err::read_dir(dir)
            .map_err(|e| TaskError::io("list", dir, e))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "txt") && path.is_file())
            .collect();
        paths.sort();
        let mut text = String::new();
        let mut bytes = 0;
        for path in &paths {
            bytes += fs_err::metadata(path).map_err(|e| TaskError::io("read", path, e))?.len();
            if bytes > MAX_BYTES {
                return Err(TaskError::File {
                    path: dir.to_path_buf(),
                    problem: format!("holds more than {} MB of essays", MAX_BYTES >> 20),
                    remedy: "keep fewer files in it".to_owned(),
                });
            }
            let raw = fs_err::read(path).map_err(|e| TaskError::io("read", path, e))?;
            let essay = String::from_utf8(raw).map_err(|e| TaskError::File {
                path: path.clone(),
                problem: format!("byte {} is not UTF-8", e.utf8_error().valid_up_to() + 1),
                remedy: "convert it to UTF-8".to_owned(),
            })?;
            text.push_str(&essay.replace("\r\n", "\n").replace('\r', "\n"));
        }
        if text.is_empty() {
            return Err(TaskError::File {
                path: dir.to_path_buf(),
                problem: "holds no essays (`.txt` files)".to_owned(),
                remedy: "point --data at a folder of essays, or use the embedded ones with --split mini"
                    .to_owned(),
            });
        }
        Ok(Self { files: paths.len(), ..Self::from_text(text) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn essays_are_sorted_joined_and_newline_translated() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("b.txt"), "two\r\nlines\r").unwrap();
        fs_err::write(dir.path().join("a.txt"), "one\n").unwrap();
        fs_err::write(dir.path().join("c.md"), "not one").unwrap();
        let essays = Essays::read(dir.path()).unwrap();
        assert_eq!((essays.text.as_str(), essays.files), ("one\ntwo\nlines\n", 2));
        fs_err::write(dir.path().join("a.txt"), [0xff]).unwrap();
        assert!(Essays::read(dir.path()).unwrap_err().to_string().contains("a.txt"));
        assert!(
            Essays::read(tempfile::tempdir().unwrap().path()).unwrap_err().to_string().contains("no essays")
        );
    }

    #[test]
    fn variants_of_the_essays_differ_only_where_known() {
        let shared = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");
        let read = |path: &str| fs_err::read_to_string(format!("{shared}/{path}"));
        let Ok(original) = read("paul_graham_essays/worked.txt") else {
            assert!(std::env::var_os("CI").is_none(), "shared/data is missing");
            println!("skipped: shared/data not present");
            return;
        };
        let crlf = read("paul_graham_essays_variants/worked.kvcache_factory.txt").unwrap();
        assert_eq!(crlf.replace("\r\n", "\n"), original);
        let renamed = read("paul_graham_essays_variants/worked.compresskv.txt").unwrap();
        assert_eq!(renamed.replace("Yocompresskville", "Yorkville"), original);
        let essays = Essays::read(Path::new(&format!("{shared}/paul_graham_essays"))).unwrap();
        assert_eq!((essays.files, essays.text.len()), (49, 644_051));
    }
}
