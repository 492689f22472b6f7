//! Seeded tensors and shapes for this crate's tests.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::shape::PromptShape;

/// `n` values uniform in `-scale..scale`.
pub(crate) fn random(n: usize, seed: u64, scale: f32) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-scale..scale)).collect()
}

/// A shape in one line.
pub(crate) fn shape(
    layers: usize,
    query_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    prompt_len: usize,
) -> PromptShape {
    PromptShape { layers, query_heads, kv_heads, head_dim, prompt_len }
}
