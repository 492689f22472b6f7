//! What computes: models of the Llama family on candle tensors, their tokenizers and chat templates.

pub mod backend;
pub mod cache;
pub mod calibrate;
pub mod cancel;
pub mod chat;
mod cpu;
pub mod decode;
pub mod error;
pub mod files;
mod finite;
mod jinja;
pub mod memory;
pub mod model;
pub mod prefill;
mod reference;
pub mod source;
pub mod tokenizer;
pub mod tokenizer_config;

pub use cpu::rates;

#[cfg(test)]
mod tests;
