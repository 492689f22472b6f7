//! What the layouts share when writing: neutral predictions in, JSON lines as Python's `json.dumps` spells them out,
//! files that are written all or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Layout;
use crate::datasets::{self, DatasetInfo};
use crate::error::TaskError;
use crate::path::{component, last_component};

/// One of our predictions with what other harnesses' records need of its example.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prediction {
    /// The data set's registry name.
    pub dataset: String,
    /// The scored text.
    pub pred: String,
    /// Reference answers.
    pub answers: Vec<String>,
    /// Class names; empty becomes null.
    pub all_classes: Vec<String>,
    /// The row's length.
    pub length: u64,
    /// The rendered prompt.
    pub prompt: String,
    /// The row's question.
    pub input: String,
    /// The row's context.
    pub context: String,
    /// The row's language.
    pub language: String,
    /// The official `_id`, or our key.
    pub id: String,
}

/// What folder names are made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExportMeta {
    /// Hub id or folder name of the model.
    pub model: String,
    /// Whether methods saw the question before they compressed.
    pub question_seen: bool,
    /// Share of the cache that was removed, 0 to 1.
    pub removed: f64,
    /// Our name of the method.
    pub method: String,
    /// The budget as folders spell it, a number of entries or a share kept; `None` for the full cache.
    pub budget: Option<String>,
}

/// A file of a layout, not yet on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportFile {
    /// Where it goes.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

/// Writes the files. Nothing is written where one of them exists with another content, since the official scripts
/// append to files, which doubles rows; those that are there already stay as they are, so that an export may be
/// repeated. `write_file` makes the folder of a path and the file in it, whole or not at all.
///
/// # Errors
/// A file that exists with another content or is listed twice; whatever `write_file` refuses.
pub fn write(
    files: &[ExportFile],
    write_file: impl Fn(&Path, &[u8]) -> std::io::Result<()>,
) -> Result<(), TaskError> {
    let refused = |path: &Path, problem: &str| TaskError::File {
        path: path.to_path_buf(),
        problem: problem.to_owned(),
        remedy: "nothing was written; export into another folder".to_owned(),
    };
    let mut paths = BTreeSet::new();
    let mut missing = Vec::new();
    for file in files {
        if !paths.insert(&file.path) {
            return Err(refused(&file.path, "two variants or data sets have this file in this layout"));
        }
        match fs_err::read(&file.path) {
            Ok(there) if there == file.text.as_bytes() => {}
            Ok(_) => return Err(refused(&file.path, "it exists, with other predictions")),
            Err(error) if error.kind() == ErrorKind::NotFound => missing.push(file),
            Err(error) => return Err(TaskError::io("read", &file.path, error)),
        }
    }
    missing.into_iter().try_for_each(|ExportFile { path, text }| {
        write_file(path, text.as_bytes()).map_err(|error| TaskError::io("write", path, error))
    })
}

/// LongBench's record.
#[derive(Serialize)]
struct Short<'a> {
    pred: &'a str,
    answers: &'a [String],
    all_classes: Option<&'a [String]>,
    length: u64,
}

/// KVCache-Factory's record.
#[derive(Serialize)]
struct Long<'a> {
    prompt: &'a str,
    input: &'a str,
    context: &'a str,
    answers: &'a [String],
    pred: &'a str,
    length: u64,
    dataset: &'a str,
    language: &'a str,
    all_classes: Option<&'a [String]>,
    _id: &'a str,
}

/// `_<method>[_<budget>]`, for layouts that put everything into one folder name.
pub(super) fn method_suffix(meta: &ExportMeta) -> String {
    let budget = meta.budget.as_ref().map(|budget| format!("_{budget}")).unwrap_or_default();
    format!("_{}{budget}", component(&meta.method))
}

type Grouped<'a> = BTreeMap<&'static str, (&'static DatasetInfo, Vec<&'a Prediction>)>;

fn by_dataset<'a>(layout: &dyn Layout, predictions: &'a [Prediction]) -> Result<Grouped<'a>, TaskError> {
    let mut grouped = Grouped::new();
    for prediction in predictions {
        let info = datasets::by_name(&prediction.dataset)?;
        let loogle = layout.name() == "headkv" && datasets::loogle::is_longdep_type(info.name);
        if info.suite != layout.suite() && !loogle {
            let name = format!("{} of suite {}", info.name, info.suite.name());
            let nearest = vec![format!("suite {}", layout.suite().name())];
            return Err(TaskError::UnknownName { kind: "data set in this layout", name, nearest });
        }
        grouped.entry(info.base).or_insert_with(|| (info, Vec::new())).1.push(prediction);
    }
    Ok(grouped)
}

fn classes(prediction: &Prediction) -> Option<&[String]> {
    (!prediction.all_classes.is_empty()).then_some(prediction.all_classes.as_slice())
}

pub(super) fn flat(
    dir: &Path,
    layout: &dyn Layout,
    predictions: &[Prediction],
) -> Result<Vec<ExportFile>, TaskError> {
    let file = |(base, (_, rows)): (&str, (_, Vec<&Prediction>))| {
        let lines = rows.iter().map(|p| {
            let all_classes = classes(p);
            python_json(&Short { pred: &p.pred, answers: &p.answers, all_classes, length: p.length })
        });
        of_lines(dir.join(format!("{base}.jsonl")), lines)
    };
    by_dataset(layout, predictions)?.into_iter().map(file).collect()
}

pub(super) fn nested(
    root: &Path,
    meta: &ExportMeta,
    method: &str,
    layout: &dyn Layout,
    predictions: &[Prediction],
) -> Result<Vec<ExportFile>, TaskError> {
    // The full cache has no budget; the repositories' own default fills the folder's name.
    let budget = meta.budget.as_deref().unwrap_or("128");
    let folder = format!("{}_{budget}", last_component(&meta.model).to_lowercase());
    let file = |(base, (info, rows)): (&str, (&DatasetInfo, Vec<&Prediction>))| {
        let path = root.join(&folder).join(base).join(format!("{}.json", component(method)));
        let lines = rows.iter().map(|p| {
            let record = Long {
                prompt: &p.prompt,
                input: &p.input,
                context: &p.context,
                answers: &p.answers,
                pred: &p.pred,
                length: p.length,
                dataset: info.base,
                language: &p.language,
                all_classes: classes(p),
                _id: &p.id,
            };
            python_json(&record).map(|line| ascii(&line))
        });
        of_lines(path, lines)
    };
    by_dataset(layout, predictions)?.into_iter().map(file).collect()
}

pub(super) fn of_lines(
    path: PathBuf,
    lines: impl Iterator<Item = serde_json::Result<String>>,
) -> Result<ExportFile, TaskError> {
    let mut text = String::new();
    for line in lines {
        text.push_str(&line.map_err(|e| TaskError::io("write", &path, e.into()))?);
        text.push('\n');
    }
    Ok(ExportFile { path, text })
}

/// serde_json's formatter with Python's blanks after commas and colons.
struct Blanks;

impl serde_json::ser::Formatter for Blanks {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// `json.dumps(record, ensure_ascii=False)`.
pub(super) fn python_json(record: &impl Serialize) -> serde_json::Result<String> {
    let mut out = Vec::new();
    record.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Blanks))?;
    // serde_json writes UTF-8 only.
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// What `ensure_ascii=True` adds: every other character as `\uXXXX`.
pub(super) fn ascii(line: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_spelled_as_python_does() {
        let answers = ["é".to_owned(), "b\"".to_owned()];
        let record = Short { pred: "a\n😀", answers: &answers, all_classes: None, length: 3 };
        let line = python_json(&record).unwrap();
        assert_eq!(line, r#"{"pred": "a\n😀", "answers": ["é", "b\""], "all_classes": null, "length": 3}"#);
        assert!(ascii(&line).contains(r#""a\n\ud83d\ude00", "answers": ["\u00e9""#));
    }

    #[test]
    fn all_files_are_written_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| ExportFile { path: dir.path().join(name), text: text.to_owned() };
        let write = |files: &[ExportFile]| {
            write(files, |path, bytes| {
                fs_err::create_dir_all(path.parent().unwrap())?;
                fs_err::write(path, bytes)
            })
        };
        let both = [file("a/x.jsonl", "1"), file("b/y.jsonl", "2")];
        fs_err::create_dir(dir.path().join("b")).unwrap();
        fs_err::write(dir.path().join("b/y.jsonl"), "other").unwrap();
        let message = write(&both).unwrap_err().to_string();
        assert!(message.contains("y.jsonl") && message.contains("another folder"), "{message}");
        assert!(!dir.path().join("a").exists(), "{message}");
        assert!(write(&[file("c", "1"), file("c", "1")]).is_err() && !dir.path().join("c").exists());
        // What a killed export wrote is no obstacle.
        fs_err::write(dir.path().join("b/y.jsonl"), "2").unwrap();
        write(&both).unwrap();
        write(&both).unwrap();
        assert_eq!(fs_err::read_to_string(dir.path().join("a/x.jsonl")).unwrap(), "1");
        assert_eq!(fs_err::read_dir(dir.path().join("a")).unwrap().count(), 1);
    }
}
