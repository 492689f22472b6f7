//! Per-model inputs that some methods need: head scores, head rankings, layer scores. They come from the
//! papers' published files, as those are, or from our own calibration, whose file says which weights, data,
//! seed and commit made it. A file of another model or shape is refused.

use std::path::Path;

use crate::error::MethodError;

mod calibration;
mod full_heads;
mod head_scores;
pub mod kind;
mod layer_scores;
mod published;
mod ranking;

pub use calibration::{Calibration, Published};
pub use head_scores::HeadScores;
pub use kind::InputKind;
pub use layer_scores::LayerScores;
pub use ranking::read_ranking;

use published::{comparable, published_model, read_object};

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
    /// KV heads of a layer.
    pub kv_heads: usize,
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
    /// Score of each KV head, `[layer][KV head]`, for DuoAttention.
    pub full_heads: Option<Vec<Vec<f64>>>,
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
            InputKind::FullHeads => self.full_heads.is_some(),
        }
    }

    /// What they say of some layers.
    pub(crate) fn of_layers(&self, layers: &[usize]) -> Self {
        fn of<T: Clone>(all: Option<&Vec<T>>, layers: &[usize]) -> Option<Vec<T>> {
            all.map(|all| layers.iter().filter_map(|&layer| all.get(layer).cloned()).collect())
        }
        Self {
            retrieval: of(self.retrieval.as_ref(), layers),
            reasoning: of(self.reasoning.as_ref(), layers),
            ranking: of(self.ranking.as_ref(), layers),
            layers: of(self.layers.as_ref(), layers),
            full_heads: of(self.full_heads.as_ref(), layers),
            model: self.model.clone(),
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
        let own = Calibration::parse(text).map_err(bad)?;
        let published = published_model(origin, kind);
        if own.is_none() && comparable(&published) != comparable(model.name) {
            return Err(foreign(published, model.name.to_owned()));
        }
        let values = match own {
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
            None if kind == InputKind::FullHeads => {
                let heads = full_heads::read(text).map_err(bad)?;
                fits(kind, origin, [model.layers, heads.len()], Some([model.kv_heads, heads[0].len()]))?;
                self.full_heads = Some(heads);
                return Ok(());
            }
            None => read_object(text).map_err(bad)?,
        };
        let shape = |layers: usize, heads: Option<usize>| {
            fits(kind, origin, [model.layers, layers], heads.map(|heads| [model.query_heads, heads]))
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
            InputKind::FullHeads => return Err(bad(format!("{kind} have no calibration"))),
        }
        Ok(())
    }
}

/// Refuses what is not `[expected, found]` layers, of so many heads where it is about heads.
fn fits(
    kind: InputKind,
    origin: &Path,
    layers: [usize; 2],
    heads: Option<[usize; 2]>,
) -> Result<(), MethodError> {
    let same = |[expected, found]: [usize; 2]| expected == found;
    if same(layers) && heads.is_none_or(same) {
        return Ok(());
    }
    let owner = if kind == InputKind::FullHeads { "KV" } else { "query" };
    let text = |side: usize| match heads {
        Some(heads) => format!("{} layers x {} {owner} heads", layers[side], heads[side]),
        None => format!("{} layers", layers[side]),
    };
    Err(MethodError::Mismatch {
        what: format!("{kind} in {}", origin.display()),
        expected: text(0),
        found: text(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::path::PathBuf;

    const MODEL: InputModel<'static> =
        InputModel { name: "org/Tiny-1", weights_sha256: "aa", layers: 2, query_heads: 2, kv_heads: 2 };

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
            "Tiny-2_retrieval_heads.json holds retrieval head scores of Tiny-2, not of org/Tiny-1"
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
    fn duoattentions_file_is_read_by_its_models_name() {
        let kind = InputKind::FullHeads;
        let path = Path::new("x/Tiny-1_full_attention_heads.tsv");
        let mut inputs = Inputs::default();
        inputs.add(kind, "6.05e-01\t-0.25\n1.5e+00\t0.0\n", path, &MODEL).unwrap();
        assert_eq!(inputs.full_heads, Some(vec![vec![0.605, 0.0], vec![1.0, 0.0]]));
        let wide = InputModel { kv_heads: 4, ..MODEL };
        for (text, path, model, problem) in [
            ("0\t1\n0\t1\n", path, &wide, "expected 2 layers x 4 KV heads, found 2 layers x 2 KV heads"),
            ("0\t1\n0\n", path, &MODEL, "layer 1 has 1 heads, layer 0 has 2"),
            ("0\tx\n", path, &MODEL, "line 1: `x` is not a score"),
            ("0\tNaN\n", path, &MODEL, "line 1: `NaN` is not a score"),
            ("\n", path, &MODEL, "there are no scores"),
            (
                "0\t1\n0\t1\n",
                Path::new("Tiny-2_full_attention_heads.tsv"),
                &MODEL,
                "of Tiny-2, not of org/Tiny-1",
            ),
        ] {
            let error = inputs.add(kind, text, path, model).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
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
            let model = InputModel { name, weights_sha256: "", layers: 32, query_heads: 32, kv_heads: 8 };
            inputs.load(kind, &path, &model).unwrap();
            assert!(inputs.has(kind));
            let other = InputModel { name: "meta-llama/Llama-2-7b", ..model };
            assert!(matches!(inputs.load(kind, &path, &other), Err(MethodError::ForeignInput { .. })));
        }
        assert!((inputs.layers.unwrap().iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }
}
