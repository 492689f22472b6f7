//! Mistral 7B: Llama's graph, with a sliding window in v0.1 only.

use super::{family_spec::FamilySpec, llama::PLAIN};

pub(super) static SPEC: FamilySpec = FamilySpec {
    architectures: &["MistralForCausalLM", "MistralModel"],
    model_types: &["mistral"],
    // As transformers reads it: `null` is no window, an absent field is 4096.
    sliding_window: |raw| raw.sliding_window.unwrap_or(Some(4096)),
    // llama.cpp converts a Mistral as a Llama.
    gguf: None,
    ..PLAIN
};
