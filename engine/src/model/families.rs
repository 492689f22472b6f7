//! The one table of families: one file each beside this one.

use std::path::Path;

use super::{
    family::Family, family_spec::FamilySpec, gemma3, llama, mistral, phi3, qwen2, qwen3, raw::RawConfig,
};
use crate::error::{EngineError, Result};

/// What the graphs here lack for models that people ask for: the beginning of an architecture's or a `model_type`'s name,
/// without case and separators.
const LACKING: [(&str, &str); 9] = [
    ("qwen3moe", ": it needs a router and experts"),
    ("qwen2moe", ": it needs a router and experts"),
    ("mixtral", ": it needs a router and experts"),
    ("phimoe", ": it needs a router and experts"),
    ("gptoss", ": it needs attention sinks, a router and experts, and weights in MXFP4"),
    ("gemma2", ": it needs soft caps on scores and logits"),
    ("gemma3n", ": it needs inputs of every layer and caches that layers share"),
    ("qwen3next", ": it needs linear attention"),
    ("llama4", ": it needs a router and experts, and attention in chunks"),
];

/// What is missing for an architecture, for messages; nothing where that is not known.
fn lacks(name: &str) -> &'static str {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    LACKING.iter().find(|(start, _)| plain.starts_with(start)).map_or("", |(_, what)| what)
}

impl Family {
    /// What distinguishes it, and its tensors.
    pub(crate) fn spec(self) -> &'static FamilySpec {
        match self {
            Self::Llama => &llama::SPEC,
            Self::Mistral => &mistral::SPEC,
            Self::Qwen2 => &qwen2::SPEC,
            Self::Qwen3 => &qwen3::SPEC,
            Self::Gemma3 => &gemma3::SPEC,
            Self::Phi3 => &phi3::SPEC,
        }
    }

    /// The name that `config.json` gives in `architectures`.
    #[must_use]
    pub fn architecture(self) -> &'static str {
        self.spec().architectures.first().copied().unwrap_or_default()
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
            lacks: lacks(found),
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
        let family =
            Self::ALL.into_iter().find(|family| family.spec().model_types.contains(&model_type.as_str()));
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
            lacks: lacks(architecture),
            supported: Self::ALL
                .into_iter()
                .filter_map(|family| family.spec().gguf)
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}
