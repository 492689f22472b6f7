//! What a family's file says of it.

use super::{layout::Layout, raw::RawConfig};

/// What distinguishes a family from the others.
pub(crate) struct FamilySpec {
    /// `architectures[0]`.
    pub(super) architecture: &'static str,
    /// The same without the output layer: what `architectures` says of a base model.
    pub(super) base_architecture: &'static str,
    /// `model_type`.
    pub(crate) model_type: &'static str,
    /// Bias on the query, key and value projections.
    pub(super) qkv_bias: bool,
    /// RMS norm on queries and keys, per head.
    pub(super) qk_norm: bool,
    /// `num_key_value_heads` where the file has none: as many as query heads, or else the field is required.
    pub(super) kv_heads_default_to_query_heads: bool,
    /// `head_dim` where the file has none; `None`: hidden size over query heads.
    pub(super) default_head_dim: Option<usize>,
    /// The window of the layers that have one.
    pub(super) sliding_window: fn(&RawConfig) -> Option<usize>,
    /// Tensors in the hub's safetensors.
    pub(super) hub: &'static Layout,
    /// `general.architecture` of a GGUF, and the tensors there; `None` where llama.cpp converts it as another family.
    pub(crate) gguf: Option<(&'static str, &'static Layout)>,
}

impl FamilySpec {
    pub(super) fn is_called(&self, architecture: &str) -> bool {
        [self.architecture, self.base_architecture].contains(&architecture)
    }
}
