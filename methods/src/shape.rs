//! The shape of one prefill, as far as a method may know it.

use serde::{Deserialize, Serialize};

/// A shape that contradicts itself, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("impossible prompt shape: {0}")]
pub struct BadShape(String);

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

    /// Checks that no size is zero, that the groups are whole and that positions fit 32 bits.
    ///
    /// # Errors
    /// [`BadShape`] with the size at fault.
    pub fn check(&self) -> Result<(), BadShape> {
        let Self { layers, query_heads, kv_heads, head_dim, prompt_len } = *self;
        let problem = if [layers, query_heads, kv_heads, head_dim, prompt_len].contains(&0) {
            format!("a size is zero: {self:?}")
        } else if query_heads % kv_heads != 0 {
            format!("{query_heads} query heads are not a multiple of {kv_heads} KV heads")
        } else if u32::try_from(prompt_len).is_err() {
            format!("{prompt_len} prompt tokens do not fit 32-bit positions")
        } else {
            return Ok(());
        };
        Err(BadShape(problem))
    }
}
