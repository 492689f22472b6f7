//! Reading of golden files, and comparison of what they say with what this build gives.

use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A path below `dir`, and nowhere else.
pub(crate) fn inside(dir: &Path, file: &str) -> Result<PathBuf, String> {
    let path = Path::new(file);
    if path.components().all(|component| matches!(component, Component::Normal(_))) {
        Ok(dir.join(path))
    } else {
        Err(format!("`{file}` is not a path below the golden directory"))
    }
}

/// Reads a JSON file below `dir`.
pub(crate) fn read_json(dir: &Path, file: &str) -> Result<Value, String> {
    let path = inside(dir, file)?;
    let text =
        std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    if value.get("format_version") != Some(&json!(1)) {
        return Err(format!("`format_version` must be 1, found {}", value["format_version"]));
    }
    Ok(value)
}

/// A typed field of a case.
pub(crate) fn get<T: DeserializeOwned>(value: &Value, key: &str) -> Result<T, String> {
    let field = value.get(key).ok_or_else(|| format!("the case has no `{key}`"))?;
    serde_json::from_value(field.clone()).map_err(|error| format!("`{key}`: {error}"))
}

/// A typed field that may be absent or null.
pub(crate) fn maybe<T: DeserializeOwned>(value: &Value, key: &str) -> Result<Option<T>, String> {
    match value.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(_) => get(value, key).map(Some),
    }
}

/// Expected and found, where they differ.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &[T],
    found: &[T],
) -> Result<(), String> {
    if expected == found {
        return Ok(());
    }
    if expected.len() != found.len() {
        return Err(format!("{what}: expected {} values, found {}", expected.len(), found.len()));
    }
    let at = expected.iter().zip(found).position(|(e, f)| e != f).unwrap_or(0);
    Err(format!("{what}[{at}]: expected {:?}, found {:?}", expected[at], found[at]))
}

/// Expected and found, where they differ by more than a relative tolerance.
pub(crate) fn close(what: &str, expected: &[f64], found: &[f64], tolerance: f64) -> Result<(), String> {
    if expected.len() != found.len() {
        return Err(format!("{what}: expected {} values, found {}", expected.len(), found.len()));
    }
    let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    for (at, (e, f)) in expected.iter().zip(found).enumerate() {
        let within = (e - f).abs() <= tolerance * e.abs() + 1e-7 * tolerance.min(1.0) * largest;
        if !within {
            return Err(format!("{what}[{at}]: expected {e}, found {f}"));
        }
    }
    Ok(())
}
