//! Llama 2, 3, 3.1 and 3.2: the plain graph, and the tensor names that the other families share.

use super::config::{FamilySpec, TensorNames};

/// Names as `LlamaForCausalLM` of transformers saves them.
pub(super) static NAMES: TensorNames = TensorNames {
    embedding: "model.embed_tokens.weight",
    norm: "model.norm.weight",
    lm_head: "lm_head.weight",
    layer_prefix: "model.layers.",
    input_norm: "input_layernorm.weight",
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    o: "self_attn.o_proj",
    q_norm: "self_attn.q_norm.weight",
    k_norm: "self_attn.k_norm.weight",
    post_norm: "post_attention_layernorm.weight",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
};

pub(super) static SPEC: FamilySpec = FamilySpec {
    architecture: "LlamaForCausalLM",
    model_type: "llama",
    qkv_bias: false,
    qk_norm: false,
    kv_heads_default_to_query_heads: true,
    default_head_dim: None,
    sliding_window: |_| None,
    names: &NAMES,
};
