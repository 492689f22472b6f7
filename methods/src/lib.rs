//! What decides: scoring, budget allocation, one file a method, the registry.
//! Knows positions, heads and attention rows; knows nothing of models, data sets or devices.
//!
//! [`MethodSpec::parse`] gives a method, `at(budget)` a
//! [`Variant`]; its `observations()` say what the prefill must observe
//! ([`observe`]), and `select` turns that into a [`Selection`]:
//!
//! ```
//! use kvsweep_methods::observe::{HeadsView, LayerTensors, observe_layer};
//! use kvsweep_methods::{
//!     CacheShape, Inputs, LayerSelection, LayerShape, MethodSpec, MethodState, Observations, Reach,
//! };
//!
//! // One layer; two KV heads of eight numbers, two query heads each; a prompt of forty tokens.
//! let layer = LayerShape { query_heads: 4, kv_heads: 2, head_dim: 8, reach: Reach::All };
//! let shape = CacheShape::uniform(1, layer, 40);
//! let queries: Vec<f32> = (0..4 * 40 * 8).map(|i| (i as f32).sin()).collect();
//! let keys: Vec<f32> = (0..2 * 40 * 8).map(|i| (i as f32).cos()).collect();
//!
//! let snapkv = MethodSpec::parse("snapkv", &[("window".to_owned(), "4".to_owned())], None)?.at(16)?;
//! let queries = HeadsView::head_major(&queries, [4, 40, 8])?;
//! let keys = HeadsView::head_major(&keys, [2, 40, 8])?;
//! let seen = observe_layer(&snapkv.observations(), &layer, &LayerTensors::new(queries, keys))?;
//! let observations = Observations { layers: vec![seen] };
//! let kept = snapkv.select(&shape, &observations, &Inputs::default(), &mut MethodState::default())?;
//!
//! // Each KV head keeps sixteen positions, the window's four among them.
//! let LayerSelection::Heads(heads) = &kept.layers[0] else { panic!("nothing was evicted") };
//! assert_eq!(heads.len(), 2);
//! assert!(heads.iter().all(|head| head.len() == 16 && head.ends_with(&[36, 37, 38, 39])));
//! # Ok::<(), kvsweep_methods::MethodError>(())
//! ```
//!
//! "Section" in the documentation of a method is the section of the specification that the method was
//! written from; the papers and the files of their code are named with it.

#![warn(unreachable_pub)]

pub mod budget;
pub mod context;
pub mod error;
pub mod group;
pub mod identify;
pub mod inputs;
pub mod instructions;
pub mod listing;
pub mod method;
pub mod observation;
pub mod observe;
pub mod pooling;
pub mod profile;
pub mod registry;
pub mod scoring;
pub mod selection;
pub mod shape;
pub mod spec;
#[cfg(test)]
mod testing;
mod topk;

pub use context::{MethodState, StateScope};
pub use error::MethodError;
pub use inputs::Inputs;
pub use observation::{Observation, Observations, Observed, UNJUDGED};
pub use selection::{Granularity, LayerSelection, Selection};
pub use shape::{CacheShape, LayerShape, Reach};
pub use spec::{MethodSpec, Variant};
