//! The tables of rotary position embeddings, in f32 whatever the compute dtype: tables in bf16 turn long prompts into noise
//! (huggingface/candle#3698).
//!
//! Source of every formula: transformers 5.2 `modeling_rope_utils.py`.

use std::{f64::consts::PI, ops::Range};

use kvsweep_methods::shape::Reach;

use super::{
    config::ModelConfig,
    rope::{Llama3Scaling, Rope, RopeScaling, YarnScaling},
};
use crate::error::Result;

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
    /// Tables of the given positions of a sequence that ends with them: the length decides a `dynamic` base and the
    /// divisors of `longrope`, at each call anew, as in transformers.
    #[must_use]
    pub(crate) fn new(rope: &Rope, head_dim: usize, positions: Range<usize>) -> Self {
        let frequencies = inverse_frequencies(rope, head_dim, positions.end);
        let sharpened = match &rope.scaling {
            Some(RopeScaling::Yarn(yarn)) => yarn.attention_factor as f32,
            Some(RopeScaling::Long(long)) => long.attention_factor as f32,
            _ => 1.0,
        };
        // f32 products of an f32 position, as transformers computes them: bit-equal angles.
        let angles = || {
            positions
                .clone()
                .flat_map(|position| frequencies.iter().map(move |frequency| position as f32 * frequency))
        };
        let tables = Self {
            cos: angles().map(|angle| angle.cos() * sharpened).collect(),
            sin: angles().map(|angle| angle.sin() * sharpened).collect(),
            half_dim: frequencies.len(),
        };
        if frequencies.len() < head_dim / 2 { tables.widened(head_dim / 2) } else { tables }
    }

    /// Pairs that are not rotated behind those that are: cosine 1, sine 0.
    fn widened(self, half_dim: usize) -> Self {
        let widen = |table: &[f32], filler: f32| {
            let mut wide = Vec::with_capacity(table.len() / self.half_dim * half_dim);
            for row in table.chunks_exact(self.half_dim) {
                wide.extend_from_slice(row);
                wide.resize(wide.len() + half_dim - self.half_dim, filler);
            }
            wide
        };
        Self { cos: widen(&self.cos, 1.0), sin: widen(&self.sin, 0.0), half_dim }
    }
}

/// The tables of every layer of a model, for the same positions.
#[derive(Clone, Debug)]
pub(crate) struct LayerTables<T> {
    all: T,
    /// Those of layers that look through a window, where they differ.
    window: Option<T>,
}

impl<T> LayerTables<T> {
    /// Makes the tables of a model.
    pub(crate) fn of_config(config: &ModelConfig, mut table: impl FnMut(&Rope) -> Result<T>) -> Result<Self> {
        let window = config.sliding.as_ref().and_then(|sliding| sliding.rope.as_ref());
        Ok(Self { all: table(&config.rope)?, window: window.map(table).transpose()? })
    }

    /// Those of a layer.
    pub(crate) fn of(&self, reach: Reach) -> &T {
        match (&self.window, reach) {
            (Some(window), Reach::Window(_)) => window,
            _ => &self.all,
        }
    }
}

impl LayerTables<RopeTables> {
    /// See [`RopeTables::new`].
    pub(crate) fn new(config: &ModelConfig, positions: Range<usize>) -> Self {
        let table = |rope: &Rope| RopeTables::new(rope, config.head_dim, positions.clone());
        let window = config.sliding.as_ref().and_then(|sliding| sliding.rope.as_ref());
        Self { all: table(&config.rope), window: window.map(table) }
    }
}

impl RopeTables {
    /// Tables that turn keys of a prompt of `len` tokens back by 0 to `len - 1` positions, and change no length. Every layer
    /// rotates alike.
    #[must_use]
    pub(crate) fn turns_back(config: &ModelConfig, len: usize) -> Self {
        let mut tables = Self::new(&config.rope, config.head_dim, 0..len);
        // Position 0 turns nothing: its cosines are what keys are stretched by.
        let stretched = tables.cos[..tables.half_dim.min(tables.cos.len())].to_vec();
        for (turn, by) in tables.cos.iter_mut().zip(stretched.iter().cycle()) {
            *turn /= by;
        }
        for (turn, by) in tables.sin.iter_mut().zip(stretched.iter().cycle()) {
            *turn /= -by;
        }
        tables
    }
}

/// Radians per position of each rotated pair of a sequence of `len` tokens, fastest first: `head_dim / 2` values, or fewer
/// where a head is rotated in part.
#[must_use]
pub(crate) fn inverse_frequencies(rope: &Rope, head_dim: usize, len: usize) -> Vec<f32> {
    let dim = rope.rotated.unwrap_or(head_dim);
    let theta = rope.theta as f32;
    let periods = |base: f32| (0..dim).step_by(2).map(move |i| base.powf(i as f32 / dim as f32));
    let plain = periods(theta).map(|period| 1.0 / period);
    match &rope.scaling {
        None => plain.collect(),
        Some(RopeScaling::Linear { factor }) => plain.map(|frequency| frequency / *factor as f32).collect(),
        Some(RopeScaling::Dynamic { factor, original_max_positions }) => {
            let (factor, trained) = (*factor as f32, *original_max_positions as f32);
            let len = (len as f32).max(trained);
            let grown = (factor * len / trained - (factor - 1.0)).powf(dim as f32 / (dim as f32 - 2.0));
            periods(theta * grown).map(|period| 1.0 / period).collect()
        }
        Some(RopeScaling::Yarn(yarn)) => yarn_frequencies(yarn, rope.theta, dim, periods(theta)),
        Some(RopeScaling::Llama3(scaling)) => plain.map(|frequency| llama3(frequency, *scaling)).collect(),
        Some(RopeScaling::Long(long)) => {
            let by = if len > long.original_max_positions { &long.long } else { &long.short };
            periods(theta).zip(by).map(|(period, by)| 1.0 / (by * period)).collect()
        }
        Some(RopeScaling::Divided(by)) => plain.zip(by).map(|(frequency, by)| frequency / by).collect(),
    }
}

/// `_compute_yarn_parameters`.
fn yarn_frequencies(
    yarn: &YarnScaling,
    theta: f64,
    dim: usize,
    periods: impl Iterator<Item = f32>,
) -> Vec<f32> {
    let dim = dim as f64;
    let pair_of = |rotations: f64| {
        let turns = yarn.original_max_positions as f64 / (rotations * 2.0 * PI);
        dim * turns.ln() / (2.0 * theta.ln())
    };
    let (mut low, mut high) = (pair_of(yarn.beta_fast), pair_of(yarn.beta_slow));
    if yarn.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    let factor = yarn.factor as f32;
    periods
        .enumerate()
        .map(|(pair, period)| {
            let divided = ((pair as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let kept = 1.0 - divided;
            1.0 / (factor * period) * (1.0 - kept) + 1.0 / period * kept
        })
        .collect()
}

/// Llama 3.1, meta-llama/llama-models `models/llama3/reference_impl/model.py: apply_scaling`.
fn llama3(frequency: f32, scaling: Llama3Scaling) -> f32 {
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
    fn llama31() -> Rope {
        let config = br#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 1,
            "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 1, "vocab_size": 1,
            "rope_theta": 500000.0, "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"}}"#;
        ModelConfig::parse(config, Path::new("config.json")).unwrap().rope
    }

    #[test]
    fn llama3_frequencies_are_those_of_transformers() {
        let frequencies = inverse_frequencies(&llama31(), 128, 1);
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
        let rope = llama31();
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
            let tables = RopeTables::new(&rope, 128, position..position + 1);
            // A frequency that differs by one unit in the last place turns this far.
            let tolerance = 1e-6 + 1.2e-7 * position as f32 * inverse_frequencies(&rope, 128, 1)[i];
            assert!((tables.cos[i] - cos).abs() < tolerance, "{position} {i}: {} {cos}", tables.cos[i]);
            assert!((tables.sin[i] - sin).abs() < tolerance, "{position} {i}: {} {sin}", tables.sin[i]);
        }
        let range = RopeTables::new(&rope, 128, 5..8);
        assert_eq!((range.half_dim, range.cos.len()), (64, 3 * 64));
        assert_eq!(range.sin[64..128], RopeTables::new(&rope, 128, 6..7).sin);
    }
}
