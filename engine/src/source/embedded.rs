//! The model in the program.

use std::path::Path;

use super::{Place, TINY};
use crate::{
    error::{EngineError, Result},
    files::Blob,
};

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// The files of the embedded model.
///
/// # Errors
/// A build without it.
pub(super) fn embedded() -> Result<Place> {
    if EMBEDDED.is_empty() {
        return Err(EngineError::NoEmbeddedModel);
    }
    let find = |file: &str| {
        EMBEDDED
            .iter()
            .find(|(name, _)| *name == file)
            .map(|(name, bytes)| Blob::Embedded { path: Path::new(TINY).join(name), bytes })
    };
    Ok(Place { name: TINY.to_owned(), dir: TINY.into(), find: Box::new(find), in_cache: false })
}
