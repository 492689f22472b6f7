//! What computes: models of the Llama family on candle tensors, their tokenizers and chat templates.

pub mod chat;
pub mod error;
pub mod model;
pub mod source;
pub mod tokenizer;
