//! Profiles: how one paper's repository sets and bends the methods, as data. One TOML file a repository.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{MethodError, Nearest};
use crate::selection::Granularity;

/// The files, embedded.
const FILES: &[(&str, &str)] = &[
    ("adakv", include_str!("profiles/adakv.toml")),
    ("cakekv", include_str!("profiles/cakekv.toml")),
    ("compresskv", include_str!("profiles/compresskv.toml")),
    ("defensivekv", include_str!("profiles/defensivekv.toml")),
    ("fasterdecoding", include_str!("profiles/fasterdecoding.toml")),
    ("headkv", include_str!("profiles/headkv.toml")),
    ("kvcache-factory", include_str!("profiles/kvcache-factory.toml")),
    ("kvcache-factory-needle", include_str!("profiles/kvcache-factory-needle.toml")),
    ("kvpress", include_str!("profiles/kvpress.toml")),
    ("uniform", include_str!("profiles/uniform.toml")),
];

/// One repository's settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileFile {
    /// Repository and commit, or what the profile is for.
    pub source: String,
    /// What it does to each method that it has.
    pub methods: BTreeMap<String, Profile>,
}

/// What one repository does to one method.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What differs from the method's default, in words.
    pub changes: String,
    /// Where in the repository.
    pub source: String,
    /// Its granularity.
    pub granularity: Granularity,
    /// Parameters that differ from the defaults, or are fixed on purpose.
    #[serde(default)]
    pub params: Map<String, Value>,
}

/// All profiles by name. A file that does not parse is left out; a test proves that none is.
pub fn all() -> &'static BTreeMap<&'static str, ProfileFile> {
    static ALL: OnceLock<BTreeMap<&'static str, ProfileFile>> = OnceLock::new();
    ALL.get_or_init(|| {
        FILES.iter().filter_map(|&(name, text)| Some((name, toml::from_str(text).ok()?))).collect()
    })
}

/// The profiles of one method, by name.
pub fn of(method: &str) -> impl Iterator<Item = (&'static str, &'static Profile)> {
    all().iter().filter_map(move |(name, file)| Some((*name, file.methods.get(method)?)))
}

/// One profile of one method.
///
/// # Errors
/// [`MethodError::UnknownProfile`] with the nearest names.
pub fn find(method: &str, name: &str) -> Result<&'static Profile, MethodError> {
    all().get(name).and_then(|file| file.methods.get(method)).ok_or_else(|| MethodError::UnknownProfile {
        method: method.to_owned(),
        profile: name.to_owned(),
        nearest: Nearest::of(name, of(method).map(|(name, _)| name)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::METHODS;
    use crate::spec::MethodSpec;

    #[test]
    fn every_file_parses_and_every_profile_is_valid() {
        for (name, text) in FILES {
            let file: ProfileFile = toml::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            for method in file.methods.keys() {
                assert!(METHODS.iter().any(|entry| entry.name == method), "{name} names {method}");
                let spec = MethodSpec::parse(&format!("{method}@{name}"), &[], None).unwrap();
                assert_eq!(spec.granularity(), file.methods[method].granularity, "{spec}");
            }
        }
        assert_eq!(all().len(), FILES.len());
    }
}
