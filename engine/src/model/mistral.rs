//! Mistral 7B: Llama's graph, with a sliding window in v0.1 only.

use super::{family_spec::FamilySpec, llama};

pub(super) static SPEC: FamilySpec = FamilySpec {
    architecture: "MistralForCausalLM",
    base_architecture: "MistralModel",
    model_type: "mistral",
    qkv_bias: false,
    qk_norm: false,
    kv_heads_default_to_query_heads: false,
    default_head_dim: None,
    // As transformers reads it: `null` is no window, an absent field is 4096.
    sliding_window: |raw| raw.sliding_window.unwrap_or(Some(4096)),
    hub: &llama::HUB,
    // llama.cpp converts a Mistral as a Llama.
    gguf: None,
};
