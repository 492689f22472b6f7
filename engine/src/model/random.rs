//! Models with random weights, for measurements and tests: no files, the same numbers everywhere.

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    config::{Activation, Family, ModelConfig},
    rope::Rope,
    weights::{LayerWeights, Linear, ModelWeights},
};
use crate::error::Result;

/// A Llama configuration: `[vocab, hidden, intermediate, layers, query heads, KV heads]`.
#[must_use]
pub fn llama_config(
    [vocab_size, hidden_size, intermediate_size, layers, query_heads, kv_heads]: [usize; 6],
) -> ModelConfig {
    ModelConfig {
        family: Family::Llama,
        vocab_size,
        hidden_size,
        intermediate_size,
        layers,
        query_heads,
        kv_heads,
        head_dim: hidden_size / query_heads,
        rms_norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, scaling: None, rotated: None },
        max_positions: 1 << 20,
        weight_bytes: size_of::<f32>(),
        tied_embeddings: false,
        qkv_bias: false,
        qk_norm: false,
        activation: Activation::Silu,
        is_gemma: false,
        query_scalar: None,
        sliding: None,
        bos_ids: Vec::new(),
        eos_ids: Vec::new(),
    }
}

/// Random weights of a configuration, f32 on the CPU: of a spread that keeps activations near 1, and attention
/// peaked enough to depend on what is kept.
///
/// # Errors
/// A tensor operation that fails.
pub fn random_weights(config: &ModelConfig, seed: u64) -> Result<ModelWeights> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tensor = |shape: &[usize], middle: f32, spread: f32| -> Result<Tensor> {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| middle + rng.random_range(-spread..spread)).collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    };
    let (hidden, dim) = (config.hidden_size, config.head_dim);
    let (query, kv) = (config.query_heads * dim, config.kv_heads * dim);
    let mut layers = Vec::with_capacity(config.layers);
    for _ in 0..config.layers {
        let mut linear = |out: usize, input: usize, gain: f32, bias: bool| -> Result<Linear> {
            Ok(Linear {
                weight: tensor(&[out, input], 0.0, gain * (3.0 / input as f32).sqrt())?,
                bias: bias.then(|| tensor(&[out], 0.0, 0.5)).transpose()?,
            })
        };
        let q = linear(query, hidden, 2.0, config.qkv_bias)?;
        let k = linear(kv, hidden, 2.0, config.qkv_bias)?;
        let v = linear(kv, hidden, 1.0, config.qkv_bias)?;
        let o = linear(hidden, query, 1.0, false)?;
        let gate = linear(config.intermediate_size, hidden, 1.0, false)?;
        let up = linear(config.intermediate_size, hidden, 1.0, false)?;
        let down = linear(hidden, config.intermediate_size, 1.0, false)?;
        let mut norm = |width: usize| tensor(&[width], 1.0, 0.2);
        layers.push(LayerWeights {
            input_norm: norm(hidden)?,
            q,
            k,
            v,
            o,
            q_norm: config.qk_norm.then(|| norm(dim)).transpose()?,
            k_norm: config.qk_norm.then(|| norm(dim)).transpose()?,
            attention_norm: config.is_gemma.then(|| norm(hidden)).transpose()?,
            post_norm: norm(hidden)?,
            mlp_norm: config.is_gemma.then(|| norm(hidden)).transpose()?,
            gate,
            up,
            down,
        });
    }
    let embedding = tensor(&[config.vocab_size, hidden], 0.0, 1.0)?;
    let lm_head = (!config.tied_embeddings)
        .then(|| tensor(&[config.vocab_size, hidden], 0.0, (3.0 / hidden as f32).sqrt()))
        .transpose()?;
    Ok(ModelWeights { embedding, layers, norm: tensor(&[hidden], 1.0, 0.2)?, lm_head })
}
