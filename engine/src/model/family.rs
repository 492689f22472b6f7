//! The model families that this crate computes: one file each beside this one.

use std::path::Path;

use super::{layout::Layout, llama, mistral, qwen2, qwen3, raw::RawConfig};
use crate::error::{EngineError, Result};

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
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// What distinguishes it, and its tensors.
    pub(crate) fn spec(self) -> &'static FamilySpec {
        match self {
            Self::Llama => &llama::SPEC,
            Self::Mistral => &mistral::SPEC,
            Self::Qwen2 => &qwen2::SPEC,
            Self::Qwen3 => &qwen3::SPEC,
        }
    }

    /// The name that `config.json` gives in `architectures`.
    #[must_use]
    pub fn architecture(self) -> &'static str {
        self.spec().architecture
    }

    /// The architectures that are supported, for messages.
    fn supported() -> String {
        Self::ALL.map(Self::architecture).join(", ")
    }

    /// The family of a `config.json`: by `model_type`, as transformers has it, else by `architectures`.
    pub(super) fn of(raw: &RawConfig, path: &Path) -> Result<Self> {
        let architecture = raw.architectures.as_ref().and_then(|names| names.first());
        let unsupported = |found: &str| EngineError::UnsupportedArchitecture {
            path: path.to_path_buf(),
            found: found.to_owned(),
            supported: Self::supported(),
        };
        let by_name = |name: &str| Self::ALL.into_iter().find(|family| family.spec().is_called(name));
        let Some(model_type) = &raw.model_type else {
            let name = architecture.ok_or_else(|| EngineError::MissingField {
                path: path.to_path_buf(),
                field: "architectures",
            })?;
            return by_name(name).ok_or_else(|| unsupported(name));
        };
        let family = Self::ALL.into_iter().find(|family| family.spec().model_type == model_type);
        match (family, architecture) {
            (Some(family), Some(name)) if !family.spec().is_called(name) => Err(match by_name(name) {
                Some(_) => EngineError::InvalidField {
                    path: path.to_path_buf(),
                    field: "architectures",
                    found: format!("`{name}`"),
                    expected: format!("`{}`, as model_type is `{model_type}`", family.architecture()),
                },
                None => unsupported(name),
            }),
            (Some(family), _) => Ok(family),
            (None, name) => Err(unsupported(name.unwrap_or(model_type))),
        }
    }

    /// The family of a GGUF's `general.architecture`.
    pub(crate) fn of_gguf(architecture: &str, path: &Path) -> Result<Self> {
        let called = |family: &Self| family.spec().gguf.is_some_and(|(name, _)| name == architecture);
        Self::ALL.into_iter().find(called).ok_or_else(|| EngineError::UnsupportedArchitecture {
            path: path.to_path_buf(),
            found: architecture.to_owned(),
            supported: Self::ALL
                .into_iter()
                .filter_map(|family| family.spec().gguf)
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

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
    fn is_called(&self, architecture: &str) -> bool {
        [self.architecture, self.base_architecture].contains(&architecture)
    }
}
