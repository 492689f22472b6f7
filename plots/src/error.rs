//! What can go wrong while drawing or saving.

use std::path::PathBuf;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A picture or a report that could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The path's extension names no picture format.
    #[error("cannot tell the picture format of `{}`: end the name in one of .png, .svg", path.display())]
    UnknownExtension {
        /// The path asked for.
        path: PathBuf,
    },
    /// The data of a picture do not fit together.
    #[error("cannot draw {kind}: {what}")]
    Shape {
        /// Kind of picture.
        kind: &'static str,
        /// What does not fit, with the numbers.
        what: String,
    },
    /// The drawing back end refused an element.
    #[error("failed to render a picture: {0}")]
    Render(String),
    /// PNG encoding failed.
    #[error("failed to encode a PNG")]
    Png(#[from] png::EncodingError),
    /// The report's template or data failed.
    #[error("failed to render the report")]
    Template(#[from] minijinja::Error),
    /// The report's data could not be written as JSON.
    #[error("failed to encode the report's data")]
    Json(#[from] serde_json::Error),
}

impl Error {
    /// A shape error of the named kind of picture.
    pub(crate) fn shape(kind: &'static str, what: impl Into<String>) -> Self {
        Self::Shape { kind, what: what.into() }
    }
}
