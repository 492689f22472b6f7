//! Head rankings in the published format of CompressKV.

use serde_json::{Map, Value};

use super::head_scores::HeadScores;

/// Reads a ranking in the published format (layer to heads, best first), or derives it from score lists.
///
/// # Errors
/// What is wrong, with the key.
pub fn read_ranking(values: &Map<String, Value>) -> Result<Vec<Vec<usize>>, String> {
    if values.keys().any(|key| key.contains('-')) {
        return HeadScores::read(values).map(|scores| scores.ranking());
    }
    let heads = values.values().next().and_then(Value::as_array).map_or(0, Vec::len);
    (0..values.len())
        .map(|layer| {
            let key = layer.to_string();
            let list = values.get(&key).ok_or_else(|| format!("layer `{key}` is missing"))?;
            let ranking: Vec<usize> =
                serde_json::from_value(list.clone()).map_err(|error| format!("layer `{key}`: {error}"))?;
            let mut sorted = ranking.clone();
            sorted.sort_unstable();
            if sorted.iter().copied().eq(0..heads) && heads > 0 {
                Ok(ranking)
            } else {
                Err(format!("layer `{key}` is not a permutation of {heads} heads"))
            }
        })
        .collect()
}

/// A ranking in the published format.
#[must_use]
pub(crate) fn write_ranking(ranking: &[Vec<usize>]) -> Map<String, Value> {
    ranking.iter().enumerate().map(|(layer, heads)| (layer.to_string(), Value::from(heads.clone()))).collect()
}
