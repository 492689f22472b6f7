//! The one table of methods.

use crate::error::{MethodError, Nearest};
use crate::method::{
    Entry, ada_criticalkv, ada_expected_attention, adakv, cake, chunkkv, compresskv, criticalkv, defensivekv,
    duoattention, expected_attention, finch, full, h2o, headkv, keydiff, knorm, kvzip, lagkv,
    layer_defensivekv, pyramidkv, random, snapkv, streamingllm, tova,
};

/// Every method, in the order of listings.
pub const METHODS: &[Entry] = &[
    full::ENTRY,
    streamingllm::ENTRY,
    snapkv::ENTRY,
    pyramidkv::ENTRY,
    adakv::ENTRY,
    headkv::R,
    headkv::R2,
    compresskv::ENTRY,
    cake::ENTRY,
    h2o::ENTRY,
    chunkkv::ENTRY,
    keydiff::ENTRY,
    lagkv::ENTRY,
    kvzip::ENTRY,
    duoattention::ENTRY,
    criticalkv::ENTRY,
    ada_criticalkv::ENTRY,
    defensivekv::ENTRY,
    layer_defensivekv::ENTRY,
    expected_attention::ENTRY,
    ada_expected_attention::ENTRY,
    finch::ENTRY,
    random::ENTRY,
    knorm::ENTRY,
    tova::ENTRY,
];

/// What a sweep runs unless told otherwise: the methods of the papers' tables, not the controls.
pub const HEADLINE: &[&str] = &[
    "full",
    "streamingllm",
    "snapkv",
    "pyramidkv",
    "adakv",
    "headkv-r",
    "headkv-r2",
    "compresskv",
    "cake",
    "h2o",
];

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
