//! The shape of one prefill, as far as a method may know it.

use serde::{Deserialize, Serialize};

/// Sizes of one prefill. Query head `h` reads KV head `h / group_size()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptShape {
    /// Decoder layers.
    pub layers: usize,
    /// Query heads of a layer; a multiple of `kv_heads`.
    pub query_heads: usize,
    /// KV heads of a layer.
    pub kv_heads: usize,
    /// Elements of one head's key or value.
    pub head_dim: usize,
    /// Prompt tokens.
    pub prompt_len: usize,
}

impl PromptShape {
    /// Query heads that share one KV head.
    #[must_use]
    pub fn group_size(&self) -> usize {
        self.query_heads / self.kv_heads
    }
}
