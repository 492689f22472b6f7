//! The one table of methods.

use crate::error::{MethodError, Nearest};
use crate::method::{self, Entry};

/// Every method, in the order of listings.
pub const METHODS: &[Entry] =
    &[method::full::ENTRY, method::streamingllm::ENTRY, method::snapkv::ENTRY, method::pyramidkv::ENTRY];

/// What a sweep runs unless told otherwise: the methods of the papers' tables, not the controls.
pub const HEADLINE: &[&str] = &["full", "streamingllm", "snapkv", "pyramidkv"];

/// The method of that name.
///
/// # Errors
/// [`MethodError::UnknownMethod`] with the nearest names.
pub fn find(name: &str) -> Result<&'static Entry, MethodError> {
    METHODS.iter().find(|entry| entry.name == name).ok_or_else(|| MethodError::UnknownMethod {
        name: name.to_owned(),
        nearest: Nearest::of(name, METHODS.iter().map(|entry| entry.name)),
    })
}

/// The methods of the default sweep, with their defaults.
///
/// # Errors
/// Never for the table above; a test parses it.
pub fn headline() -> Result<Vec<crate::spec::MethodSpec>, MethodError> {
    HEADLINE.iter().map(|name| crate::spec::MethodSpec::parse(name, &[], None)).collect()
}
