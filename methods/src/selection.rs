//! What a method decided: for each layer and head, the sorted prompt positions kept.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::shape::LayerShape;

/// Which heads own a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Granularity {
    /// One selection per KV head; K and V are stored once per KV head.
    KvHead,
    /// One selection per query head; K and V are stored once per query head.
    QueryHead,
}

impl Granularity {
    /// Heads that own a selection in a layer of this shape.
    #[must_use]
    pub fn heads(self, shape: &LayerShape) -> usize {
        match self {
            Self::KvHead => shape.kv_heads,
            Self::QueryHead => shape.query_heads,
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KvHead => "kv-head",
            Self::QueryHead => "query-head",
        })
    }
}

/// The selection of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LayerSelection {
    /// Every prompt position that the layer [still looks at](LayerShape::seen), in every KV head: nothing is evicted.
    All,
    /// Per head, ascending unique positions that the layer still looks at. The number of heads is `kv_heads` or
    /// `query_heads`, by the selection's granularity.
    Heads(Vec<Vec<u32>>),
}

impl LayerSelection {
    /// The same of positions that count from `first` on.
    pub(crate) fn shifted(mut self, first: usize) -> Self {
        if let Self::Heads(heads) = &mut self {
            heads.iter_mut().flatten().for_each(|position| *position += first as u32);
        }
        self
    }

    /// Whether no head gave up one of the `prompt_len` positions that the layer looks at.
    #[must_use]
    pub fn keeps_everything(&self, prompt_len: usize) -> bool {
        match self {
            Self::All => true,
            Self::Heads(heads) => heads.iter().all(|kept| kept.len() == prompt_len),
        }
    }
}

/// For each layer and head, the prompt positions kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selection {
    /// Which heads own the rows of [`LayerSelection::Heads`].
    pub granularity: Granularity,
    /// One entry a layer.
    pub layers: Vec<LayerSelection>,
}
