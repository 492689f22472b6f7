//! Rotary position tables, in f32 whatever the compute dtype: tables in bf16 turn long prompts into noise
//! (huggingface/candle#3698).

use std::f64::consts::PI;

use super::config::{Llama3Scaling, ModelConfig};

/// Cosines and sines of a range of positions, row-major `[positions][head_dim / 2]`. Element `i` of a head is
/// rotated with element `i + head_dim / 2` (the half-split layout of transformers).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RopeTables {
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
    pub(crate) fn new(config: &ModelConfig, positions: std::ops::Range<usize>) -> Self {
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
pub(crate) fn inverse_frequencies(config: &ModelConfig) -> Vec<f32> {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Llama 3.1 8B; numbers from `LlamaRotaryEmbedding` of transformers 5.2.
    fn llama31() -> ModelConfig {
        let config = br#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 1,
            "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 1, "vocab_size": 1,
            "rope_theta": 500000.0, "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"}}"#;
        ModelConfig::parse(config, Path::new("config.json")).unwrap()
    }

    #[test]
    fn llama3_frequencies_are_those_of_transformers() {
        let frequencies = inverse_frequencies(&llama31());
        assert_eq!(frequencies.len(), 64);
        let expected = [
            (0, 1.0),
            (1, 0.814_617_2),
            (20, 0.016_560_44),
            (28, 0.003_211_446),
            (29, 0.002_166_570_6),
            (30, 0.001_371_893_7),
            (33, 0.000_312_693_65),
            (36, 7.784_655_5e-5),
            (38, 5.165_907e-5),
            (40, 3.428_102_4e-5),
            (63, 3.068_926e-7),
        ];
        for (i, expected) in expected {
            let found: f32 = frequencies[i];
            assert!((found / expected - 1.0).abs() < 5e-7, "{i}: {found} {expected}");
        }
    }

    #[test]
    fn tables_are_those_of_transformers() {
        let config = llama31();
        let expected = [
            (0, 30, 1.0, 0.0),
            (1, 0, 0.540_302_34, 0.841_470_96),
            (1, 1, 0.686_146_9, 0.727_463),
            (1000, 1, -0.585_993_95, -0.810_315_43),
            (1000, 30, 0.197_593_76, 0.980_284),
            (100_000, 0, -0.999_360_8, 0.035_748_8),
            (100_000, 30, 0.505_603_3, -0.862_766),
            (100_000, 63, 0.999_529_1, 0.030_684_441),
        ];
        for (position, i, cos, sin) in expected {
            let tables = RopeTables::new(&config, position..position + 1);
            // A frequency that differs by one unit in the last place turns this far.
            let tolerance = 1e-6 + 1.2e-7 * position as f32 * inverse_frequencies(&config)[i];
            assert!((tables.cos[i] - cos).abs() < tolerance, "{position} {i}: {} {cos}", tables.cos[i]);
            assert!((tables.sin[i] - sin).abs() < tolerance, "{position} {i}: {} {sin}", tables.sin[i]);
        }
        let range = RopeTables::new(&config, 5..8);
        assert_eq!((range.half_dim, range.cos.len()), (64, 3 * 64));
        assert_eq!(range.sin[64..128], RopeTables::new(&config, 6..7).sin);
    }
}
