//! How much a variant may keep ([`Budget`]), and how it is split over layers and heads. Integers and the papers' own
//! arithmetic, nothing of prompts' contents.

pub mod adakv;
mod amount;
pub mod cake;
pub mod compresskv;
pub mod headkv;
pub mod pyramid;

pub use amount::{Budget, Share};
