//! What decides: scoring, budget allocation, one file a method, the registry.
//! Knows positions, heads and attention rows; knows nothing of models, data sets or devices.
//!
//! [`MethodSpec::parse`] gives a method, `at(budget)` a
//! [`Variant`]; its `observations()` say what the prefill must observe
//! ([`observe`]), and `select` turns that into a [`Selection`].
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
pub use observation::{Observation, Observations, Observed};
pub use selection::{Granularity, LayerSelection, Selection};
pub use shape::{CacheShape, LayerShape, Reach};
pub use spec::{MethodSpec, Variant};
