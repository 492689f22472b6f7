//! A long measurement in parts, each part on disk when it is done: interrupted, killed or repeated, it goes on.
//!
//! A file of JSON lines: first what the pass is, then one part a line. It is not the run store of `results`: that holds
//! examples with every variant of a manifest, checks each against it, and is kept; a calibration has neither examples
//! nor variants, and its file goes when the result is written.

use std::collections::BTreeMap;
use std::fs::TryLockError;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::output;

/// Everything that decides the numbers of a pass, by name.
pub(crate) type Identity = BTreeMap<String, String>;

/// The parts that are done. While it lives, no other process works on the same pass.
pub(crate) struct Pass<T> {
    path: PathBuf,
    file: fs_err::File,
    done: BTreeMap<String, T>,
}

#[derive(Serialize, Deserialize)]
struct Line<T> {
    key: String,
    part: T,
}

impl<T: Serialize + DeserializeOwned> Pass<T> {
    /// Continues the pass in `path` where it has the same identity; else starts anew, saying what differs.
    ///
    /// # Errors
    /// Another process at work on it, whatever the system refuses.
    pub(crate) fn resume(path: PathBuf, identity: &Identity) -> anyhow::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs_err::create_dir_all(folder)?;
        }
        let file =
            fs_err::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        match file.file().try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => anyhow::bail!(
                "`{}` is in use by another process\nhint: wait for it to end, or choose another file with -o",
                path.display()
            ),
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| lock(&path)),
        }
        let text = String::from_utf8_lossy(&fs_err::read(&path)?).into_owned();
        let first = serde_json::to_string(identity)? + "\n";
        let mut this = Self { path, file, done: BTreeMap::new() };
        let whole = match text.strip_prefix(first.as_str()) {
            Some(lines) => first.len() + this.read(lines),
            None => {
                this.tell(&text, identity);
                0
            }
        };
        this.file.set_len(whole as u64)?;
        this.file.seek(SeekFrom::End(0))?;
        if whole == 0 {
            this.file.write_all(first.as_bytes())?;
        }
        Ok(this)
    }

    /// Takes the parts up to the first line that is torn; gives the bytes they have.
    fn read(&mut self, lines: &str) -> usize {
        let mut whole = 0;
        for line in lines.split_inclusive('\n').take_while(|line| line.ends_with('\n')) {
            let Ok(Line { key, part }) = serde_json::from_str(line) else { break };
            self.done.insert(key, part);
            whole += line.len();
        }
        whole
    }

    /// Says which facts of the pass that was there are other ones.
    fn tell(&self, text: &str, identity: &Identity) {
        let Some(first) = text.lines().next() else { return };
        let there: Identity = serde_json::from_str(first).unwrap_or_default();
        let mut names: Vec<&str> = identity
            .iter()
            .filter(|(name, value)| there.get(*name) != Some(value))
            .map(|(name, _)| name.as_str())
            .collect();
        names.extend(there.keys().filter(|name| !identity.contains_key(*name)).map(String::as_str));
        output::note(&format!(
            "`{}` holds an unfinished pass with another {}: starting anew",
            self.path.display(),
            names.join(", ")
        ));
    }

    /// A part, if it is done.
    pub(crate) fn get(&self, key: &str) -> Option<&T> {
        self.done.get(key)
    }

    /// Adds a part. On return it is on disk.
    ///
    /// # Errors
    /// A failing disk.
    pub(crate) fn push(&mut self, key: &str, part: T) -> anyhow::Result<()> {
        let line = Line { key: key.to_owned(), part };
        self.file.write_all((serde_json::to_string(&line)? + "\n").as_bytes())?;
        self.file.sync_data()?;
        self.done.insert(line.key, line.part);
        Ok(())
    }

    /// Removes the file of a pass whose result is written.
    ///
    /// # Errors
    /// Whatever the system refuses.
    pub(crate) fn remove(self) -> anyhow::Result<()> {
        Ok(fs_err::remove_file(&self.path)?)
    }
}

fn lock(path: &Path) -> String {
    format!("cannot lock `{}`", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_continues_under_its_identity_only_and_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/x.parts");
        let identity = |rope: &str| Identity::from([("config.json".to_owned(), rope.to_owned())]);
        let resume = |rope: &str| Pass::<Vec<f64>>::resume(path.clone(), &identity(rope));
        let mut pass = resume("a").unwrap();
        pass.push("one", vec![0.1 + 0.2, f64::MIN_POSITIVE]).unwrap();
        pass.push("two", Vec::new()).unwrap();
        let Err(second) = resume("a") else { panic!("two processes at work") };
        assert!(second.to_string().contains("x.parts` is in use"), "{second}");
        drop(pass);
        // A torn last line is measured again.
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 3]).unwrap();
        let mut pass = resume("a").unwrap();
        assert_eq!(pass.get("one"), Some(&vec![0.1 + 0.2, f64::MIN_POSITIVE]));
        assert_eq!(pass.get("two"), None);
        pass.push("two", Vec::new()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        drop(pass);
        let pass = resume("b").unwrap();
        assert_eq!(pass.get("one"), None);
        pass.remove().unwrap();
        assert!(!path.exists());
    }
}
