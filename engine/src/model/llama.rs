//! Llama 2, 3, 3.1 and 3.2: the plain graph, and the tensor names that the other families share.

use candle_core::Tensor;

use super::{
    family_spec::FamilySpec,
    layout::{LayerNames, Layout},
    weights::Linear,
};
use crate::error::Result;

/// Names as the `…ForCausalLM` classes of transformers save them.
pub(super) static HUB: Layout = Layout {
    embedding: "model.embed_tokens.weight",
    norm: "model.norm.weight",
    lm_head: "lm_head.weight",
    norms_count_from_one: false,
    layer: |layer| HUB_LAYER.read(layer),
};

pub(super) static HUB_LAYER: LayerNames = LayerNames {
    prefix: "model.layers.",
    input_norm: "input_layernorm",
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    o: "self_attn.o_proj",
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    attention_norm: None,
    post_norm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    mlp_norm: None,
};

/// Names of llama.cpp, where queries and keys are rotated as the hub's are.
pub(super) static GGUF: Layout = Layout { layer: |layer| GGUF_LAYER.read(layer), ..GGUF_INTERLEAVED };

/// llama.cpp rotates neighbouring elements of a Llama's heads; its converter moved the rows of the query and key
/// projections accordingly.
static GGUF_INTERLEAVED: Layout = Layout {
    embedding: "token_embd.weight",
    norm: "output_norm.weight",
    lm_head: "output.weight",
    norms_count_from_one: false,
    layer: |layer| {
        let mut weights = GGUF_LAYER.read(layer)?;
        weights.q = half_split(weights.q, layer.config.query_heads)?;
        weights.k = half_split(weights.k, layer.config.kv_heads)?;
        Ok(weights)
    },
};

pub(super) static GGUF_LAYER: LayerNames = LayerNames {
    prefix: "blk.",
    input_norm: "attn_norm",
    q: "attn_q",
    k: "attn_k",
    v: "attn_v",
    o: "attn_output",
    q_norm: "attn_q_norm",
    k_norm: "attn_k_norm",
    attention_norm: None,
    post_norm: "ffn_norm",
    gate: "ffn_gate",
    up: "ffn_up",
    down: "ffn_down",
    mlp_norm: None,
};

/// Moves the rows of each head from neighbouring pairs to the half-split layout: row `2 i + j` to row `i + j * dim / 2`.
fn half_split(linear: Linear, heads: usize) -> Result<Linear> {
    let split = |tensor: Tensor| -> Result<Tensor> {
        let shape = tensor.dims().to_vec();
        let dim = shape[0] / heads;
        let pairs = tensor.reshape((heads, dim / 2, 2, tensor.elem_count() / shape[0]))?;
        Ok(pairs.transpose(1, 2)?.contiguous()?.reshape(shape)?)
    };
    Ok(Linear { weight: split(linear.weight)?, bias: linear.bias.map(split).transpose()? })
}

/// Llama's graph: what a family's file starts from.
pub(super) const PLAIN: FamilySpec = FamilySpec {
    architectures: &[],
    model_types: &[],
    complete: |raw, _| Ok(raw),
    qkv_bias: false,
    qk_norm: false,
    is_gemma: false,
    rotates_in_part: false,
    kv_heads_default_to_query_heads: false,
    default_head_dim: None,
    sliding_window: |_| None,
    slides: |_, _| true,
    hub: &HUB,
    gguf: None,
};

pub(super) static SPEC: FamilySpec = FamilySpec {
    architectures: &["LlamaForCausalLM", "LlamaModel"],
    model_types: &["llama"],
    kv_heads_default_to_query_heads: true,
    gguf: Some(("llama", &GGUF_INTERLEAVED)),
    ..PLAIN
};
