//! What a family's file says of it.

use std::path::Path;

use super::{layout::Layout, raw::RawConfig};
use crate::error::Result;

/// What distinguishes a family from the others.
pub(crate) struct FamilySpec {
    /// What `architectures[0]` may say, the usual name first: with the output layer, without, inside a model that sees
    /// images.
    pub(super) architectures: &'static [&'static str],
    /// What `model_type` may say, the usual name first.
    pub(crate) model_types: &'static [&'static str],
    /// Makes what the file says, and what the family's class of transformers takes for fields that are absent, into the
    /// fields that all families have.
    pub(super) complete: fn(RawConfig, &Path) -> Result<RawConfig>,
    /// Bias on the query, key and value projections.
    pub(super) qkv_bias: bool,
    /// RMS norm on queries and keys, per head.
    pub(super) qk_norm: bool,
    /// RMS norms behind attention and MLP, too; embeddings scaled by the root of their width.
    pub(super) is_gemma: bool,
    /// Heads may be rotated in part.
    pub(crate) rotates_in_part: bool,
    /// `num_key_value_heads` where the file has none: as many as query heads, or else the field is required.
    pub(super) kv_heads_default_to_query_heads: bool,
    /// `head_dim` where the file has none; `None`: hidden size over query heads.
    pub(super) default_head_dim: Option<usize>,
    /// The window of the layers that have one.
    pub(super) sliding_window: fn(&RawConfig) -> Option<usize>,
    /// Whether a layer is one of them.
    pub(super) slides: fn(&RawConfig, usize) -> bool,
    /// Tensors in the hub's safetensors.
    pub(super) hub: &'static Layout,
    /// `general.architecture` of a GGUF, and the tensors there; `None` where llama.cpp converts it as another family.
    pub(crate) gguf: Option<(&'static str, &'static Layout)>,
}

impl FamilySpec {
    pub(super) fn is_called(&self, architecture: &str) -> bool {
        self.architectures.contains(&architecture)
    }
}
