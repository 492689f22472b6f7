//! What rows are made of besides chance: essays, and the two files of questions.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::Task;
use super::qa::{Questions, Source};
use crate::datasets::DatasetInfo;
use crate::error::TaskError;
use crate::example::hex;
use crate::mini;
use crate::needle::Essays;

/// Words of the embedded haystack: about as many as the essays of the needle test have.
const EMBEDDED_WORDS: usize = 100_000;

/// Haystack and questions.
#[derive(Debug)]
pub struct Material {
    /// The words of the essays, one space apart as RULER joins them.
    pub(super) words: Vec<String>,
    /// SHA-256 of the essays, where they are the user's.
    pub essays_sha256: Option<String>,
    squad: Option<Questions>,
    hotpotqa: Option<Questions>,
}

impl Material {
    /// The embedded haystack, and no questions.
    pub fn embedded() -> Self {
        let text = mini::hay(EMBEDDED_WORDS);
        Self { words: words(&text), essays_sha256: None, squad: None, hotpotqa: None }
    }

    /// What there is in a folder: essays (`.txt`; the embedded haystack where there are none), `squad.json` and
    /// `hotpotqa.json`, or these under the names that they are published by.
    ///
    /// # Errors
    /// A folder that cannot be read, a file that is malformed or too large.
    pub fn read(folder: &Path) -> Result<Self, TaskError> {
        let mut material = Self::embedded();
        let entries = fs_err::read_dir(folder).map_err(|e| TaskError::io("list", folder, e))?;
        if entries.flatten().any(|entry| entry.path().extension().is_some_and(|end| end == "txt")) {
            let essays = Essays::read(folder)?;
            material.words = words(&essays.text);
            material.essays_sha256 = Some(essays.sha256);
        }
        material.squad = Questions::find(folder, Source::Squad)?;
        material.hotpotqa = Questions::find(folder, Source::HotpotQa)?;
        Ok(material)
    }

    /// Says whether there is what a task's rows are made of.
    ///
    /// # Errors
    /// A task whose questions are not there, with how to get them.
    pub fn check(&self, info: &DatasetInfo) -> Result<(), TaskError> {
        match Task::by_name(info.name).and_then(Task::questions) {
            Some(source) => self.questions(source).map(drop),
            None => Ok(()),
        }
    }

    fn of(&self, source: Source) -> Option<&Questions> {
        match source {
            Source::Squad => self.squad.as_ref(),
            Source::HotpotQa => self.hotpotqa.as_ref(),
        }
    }

    pub(super) fn questions(&self, source: Source) -> Result<&Questions, TaskError> {
        self.of(source).ok_or_else(|| source.missing())
    }

    /// SHA-256 of the file of a source, hexadecimal.
    pub(crate) fn questions_sha256(&self, source: Source) -> Option<&str> {
        self.of(source).map(|questions| questions.sha256.as_str())
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
