//! Reads data set files: JSONL, plain or in `.gz`, `.zst` or a zip such as LongBench's `data.zip`.
//!
//! Files are untrusted. Nothing is unpacked to disk (so no archive path can escape), lines and contents have size
//! limits, a zip member must have the length and checksum it declares, and every complaint names file, line and field.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::datasets::{self, DatasetInfo, Language, loogle};
use crate::error::TaskError;
use crate::example::{Example, hex, key};
use crate::row::{FIX_ROW, FileLine, Row};
use crate::suite::Suite;

/// The longest line accepted, in bytes. The longest official row has about 2 MB.
pub(crate) const MAX_LINE_BYTES: usize = 64 << 20;
/// The most uncompressed content accepted of one data set, in bytes. LongBench's largest file has about 30 MB.
pub(crate) const MAX_CONTENT_BYTES: u64 = 4 << 30;
/// Blank lines of a file that are skipped; more are a small archive that takes minutes to read.
const MAX_BLANK_LINES: usize = 100_000;

/// The rows of one data set file.
#[derive(Debug, Clone)]
pub struct DatasetRows {
    /// The examples.
    pub examples: Vec<Example>,
    /// SHA-256 of the whole uncompressed content, so that it does not depend on the container.
    pub sha256: String,
}

/// Finds the file of data set `name` in `dir` (or in `dir` itself where it is a zip): `name.jsonl`, `.jsonl.gz`,
/// `.jsonl.zst`, the same under `data/`, or a `data.zip` holding it.
///
/// # Errors
/// No such file; the message lists what was looked for.
pub fn find_dataset(dir: &Path, name: &str) -> Result<PathBuf, TaskError> {
    let info = datasets::by_name(name)?;
    if dir.is_file() {
        return Ok(dir.to_path_buf());
    }
    for stem in stems(info) {
        for folder in [dir.to_path_buf(), dir.join("data")] {
            for end in ["jsonl", "jsonl.gz", "jsonl.zst"] {
                let path = folder.join(format!("{stem}.{end}"));
                if path.is_file() {
                    return Ok(path);
                }
            }
        }
    }
    let zip = dir.join("data.zip");
    if zip.is_file() && zip_member(&zip, info)?.is_some() {
        return Ok(zip);
    }
    let present: Vec<String> = fs_err::read_dir(dir)
        .map_err(|e| TaskError::io("list", dir, e))?
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.split(".jsonl").next()?.to_owned()))
        .filter(|stem| datasets::by_name(stem).is_ok())
        .collect();
    let hint = if present.is_empty() {
        format!("`kvsweep fetch data {name}` downloads it")
    } else {
        let mut present = present;
        present.sort();
        present.dedup();
        format!("data sets present: {}", present.join(", "))
    };
    Err(TaskError::MissingDataset {
        name: name.to_owned(),
        dir: dir.to_path_buf(),
        looked_for: format!("{name}.jsonl, .jsonl.gz, .jsonl.zst, data.zip"),
        hint,
    })
}

/// The file stems of a data set, best first: HeadKV's four sets are questions of one LooGLE task.
fn stems(info: &DatasetInfo) -> Vec<&'static str> {
    let mut stems = vec![info.name];
    if loogle::is_longdep_type(info.name) {
        stems.push("longdep_qa");
    }
    stems
}

/// Reads the examples of data set `dataset` from the file [`find_dataset`] found.
///
/// # Errors
/// A malformed row (file, line, field), a file that is not UTF-8 or beyond the size limits, a zip that lies.
pub fn read_rows(path: &Path, dataset: &str) -> Result<DatasetRows, TaskError> {
    let info = datasets::by_name(dataset)?;
    let mut rows = RowsBuilder { info, examples: Vec::new(), row: 0 };
    let sha256 = for_each_line(path, Some(info), |place, line| rows.line(place, line))?;
    if rows.examples.is_empty() {
        return Err(TaskError::File {
            path: path.to_path_buf(),
            problem: format!("holds no rows of data set `{dataset}`"),
            remedy: "fetch it again".to_owned(),
        });
    }
    Ok(DatasetRows { examples: rows.examples, sha256 })
}

/// Calls `each` for every non-blank line of a (compressed) file and returns the SHA-256 of the whole content.
/// `info` says which member of a zip is meant.
pub(crate) fn for_each_line(
    path: &Path,
    info: Option<&DatasetInfo>,
    mut each: impl FnMut(FileLine<'_>, &str) -> Result<(), TaskError>,
) -> Result<String, TaskError> {
    let file = fs_err::File::open(path).map_err(|e| TaskError::io("open", path, e))?;
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_lowercase();
    let buffered = BufReader::with_capacity(1 << 16, file);
    if name.ends_with(".gz") {
        lines(path, flate2::bufread::MultiGzDecoder::new(buffered), &mut each)
    } else if name.ends_with(".zst") {
        let decoder = ruzstd::decoding::StreamingDecoder::new(buffered).map_err(|e| TaskError::File {
            path: path.to_path_buf(),
            problem: format!("is not a zstd file: {e}"),
            remedy: "fetch it again".to_owned(),
        })?;
        lines(path, decoder, &mut each)
    } else if name.ends_with(".zip") {
        let member = info.map(|info| zip_member(path, info)).transpose()?.flatten();
        let member = member.ok_or_else(|| {
            let name = info.map_or("(none)", |info| info.name);
            TaskError::MissingDataset {
                name: name.to_owned(),
                dir: path.to_path_buf(),
                looked_for: format!("data/{name}.jsonl, {name}.jsonl"),
                hint: "the archive does not hold it".to_owned(),
            }
        })?;
        zip_lines(path, &member, &mut each)
    } else {
        lines(path, buffered, &mut each)
    }
}

fn archive_error(path: &Path, problem: impl std::fmt::Display) -> TaskError {
    TaskError::File {
        path: path.to_path_buf(),
        problem: format!("is a damaged or lying zip: {problem}"),
        remedy: "fetch it again".to_owned(),
    }
}

fn open_zip(path: &Path) -> Result<zip::ZipArchive<BufReader<fs_err::File>>, TaskError> {
    let file = fs_err::File::open(path).map_err(|e| TaskError::io("open", path, e))?;
    zip::ZipArchive::new(BufReader::new(file)).map_err(|e| archive_error(path, e))
}

/// The exact member name of a data set, if the archive has it. Members are matched by whole names and never written
/// to disk, so a name like `../../x` is only a name that nothing asks for.
fn zip_member(path: &Path, info: &DatasetInfo) -> Result<Option<String>, TaskError> {
    let archive = open_zip(path)?;
    Ok(stems(info)
        .into_iter()
        .flat_map(|stem| [format!("data/{stem}.jsonl"), format!("{stem}.jsonl")])
        .find(|wanted| archive.index_for_name(wanted).is_some()))
}

fn zip_lines(
    path: &Path,
    member: &str,
    each: &mut impl FnMut(FileLine<'_>, &str) -> Result<(), TaskError>,
) -> Result<String, TaskError> {
    let mut archive = open_zip(path)?;
    let entry = archive.by_name(member).map_err(|e| archive_error(path, e))?;
    let declared = entry.size();
    if declared > MAX_CONTENT_BYTES {
        return Err(archive_error(path, format!("member `{member}` declares {declared} bytes")));
    }
    let shown = path.join(member);
    let mut counted = Counted { inner: entry.take(declared + 1), bytes: 0 };
    let sha256 = lines(&shown, &mut counted, each)?;
    if counted.bytes != declared {
        let problem =
            format!("member `{member}` declares {declared} bytes and holds {} or more", counted.bytes);
        return Err(archive_error(path, problem));
    }
    Ok(sha256)
}

struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

fn lines(
    path: &Path,
    content: impl Read,
    each: &mut impl FnMut(FileLine<'_>, &str) -> Result<(), TaskError>,
) -> Result<String, TaskError> {
    let mut content = BufReader::with_capacity(1 << 16, content);
    let mut hash = Sha256::new();
    let mut line = Vec::new();
    let mut total = 0u64;
    let mut blank = 0;
    for number in 1.. {
        line.clear();
        let place = FileLine { path, line: number };
        let read = content
            .by_ref()
            .take(MAX_LINE_BYTES as u64 + 1)
            .read_until(b'\n', &mut line)
            .map_err(|e| place.error(format!("cannot be read: {e}"), "fetch the file again"))?;
        if read == 0 {
            break;
        }
        if read > MAX_LINE_BYTES {
            let problem = format!("the line is longer than {} MiB", MAX_LINE_BYTES >> 20);
            return Err(place.error(problem, "no official row is: remove it or fetch the file again"));
        }
        total += read as u64;
        if total > MAX_CONTENT_BYTES {
            let problem = format!("the content is larger than {} GiB", MAX_CONTENT_BYTES >> 30);
            return Err(place.error(problem, "no official file is: fetch it again"));
        }
        hash.update(&line);
        let bytes = if number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line) } else { &line };
        let text = std::str::from_utf8(bytes).map_err(|e| {
            let problem = format!("byte {} of the line is not UTF-8", e.valid_up_to() + 1);
            place.error(problem, "convert the file to UTF-8 or fetch it again")
        })?;
        // JSON's own blanks only: other white space is a malformed row.
        let text = text.trim_matches([' ', '\t', '\r', '\n']);
        if text.is_empty() {
            blank += 1;
            if blank > MAX_BLANK_LINES {
                let problem = format!("it is one of more than {MAX_BLANK_LINES} blank lines");
                return Err(place.error(problem, "no official file has any: fetch it again"));
            }
        } else {
            each(place, text)?;
        }
    }
    Ok(hex(&hash.finalize()))
}

struct RowsBuilder {
    info: &'static DatasetInfo,
    examples: Vec<Example>,
    row: usize,
}

impl RowsBuilder {
    fn line(&mut self, place: FileLine<'_>, line: &str) -> Result<(), TaskError> {
        let mut row = Row::parse(place, line)?;
        let index = self.row;
        self.row += 1;
        if row.has("qa_pairs") {
            self.examples.extend(loogle::examples(self.info, &mut row, index)?);
        } else if self.info.suite == Suite::LooGle && row.has("question") {
            let before = self.examples.last().map(|example| &example.context);
            self.examples.extend(loogle::flat_example(self.info, &mut row, index, before)?);
        } else {
            self.examples.push(longbench_example(self.info, &mut row, index)?);
        }
        Ok(())
    }
}

fn longbench_example(info: &DatasetInfo, row: &mut Row<'_>, index: usize) -> Result<Example, TaskError> {
    let input = row.text("input")?;
    let context: Arc<str> = row.text("context")?.into();
    let answers = row.texts("answers")?;
    let place = row.place();
    if answers.is_empty() {
        return Err(place.error("field `answers` is an empty list: no prediction could score", FIX_ROW));
    }
    let length = match row.optional_number("length")? {
        Some(length) => length,
        None => counted_length(info.language, &input, &context, &answers),
    };
    let named = row.text("dataset")?;
    if named != info.name && named != info.base {
        let problem = format!("the row belongs to data set {named:?}, expected `{}`", info.name);
        return Err(place.error(problem, "the file is another data set's: rename or fetch it"));
    }
    let language = row.text("language")?;
    let all_classes = row.optional_texts("all_classes")?;
    let id = row.optional_text("_id")?;
    let key = key(info.name, index, id.as_deref(), &input, &context, &answers);
    Ok(Example {
        key,
        dataset: info.name.to_owned(),
        input,
        answer_prefix: String::new(),
        context,
        answers,
        all_classes,
        length,
        language,
    })
}

/// LongBench's length where a row has none: words (Chinese: characters) of input, context and answers.
fn counted_length(language: Language, input: &str, context: &str, answers: &[String]) -> u64 {
    let count = |text: &str| match language {
        Language::Chinese => text.chars().count(),
        _ => text.split_whitespace().count(),
    };
    (count(input) + count(context) + answers.iter().map(|a| count(a)).sum::<usize>()) as u64
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn row(dataset: &str, id: &str) -> String {
        format!(
            r#"{{"input": "q", "context": "c", "answers": ["a"], "length": 7, "dataset": "{dataset}", "language": "en", "all_classes": null, "_id": "{id}"}}"#
        )
    }

    fn read(name: &str, content: &[u8]) -> Result<DatasetRows, TaskError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs_err::write(&path, content).unwrap();
        read_rows(&path, "hotpotqa")
    }

    fn complaint(content: &str) -> String {
        let message = read("hotpotqa.jsonl", content.as_bytes()).unwrap_err().to_string();
        message.split_once("hotpotqa.jsonl").unwrap().1.to_owned()
    }

    fn zip_of(files: &[(&str, &str)]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, content) in files {
            writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(content.as_bytes()).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    #[test]
    fn rows_are_read_from_every_container_with_one_hash() {
        let content = format!("{}\n\n{}\r\n", row("hotpotqa", "x1"), row("hotpotqa", "x2"));
        let plain = read("hotpotqa.jsonl", content.as_bytes()).unwrap();
        assert_eq!(plain.examples.len(), 2);
        assert_eq!(plain.examples[1].key, "hotpotqa#1-x2");
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(content.as_bytes()).unwrap();
        let packed = read("hotpotqa.jsonl.gz", &gz.finish().unwrap()).unwrap();
        assert_eq!((packed.sha256.as_str(), &packed.examples), (plain.sha256.as_str(), &plain.examples));
        let zst = ruzstd::encoding::compress_to_vec(
            content.as_bytes(),
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        assert_eq!(read("hotpotqa.jsonl.zst", &zst).unwrap().sha256, plain.sha256);
        let zip = zip_of(&[("../../evil.jsonl", "x"), ("data/hotpotqa.jsonl", &content)]);
        assert_eq!(read("data.zip", &zip).unwrap().examples, plain.examples);
    }

    #[test]
    fn files_are_found_by_their_data_set() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hotpotqa.jsonl");
        fs_err::write(&path, (0..5).map(|n| row("hotpotqa", &n.to_string()) + "\n").collect::<String>())
            .unwrap();
        assert_eq!(read_rows(&path, "hotpotqa").unwrap().examples.len(), 5);
        assert_eq!(find_dataset(dir.path(), "hotpotqa").unwrap(), path);
        let error = find_dataset(dir.path(), "qasper").unwrap_err().to_string();
        assert!(error.contains("data sets present: hotpotqa"), "{error}");
        assert!(find_dataset(dir.path(), "hotpot").unwrap_err().to_string().contains("`hotpotqa`"));
    }

    #[test]
    fn bad_rows_are_named_by_line_and_field() {
        let good = row("hotpotqa", "x");
        assert!(complaint(&format!("{good}\n{{")).starts_with(":2: the row is not JSON"));
        assert!(complaint("[1]").starts_with(":1: the row is a list, not an object"));
        assert!(complaint(&good.replace("\"context\": \"c\",", "")).contains("lacks the field `context`"));
        assert!(complaint(&good.replace("[\"a\"]", "[]")).contains("`answers` is an empty list"));
        assert!(
            complaint(&good.replace("[\"a\"]", "[\"a\", 3]"))
                .contains("`answers` element 1 must be a string")
        );
        assert!(complaint(&good.replace('7', "-7")).contains("`length` must be a whole number"));
        assert!(complaint(&good.replace('7', "NaN")).contains("not JSON"));
        assert!(
            complaint(&row("qasper", "x")).contains("belongs to data set \"qasper\", expected `hotpotqa`")
        );
        assert!(complaint("").contains("holds no rows"));
        let counted = read("hotpotqa.jsonl", good.replace('7', "null").as_bytes()).unwrap();
        assert_eq!(counted.examples[0].length, 3);
    }

    #[test]
    fn hostile_files_are_refused() {
        let error = read("hotpotqa.jsonl", b"{\"input\": \"\xff\"}").unwrap_err().to_string();
        assert!(error.contains("byte 12 of the line is not UTF-8"), "{error}");
        let mut long = vec![b' '; MAX_LINE_BYTES + 1];
        long.push(b'\n');
        let error = read("hotpotqa.jsonl", &long).unwrap_err().to_string();
        assert!(error.contains("longer than 64 MiB"), "{error}");
        assert!(read("hotpotqa.jsonl.gz", b"no gzip").unwrap_err().to_string().contains("cannot be read"));
        assert!(read("hotpotqa.jsonl.zst", b"no zstd").unwrap_err().to_string().contains("zstd"));
        assert!(read("data.zip", b"no zip").unwrap_err().to_string().contains("zip"));
        assert!(
            read("data.zip", &zip_of(&[("x", "")])).unwrap_err().to_string().contains("does not hold it")
        );
        // A zip that lies about the size of its member, in both headers.
        let content = format!("{}\n", row("hotpotqa", "x"));
        let honest = zip_of(&[("hotpotqa.jsonl", &content)]);
        let size = (content.len() as u32).to_le_bytes();
        for lie in [3u32, 1 << 31] {
            let mut lying = honest.clone();
            for at in 0..lying.len() - 4 {
                if lying[at..at + 4] == size {
                    lying[at..at + 4].copy_from_slice(&lie.to_le_bytes());
                }
            }
            assert!(read("data.zip", &lying).is_err(), "{lie}");
        }
    }
}
