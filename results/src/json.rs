//! JSON for other programs: every output names its format and the format's version.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::Result;
use crate::error::ResultsError;

/// `{"format": …, "version": …, NAME: CONTENT}`.
struct Versioned<'a, T> {
    format: &'static str,
    version: u32,
    name: &'static str,
    content: &'a T,
}

impl<T: Serialize> Serialize for Versioned<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_map(Some(3))?;
        fields.serialize_entry("format", self.format)?;
        fields.serialize_entry("version", &self.version)?;
        fields.serialize_entry(self.name, self.content)?;
        fields.end()
    }
}

/// Writes `content` under `name`, indented.
///
/// # Errors
/// Content that JSON cannot hold.
pub(crate) fn versioned<T: Serialize>(
    format: &'static str,
    version: u32,
    name: &'static str,
    content: &T,
) -> Result<String> {
    serde_json::to_string_pretty(&Versioned { format, version, name, content })
        .map_err(|error| ResultsError::Empty(format!("JSON cannot be written: {error}")))
}
