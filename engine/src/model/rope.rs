//! Rotary position tables, in f32 whatever the compute dtype: tables in bf16 turn long prompts into noise
//! (huggingface/candle#3698).

use std::f64::consts::PI;

use super::config::{Llama3Scaling, ModelConfig};

/// Cosines and sines of a range of positions, row-major `[positions][head_dim / 2]`. Element `i` of a head is
/// rotated with element `i + head_dim / 2` (the half-split layout of transformers).
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTables {
    /// Cosines.
    pub cos: Vec<f32>,
    /// Sines.
    pub sin: Vec<f32>,
    /// `head_dim / 2`.
    pub half_dim: usize,
}

impl RopeTables {
    /// Tables of the given positions.
    #[must_use]
    pub fn new(config: &ModelConfig, positions: std::ops::Range<usize>) -> Self {
        let frequencies = inverse_frequencies(config);
        // f32 products of an f32 position, as transformers computes them: bit-equal angles.
        let angles = || {
            positions
                .clone()
                .flat_map(|position| frequencies.iter().map(move |frequency| position as f32 * frequency))
        };
        Self {
            cos: angles().map(f32::cos).collect(),
            sin: angles().map(f32::sin).collect(),
            half_dim: frequencies.len(),
        }
    }
}

/// Radians per position of each rotated pair, fastest first: `head_dim / 2` values.
#[must_use]
pub fn inverse_frequencies(config: &ModelConfig) -> Vec<f32> {
    let dim = config.head_dim as f32;
    let plain =
        (0..config.head_dim).step_by(2).map(|i| 1.0 / (config.rope.theta as f32).powf(i as f32 / dim));
    match config.rope.scaling {
        None => plain.collect(),
        Some(scaling) => plain.map(|frequency| scale(frequency, scaling)).collect(),
    }
}

/// Llama 3.1, meta-llama/llama-models `models/llama3/reference_impl/model.py: apply_scaling`.
fn scale(frequency: f32, scaling: Llama3Scaling) -> f32 {
    let original = scaling.original_max_positions as f64;
    let wavelength = 2.0 * PI / f64::from(frequency);
    if wavelength < original / scaling.high_freq_factor {
        return frequency;
    }
    let slow = frequency / scaling.factor as f32;
    if wavelength > original / scaling.low_freq_factor {
        return slow;
    }
    let smooth = (original / wavelength - scaling.low_freq_factor)
        / (scaling.high_freq_factor - scaling.low_freq_factor);
    ((1.0 - smooth) * f64::from(slow) + smooth * f64::from(frequency)) as f32
}
