//! Reads the result files that official scripts write beside predictions. They may hold the bare word `NaN` (an empty
//! LongBench-E bucket), which is not JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::OfficialScore;
use crate::datasets::longbench_e::BUCKETS;
use crate::error::TaskError;

/// Parses JSON in which numbers may be `NaN`, `Infinity` or `-Infinity`; these become null.
///
/// # Errors
/// What the JSON parser says about the rest.
pub fn parse_with_nan(text: &str) -> Result<Value, serde_json::Error> {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['"', 'N', 'I', '-']) {
        let (before, from) = rest.split_at(at);
        clean.push_str(before);
        if let Some(word) = ["NaN", "Infinity", "-Infinity"].into_iter().find(|word| from.starts_with(word)) {
            clean.push_str("null");
            rest = &from[word.len()..];
            continue;
        }
        // A string is copied whole: what it says is not a number.
        let length = if from.starts_with('"') { string_length(from) } else { 1 };
        clean.push_str(&from[..length]);
        rest = &from[length..];
    }
    clean.push_str(rest);
    serde_json::from_str(&clean)
}

/// Bytes of the string literal at the start of `text`, quotes included; all of `text` if it does not end.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The scores of a `result.json` or `metrics.json`, `avg` included. -1 (KVCache-Factory's "missing") is left out.
///
/// # Errors
/// A file that cannot be read or holds anything but numbers and LongBench-E's buckets.
pub fn result_file(path: &Path) -> Result<BTreeMap<String, OfficialScore>, TaskError> {
    let text = fs_err::read_to_string(path).map_err(|e| TaskError::io("read", path, e))?;
    let wrong = |problem: String| TaskError::File {
        path: path.to_path_buf(),
        problem,
        remedy: "score the predictions again".to_owned(),
    };
    let Value::Object(scores) = parse_with_nan(&text).map_err(|e| wrong(format!("is not JSON: {e}")))? else {
        return Err(wrong("is not an object of scores".to_owned()));
    };
    let mut found = BTreeMap::new();
    for (name, value) in scores {
        let score = match &value {
            Value::Object(buckets) => {
                OfficialScore::Buckets(BUCKETS.map(|bucket| buckets.get(bucket).and_then(Value::as_f64)))
            }
            other => match other.as_f64() {
                Some(-1.0) => continue,
                Some(score) => OfficialScore::Plain(score),
                None => return Err(wrong(format!("the score of `{name}` is no number"))),
            },
        };
        found.insert(name, score);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_nan_is_read_and_strings_are_left_alone() {
        let value =
            parse_with_nan(r#"{"NaN \"Infinity": [NaN, -Infinity, -1.5, Infinity], "é-N": 2}"#).unwrap();
        assert_eq!(value, serde_json::json!({"NaN \"Infinity": [null, null, -1.5, null], "é-N": 2}));
        assert!(parse_with_nan("\"open").is_err() && parse_with_nan("Nan").is_err());
    }
}
