//! Qwen2 and Qwen2.5: Llama's graph with a bias on query, key and value.

use super::{
    family_spec::FamilySpec,
    llama::{self, PLAIN},
};

pub(super) static SPEC: FamilySpec = FamilySpec {
    architectures: &["Qwen2ForCausalLM", "Qwen2Model"],
    model_types: &["qwen2"],
    qkv_bias: true,
    sliding_window: |raw| raw.window_in_use(),
    slides: |raw, layer| raw.slides_from(layer),
    gguf: Some(("qwen2", &llama::GGUF)),
    ..PLAIN
};
