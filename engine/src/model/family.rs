//! The model families that this crate computes, by name.

/// A model family that this crate computes. One file each beside this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Llama 2, 3, 3.1, 3.2 and what shares their graph.
    Llama,
    /// Mistral 7B.
    Mistral,
    /// Qwen2 and Qwen2.5: bias on query, key and value.
    Qwen2,
    /// Qwen3: RMS norm on each head's query and key.
    Qwen3,
    /// Gemma 3, its text: most layers look through a window.
    Gemma3,
    /// Phi-3, Phi-3.5 and Phi-4: fused projections.
    Phi3,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 6] =
        [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3, Self::Gemma3, Self::Phi3];
}
