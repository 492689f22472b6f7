//! The shape of one sequence's cache, as far as a method may know it.

use std::{ops::Range, sync::Arc};

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
    /// Positions of a prompt of `len` tokens that the token behind it looks at: all a cache has to hold.
    #[must_use]
    pub fn seen(&self, len: usize) -> Range<usize> {
        match self.reach {
            Reach::All => 0..len,
            Reach::Window(window) => len - len.min(window.saturating_sub(1))..len,
        }
    }

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
        let Self { query_heads, kv_heads, head_dim, reach } = *self;
        let problem = if [query_heads, kv_heads, head_dim].contains(&0) || reach == Reach::Window(0) {
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

    /// The layers that methods choose from. A layer that looks through a window holds its window and no more, so where
    /// others look at everything it takes no part: kvpress and KVzip leave it alone. Where all have windows, all take
    /// part.
    #[must_use]
    pub fn contested(&self) -> Vec<usize> {
        let everywhere = |layer: &usize| self.layers[*layer].reach == Reach::All;
        let some: Vec<usize> = (0..self.layers.len()).filter(everywhere).collect();
        if some.is_empty() { (0..self.layers.len()).collect() } else { some }
    }

    /// What the layers that methods choose from have in common: the positions that the token behind the prompt looks at.
    #[must_use]
    pub fn seen(&self) -> Range<usize> {
        let layers = self.layers.iter();
        layers.map(|layer| layer.seen(self.len)).max_by_key(ExactSizeIterator::len).unwrap_or_default()
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
        } else if self
            .contested()
            .windows(2)
            .any(|pair| self.layers[pair[0]].reach != self.layers[pair[1]].reach)
        {
            "windows of unlike size, and no layer that looks at everything".to_owned()
        } else {
            return self.layers.iter().try_for_each(LayerShape::check);
        };
        Err(BadShape { problem })
    }
}
