//! Integration tests: prompts of real rows with real tokenizers, scores of official prediction trees.

#[cfg(test)]
#[path = "it/prompts.rs"]
mod prompts;
#[cfg(test)]
#[path = "it/shared.rs"]
mod shared;
