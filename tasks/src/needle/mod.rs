//! Needle in a haystack.

pub mod insert;
