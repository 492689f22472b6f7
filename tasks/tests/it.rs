//! Integration tests: prompts of real rows with real tokenizers, needles in real essays, scores of official trees.

#[cfg(test)]
#[path = "it/contexts.rs"]
mod contexts;
#[cfg(test)]
#[path = "it/fetch.rs"]
mod fetch;
#[cfg(test)]
#[path = "it/layouts.rs"]
mod layouts;
#[cfg(test)]
#[path = "it/needle.rs"]
mod needle;
#[cfg(test)]
#[path = "it/prompts.rs"]
mod prompts;
#[cfg(test)]
#[path = "it/shared.rs"]
mod shared;
