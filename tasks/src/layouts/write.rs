//! What the layouts share when writing: neutral predictions in, JSON lines as Python's `json.dumps` spells them out.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Layout;
use crate::datasets::{self, DatasetInfo};
use crate::error::TaskError;

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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportMeta {
    /// Hub id or folder name of the model.
    pub model: String,
    /// Our name of the method.
    pub method: String,
    /// The budget; `None` for the full cache.
    pub budget: Option<usize>,
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

/// A name as one path component: the last part of a path, without anything that could leave the folder.
pub(super) fn component(name: &str) -> String {
    let last = name.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
    let safe: String = last
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' })
        .collect();
    if safe.trim_matches('.').is_empty() { "model".to_owned() } else { safe }
}

/// `_<method>[_<budget>]`, for layouts that put everything into one folder name.
pub(super) fn method_suffix(meta: &ExportMeta) -> String {
    let budget = meta.budget.map(|b| format!("_{b}")).unwrap_or_default();
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
) -> Result<Vec<PathBuf>, TaskError> {
    let mut written = Vec::new();
    for (base, (_, rows)) in by_dataset(layout, predictions)? {
        let path = dir.join(format!("{base}.jsonl"));
        let lines = rows.iter().map(|p| {
            let all_classes = classes(p);
            python_json(&Short { pred: &p.pred, answers: &p.answers, all_classes, length: p.length })
        });
        write_lines(&path, lines)?;
        written.push(path);
    }
    Ok(written)
}

pub(super) fn nested(
    root: &Path,
    meta: &ExportMeta,
    method: &str,
    layout: &dyn Layout,
    predictions: &[Prediction],
) -> Result<Vec<PathBuf>, TaskError> {
    // The full cache has no budget; the repositories' own default fills the folder's name.
    let folder = format!("{}_{}", component(&meta.model).to_lowercase(), meta.budget.unwrap_or(128));
    let mut written = Vec::new();
    for (base, (info, rows)) in by_dataset(layout, predictions)? {
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
        write_lines(&path, lines)?;
        written.push(path);
    }
    Ok(written)
}

pub(super) fn write_lines(
    path: &Path,
    lines: impl Iterator<Item = serde_json::Result<String>>,
) -> Result<(), TaskError> {
    let failed = |e: std::io::Error| TaskError::io("write", path, e);
    if let Some(parent) = path.parent() {
        fs_err::create_dir_all(parent).map_err(failed)?;
    }
    let file = fs_err::OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    let mut out = std::io::BufWriter::new(file);
    for line in lines {
        let line = line.map_err(|e| failed(e.into()))?;
        out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n")).map_err(failed)?;
    }
    out.into_inner().map_err(|e| failed(e.into_error()))?.sync_all().map_err(failed)
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
    fn names_cannot_leave_the_folder() {
        assert_eq!(component("meta-llama/Llama-3.1-8B"), "Llama-3.1-8B");
        assert_eq!(component("../.."), "model");
        assert_eq!(component("a/b:c"), "b_c");
    }
}
