//! The file that our own calibration writes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::kind::InputKind;
use super::ranking::{read_ranking, write_ranking};

/// Our own calibration: values in the papers' format and where they come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Version of this format: 1.
    pub format_version: u32,
    /// What it holds.
    pub kind: InputKind,
    /// The model's name, for people.
    pub model: String,
    /// SHA-256 of the model's weights: a run refuses a calibration of others.
    pub weights_sha256: String,
    /// SHA-256 of the calibration data.
    pub data_sha256: String,
    /// Seed of whatever was drawn.
    pub seed: u64,
    /// Lengths, depths and other settings.
    pub params: Map<String, Value>,
    /// Commit of the program.
    pub commit: String,
    /// Score lists, ranking or layer scores in the published format.
    pub values: Map<String, Value>,
}

impl Calibration {
    /// The version written.
    pub const FORMAT_VERSION: u32 = 1;

    /// Reads one; `None` for a file that does not claim to be one (a published file).
    ///
    /// # Errors
    /// When it claims to be one and is not, or is of a newer version.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let Ok(Value::Object(object)) = serde_json::from_str::<Value>(text) else { return Ok(None) };
        let Some(version) = object.get("format_version") else { return Ok(None) };
        if version != &Value::from(Self::FORMAT_VERSION) {
            return Err(format!(
                "`format_version` is {version}, this program reads {}",
                Self::FORMAT_VERSION
            ));
        }
        serde_json::from_value(Value::Object(object)).map(Some).map_err(|error| error.to_string())
    }

    /// The values as the papers publish them: score lists, or for [`InputKind::HeadRanking`] the ranking.
    ///
    /// # Errors
    /// When the values are not of their kind.
    pub fn published(&self) -> Result<Published, String> {
        let mut values: Vec<(String, Value)> = match self.kind {
            InputKind::HeadRanking => write_ranking(&read_ranking(&self.values)?).into_iter().collect(),
            _ => self.values.clone().into_iter().collect(),
        };
        // HeadKV reads its file by position, not by key.
        let place =
            |key: &str| key.split('-').map(|n| n.parse::<usize>().unwrap_or(usize::MAX)).collect::<Vec<_>>();
        values.sort_by_cached_key(|(key, _)| place(key));
        Ok(Published(values))
    }
}

/// A published file's object with its keys in the published order: by layer, then by head.
#[derive(Clone, Debug, PartialEq)]
pub struct Published(Vec<(String, Value)>);

impl Serialize for Published {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}
