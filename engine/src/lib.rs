//! What computes: models of the Llama family on candle tensors, their tokenizers and chat templates.

#![warn(unreachable_pub)]

pub mod backend;
pub mod cache;
pub mod calibrate;
pub mod cancel;
mod candle;
pub mod chat;
mod cpu;
pub mod decode;
pub mod error;
pub mod files;
mod finite;
mod jinja;
mod math;
pub mod memory;
pub mod model;
pub mod prefill;
pub mod reconstruct;
pub mod session;
pub mod source;
pub mod tokenizer;
pub mod tokenizer_config;

pub use candle::{Candle, CandleCache, CandlePrompt};
pub use cpu::{Cpu, CpuCache, CpuPrompt, rates};

#[cfg(test)]
mod tests;
