//! The graph of a `config.json`, or of a GGUF's metadata in its place, checked. What the graph does not compute is refused.

use std::path::Path;

use super::{
    config::{Activation, Family, ModelConfig, Sliding},
    family_spec::FamilySpec,
    raw::{MAX_SIZE, RawConfig, RawRope, SLIDING, TokenIds, invalid},
    rope::Rope,
};
use crate::{
    error::{EngineError, Result},
    files::parse_json,
};

impl ModelConfig {
    /// Reads a `config.json`; `path` is for messages.
    ///
    /// # Errors
    /// Bad JSON, a missing or impossible field, or an architecture, activation, RoPE type or quantisation that is
    /// not supported, each named.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        Self::from_raw(parse_json(bytes, path)?, path)
    }

    /// Checks the fields of a configuration.
    pub(crate) fn from_raw(raw: RawConfig, path: &Path) -> Result<Self> {
        let family = Family::of(&raw, path)?;
        let spec = family.spec();
        let raw = (spec.complete)(raw, path)?;
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
        let trained_positions = positive("max_position_embeddings", raw.max_position_embeddings)?;
        let sizes = [head_dim, trained_positions];
        let read = |fields: Option<RawRope>| {
            Rope::of(&raw, fields.unwrap_or_default(), sizes, spec.rotates_in_part, path)
        };
        let rope = read(raw.rope().cloned())?;
        // A Gemma counts its positions after the scaling.
        let max_positions = if spec.is_gemma { trained_positions } else { rope.positions(trained_positions) };
        let layers = positive("num_hidden_layers", raw.num_hidden_layers)?;
        let mut sliding = sliding(&raw, spec, [layers, max_positions], path)?;
        if let Some(sliding) = &mut sliding {
            let own = raw.window_rope.clone().map(|fields| read(Some(fields))).transpose()?;
            sliding.rope = own.filter(|own| *own != rope);
        }
        let scalar = raw.query_pre_attn_scalar;
        if let Some(scalar) = scalar.filter(|scalar| !(*scalar > 0.0 && scalar.is_finite())) {
            return Err(invalid(path, "query_pre_attn_scalar", scalar, "a positive number"));
        }
        Ok(Self {
            family,
            vocab_size,
            hidden_size,
            intermediate_size: positive("intermediate_size", raw.intermediate_size)?,
            layers,
            query_heads,
            kv_heads,
            head_dim,
            rms_norm_eps,
            max_positions,
            rope,
            weight_bytes: match raw.dtype.as_deref().or(raw.torch_dtype.as_deref()) {
                Some("float16" | "bfloat16") => 2,
                _ => size_of::<f32>(),
            },
            tied_embeddings: raw.tie_word_embeddings.unwrap_or(false),
            qkv_bias: spec.qkv_bias,
            qk_norm: spec.qk_norm,
            activation: raw.hidden_act.as_deref().and_then(Activation::of).unwrap_or(Activation::Silu),
            is_gemma: spec.is_gemma,
            query_scalar: scalar.filter(|&scalar| scalar != head_dim as f64 && spec.is_gemma),
            sliding,
            bos_ids: raw.bos_token_id.map_or_else(Vec::new, TokenIds::into_vec),
            eos_ids: raw.eos_token_id.map_or_else(Vec::new, TokenIds::into_vec),
        })
    }
}

/// Layers that a window is read for, at most.
const MOST_LAYERS: usize = 1 << 16;

/// The layers that look through a window, as far as some prompt is longer than it.
fn sliding(
    raw: &RawConfig,
    spec: &FamilySpec,
    [layers, max_positions]: [usize; 2],
    path: &Path,
) -> Result<Option<Sliding>> {
    if let Some(types) = &raw.layer_types {
        if types.len() != layers {
            let expected = format!("{layers}, one a layer");
            return Err(invalid(path, "layer_types", types.len(), expected));
        }
        if let Some(kind) = types.iter().find(|kind| ![SLIDING, "full_attention"].contains(&kind.as_str())) {
            return Err(EngineError::UnsupportedSetting {
                path: path.to_path_buf(),
                field: "layer_types",
                found: kind.clone(),
                supported: "full_attention, sliding_attention",
            });
        }
    }
    let Some(window) = (spec.sliding_window)(raw) else { return Ok(None) };
    if window == 0 || window > MAX_SIZE {
        return Err(invalid(path, "sliding_window", window, format!("1 to {MAX_SIZE}")));
    }
    if window >= max_positions {
        return Ok(None);
    }
    if layers > MOST_LAYERS {
        return Err(invalid(path, "num_hidden_layers", layers, format!("1 to {MOST_LAYERS}")));
    }
    let layers: Vec<bool> = (0..layers).map(|layer| (spec.slides)(raw, layer)).collect();
    Ok(layers.contains(&true).then_some(Sliding { window, layers, rope: None }))
}

fn refuse_unsupported(raw: &RawConfig, spec: &FamilySpec, path: &Path) -> Result<()> {
    let refuse = |field, found: String, supported| {
        Err(EngineError::UnsupportedSetting { path: path.to_path_buf(), field, found, supported })
    };
    if let Some(activation) = &raw.hidden_act
        && Activation::of(activation).is_none()
    {
        return refuse("hidden_act", activation.clone(), "silu, gelu_pytorch_tanh");
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::rope::{Llama3Scaling, RopeScaling, YarnScaling};

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
        assert_eq!(
            old.rope,
            Rope { theta: 500_000.0, scaling: Some(RopeScaling::Llama3(scaling)), rotated: None }
        );
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
    fn rope_scaling_hides_rope_parameters() {
        let parameters = json!({"rope_type": "default", "rope_theta": 7.0});
        let rope = |scaling: Value, theta: Value| {
            let patch = json!({"rope_scaling": scaling, "rope_parameters": parameters, "rope_theta": theta});
            parse(&patched(llama31(), &patch)).unwrap().rope
        };
        let linear = json!({"type": "linear", "factor": 2.0});
        // transformers drops the other's base with it.
        let hidden =
            Rope { theta: 10_000.0, scaling: Some(RopeScaling::Linear { factor: 2.0 }), rotated: None };
        assert_eq!(rope(linear.clone(), json!("absent")), hidden);
        assert_eq!(rope(linear, json!(5.0)).theta, 5.0);
        for nothing in [json!(null), json!({})] {
            assert_eq!(rope(nothing, json!(5.0)), Rope { theta: 7.0, scaling: None, rotated: None });
        }
    }

    #[test]
    fn scaled_models_have_the_positions_of_their_scaling() {
        let read = |scaling: Value| {
            let patch = json!({"max_position_embeddings": 4096, "rope_scaling": scaling});
            parse(&patched(llama31(), &patch)).unwrap()
        };
        assert_eq!(read(json!({"type": "linear", "factor": 4.0})).max_positions, 16384);
        assert_eq!(read(json!({"type": "dynamic", "factor": 2.0})).max_positions, 8192);
        let yarn = |original: Value| json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": original});
        assert_eq!(read(yarn(json!(2048))).max_positions, 8192);
        assert_eq!(read(yarn(json!(512))).max_positions, 4096);
        let expected = YarnScaling {
            factor: 4.0,
            original_max_positions: 4096,
            attention_factor: 0.1 * 4.0_f64.ln() + 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
        };
        assert_eq!(read(yarn(json!(null))).rope.scaling, Some(RopeScaling::Yarn(expected)));
    }

    #[test]
    fn a_base_model_is_its_family() {
        let base = json!({"architectures": ["LlamaModel"]});
        assert_eq!(parse(&patched(llama31(), &base)).unwrap().family, Family::Llama);
        let by_name = json!({"architectures": ["Qwen3Model"], "model_type": "absent"});
        assert_eq!(parse(&patched(llama31(), &by_name)).unwrap().family, Family::Qwen3);
    }

    #[test]
    fn families_differ_where_they_should() {
        let family = |patch| parse(&patched(llama31(), &patch)).unwrap();
        let plain = json!(null);
        let mistral = |window: Value| {
            family(
                json!({"architectures": ["MistralForCausalLM"], "model_type": "mistral", "rope_scaling": plain, "sliding_window": window}),
            )
        };
        let window = |config: &ModelConfig| config.sliding.as_ref().map(|sliding| sliding.window);
        assert_eq!(window(&mistral(json!(4096))), Some(4096));
        assert_eq!(window(&mistral(json!(131_072))), None, "no prompt is longer");
        assert_eq!(window(&mistral(json!(null))), None);
        assert_eq!(window(&mistral(json!("absent"))), Some(4096));

        // Qwen2.5-7B says 131072 and does not use it; Qwen2 with use_sliding_window slides from layer 28 on.
        let qwen2 = |on: bool, from: usize| {
            family(
                json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "rope_scaling": plain, "sliding_window": 1000,
                          "use_sliding_window": on, "max_window_layers": from}),
            )
        };
        assert_eq!(window(&qwen2(false, 28)), None);
        assert_eq!(window(&qwen2(true, 32)), None);
        let sliding = qwen2(true, 28).sliding.unwrap();
        assert_eq!((sliding.window, sliding.layers.iter().position(|&slides| slides)), (1000, Some(28)));
        assert!(qwen2(false, 28).qkv_bias && !qwen2(false, 28).qk_norm);

        let qwen3 = family(
            json!({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "rope_scaling": plain, "hidden_size": 1024,
                                  "num_attention_heads": 16, "num_hidden_layers": 2, "layer_types": ["full_attention", "full_attention"]}),
        );
        assert_eq!((qwen3.head_dim, qwen3.qkv_bias, qwen3.qk_norm, window(&qwen3)), (128, false, true, None));
    }

    #[test]
    fn refuses_what_it_does_not_compute() {
        let cases = [
            (
                json!({"architectures": ["GPT2LMHeadModel"]}),
                "architecture `GPT2LMHeadModel` is not supported; supported: LlamaForCausalLM, MistralForCausalLM, \
                 Qwen2ForCausalLM, Qwen3ForCausalLM, Gemma3ForCausalLM, Phi3ForCausalLM",
            ),
            (
                json!({"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"}),
                "architecture `Qwen3MoeForCausalLM` is not supported: it needs a router and experts; supported: Llama",
            ),
            (
                json!({"architectures": "absent", "model_type": "gpt_oss"}),
                "architecture `gpt_oss` is not supported: it needs attention sinks,",
            ),
            (
                json!({"architectures": "absent", "model_type": "gemma"}),
                "architecture `gemma` is not supported",
            ),
            (json!({"architectures": "absent", "model_type": "absent"}), "field `architectures` is missing"),
            (json!({"hidden_act": "gelu"}), "hidden_act `gelu` is not supported; supported: silu"),
            (
                json!({"architectures": ["MistralForCausalLM"]}),
                "field `architectures` is `MistralForCausalLM`, expected `LlamaForCausalLM`, as model_type is `llama`",
            ),
            (
                json!({"rope_scaling": {"rope_type": "longrope", "factor": 4.0, "short_factor": [1.0], "long_factor": [1.0]}}),
                "field `short_factor` is 1 numbers, expected 64 positive numbers, one a rotated pair",
            ),
            (json!({"rope_scaling": {"type": "linear"}}), "field `factor` is missing"),
            (json!({"rope_scaling": {"type": "yarn", "factor": -1.0}}), "field `factor` is -1"),
            (
                json!({"rope_scaling": null, "rope_parameters": {"full_attention": {"rope_type": "default"}}}),
                "rope_parameters `one for each kind of layer` is not supported",
            ),
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

    /// `config.json` of google/gemma-3-4b-it as it was published, and as transformers 5 saves it again.
    #[test]
    fn gemma3_is_read_in_both_spellings() {
        let text = json!({
            "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024
        });
        let old = json!({
            "architectures": ["Gemma3ForConditionalGeneration"], "eos_token_id": [1, 106], "model_type": "gemma3",
            "text_config": text, "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1152}
        });
        let old = parse(&old).unwrap();
        assert_eq!((old.family, old.head_dim, old.query_heads, old.kv_heads), (Family::Gemma3, 256, 8, 4));
        assert_eq!((old.vocab_size, old.max_positions, old.weight_bytes), (262_208, 131_072, 2));
        assert_eq!((old.bos_ids.clone(), old.eos_ids.clone()), (vec![2], vec![1, 106]));
        assert_eq!(
            (old.activation, old.tied_embeddings, old.query_scalar),
            (Activation::GeluTanh, true, None)
        );
        assert_eq!(old.rope.to_string(), "1000000, scaled by 8 (linear)");
        let sliding = old.sliding.clone().unwrap();
        assert_eq!(sliding.rope.unwrap().to_string(), "10000");
        let everywhere =
            |layers: &[bool]| -> Vec<usize> { (0..34).filter(|&layer| !layers[layer]).collect() };
        assert_eq!((sliding.window, everywhere(&sliding.layers)), (1024, vec![5, 11, 17, 23, 29]));

        let kinds: Vec<_> =
            (1..=34).map(|layer| if layer % 6 == 0 { "full_attention" } else { SLIDING }).collect();
        let new = json!({
            "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "dtype": "bfloat16",
            "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "num_attention_heads": 8,
            "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208, "max_position_embeddings": 131_072,
            "bos_token_id": 2, "eos_token_id": [1, 106], "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 256, "sliding_window": 1024, "layer_types": kinds, "tie_word_embeddings": true,
            "rope_parameters": {"full_attention": {"factor": 8.0, "rope_theta": 1_000_000.0, "rope_type": "linear"},
                                "sliding_attention": {"rope_theta": 10_000.0, "rope_type": "default"}}
        });
        assert_eq!(parse(&new).unwrap(), old);
        let large = parse(&patched(new.clone(), &json!({"query_pre_attn_scalar": 168}))).unwrap();
        assert_eq!(large.query_scalar, Some(168.0));
        for (patch, expected) in [
            (json!({"final_logit_softcapping": 30.0}), "final_logit_softcapping `30`"),
            (json!({"use_bidirectional_attention": true}), "use_bidirectional_attention `true`"),
            (
                json!({"layer_types": ["full_attention"]}),
                "field `layer_types` is 1, expected 34, one a layer",
            ),
            (json!({"layer_types": vec!["linear_attention"; 34]}), "layer_types `linear_attention`"),
            (json!({"sliding_window": 0}), "field `sliding_window` is 0"),
            (
                json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
                "rope_scaling `beside rope_parameters`",
            ),
            (json!({"query_pre_attn_scalar": 0}), "field `query_pre_attn_scalar` is 0"),
            (json!({"hidden_activation": "gelu"}), "hidden_act `gelu`"),
        ] {
            let message = parse(&patched(new.clone(), &patch)).expect_err(&patch.to_string()).to_string();
            assert!(message.contains(expected), "{patch}: {message}");
        }
    }

    /// The fields of microsoft/Phi-4-mini-instruct and of Phi-3-mini-4k-instruct.
    #[test]
    fn phi3_rotates_in_part_and_far() {
        let ones = vec![1.0; 48];
        let mini = json!({
            "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192,
            "num_hidden_layers": 32, "num_attention_heads": 24, "num_key_value_heads": 8, "vocab_size": 200_064,
            "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096, "sliding_window": 262_144,
            "partial_rotary_factor": 0.75, "rope_theta": 10_000.0, "tie_word_embeddings": true,
            "rope_scaling": {"type": "longrope", "long_factor": ones, "short_factor": ones}
        });
        let read = parse(&mini).unwrap();
        assert_eq!(read.rope.to_string(), "10000 of 96 elements, scaled beyond 4096 (longrope)");
        assert_eq!((read.sliding, read.max_positions, read.rms_norm_eps), (None, 131_072, 1e-5));
        let Some(RopeScaling::Long(long)) = read.rope.scaling else { panic!() };
        // sqrt(1 + ln(32) / ln(4096)).
        assert!((long.attention_factor - 1.190_238_1).abs() < 1e-6, "{}", long.attention_factor);
        let older = json!({"max_position_embeddings": 4096, "sliding_window": 2047, "rope_scaling": null,
                           "partial_rotary_factor": "absent"});
        let older = parse(&patched(mini.clone(), &older)).unwrap();
        assert_eq!(older.rope.to_string(), "10000");
        assert_eq!(older.sliding.unwrap().window, 2047);
        for (patch, expected) in [
            (
                json!({"partial_rotary_factor": 0.01}),
                "field `partial_rotary_factor` is 0.01, expected a share of 128",
            ),
            (json!({"partial_rotary_factor": 1.5}), "field `partial_rotary_factor` is 1.5"),
            (
                json!({"rope_scaling": {"type": "su", "short_factor": ones, "long_factor": [1.0]}}),
                "field `long_factor` is 1 numbers",
            ),
            (
                json!({"rope_scaling": {"type": "yarn", "short_factor": ones}}),
                "field `long_factor` is missing",
            ),
        ] {
            let message = parse(&patched(mini.clone(), &patch)).expect_err(&patch.to_string()).to_string();
            assert!(message.contains(expected), "{patch}: {message}");
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
    }
}
