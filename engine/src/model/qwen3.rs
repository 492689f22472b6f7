//! Qwen3: Llama's graph with an RMS norm on each head's query and key, and a head size of its own.

use super::{
    family_spec::FamilySpec,
    llama::{self, PLAIN},
};

pub(super) static SPEC: FamilySpec = FamilySpec {
    architectures: &["Qwen3ForCausalLM", "Qwen3Model"],
    model_types: &["qwen3"],
    qk_norm: true,
    default_head_dim: Some(128),
    sliding_window: |raw| raw.window_in_use(),
    slides: |raw, layer| raw.slides_from(layer),
    gguf: Some(("qwen3", &llama::GGUF)),
    ..PLAIN
};
