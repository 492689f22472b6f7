//! Qwen3: Llama's graph with an RMS norm on each head's query and key, and a head size of its own.

use super::{family_spec::FamilySpec, llama};

pub(super) static SPEC: FamilySpec = FamilySpec {
    architecture: "Qwen3ForCausalLM",
    base_architecture: "Qwen3Model",
    model_type: "qwen3",
    qkv_bias: false,
    qk_norm: true,
    kv_heads_default_to_query_heads: false,
    default_head_dim: Some(128),
    sliding_window: |raw| {
        if raw.has_sliding_layers() { raw.sliding_window.unwrap_or(Some(4096)) } else { None }
    },
    hub: &llama::HUB,
    gguf: Some(("qwen3", &llama::GGUF)),
};
