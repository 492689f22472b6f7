//! Comma-separated values as pandas writes them: a head, fields quoted where they must be, quotes doubled.

use std::path::Path;

use crate::error::TaskError;

/// The largest file accepted, in bytes. kvpress's of RULER at 4096 has a few megabytes: contexts are not in it.
const MAX_BYTES: u64 = 256 << 20;

/// A file of records under a head.
pub(super) struct Csv<'a> {
    path: &'a Path,
    head: Vec<String>,
    /// Records, each with the line that it begins on.
    records: Vec<(usize, Vec<String>)>,
}

/// One record.
pub(super) struct Record<'a> {
    csv: &'a Csv<'a>,
    line: usize,
    fields: &'a [String],
}

impl<'a> Csv<'a> {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that is too large, not UTF-8, without a head, or with a quote that does not end; a record with more or fewer
    /// fields than the head.
    pub(super) fn read(path: &'a Path) -> Result<Self, TaskError> {
        let wrong = |problem: String| TaskError::File {
            path: path.to_path_buf(),
            problem,
            remedy: "take it from the results folder again".to_owned(),
        };
        let bytes = fs_err::metadata(path).map_err(|e| TaskError::io("read", path, e))?.len();
        if bytes > MAX_BYTES {
            return Err(wrong(format!("is larger than {} MiB", MAX_BYTES >> 20)));
        }
        let bytes = fs_err::read(path).map_err(|e| TaskError::io("read", path, e))?;
        let text = String::from_utf8(bytes)
            .map_err(|e| wrong(format!("byte {} is not UTF-8", e.utf8_error().valid_up_to() + 1)))?;
        let mut records = records(text.strip_prefix('\u{feff}').unwrap_or(&text))
            .map_err(|line| wrong(format!("a quote that opens in line {line} does not end")))?;
        if records.is_empty() {
            return Err(wrong("is empty".to_owned()));
        }
        let (_, head) = records.remove(0);
        let csv = Self { path, head, records };
        match csv.records.iter().find(|(_, fields)| fields.len() != csv.head.len()) {
            Some((line, fields)) => {
                let problem =
                    format!("the record has {} fields, and the head {}", fields.len(), csv.head.len());
                Err(csv.error(*line, problem))
            }
            None => Ok(csv),
        }
    }

    fn error(&self, line: usize, problem: String) -> TaskError {
        TaskError::Row {
            path: self.path.to_path_buf(),
            line,
            problem,
            remedy: "take the file from the results folder again".to_owned(),
        }
    }

    pub(super) fn has(&self, column: &str) -> bool {
        self.head.iter().any(|name| name == column)
    }

    /// The head, for messages.
    pub(super) fn columns(&self) -> String {
        self.head.join(", ")
    }

    pub(super) fn records(&'a self) -> impl Iterator<Item = Record<'a>> {
        self.records.iter().map(|(line, fields)| Record { csv: self, line: *line, fields })
    }
}

impl Record<'_> {
    /// A field by its column.
    ///
    /// # Errors
    /// No such column.
    pub(super) fn field(&self, column: &str) -> Result<&str, TaskError> {
        let place = self.csv.head.iter().position(|name| name == column);
        place.and_then(|place| self.fields.get(place)).map(String::as_str).ok_or_else(|| {
            self.error(format!("there is no column `{column}`; there are {}", self.csv.columns()))
        })
    }

    /// A complaint about this record.
    pub(super) fn error(&self, problem: String) -> TaskError {
        self.csv.error(self.line, problem)
    }
}

/// The records with the lines that they begin on; the line of a quote that does not end.
fn records(text: &str) -> Result<Vec<(usize, Vec<String>)>, usize> {
    let mut all = Vec::new();
    let (mut fields, mut field) = (Vec::new(), String::new());
    let (mut line, mut begun, mut quoted) = (1, 1, None);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        line += usize::from(c == '\n');
        if quoted.is_some() {
            if c != '"' {
                field.push(c);
            } else if chars.peek() == Some(&'"') {
                chars.next();
                field.push('"');
            } else {
                quoted = None;
            }
            continue;
        }
        match c {
            '"' if field.is_empty() => quoted = Some(line),
            ',' => fields.push(std::mem::take(&mut field)),
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' => {
                // A blank line is no record.
                if !fields.is_empty() || !field.is_empty() {
                    fields.push(std::mem::take(&mut field));
                    all.push((begun, std::mem::take(&mut fields)));
                }
                begun = line;
            }
            other => field.push(other),
        }
    }
    if let Some(line) = quoted {
        return Err(line);
    }
    if !fields.is_empty() || !field.is_empty() {
        fields.push(field);
        all.push((begun, fields));
    }
    Ok(all)
}

/// A field as pandas writes it.
pub(super) fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let fields = ["a,b", "say \"x\"\nand go", "", "plain", "\r", "é"];
        let line = fields.map(quoted).join(",");
        let text = format!("1,2,3,4,5,6\r\n\n{line}\n{line}");
        let read = records(&text).unwrap();
        assert_eq!(read.len(), 3);
        assert_eq!((read[1].0, read[2].0), (3, 5));
        assert_eq!(read[1].1, fields);
        assert_eq!(read[2].1, fields);
        assert_eq!(records("a\n\"b").unwrap_err(), 2);
        assert!(records("").unwrap().is_empty());
    }
}
