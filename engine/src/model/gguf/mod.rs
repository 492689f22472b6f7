//! GGUF, the one-file models of llama.cpp: header, configuration, tokenizer and tensors.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Nothing of a file is trusted: a count, a length or
//! an offset is checked against the bytes that are there before anything is made of it.

mod config;
mod header;
mod kind;
pub(super) mod tensors;
mod tokenizer;

pub(super) use header::Header;
