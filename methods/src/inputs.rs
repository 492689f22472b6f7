//! Per-model inputs that some methods need: head scores, head rankings, layer scores. They come from the
//! papers' published files, as those are, or from our own calibration, whose file says which weights, data,
//! seed and commit made it. A file of another model or shape is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::MethodError;
use crate::identify;

/// Which input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputKind {
    /// Retrieval scores of query heads (HeadKV-R).
    RetrievalScores,
    /// Retrieval-reasoning scores of query heads (HeadKV-R2).
    ReasoningScores,
    /// Semantic retrieval heads of each layer, best first (CompressKV).
    HeadRanking,
    /// Eviction error of each layer (CompressKV).
    LayerScores,
}

impl InputKind {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::RetrievalScores, Self::ReasoningScores, Self::HeadRanking, Self::LayerScores];

    /// The command that makes it.
    #[must_use]
    pub fn command(self) -> &'static str {
        match self {
            Self::RetrievalScores => "kvsweep calibrate heads --kind retrieval",
            Self::ReasoningScores => "kvsweep calibrate heads --kind reasoning",
            Self::HeadRanking => "kvsweep calibrate heads --kind semantic",
            Self::LayerScores => "kvsweep calibrate layers",
        }
    }

    /// How published files are called: the model's name and this.
    #[must_use]
    pub fn published_suffix(self) -> &'static str {
        match self {
            Self::RetrievalScores => "_retrieval_heads.json",
            Self::ReasoningScores => "_retrieval_reasoning_heads.json",
            Self::HeadRanking => "_head_idx.json",
            Self::LayerScores => "_layer_score.jsonl",
        }
    }
}

impl fmt::Display for InputKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RetrievalScores => "retrieval head scores",
            Self::ReasoningScores => "retrieval-reasoning head scores",
            Self::HeadRanking => "a semantic head ranking",
            Self::LayerScores => "layer eviction errors",
        })
    }
}

/// The model that inputs must belong to.
#[derive(Clone, Copy, Debug)]
pub struct InputModel<'a> {
    /// Hub id or directory name; what comes before the last `/` does not matter for published files.
    pub name: &'a str,
    /// SHA-256 of its weights, for our own calibrations.
    pub weights_sha256: &'a str,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads of a layer.
    pub query_heads: usize,
}

/// The inputs at hand for one model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    /// Mean score of each query head, `[layer][head]`, for HeadKV-R.
    pub retrieval: Option<Vec<Vec<f64>>>,
    /// The same for HeadKV-R2.
    pub reasoning: Option<Vec<Vec<f64>>>,
    /// Query heads of each layer, best first, for CompressKV.
    pub ranking: Option<Vec<Vec<usize>>>,
    /// Share of each layer in the eviction error, for CompressKV.
    pub layers: Option<Vec<f64>>,
    /// Name of the model, for tables published by model (CAKE).
    pub model: Option<String>,
}

impl Inputs {
    /// Whether an input is at hand.
    #[must_use]
    pub fn has(&self, kind: InputKind) -> bool {
        match kind {
            InputKind::RetrievalScores => self.retrieval.is_some(),
            InputKind::ReasoningScores => self.reasoning.is_some(),
            InputKind::HeadRanking => self.ranking.is_some(),
            InputKind::LayerScores => self.layers.is_some(),
        }
    }

    /// Loads one input from a published file or from our own calibration.
    ///
    /// # Errors
    /// When the file cannot be read or parsed, belongs to another model or other weights, is of another
    /// kind, or has another shape.
    pub fn load(&mut self, kind: InputKind, path: &Path, model: &InputModel<'_>) -> Result<(), MethodError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| MethodError::Unreadable { path: path.to_owned(), source })?;
        self.add(kind, &text, path, model)
    }

    /// The same from text; `origin` is the file's name, by which a published file says its model.
    ///
    /// # Errors
    /// As [`Inputs::load`].
    pub fn add(
        &mut self,
        kind: InputKind,
        text: &str,
        origin: &Path,
        model: &InputModel<'_>,
    ) -> Result<(), MethodError> {
        let bad = |problem: String| MethodError::BadFile { path: origin.to_owned(), problem };
        let foreign = |found: String, expected: String| MethodError::ForeignInput {
            input: kind,
            path: origin.to_owned(),
            found,
            expected,
        };
        let values = match Calibration::parse(text).map_err(bad)? {
            Some(calibration) => {
                if calibration.kind != kind {
                    return Err(bad(format!("it holds {}, not {kind}", calibration.kind)));
                }
                if calibration.weights_sha256 != model.weights_sha256 {
                    return Err(foreign(
                        format!("{} with weights {}", calibration.model, calibration.weights_sha256),
                        format!("{} with weights {}", model.name, model.weights_sha256),
                    ));
                }
                calibration.values
            }
            None => {
                let found = published_model(origin, kind);
                if comparable(&found) != comparable(model.name) {
                    return Err(foreign(found, model.name.to_owned()));
                }
                read_object(text).map_err(bad)?
            }
        };
        let shape = |layers: usize, heads: Option<usize>| {
            let wrong_heads = heads.is_some_and(|heads| heads != model.query_heads);
            if layers == model.layers && !wrong_heads {
                return Ok(());
            }
            let text = |layers: usize, heads: Option<usize>| match heads {
                Some(heads) => format!("{layers} layers x {heads} query heads"),
                None => format!("{layers} layers"),
            };
            Err(MethodError::Mismatch {
                what: format!("{kind} in {}", origin.display()),
                expected: text(model.layers, heads.map(|_| model.query_heads)),
                found: text(layers, heads),
            })
        };
        match kind {
            InputKind::RetrievalScores | InputKind::ReasoningScores => {
                let scores = HeadScores::read(&values).map_err(bad)?;
                shape(scores.layers(), Some(scores.heads()))?;
                let slot = if kind == InputKind::RetrievalScores {
                    &mut self.retrieval
                } else {
                    &mut self.reasoning
                };
                *slot = Some(scores.means());
            }
            InputKind::HeadRanking => {
                let ranking = read_ranking(&values).map_err(bad)?;
                shape(ranking.len(), ranking.first().map(Vec::len))?;
                self.ranking = Some(ranking);
            }
            InputKind::LayerScores => {
                let scores = LayerScores::read(&values).map_err(bad)?;
                shape(scores.average.len(), None)?;
                self.layers = Some(scores.average);
            }
        }
        Ok(())
    }
}

/// The model that a published file is named after.
fn published_model(origin: &Path, kind: InputKind) -> String {
    let name = origin.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let suffixes = [kind.published_suffix(), "_SRH.json", ".jsonl", ".json"];
    let stem = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    stem.to_owned()
}

/// A model's name without its organisation, `Meta-` prefix and case, which publications drop or add.
fn comparable(name: &str) -> String {
    let name = name.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_lowercase();
    name.strip_prefix("meta-").map(str::to_owned).unwrap_or(name)
}

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
pub fn write_ranking(ranking: &[Vec<usize>]) -> Map<String, Value> {
    ranking.iter().enumerate().map(|(layer, heads)| (layer.to_string(), Value::from(heads.clone()))).collect()
}

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

/// Finite numbers under a key.
fn numbers(key: &str, list: &Value) -> Result<Vec<f64>, String> {
    let list: Vec<f64> = serde_json::from_value(list.clone()).map_err(|error| format!("`{key}`: {error}"))?;
    match list.iter().find(|value| !value.is_finite() || **value < 0.0) {
        Some(value) => Err(format!("`{key}`: {value} is not a score")),
        None => Ok(list),
    }
}

/// One JSON object, or JSON lines of objects that are put together (CompressKV's `.jsonl` files are both).
fn read_object(text: &str) -> Result<Map<String, Value>, String> {
    let mut all = Map::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Map<String, Value>>() {
        all.extend(value.map_err(|error| error.to_string())?);
    }
    if all.is_empty() { Err("there is no JSON object in it".into()) } else { Ok(all) }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::PathBuf;

    const MODEL: InputModel<'static> =
        InputModel { name: "org/Tiny-1", weights_sha256: "aa", layers: 2, query_heads: 2 };

    fn scores() -> Value {
        json!({"0-0": [1, 0.5], "0-1": [0, 0], "1-0": [0.1, 0.1], "1-1": [2, 2]})
    }

    fn calibration(kind: InputKind, weights: &str, values: Value) -> String {
        json!({"format_version": 1, "kind": kind, "model": "Tiny-1", "weights_sha256": weights, "data_sha256": "dd",
               "seed": 3, "params": {"lengths": 2}, "commit": "cc", "values": values})
        .to_string()
    }

    #[test]
    fn published_files_load_for_their_model_only() {
        let mut inputs = Inputs::default();
        let kind = InputKind::RetrievalScores;
        let text = scores().to_string();
        inputs.add(kind, &text, Path::new("x/tiny-1_retrieval_heads.json"), &MODEL).unwrap();
        assert_eq!(inputs.retrieval, Some(vec![vec![0.75, 0.0], vec![0.1, 2.0]]));
        let error = inputs.add(kind, &text, Path::new("Tiny-2_retrieval_heads.json"), &MODEL).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Tiny-2_retrieval_heads.json holds retrieval head scores of Tiny-2, not of org/Tiny-1; make them with \
             `kvsweep calibrate heads --kind retrieval`"
        );
        let wide = InputModel { query_heads: 4, ..MODEL };
        let error = inputs.add(kind, &text, Path::new("Tiny-1_retrieval_heads.json"), &wide).unwrap_err();
        assert_eq!(
            error.to_string(),
            "retrieval head scores in Tiny-1_retrieval_heads.json: expected 2 layers x 4 query heads, found 2 layers x 2 query heads"
        );
    }

    #[test]
    fn a_calibration_of_other_weights_is_refused() {
        let mut inputs = Inputs::default();
        let path = Path::new("anything.json");
        let kind = InputKind::HeadRanking;
        inputs.add(kind, &calibration(kind, "aa", scores()), path, &MODEL).unwrap();
        assert_eq!(inputs.ranking, Some(vec![vec![0, 1], vec![1, 0]]));
        let error =
            inputs.add(kind, &calibration(kind, "bb", scores()), path, &MODEL).unwrap_err().to_string();
        assert!(error.contains("weights bb") && error.contains("weights aa"), "{error}");
        let error =
            inputs.add(InputKind::LayerScores, &calibration(kind, "aa", scores()), path, &MODEL).unwrap_err();
        assert_eq!(
            error.to_string(),
            "anything.json: it holds a semantic head ranking, not layer eviction errors"
        );
        let newer = calibration(kind, "aa", scores()).replace("\"format_version\":1", "\"format_version\":2");
        assert!(
            inputs.add(kind, &newer, path, &MODEL).unwrap_err().to_string().contains("this program reads 1")
        );
        let text = calibration(kind, "aa", scores());
        let parsed = Calibration::parse(&text).unwrap().unwrap();
        assert_eq!(serde_json::to_string(&parsed.published().unwrap()).unwrap(), r#"{"0":[0,1],"1":[1,0]}"#);
    }

    #[test]
    fn published_scores_are_in_layer_order() {
        let lists = vec![vec![vec![0.5]; 11]; 3];
        let values = Value::Object(HeadScores { lists: lists.clone() }.write());
        let text = calibration(InputKind::RetrievalScores, "aa", values);
        let published = Calibration::parse(&text).unwrap().unwrap().published().unwrap();
        let text = serde_json::to_string(&published).unwrap();
        assert!(text.find("\"0-2\"").unwrap() < text.find("\"0-10\"").unwrap(), "{text}");
        assert!(text.find("\"0-10\"").unwrap() < text.find("\"1-0\"").unwrap(), "{text}");
        assert_eq!(HeadScores::read(&serde_json::from_str(&text).unwrap()).unwrap().lists, lists);
    }

    #[test]
    fn malformed_files_are_named() {
        let mut inputs = Inputs::default();
        for (kind, name, text, problem) in [
            (
                InputKind::RetrievalScores,
                "Tiny-1_retrieval_heads.json",
                r#"{"0-0": [1], "1-1": [2]}"#,
                "2 heads do not fill",
            ),
            (InputKind::RetrievalScores, "Tiny-1.json", r#"{"0.0": [1]}"#, "`0.0` is not `<layer>-<head>`"),
            (InputKind::RetrievalScores, "Tiny-1.json", r#"{"99999999999-99999999999": [1]}"#, "do not fill"),
            (InputKind::RetrievalScores, "Tiny-1.json", "nothing", "expected"),
            (
                InputKind::HeadRanking,
                "Tiny-1_head_idx.json",
                r#"{"0": [0, 0], "1": [0, 1]}"#,
                "layer `0` is not a permutation",
            ),
            (
                InputKind::LayerScores,
                "Tiny-1_layer_score.jsonl",
                r#"{"a": [0.5], "b": [1, 2]}"#,
                "`b` has 2 layers",
            ),
            (
                InputKind::LayerScores,
                "Tiny-1_layer_score.jsonl",
                r#"{"a": [-0.5, 1]}"#,
                "-0.5 is not a score",
            ),
        ] {
            let error = inputs.add(kind, text, Path::new(name), &MODEL).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
        let lines = "{\"a\": [0.5, 0.5]}\n{\"b\": [0.1, 0.9]}\n";
        inputs.add(InputKind::LayerScores, lines, Path::new("Tiny-1_layer_score.jsonl"), &MODEL).unwrap();
        let average = inputs.layers.unwrap();
        assert!((average[0] - 0.3).abs() < 1e-9, "{average:?}");
    }

    #[test]
    fn the_papers_files_load_as_they_are() {
        let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/head_scores"));
        if !dir.is_dir() {
            assert!(std::env::var_os("CI").is_none(), "{} is missing", dir.display());
            println!("skipped: {} not present", dir.display());
            return;
        }
        let files = [
            (
                InputKind::RetrievalScores,
                "headkv/Meta-Llama-3-8B-Instruct",
                "meta-llama/Meta-Llama-3-8B-Instruct",
            ),
            (
                InputKind::ReasoningScores,
                "headkv/Mistral-7B-Instruct-v0.2",
                "mistralai/Mistral-7B-Instruct-v0.2",
            ),
            (
                InputKind::HeadRanking,
                "compresskv/Llama-3.1-8B-Instruct",
                "meta-llama/Meta-Llama-3.1-8B-Instruct",
            ),
            (
                InputKind::LayerScores,
                "compresskv/Mistral-7B-Instruct-v0.3",
                "mistralai/Mistral-7B-Instruct-v0.3",
            ),
        ];
        let mut inputs = Inputs::default();
        for (kind, file, name) in files {
            let path = dir.join(format!("{file}{}", kind.published_suffix()));
            let model = InputModel { name, weights_sha256: "", layers: 32, query_heads: 32 };
            inputs.load(kind, &path, &model).unwrap();
            assert!(inputs.has(kind));
            let other = InputModel { name: "meta-llama/Llama-2-7b", ..model };
            assert!(matches!(inputs.load(kind, &path, &other), Err(MethodError::ForeignInput { .. })));
        }
        assert!((inputs.layers.unwrap().iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }
}
