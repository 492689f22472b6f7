//! What is seen: heatmaps, curves, head and capacity maps, retention maps, history, and
//! the HTML report.
//!
//! Every kind of picture is one file that turns a plain struct into a [`Picture`]; [`Picture::encode`] makes it
//! PNG or SVG. Bytes are deterministic. Text is set in an embedded subset of Inter.

#![warn(unreachable_pub)]

mod axis;
mod color;
pub mod curve;
mod error;
mod font;
pub mod head;
pub mod heatmap;
pub mod history;
pub mod report;
pub mod retention;
mod scene;
pub mod sweep;

pub use error::{Error, Result};
pub use scene::Picture;
