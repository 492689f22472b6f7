//! `model.safetensors.index.json`: which shard holds which tensor.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::is_plain;
use crate::{
    error::{EngineError, Result},
    files::parse_json,
};

/// The index of a sharded model.
#[derive(Clone, Debug)]
pub struct WeightIndex {
    /// The index file.
    pub path: PathBuf,
    /// Hex sha256 of its bytes.
    pub sha256: String,
    /// For each tensor, the place of its shard among the files of [`super::WeightFiles`].
    pub file_of: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct RawIndex {
    weight_map: BTreeMap<String, String>,
}

/// Shards in the order of their names, and each tensor's shard. Names that are no plain file names are refused: an
/// index must not lead out of its directory.
pub(super) fn parse_index(bytes: &[u8], path: &Path) -> Result<(Vec<String>, BTreeMap<String, usize>)> {
    let RawIndex { weight_map } = parse_json(bytes, path)?;
    let shards: Vec<String> = weight_map.values().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    if let Some(bad) = shards.iter().find(|name| !is_plain(name) || !name.ends_with(".safetensors")) {
        return Err(EngineError::InvalidField {
            path: path.to_path_buf(),
            field: "weight_map",
            found: format!("`{bad}`"),
            expected: "the name of a .safetensors file in the same directory".into(),
        });
    }
    let place: BTreeMap<&String, usize> =
        shards.iter().enumerate().map(|(place, name)| (name, place)).collect();
    let file_of =
        weight_map.iter().filter_map(|(tensor, file)| Some((tensor.clone(), *place.get(file)?))).collect();
    Ok((shards, file_of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_stays_in_its_directory() {
        let parse = |file: &str| {
            let index = serde_json::json!({"weight_map": {"t": file, "u": "a.safetensors"}}).to_string();
            parse_index(index.as_bytes(), Path::new("i.json"))
        };
        let (shards, file_of) = parse("b.safetensors").unwrap();
        assert_eq!(
            (shards, file_of["t"], file_of["u"]),
            (vec!["a.safetensors".into(), "b.safetensors".into()], 1, 0)
        );
        for bad in [
            "../x.safetensors",
            "/x.safetensors",
            "d/x.safetensors",
            "..",
            "",
            "pytorch_model.bin",
            "C:x.safetensors",
        ] {
            let message = parse(bad).unwrap_err().to_string();
            assert!(message.starts_with(&format!("`i.json`: field `weight_map` is `{bad}`")), "{message}");
        }
        assert!(
            parse_index(b"{}", Path::new("i.json"))
                .unwrap_err()
                .to_string()
                .contains("missing field `weight_map`")
        );
    }
}
