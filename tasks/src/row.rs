//! One line of a file of rows: a JSON object whose every complaint names file, line and field.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::TaskError;

/// Where a line is, for messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileLine<'a> {
    pub(crate) path: &'a Path,
    pub(crate) line: usize,
}

impl FileLine<'_> {
    pub(crate) fn error(&self, problem: impl Into<String>, remedy: impl Into<String>) -> TaskError {
        TaskError::Row {
            path: self.path.to_path_buf(),
            line: self.line,
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// One JSON object with typed access; every failure names the field.
pub(crate) struct Row<'a> {
    place: FileLine<'a>,
    fields: Map<String, Value>,
}

pub(crate) const FIX_ROW: &str = "correct the row or fetch the file again";

impl<'a> Row<'a> {
    pub(crate) fn parse(place: FileLine<'a>, line: &str) -> Result<Self, TaskError> {
        match serde_json::from_str(line) {
            Ok(value) => Self::of(place, value),
            Err(e) => Err(place.error(format!("the row is not JSON (column {}: {e})", e.column()), FIX_ROW)),
        }
    }

    pub(crate) fn of(place: FileLine<'a>, value: Value) -> Result<Self, TaskError> {
        match value {
            Value::Object(fields) => Ok(Self { place, fields }),
            other => Err(place.error(format!("the row is {}, not an object", kind(&other)), FIX_ROW)),
        }
    }

    pub(crate) fn place(&self) -> FileLine<'a> {
        self.place
    }

    pub(crate) fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// The fields left, in the order of the row.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.fields.keys().map(String::as_str).collect()
    }

    pub(crate) fn take(&mut self, field: &str) -> Result<Value, TaskError> {
        self.fields
            .remove(field)
            .ok_or_else(|| self.place.error(format!("the row lacks the field `{field}`"), FIX_ROW))
    }

    fn wrong(&self, field: &str, expected: &str, found: &Value) -> TaskError {
        self.place.error(format!("field `{field}` must be {expected}, found {}", kind(found)), FIX_ROW)
    }

    pub(crate) fn text(&mut self, field: &str) -> Result<String, TaskError> {
        match self.take(field)? {
            Value::String(text) => Ok(text),
            other => Err(self.wrong(field, "a string", &other)),
        }
    }

    /// A string, or `None` for null or a missing field.
    pub(crate) fn optional_text(&mut self, field: &str) -> Result<Option<String>, TaskError> {
        match self.fields.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(field, "a string or null", &other)),
        }
    }

    pub(crate) fn texts(&mut self, field: &str) -> Result<Vec<String>, TaskError> {
        let found = self.take(field)?;
        let Value::Array(values) = found else { return Err(self.wrong(field, "a list of strings", &found)) };
        values
            .into_iter()
            .enumerate()
            .map(|(index, value)| match value {
                Value::String(text) => Ok(text),
                other => {
                    let problem =
                        format!("field `{field}` element {index} must be a string, found {}", kind(&other));
                    Err(self.place.error(problem, FIX_ROW))
                }
            })
            .collect()
    }

    /// A list of strings; null counts as empty.
    pub(crate) fn optional_texts(&mut self, field: &str) -> Result<Vec<String>, TaskError> {
        match self.fields.get(field) {
            Some(Value::Null) => Ok(Vec::new()),
            _ => self.texts(field),
        }
    }

    /// A whole number, or `None` for null.
    pub(crate) fn optional_number(&mut self, field: &str) -> Result<Option<u64>, TaskError> {
        match self.take(field)? {
            Value::Null => Ok(None),
            Value::Number(n) if n.as_u64().is_some() => Ok(n.as_u64()),
            other => Err(self.wrong(field, "a whole number, not negative", &other)),
        }
    }

    /// A number, or `None` for null or a missing field.
    pub(crate) fn optional_float(&mut self, field: &str) -> Result<Option<f64>, TaskError> {
        match self.fields.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(n)) => Ok(n.as_f64()),
            Some(other) => Err(self.wrong(field, "a number", &other)),
        }
    }
}

/// The kind of a JSON value and, where short, the value.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => format!("the boolean {b}"),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) if s.chars().count() <= 40 => format!("the string {s:?}"),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
