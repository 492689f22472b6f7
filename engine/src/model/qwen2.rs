//! Qwen2 and Qwen2.5: Llama's graph with a bias on query, key and value.

use super::{family_spec::FamilySpec, llama};

pub(super) static SPEC: FamilySpec = FamilySpec {
    architecture: "Qwen2ForCausalLM",
    base_architecture: "Qwen2Model",
    model_type: "qwen2",
    qkv_bias: true,
    qk_norm: false,
    kv_heads_default_to_query_heads: false,
    default_head_dim: None,
    sliding_window: |raw| {
        if raw.has_sliding_layers() { raw.sliding_window.unwrap_or(Some(4096)) } else { None }
    },
    hub: &llama::HUB,
    gguf: Some(("qwen2", &llama::GGUF)),
};
