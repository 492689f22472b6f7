//! How a budget is split over layers and heads. Integers and the papers' own arithmetic, nothing of
//! prompts' contents.

pub mod adakv;
pub mod cake;
pub mod compresskv;
pub mod headkv;
pub mod pyramid;
