//! Gemma 3, its text: five layers of six look through a window and have a rotary embedding of their own; norms stand
//! before and behind attention and MLP, their weights count from one; embeddings are scaled.
//!
//! Source: transformers 5.2 `models/gemma3/{configuration,modeling}_gemma3.py`.

use std::path::Path;

use serde_json::Value;

use super::{
    family_spec::FamilySpec,
    layout::{LayerNames, Layout},
    llama::{self, PLAIN},
    raw::{RawConfig, RawRope, SLIDING, TokenIds, invalid},
};
use crate::error::{EngineError, Result};

pub(super) static SPEC: FamilySpec = FamilySpec {
    architectures: &["Gemma3ForCausalLM", "Gemma3TextModel", "Gemma3ForConditionalGeneration", "Gemma3Model"],
    model_types: &["gemma3_text", "gemma3"],
    complete,
    qk_norm: true,
    is_gemma: true,
    sliding_window: |raw| raw.sliding_window.flatten(),
    slides: |raw, layer| match &raw.layer_types {
        Some(types) => types.get(layer).is_some_and(|kind| kind == SLIDING),
        None => (layer + 1) % raw.sliding_window_pattern.unwrap_or(6).max(1) != 0,
    },
    hub: &HUB,
    gguf: Some(("gemma3", &GGUF)),
    ..PLAIN
};

static HUB: Layout =
    Layout { norms_count_from_one: true, layer: |layer| HUB_LAYER.read(layer), ..llama::HUB };

static HUB_LAYER: LayerNames = LayerNames {
    attention_norm: Some("post_attention_layernorm"),
    post_norm: "pre_feedforward_layernorm",
    mlp_norm: Some("post_feedforward_layernorm"),
    ..llama::HUB_LAYER
};

/// llama.cpp's converter adds the ones.
static GGUF: Layout = Layout { layer: |layer| GGUF_LAYER.read(layer), ..llama::GGUF };

static GGUF_LAYER: LayerNames = LayerNames {
    attention_norm: Some("post_attention_norm"),
    mlp_norm: Some("post_ffw_norm"),
    ..llama::GGUF_LAYER
};

/// Fields that change the graph and that no published model sets.
fn refuse_unsupported(raw: &RawConfig, path: &Path) -> Result<()> {
    let set = [
        ("final_logit_softcapping", raw.final_logit_softcapping.map(|cap| cap.to_string())),
        ("attn_logit_softcapping", raw.attn_logit_softcapping.map(|cap| cap.to_string())),
        (
            "use_bidirectional_attention",
            raw.use_bidirectional_attention.filter(|&on| on).map(|on| on.to_string()),
        ),
    ];
    match set.into_iter().find_map(|(field, found)| Some((field, found?))) {
        None => Ok(()),
        Some((field, found)) => {
            Err(EngineError::UnsupportedSetting { path: path.to_path_buf(), field, found, supported: "none" })
        }
    }
}

/// The text's fields where they are those of a part, the defaults of `Gemma3TextConfig`, and one rotary embedding for
/// each kind of layer (`convert_rope_params_to_dict`).
fn complete(mut raw: RawConfig, path: &Path) -> Result<RawConfig> {
    if let Some(text) = raw.text_config.take() {
        let text: RawConfig = serde_json::from_value(text)
            .map_err(|error| invalid(path, "text_config", error, "the fields of a text model"))?;
        raw = RawConfig {
            bos_token_id: text.bos_token_id.or(raw.bos_token_id),
            eos_token_id: text.eos_token_id.or(raw.eos_token_id),
            dtype: text.dtype.or(raw.dtype),
            torch_dtype: text.torch_dtype.or(raw.torch_dtype),
            quantization_config: text.quantization_config.or(raw.quantization_config),
            ..text
        };
    }
    refuse_unsupported(&raw, path)?;
    let part = |value: Option<Value>| -> Result<RawRope> {
        let part = value.map(serde_json::from_value).transpose();
        let part =
            part.map_err(|error| invalid(path, "rope_parameters", error, "one for each kind of layer"))?;
        Ok(part.unwrap_or_default())
    };
    let (mut all, mut window) = match (raw.rope_scaling.take(), raw.rope_parameters.take()) {
        (None, None) => (RawRope::default(), RawRope::default()),
        (Some(scaling), None) => (scaling, RawRope::default()),
        (None, Some(RawRope { full_attention, sliding_attention, .. })) => {
            (part(full_attention)?, part(sliding_attention)?)
        }
        (Some(_), Some(_)) => {
            return Err(EngineError::UnsupportedSetting {
                path: path.to_path_buf(),
                field: "rope_scaling",
                found: "beside rope_parameters".into(),
                supported: "one of the two",
            });
        }
    };
    all.rope_theta = all.rope_theta.or(raw.rope_theta).or(Some(1e6));
    window.rope_theta = window.rope_theta.or(raw.rope_local_base_freq).or(Some(1e4));
    Ok(RawConfig {
        vocab_size: raw.vocab_size.or(Some(262_208)),
        hidden_size: raw.hidden_size.or(Some(2304)),
        intermediate_size: raw.intermediate_size.or(Some(9216)),
        num_hidden_layers: raw.num_hidden_layers.or(Some(26)),
        num_attention_heads: raw.num_attention_heads.or(Some(8)),
        num_key_value_heads: raw.num_key_value_heads.or(Some(Some(4))),
        head_dim: raw.head_dim.or(Some(256)),
        hidden_act: Some(raw.hidden_activation.take().unwrap_or_else(|| "gelu_pytorch_tanh".into())),
        max_position_embeddings: raw.max_position_embeddings.or(Some(131_072)),
        query_pre_attn_scalar: raw.query_pre_attn_scalar.or(Some(256.0)),
        sliding_window: raw.sliding_window.or(Some(Some(4096))),
        tie_word_embeddings: raw.tie_word_embeddings.or(Some(true)),
        bos_token_id: raw.bos_token_id.or(Some(TokenIds(vec![2]))),
        eos_token_id: raw.eos_token_id.or(Some(TokenIds(vec![1]))),
        rope_parameters: Some(all),
        window_rope: Some(window),
        ..raw
    })
}
