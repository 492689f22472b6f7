//! The shape of one sequence's cache, as far as a method may know it.

use std::sync::Arc;

/// Sizes that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("impossible prompt shape: {problem}")]
pub struct BadShape {
    problem: String,
}

/// How far back the queries of a layer look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// At every position before them.
    All,
    /// At the last so many positions, their own included.
    Window(usize),
}

/// Sizes of one layer. Query head `h` reads KV head `h / group_size()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerShape {
    /// Query heads; a multiple of `kv_heads`.
    pub query_heads: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Elements of one head's key or value.
    pub head_dim: usize,
    /// What its queries look at.
    pub reach: Reach,
}

impl LayerShape {
    /// Query heads that share one KV head.
    #[must_use]
    pub fn group_size(&self) -> usize {
        self.query_heads / self.kv_heads
    }

    /// Checks that no size is zero and that the groups are whole.
    ///
    /// # Errors
    /// The size at fault.
    pub fn check(&self) -> Result<(), BadShape> {
        let Self { query_heads, kv_heads, head_dim, .. } = *self;
        let problem = if [query_heads, kv_heads, head_dim].contains(&0) {
            format!("a size is zero: {self:?}")
        } else if query_heads % kv_heads != 0 {
            format!("{query_heads} query heads are not a multiple of {kv_heads} KV heads")
        } else {
            return Ok(());
        };
        Err(BadShape { problem })
    }
}

/// Sizes of the cache that a method selects from: that of a prompt, each of whose tokens is one entry of every KV head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Each layer's own sizes; layers may differ.
    pub layers: Arc<[LayerShape]>,
    /// Tokens of the prompt.
    pub len: usize,
}

impl CacheShape {
    /// Layers of one shape.
    #[must_use]
    pub fn uniform(layers: usize, layer: LayerShape, len: usize) -> Self {
        Self { layers: vec![layer; layers].into(), len }
    }

    /// Checks every layer, that there is one, that there is a token, and that positions fit 32 bits.
    ///
    /// # Errors
    /// The size at fault.
    pub fn check(&self) -> Result<(), BadShape> {
        let problem = if self.layers.is_empty() || self.len == 0 {
            format!("a size is zero: {} layers, {} tokens", self.layers.len(), self.len)
        } else if u32::try_from(self.len).is_err() {
            format!("{} tokens do not fit 32-bit positions", self.len)
        } else {
            return self.layers.iter().try_for_each(LayerShape::check);
        };
        Err(BadShape { problem })
    }
}
