//! What the papers' published files have in common: the model in their name, JSON objects, finite numbers.

use std::path::Path;

use serde_json::{Map, Value};

use super::kind::InputKind;

/// The model that a published file is named after.
pub(super) fn published_model(origin: &Path, kind: InputKind) -> String {
    let name = origin.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let suffixes = [kind.published_suffix(), "_SRH.json", ".jsonl", ".json"];
    let stem = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    stem.to_owned()
}

/// A model's name without its organisation, `Meta-` prefix and case, which publications drop or add.
pub(super) fn comparable(name: &str) -> String {
    let name = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_lowercase();
    name.strip_prefix("meta-").map(str::to_owned).unwrap_or(name)
}

/// One JSON object, or JSON lines of objects that are put together (CompressKV's `.jsonl` files are both).
pub(super) fn read_object(text: &str) -> Result<Map<String, Value>, String> {
    let mut all = Map::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Map<String, Value>>() {
        all.extend(value.map_err(|error| error.to_string())?);
    }
    if all.is_empty() { Err("there is no JSON object in it".into()) } else { Ok(all) }
}

/// Finite numbers under a key.
pub(super) fn numbers(key: &str, list: &Value) -> Result<Vec<f64>, String> {
    let list: Vec<f64> = serde_json::from_value(list.clone()).map_err(|error| format!("`{key}`: {error}"))?;
    match list.iter().find(|value| !value.is_finite() || **value < 0.0) {
        Some(value) => Err(format!("`{key}`: {value} is not a score")),
        None => Ok(list),
    }
}
