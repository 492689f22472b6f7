//! What decides: scoring, budget allocation, one file a method, the registry.
//! Knows positions, heads and attention rows; knows nothing of models, data sets or devices.

pub mod observation;
pub mod selection;
pub mod shape;
