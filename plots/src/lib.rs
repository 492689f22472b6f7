//! What is seen: heatmaps, curves, head and capacity maps, retention maps, history, and
//! the HTML report.
//!
//! Every kind of picture is one file that turns a plain struct into a [`Picture`]; [`Picture::encode`] makes it
//! PNG or SVG. Bytes are deterministic. Text is set in an embedded subset of Inter.
//!
//! ```
//! use kvsweep_plots::heatmap::{Heatmap, Rows, draw};
//!
//! let map = Heatmap {
//!     title: "snapkv, budget 64".to_owned(),
//!     subtitle: "a model".to_owned(),
//!     lengths: vec![1024, 2048],
//!     rows: Rows::Depths(vec![0.0, 50.0, 100.0]),
//!     values: vec![vec![Some(100.0), Some(90.0)], vec![Some(80.0), None], vec![Some(100.0), Some(100.0)]],
//!     range: (0.0, 100.0),
//! };
//! assert_eq!(map.average(), Some(94.0));
//! assert!(draw(&map)?.encode("map.png".as_ref())?.starts_with(b"\x89PNG"));
//! # Ok::<(), kvsweep_plots::Error>(())
//! ```

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
