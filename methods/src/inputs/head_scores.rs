//! Head scores in the published format of HeadKV.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::published::numbers;
use crate::identify;

/// Scores of every query head, one value per successful test.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadScores {
    /// `[layer][head][test]`; every head has as many tests.
    pub lists: Vec<Vec<Vec<f64>>>,
}

impl HeadScores {
    /// Reads the published format: `"<layer>-<head>"` to a list of numbers.
    ///
    /// # Errors
    /// What is wrong, with the key.
    pub fn read(values: &Map<String, Value>) -> Result<Self, String> {
        let mut by_head = BTreeMap::new();
        for (key, list) in values {
            let place = key
                .split_once('-')
                .and_then(|(l, h)| Some((l.parse::<usize>().ok()?, h.parse::<usize>().ok()?)));
            let place = place.ok_or_else(|| format!("key `{key}` is not `<layer>-<head>`"))?;
            by_head.insert(place, numbers(key, list)?);
        }
        let layers = by_head.keys().map(|place| place.0 + 1).max().unwrap_or(0);
        let heads = by_head.keys().map(|place| place.1 + 1).max().unwrap_or(0);
        if by_head.is_empty() || layers.checked_mul(heads) != Some(by_head.len()) {
            return Err(format!("{} heads do not fill {layers} layers x {heads} heads", by_head.len()));
        }
        let tests = by_head.values().next().map_or(0, Vec::len);
        if let Some(((layer, head), list)) =
            by_head.iter().find(|(_, list)| list.len() != tests || list.is_empty())
        {
            return Err(format!("key `{layer}-{head}` has {} tests, others {tests}", list.len()));
        }
        let mut lists = by_head.into_values();
        Ok(Self { lists: (0..layers).map(|_| lists.by_ref().take(heads).collect()).collect() })
    }

    /// Layers.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.lists.len()
    }

    /// Query heads of a layer.
    #[must_use]
    pub fn heads(&self) -> usize {
        self.lists.first().map_or(0, Vec::len)
    }

    /// Mean of each head, `[layer][head]`.
    #[must_use]
    pub fn means(&self) -> Vec<Vec<f64>> {
        let mean = |list: &Vec<f64>| list.iter().sum::<f64>() / list.len().max(1) as f64;
        self.lists.iter().map(|layer| layer.iter().map(mean).collect()).collect()
    }

    /// The ranking file's content: heads of each layer, best mean first.
    #[must_use]
    pub fn ranking(&self) -> Vec<Vec<usize>> {
        self.means().iter().map(|layer| identify::rank(layer)).collect()
    }

    /// The published format.
    #[must_use]
    pub fn write(&self) -> Map<String, Value> {
        let mut values = Map::new();
        for (layer, heads) in self.lists.iter().enumerate() {
            for (head, list) in heads.iter().enumerate() {
                values.insert(format!("{layer}-{head}"), Value::from(list.clone()));
            }
        }
        values
    }
}
