//! Reads `config.json`, in the spelling of transformers 4 and of transformers 5, and refuses what the graph does
//! not compute.

use std::path::Path;

use kvsweep_methods::{
    selection::Granularity,
    shape::{CacheShape, LayerShape, Reach},
};
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::Value;

use super::{llama, mistral, parse_json, qwen2, qwen3};
use crate::error::{EngineError, Result};

/// A model family that this crate computes. One file each beside this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Llama 2, 3, 3.1, 3.2 and what shares their graph.
    Llama,
    /// Mistral 7B.
    Mistral,
    /// Qwen2 and Qwen2.5: bias on query, key and value.
    Qwen2,
    /// Qwen3: RMS norm on each head's query and key.
    Qwen3,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// Its mapping from `config.json` and to tensor names.
    pub(super) fn spec(self) -> &'static FamilySpec {
        match self {
            Self::Llama => &llama::SPEC,
            Self::Mistral => &mistral::SPEC,
            Self::Qwen2 => &qwen2::SPEC,
            Self::Qwen3 => &qwen3::SPEC,
        }
    }

    /// The name that `config.json` gives in `architectures`.
    #[must_use]
    pub fn architecture(self) -> &'static str {
        self.spec().architecture
    }
}

/// Above every size of every published model, and low enough that no product of two overflows.
const MAX_SIZE: usize = 1 << 30;

/// What distinguishes a family from the others.
pub(super) struct FamilySpec {
    /// `architectures[0]`.
    pub(super) architecture: &'static str,
    /// `model_type`, read where `architectures` is absent.
    pub(super) model_type: &'static str,
    /// Bias on the query, key and value projections.
    pub(super) qkv_bias: bool,
    /// RMS norm on queries and keys, per head.
    pub(super) qk_norm: bool,
    /// `num_key_value_heads` where the file has none: as many as query heads, or else the field is required.
    pub(super) kv_heads_default_to_query_heads: bool,
    /// `head_dim` where the file has none; `None`: hidden size over query heads.
    pub(super) default_head_dim: Option<usize>,
    /// The window of the layers that have one.
    pub(super) sliding_window: fn(&RawConfig) -> Option<usize>,
    /// Tensor names.
    pub(super) names: &'static TensorNames,
}

/// Names of the tensors in the weight files; a layer's names follow `{layer_prefix}{index}.`.
pub(super) struct TensorNames {
    pub(super) embedding: &'static str,
    pub(super) norm: &'static str,
    pub(super) lm_head: &'static str,
    pub(super) layer_prefix: &'static str,
    pub(super) input_norm: &'static str,
    pub(super) q: &'static str,
    pub(super) k: &'static str,
    pub(super) v: &'static str,
    pub(super) o: &'static str,
    pub(super) q_norm: &'static str,
    pub(super) k_norm: &'static str,
    pub(super) post_norm: &'static str,
    pub(super) gate: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
}

/// Frequency scaling of Llama 3.1 and 3.2 (`rope_type` `llama3`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3Scaling {
    /// Divisor of the low frequencies.
    pub factor: f64,
    /// Wavelengths above `original_max_positions / low_freq_factor` are divided.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_max_positions / high_freq_factor` stay.
    pub high_freq_factor: f64,
    /// Positions before the extension.
    pub original_max_positions: usize,
}

/// Rotary position embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Llama-3.1 scaling, where the model has it.
    pub scaling: Option<Llama3Scaling>,
}

/// Shape and switches of the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Which family.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads of a layer.
    pub query_heads: usize,
    /// KV heads of a layer; divides `query_heads`.
    pub kv_heads: usize,
    /// Elements of a head; even.
    pub head_dim: usize,
    /// Epsilon of every RMS norm.
    pub rms_norm_eps: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// Positions the model was made for, prompt and answer together.
    pub max_positions: usize,
    /// Bytes of a stored weight, by the file's own word; plans count with it.
    pub weight_bytes: usize,
    /// The output projection is the embedding.
    pub tied_embeddings: bool,
    /// Bias on query, key and value.
    pub qkv_bias: bool,
    /// RMS norm on each head's query and key, before RoPE.
    pub qk_norm: bool,
    /// Sliding attention window; prompts beyond it are refused.
    pub sliding_window: Option<usize>,
    /// Begin-of-sequence ids; at most one in practice.
    pub bos_ids: Vec<u32>,
    /// End-of-sequence ids.
    pub eos_ids: Vec<u32>,
}

/// One token id, a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenIds(Vec<u32>);

impl TokenIds {
    pub(crate) fn into_vec(self) -> Vec<u32> {
        self.0
    }
}

impl<'de> Deserialize<'de> for TokenIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let ids = match &value {
            Value::Array(items) => items.iter().map(token_id).collect(),
            one => token_id(one).map(|id| vec![id]),
        };
        ids.map(Self).ok_or_else(|| {
            serde::de::Error::custom(format!("`{value}` is no token id and no list of token ids"))
        })
    }
}

fn token_id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// Tells a field that is `null` from one that is absent.
fn nullable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// The fields of `config.json` that bear on the graph.
#[derive(Deserialize)]
pub(super) struct RawConfig {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    #[serde(default, deserialize_with = "nullable")]
    num_key_value_heads: Option<Option<usize>>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    partial_rotary_factor: Option<f64>,
    dtype: Option<String>,
    torch_dtype: Option<String>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) sliding_window: Option<Option<usize>>,
    pub(super) use_sliding_window: Option<bool>,
    pub(super) max_window_layers: Option<usize>,
    pub(super) layer_types: Option<Vec<String>>,
    bos_token_id: Option<TokenIds>,
    eos_token_id: Option<TokenIds>,
    quantization_config: Option<IgnoredAny>,
}

impl RawConfig {
    /// Whether any layer attends through a window, as Qwen's configurations say it.
    pub(super) fn has_sliding_layers(&self) -> bool {
        match &self.layer_types {
            Some(types) => types.iter().any(|kind| kind == "sliding_attention"),
            None => {
                // transformers: layers from `max_window_layers` on slide; its default is 28.
                self.use_sliding_window == Some(true)
                    && self.num_hidden_layers.unwrap_or(0) > self.max_window_layers.unwrap_or(28)
            }
        }
    }
}

/// `rope_scaling` of transformers 4, `rope_parameters` of transformers 5.
#[derive(Deserialize)]
struct RawRope {
    rope_type: Option<String>,
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
}

impl ModelConfig {
    /// Reads a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// Bad JSON, a missing or impossible field, or an architecture, activation, RoPE type or quantisation that is
    /// not supported, each named.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let raw: RawConfig = parse_json(bytes, path)?;
        let family = family(&raw, path)?;
        let spec = family.spec();
        refuse_unsupported(&raw, spec, path)?;

        let positive = |field: &'static str, value: Option<usize>| match value {
            Some(value) if value == 0 || value > MAX_SIZE => {
                Err(invalid(path, field, value, format!("1 to {MAX_SIZE}")))
            }
            Some(value) => Ok(value),
            None => Err(EngineError::MissingField { path: path.to_path_buf(), field }),
        };
        let vocab_size = positive("vocab_size", raw.vocab_size)?;
        let hidden_size = positive("hidden_size", raw.hidden_size)?;
        let query_heads = positive("num_attention_heads", raw.num_attention_heads)?;
        let kv_heads = match raw.num_key_value_heads {
            Some(Some(heads)) => positive("num_key_value_heads", Some(heads))?,
            Some(None) => query_heads,
            None if spec.kv_heads_default_to_query_heads => query_heads,
            None => positive("num_key_value_heads", None)?,
        };
        if !query_heads.is_multiple_of(kv_heads) {
            let expected = format!("a divisor of num_attention_heads, {query_heads}");
            return Err(invalid(path, "num_key_value_heads", kv_heads, expected));
        }
        let head_dim = match raw.head_dim.or(spec.default_head_dim) {
            Some(dim) => positive("head_dim", Some(dim))?,
            None if hidden_size.is_multiple_of(query_heads) => hidden_size / query_heads,
            None => {
                let expected =
                    format!("a multiple of num_attention_heads, {query_heads}, as there is no head_dim");
                return Err(invalid(path, "hidden_size", hidden_size, expected));
            }
        };
        if !head_dim.is_multiple_of(2) {
            return Err(invalid(path, "head_dim", head_dim, "an even number, as RoPE rotates pairs"));
        }
        let rms_norm_eps = raw.rms_norm_eps.unwrap_or(1e-6);
        if rms_norm_eps <= 0.0 || !rms_norm_eps.is_finite() {
            return Err(invalid(path, "rms_norm_eps", rms_norm_eps, "a positive number"));
        }
        let max_positions = positive("max_position_embeddings", raw.max_position_embeddings)?;
        Ok(Self {
            family,
            vocab_size,
            hidden_size,
            intermediate_size: positive("intermediate_size", raw.intermediate_size)?,
            layers: positive("num_hidden_layers", raw.num_hidden_layers)?,
            query_heads,
            kv_heads,
            head_dim,
            rms_norm_eps,
            rope: rope(&raw, max_positions, path)?,
            max_positions,
            weight_bytes: match raw.dtype.as_deref().or(raw.torch_dtype.as_deref()) {
                Some("float16" | "bfloat16") => 2,
                _ => size_of::<f32>(),
            },
            tied_embeddings: raw.tie_word_embeddings.unwrap_or(false),
            qkv_bias: spec.qkv_bias,
            qk_norm: spec.qk_norm,
            sliding_window: (spec.sliding_window)(&raw),
            bos_ids: raw.bos_token_id.map_or_else(Vec::new, TokenIds::into_vec),
            eos_ids: raw.eos_token_id.map_or_else(Vec::new, TokenIds::into_vec),
        })
    }

    /// Sizes of each layer's keys and queries.
    #[must_use]
    pub fn layer_shape(&self) -> LayerShape {
        let reach = self.sliding_window.map_or(Reach::All, Reach::Window);
        LayerShape { query_heads: self.query_heads, kv_heads: self.kv_heads, head_dim: self.head_dim, reach }
    }

    /// Sizes of a prompt's cache, for the methods.
    #[must_use]
    pub(crate) fn cache_shape(&self, len: usize) -> CacheShape {
        CacheShape::uniform(self.layers, self.layer_shape(), len)
    }

    /// Heads that store entries of their own: one a KV head, or one a query head.
    #[must_use]
    pub fn stored_heads(&self, granularity: Granularity) -> usize {
        granularity.heads(&self.layer_shape())
    }

    /// Positions that are computed: those of the model, or its sliding window where that is shorter.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.sliding_window.map_or(self.max_positions, |window| window.min(self.max_positions))
    }

    /// See [`super::Model::check_prompt`].
    pub(super) fn check_prompt(&self, prompt: &[u32], new: usize) -> Result<()> {
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        self.check_ids(prompt)?;
        self.check_room(prompt.len(), new)
    }

    /// Checks that every token is in the vocabulary.
    pub(crate) fn check_ids(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().position(|&id| id as usize >= self.vocab_size) {
            Some(position) => {
                Err(EngineError::TokenOutOfRange { id: ids[position], position, vocab_size: self.vocab_size })
            }
            None => Ok(()),
        }
    }

    /// Checks that `prompt` tokens and `new` ones have positions, and none outside the sliding window.
    pub(crate) fn check_room(&self, prompt: usize, new: usize) -> Result<()> {
        let total = prompt.saturating_add(new);
        if total > self.max_positions {
            return Err(EngineError::PromptTooLong { prompt, new, limit: self.max_positions });
        }
        match self.sliding_window {
            Some(window) if total > window => Err(EngineError::SlidingWindow { prompt, new, window }),
            _ => Ok(()),
        }
    }
}

fn invalid(
    path: &Path,
    field: &'static str,
    found: impl ToString,
    expected: impl Into<String>,
) -> EngineError {
    EngineError::InvalidField {
        path: path.to_path_buf(),
        field,
        found: found.to_string(),
        expected: expected.into(),
    }
}

fn family(raw: &RawConfig, path: &Path) -> Result<Family> {
    let found = raw.architectures.as_ref().and_then(|names| names.first());
    let family = match (found, &raw.model_type) {
        (Some(name), _) => Family::ALL.into_iter().find(|family| family.spec().architecture == name),
        (None, Some(name)) => Family::ALL.into_iter().find(|family| family.spec().model_type == name),
        (None, None) => {
            return Err(EngineError::MissingField { path: path.to_path_buf(), field: "architectures" });
        }
    };
    family.ok_or_else(|| EngineError::UnsupportedArchitecture {
        path: path.to_path_buf(),
        found: found.or(raw.model_type.as_ref()).cloned().unwrap_or_default(),
        supported: Family::ALL.map(Family::architecture).join(", "),
    })
}

fn refuse_unsupported(raw: &RawConfig, spec: &FamilySpec, path: &Path) -> Result<()> {
    let refuse = |field, found: String, supported| {
        Err(EngineError::UnsupportedSetting { path: path.to_path_buf(), field, found, supported })
    };
    if let Some(activation) = &raw.hidden_act
        && !matches!(activation.as_str(), "silu" | "swish")
    {
        return refuse("hidden_act", activation.clone(), "silu");
    }
    // Qwen2 has its bias by architecture; elsewhere the flag would add one to the output projection too.
    if raw.attention_bias == Some(true) && !spec.qkv_bias {
        return refuse("attention_bias", "true".into(), "false");
    }
    if raw.mlp_bias == Some(true) {
        return refuse("mlp_bias", "true".into(), "false");
    }
    if raw.quantization_config.is_some() {
        return refuse("quantization_config", "present".into(), "unquantised f32, f16 or bf16 weights");
    }
    Ok(())
}

fn rope(raw: &RawConfig, max_positions: usize, path: &Path) -> Result<Rope> {
    let refuse = |field, found: String, supported| {
        Err(EngineError::UnsupportedSetting { path: path.to_path_buf(), field, found, supported })
    };
    let parameters = raw.rope_parameters.as_ref().or(raw.rope_scaling.as_ref());
    let theta = parameters.and_then(|p| p.rope_theta).or(raw.rope_theta).unwrap_or(10_000.0);
    if !(theta > 0.0 && theta.is_finite()) {
        return Err(invalid(path, "rope_theta", theta, "a positive number"));
    }
    let partial = parameters.and_then(|p| p.partial_rotary_factor).or(raw.partial_rotary_factor);
    if let Some(partial) = partial.filter(|&partial| partial != 1.0) {
        return refuse("partial_rotary_factor", partial.to_string(), "1");
    }
    let Some(parameters) = parameters else { return Ok(Rope { theta, scaling: None }) };
    let kind =
        parameters.rope_type.as_ref().or(parameters.old_type.as_ref()).map_or("default", String::as_str);
    let scaling = match kind {
        "default" => None,
        "llama3" => {
            let number = |field: &'static str, value: Option<f64>| match value {
                Some(value) if value > 0.0 && value.is_finite() => Ok(value),
                Some(value) => Err(invalid(path, field, value, "a positive number")),
                None => Err(EngineError::MissingField { path: path.to_path_buf(), field }),
            };
            let scaling = Llama3Scaling {
                factor: number("factor", parameters.factor)?,
                low_freq_factor: number("low_freq_factor", parameters.low_freq_factor)?,
                high_freq_factor: number("high_freq_factor", parameters.high_freq_factor)?,
                original_max_positions: parameters.original_max_position_embeddings.unwrap_or(max_positions),
            };
            if scaling.high_freq_factor <= scaling.low_freq_factor {
                let expected = format!("more than low_freq_factor, {}", scaling.low_freq_factor);
                return Err(invalid(path, "high_freq_factor", scaling.high_freq_factor, expected));
            }
            Some(scaling)
        }
        other => return refuse("rope_type", other.to_owned(), "default, llama3"),
    };
    Ok(Rope { theta, scaling })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Result<ModelConfig> {
        ModelConfig::parse(value.to_string().as_bytes(), Path::new("m/config.json"))
    }

    /// `base` with the fields of `patch` set; a field patched to `"absent"` is removed.
    fn patched(mut base: Value, patch: &Value) -> Value {
        let fields = base.as_object_mut().unwrap();
        for (name, value) in patch.as_object().unwrap() {
            if value == "absent" {
                fields.remove(name);
            } else {
                fields.insert(name.clone(), value.clone());
            }
        }
        base
    }

    /// Llama 3.1 8B Instruct, as transformers 4 spells it.
    fn llama31() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": false,
            "bos_token_id": 128_000, "eos_token_id": [128_001, 128_008, 128_009], "hidden_act": "silu",
            "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 131_072, "mlp_bias": false,
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
            "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 8192, "rope_type": "llama3"},
            "rope_theta": 500_000.0, "tie_word_embeddings": false, "vocab_size": 128_256
        })
    }

    #[test]
    fn reads_both_spellings_of_rope() {
        let old = parse(&llama31()).unwrap();
        assert_eq!((old.family, old.head_dim, old.kv_heads, old.layers), (Family::Llama, 128, 8, 32));
        assert_eq!(old.eos_ids, [128_001, 128_008, 128_009]);
        let scaling = Llama3Scaling {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192,
        };
        assert_eq!(old.rope, Rope { theta: 500_000.0, scaling: Some(scaling) });
        let rope = json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 500_000.0,
                          "original_max_position_embeddings": 8192, "rope_type": "llama3"});
        let patch = json!({"rope_parameters": rope, "rope_theta": "absent", "rope_scaling": "absent"});
        assert_eq!(parse(&patched(llama31(), &patch)).unwrap(), old);
        // Llama 2: `type` before it was `rope_type`, and neither theta nor KV heads written.
        let patch = json!({"rope_scaling": {"type": "default"}, "rope_theta": "absent",
                           "num_key_value_heads": "absent", "architectures": "absent"});
        let llama2 = parse(&patched(llama31(), &patch)).unwrap();
        assert_eq!((llama2.rope.theta, llama2.rope.scaling, llama2.kv_heads), (10_000.0, None, 32));
    }

    #[test]
    fn families_differ_where_they_should() {
        let family = |patch| parse(&patched(llama31(), &patch)).unwrap();
        let plain = json!(null);
        let mistral = |window: Value| {
            family(
                json!({"architectures": ["MistralForCausalLM"], "rope_scaling": plain, "sliding_window": window}),
            )
        };
        assert_eq!(mistral(json!(4096)).sliding_window, Some(4096));
        assert_eq!(mistral(json!(null)).sliding_window, None);
        assert_eq!(mistral(json!("absent")).sliding_window, Some(4096));

        // Qwen2.5-7B says 131072 and does not use it; Qwen2 with use_sliding_window slides from layer 28 on.
        let qwen2 = |on: bool, from: usize| {
            family(
                json!({"architectures": ["Qwen2ForCausalLM"], "rope_scaling": plain, "sliding_window": 131_072,
                          "use_sliding_window": on, "max_window_layers": from}),
            )
        };
        assert_eq!(qwen2(false, 28).sliding_window, None);
        assert_eq!(qwen2(true, 32).sliding_window, None);
        assert_eq!(qwen2(true, 28).sliding_window, Some(131_072));
        assert!(qwen2(false, 28).qkv_bias && !qwen2(false, 28).qk_norm);

        let qwen3 = family(
            json!({"architectures": ["Qwen3ForCausalLM"], "rope_scaling": plain, "hidden_size": 1024,
                                  "num_attention_heads": 16, "layer_types": ["full_attention", "full_attention"]}),
        );
        assert_eq!(
            (qwen3.head_dim, qwen3.qkv_bias, qwen3.qk_norm, qwen3.sliding_window),
            (128, false, true, None)
        );
    }

    #[test]
    fn refuses_what_it_does_not_compute() {
        let cases = [
            (
                json!({"architectures": ["GPT2LMHeadModel"]}),
                "architecture `GPT2LMHeadModel` is not supported; supported: LlamaForCausalLM, MistralForCausalLM, \
                 Qwen2ForCausalLM, Qwen3ForCausalLM",
            ),
            (
                json!({"architectures": "absent", "model_type": "gemma"}),
                "architecture `gemma` is not supported",
            ),
            (json!({"architectures": "absent", "model_type": "absent"}), "field `architectures` is missing"),
            (json!({"hidden_act": "gelu"}), "hidden_act `gelu` is not supported; supported: silu"),
            (
                json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
                "rope_type `yarn` is not supported; supported: default, llama3",
            ),
            (json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), "rope_type `linear`"),
            (
                json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}),
                "field `low_freq_factor` is missing",
            ),
            (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor `0.5`"),
            (json!({"attention_bias": true}), "attention_bias `true`"),
            (json!({"mlp_bias": true}), "mlp_bias `true`"),
            (json!({"quantization_config": {"bits": 4}}), "quantization_config `present`"),
            (json!({"vocab_size": "absent"}), "field `vocab_size` is missing"),
            (json!({"num_hidden_layers": 0}), "field `num_hidden_layers` is 0, expected 1 to"),
            (
                json!({"hidden_size": 1_u64 << 40}),
                "field `hidden_size` is 1099511627776, expected 1 to 1073741824",
            ),
            (json!({"num_key_value_heads": 5}), "field `num_key_value_heads` is 5, expected a divisor of"),
            (
                json!({"hidden_size": 4100}),
                "field `hidden_size` is 4100, expected a multiple of num_attention_heads",
            ),
            (json!({"head_dim": 7}), "field `head_dim` is 7, expected an even number"),
            (json!({"rms_norm_eps": 0.0}), "field `rms_norm_eps` is 0"),
            (json!({"rope_theta": -1.0}), "field `rope_theta` is -1"),
            (json!({"hidden_size": "big"}), "invalid type: string \"big\", expected usize at line 1"),
            (json!({"eos_token_id": "</s>"}), "is no token id and no list of token ids"),
        ];
        for (patch, expected) in cases {
            let message = parse(&patched(llama31(), &patch)).expect_err(&patch.to_string()).to_string();
            assert!(message.contains(expected) && message.contains("`m/config.json`"), "{patch}: {message}");
        }
    }

    #[test]
    fn checks_prompts() {
        let patch = json!({"max_position_embeddings": 16, "rope_scaling": null, "vocab_size": 10});
        let config = parse(&patched(llama31(), &patch)).unwrap();
        assert!(config.check_prompt(&[9; 16], 0).is_ok());
        let refused = |config: &ModelConfig, prompt: &[u32], new| {
            config.check_prompt(prompt, new).unwrap_err().to_string()
        };
        assert_eq!(refused(&config, &[], 1), "the prompt has no tokens");
        assert!(
            refused(&config, &[1, 10], 0)
                .starts_with("token id 10 at position 1 is outside the vocabulary of 10")
        );
        assert!(
            refused(&config, &[1; 17], 0)
                .contains("17 prompt tokens and 0 new ones need more than the 16 positions")
        );
        assert!(refused(&config, &[1; 15], 2).contains("15 prompt tokens and 2 new ones"));
        assert!(refused(&config, &[1], usize::MAX).contains("more than the 16 positions"));
        let config = ModelConfig { sliding_window: Some(8), ..config };
        assert!(config.check_prompt(&[1; 7], 1).is_ok());
        assert!(refused(&config, &[1; 9], 0).contains("exceed the sliding window of 8"));
    }
}
