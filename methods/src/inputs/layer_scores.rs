//! Layer scores in the published format of CompressKV.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::published::numbers;
use crate::identify;

/// Eviction error of each layer: a share per data set, and the average that allocation reads.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerScores {
    /// Per data set, one share a layer.
    pub data_sets: BTreeMap<String, Vec<f64>>,
    /// The average over data sets, normalised.
    pub average: Vec<f64>,
}

impl LayerScores {
    /// Averages data sets as CompressKV's `get_avg.py` does.
    #[must_use]
    pub fn of(data_sets: BTreeMap<String, Vec<f64>>) -> Self {
        let average = identify::layer_average(&data_sets);
        Self { data_sets, average }
    }

    /// Reads the published format; without `avg_score` the average is computed.
    ///
    /// # Errors
    /// What is wrong, with the key.
    pub fn read(values: &Map<String, Value>) -> Result<Self, String> {
        let mut data_sets = BTreeMap::new();
        for (key, list) in values {
            data_sets.insert(key.clone(), numbers(key, list)?);
        }
        let layers = data_sets.values().next().map_or(0, Vec::len);
        if layers == 0 {
            return Err("there are no layer scores".into());
        }
        if let Some((key, list)) = data_sets.iter().find(|(_, list)| list.len() != layers) {
            return Err(format!("`{key}` has {} layers, others {layers}", list.len()));
        }
        match data_sets.remove("avg_score") {
            Some(average) => Ok(Self { data_sets, average }),
            None => Ok(Self::of(data_sets)),
        }
    }

    /// The published format.
    #[must_use]
    pub fn write(&self) -> Map<String, Value> {
        let mut values: Map<String, Value> =
            self.data_sets.iter().map(|(key, list)| (key.clone(), Value::from(list.clone()))).collect();
        values.insert("avg_score".into(), Value::from(self.average.clone()));
        values
    }
}
