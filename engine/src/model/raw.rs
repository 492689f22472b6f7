//! The fields of `config.json` that bear on the graph, as the file has them: in the spelling of transformers 4 and of
//! transformers 5.

use std::path::Path;

use serde::{Deserialize, Deserializer, de::IgnoredAny};
use serde_json::Value;

use crate::error::EngineError;

/// One token id, a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenIds(pub(crate) Vec<u32>);

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
#[derive(Default, Deserialize)]
pub(crate) struct RawConfig {
    pub(crate) architectures: Option<Vec<String>>,
    pub(crate) model_type: Option<String>,
    pub(crate) vocab_size: Option<usize>,
    pub(crate) hidden_size: Option<usize>,
    pub(crate) intermediate_size: Option<usize>,
    pub(crate) num_hidden_layers: Option<usize>,
    pub(crate) num_attention_heads: Option<usize>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) num_key_value_heads: Option<Option<usize>>,
    pub(crate) head_dim: Option<usize>,
    pub(crate) hidden_act: Option<String>,
    pub(crate) max_position_embeddings: Option<usize>,
    pub(crate) original_max_position_embeddings: Option<usize>,
    pub(crate) rms_norm_eps: Option<f64>,
    pub(crate) rope_theta: Option<f64>,
    pub(crate) rope_scaling: Option<RawRope>,
    pub(crate) rope_parameters: Option<RawRope>,
    pub(crate) partial_rotary_factor: Option<f64>,
    pub(crate) dtype: Option<String>,
    pub(crate) torch_dtype: Option<String>,
    pub(crate) tie_word_embeddings: Option<bool>,
    pub(crate) attention_bias: Option<bool>,
    pub(crate) mlp_bias: Option<bool>,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) sliding_window: Option<Option<usize>>,
    pub(crate) use_sliding_window: Option<bool>,
    pub(crate) max_window_layers: Option<usize>,
    pub(crate) layer_types: Option<Vec<String>>,
    pub(crate) bos_token_id: Option<TokenIds>,
    pub(crate) eos_token_id: Option<TokenIds>,
    pub(crate) quantization_config: Option<IgnoredAny>,
    pub(crate) hidden_activation: Option<String>,
    pub(crate) query_pre_attn_scalar: Option<f64>,
    pub(crate) rope_local_base_freq: Option<f64>,
    pub(crate) sliding_window_pattern: Option<usize>,
    pub(crate) final_logit_softcapping: Option<f64>,
    pub(crate) attn_logit_softcapping: Option<f64>,
    pub(crate) use_bidirectional_attention: Option<bool>,
    /// The fields of the text, where a model sees images, too.
    pub(crate) text_config: Option<Value>,
    /// The rotary embedding of layers that look through a window, where a family has it.
    #[serde(skip)]
    pub(crate) window_rope: Option<RawRope>,
}

impl RawConfig {
    /// The window, as Qwen's configurations turn it on.
    pub(super) fn window_in_use(&self) -> Option<usize> {
        if self.use_sliding_window == Some(true) { self.sliding_window.unwrap_or(Some(4096)) } else { None }
    }

    /// Whether a layer looks through the window, as Qwen's configurations say it: those from `max_window_layers` on,
    /// whose default is 28.
    pub(super) fn slides_from(&self, layer: usize) -> bool {
        match &self.layer_types {
            Some(types) => types.get(layer).is_some_and(|kind| kind == SLIDING),
            None => layer >= self.max_window_layers.unwrap_or(28),
        }
    }

    /// The rotary embedding's fields: `rope_scaling` of transformers 4 if it says anything, else `rope_parameters` of
    /// transformers 5, never both (`convert_rope_params_to_dict` of its `modeling_rope_utils.py`).
    pub(super) fn rope(&self) -> Option<&RawRope> {
        let said = |rope: &&RawRope| **rope != RawRope::default();
        self.rope_scaling.as_ref().filter(said).or(self.rope_parameters.as_ref())
    }
}

/// `rope_scaling` of transformers 4, `rope_parameters` of transformers 5.
#[derive(Clone, Default, Deserialize, PartialEq)]
pub(crate) struct RawRope {
    pub(crate) rope_type: Option<String>,
    #[serde(rename = "type")]
    pub(crate) old_type: Option<String>,
    pub(crate) rope_theta: Option<f64>,
    pub(crate) partial_rotary_factor: Option<f64>,
    pub(crate) factor: Option<f64>,
    pub(crate) low_freq_factor: Option<f64>,
    pub(crate) high_freq_factor: Option<f64>,
    pub(crate) original_max_position_embeddings: Option<usize>,
    pub(crate) attention_factor: Option<f64>,
    pub(crate) beta_fast: Option<f64>,
    pub(crate) beta_slow: Option<f64>,
    pub(crate) mscale: Option<f64>,
    pub(crate) mscale_all_dim: Option<f64>,
    pub(crate) truncate: Option<bool>,
    pub(crate) short_factor: Option<Vec<f32>>,
    pub(crate) long_factor: Option<Vec<f32>>,
    /// A rotary embedding of its own for each kind of layer (Gemma 3); see `layer_types`.
    pub(crate) full_attention: Option<Value>,
    pub(crate) sliding_attention: Option<Value>,
    /// GGUF's divisor of each frequency; no file of the hub has it.
    #[serde(skip)]
    pub(crate) divisors: Option<Vec<f32>>,
}

impl RawRope {
    /// `rope_type`, in either spelling.
    pub(super) fn kind(&self) -> &str {
        self.rope_type.as_ref().or(self.old_type.as_ref()).map_or("default", String::as_str)
    }
}

/// A layer of `layer_types` that looks through the window.
pub(super) const SLIDING: &str = "sliding_attention";

/// Above every size of every published model, and low enough that no product of two overflows.
pub(super) const MAX_SIZE: usize = 1 << 30;

pub(super) fn invalid(
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
