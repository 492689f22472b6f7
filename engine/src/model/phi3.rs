//! Phi-3, Phi-3.5 and Phi-4: Llama's graph out of fused tensors, heads that may be rotated in part, and LongRoPE.
//!
//! Source: transformers 5.2 `models/phi3/{configuration,modeling}_phi3.py`.

use candle_core::{Device, Tensor};

use super::{
    family_spec::FamilySpec,
    layout::{LayerTensors, Layout},
    llama::{self, PLAIN},
    raw::{RawRope, TokenIds},
    weights::{LayerWeights, Linear},
};
use crate::error::Result;

pub(super) static SPEC: FamilySpec = FamilySpec {
    architectures: &["Phi3ForCausalLM", "Phi3Model"],
    model_types: &["phi3"],
    complete: |mut raw, _| {
        raw.rope_parameters = raw.rope().cloned().map(|rope| match rope.kind() {
            // What LongRoPE was called before.
            "su" | "yarn" => RawRope { rope_type: Some("longrope".into()), ..rope },
            _ => rope,
        });
        raw.rope_scaling = None;
        raw.original_max_position_embeddings.get_or_insert(4096);
        raw.rms_norm_eps.get_or_insert(1e-5);
        raw.bos_token_id.get_or_insert_with(|| TokenIds(vec![1]));
        raw.eos_token_id.get_or_insert_with(|| TokenIds(vec![32_000]));
        Ok(raw)
    },
    rotates_in_part: true,
    kv_heads_default_to_query_heads: true,
    sliding_window: |raw| raw.sliding_window.flatten(),
    hub: &HUB,
    gguf: Some(("phi3", &GGUF)),
    ..PLAIN
};

static HUB: Layout = Layout { layer: |layer| HUB_LAYER.read(layer), ..llama::HUB };

static HUB_LAYER: FusedNames = FusedNames {
    prefix: "model.layers.",
    input_norm: "input_layernorm",
    qkv: "self_attn.qkv_proj",
    o: "self_attn.o_proj",
    post_norm: "post_attention_layernorm",
    gate_up: "mlp.gate_up_proj",
    down: "mlp.down_proj",
};

static GGUF: Layout = Layout { layer: |layer| GGUF_LAYER.read(layer), ..llama::GGUF };

static GGUF_LAYER: FusedNames = FusedNames {
    prefix: "blk.",
    input_norm: "attn_norm",
    qkv: "attn_qkv",
    o: "attn_output",
    post_norm: "ffn_norm",
    gate_up: "ffn_up",
    down: "ffn_down",
};

/// Names of a layer's tensors.
struct FusedNames {
    prefix: &'static str,
    input_norm: &'static str,
    /// Queries, keys, values, one behind the other.
    qkv: &'static str,
    o: &'static str,
    post_norm: &'static str,
    /// Gate, then up.
    gate_up: &'static str,
    down: &'static str,
}

impl FusedNames {
    fn read(&self, layer: &LayerTensors<'_>) -> Result<LayerWeights> {
        let config = layer.config;
        let (hidden, intermediate, dim) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (query, kv) = (config.query_heads * dim, config.kv_heads * dim);
        let tensor =
            |name: &str, shape: &[usize]| layer.tensor(self.prefix, &format!("{name}.weight"), shape);
        let linear = |weight: Tensor| Linear { weight, bias: None };
        let qkv = tensor(self.qkv, &[query + 2 * kv, hidden])?;
        let rotated = |start: usize, heads: usize| -> Result<Linear> {
            let rows = qkv.narrow(0, start, heads * dim)?;
            Ok(linear(match config.rope.rotated {
                Some(part) => pairs_apart(&rows, heads, dim, part)?,
                None => rows,
            }))
        };
        let gate_up = tensor(self.gate_up, &[2 * intermediate, hidden])?;
        Ok(LayerWeights {
            input_norm: tensor(self.input_norm, &[hidden])?,
            q: rotated(0, config.query_heads)?,
            k: rotated(query, config.kv_heads)?,
            v: linear(qkv.narrow(0, query + kv, kv)?),
            o: linear(tensor(self.o, &[hidden, query])?),
            q_norm: None,
            k_norm: None,
            attention_norm: None,
            post_norm: tensor(self.post_norm, &[hidden])?,
            gate: linear(gate_up.narrow(0, 0, intermediate)?),
            up: linear(gate_up.narrow(0, intermediate, intermediate)?),
            down: linear(tensor(self.down, &[hidden, intermediate])?),
            mlp_norm: None,
        })
    }
}

/// Moves the rows of each head so that the two elements of a pair that is rotated are half a head apart, as in heads that
/// are rotated whole; pairs of the rest follow, and their angle is 0. Queries and keys are moved alike, so no product of
/// the two changes.
fn pairs_apart(weight: &Tensor, heads: usize, dim: usize, rotated: usize) -> Result<Tensor> {
    let (half, rest) = (rotated / 2, (dim - rotated) / 2);
    let of_head = || (0..half).chain(rotated..rotated + rest).chain(half..rotated).chain(rotated + rest..dim);
    let rows = (0..heads).flat_map(|head| of_head().map(move |row| (head * dim + row) as u32));
    let rows = Tensor::from_iter(rows, &Device::Cpu)?;
    Ok(weight.index_select(&rows, 0)?)
}
