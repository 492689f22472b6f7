//! Rotary position embeddings: what a configuration asks for, and the tables, in f32 whatever the compute dtype: tables
//! in bf16 turn long prompts into noise (huggingface/candle#3698).
//!
//! Source of every formula: transformers 5.2 `modeling_rope_utils.py`.

use std::{f64::consts::PI, fmt, ops::Range, path::Path};

use super::{
    config::{MAX_SIZE, ModelConfig, invalid},
    raw::RawConfig,
};
use crate::error::{EngineError, Result};

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How the frequencies are changed for longer contexts, where the model has it.
    pub scaling: Option<RopeScaling>,
}

/// How the frequencies are changed for longer contexts; `rope_type` of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// `linear`: every frequency is divided.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// `dynamic`: the base grows with the sequence, once it is longer than what the model was trained on.
    Dynamic {
        /// How much longer a context may be.
        factor: f64,
        /// Positions of the training: `max_position_embeddings`.
        original_max_positions: usize,
    },
    /// `yarn`: low frequencies are divided, high ones stay, and attention is sharpened.
    Yarn(YarnScaling),
    /// `llama3`: Llama 3.1 and 3.2.
    Llama3(Llama3Scaling),
    /// Each frequency has a divisor of its own, `head_dim / 2` of them: `rope_freqs.weight` of a GGUF.
    Divided(Vec<f32>),
}

/// YaRN (arXiv 2309.00071).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct YarnScaling {
    /// Divisor of the low frequencies.
    pub factor: f64,
    /// Positions before the extension.
    pub original_max_positions: usize,
    /// Factor of cosines and sines.
    pub attention_factor: f64,
    /// Frequencies that turn more often than this within the original positions stay.
    pub beta_fast: f64,
    /// Frequencies that turn less often than this within the original positions are divided.
    pub beta_slow: f64,
    /// Whether the bounds between the two are rounded to whole pairs.
    pub truncate: bool,
}

/// Frequency scaling of Llama 3.1 and 3.2 (`rope_type` `llama3`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3Scaling {
    /// Divisor of the low frequencies.
    pub factor: f64,
    /// Wavelengths above `original_max_positions / low_freq_factor` are divided.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_max_positions / high_freq_factor` stay.
    pub high_freq_factor: f64,
    /// Positions before the extension.
    pub original_max_positions: usize,
}

impl fmt::Display for Rope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.theta)?;
        match &self.scaling {
            None => Ok(()),
            Some(RopeScaling::Linear { factor }) => write!(f, ", scaled by {factor} (linear)"),
            Some(RopeScaling::Dynamic { factor, .. }) => write!(f, ", scaled by {factor} (dynamic)"),
            Some(RopeScaling::Yarn(yarn)) => write!(f, ", scaled by {} (yarn)", yarn.factor),
            Some(RopeScaling::Llama3(llama3)) => write!(f, ", scaled by {} (llama3)", llama3.factor),
            Some(RopeScaling::Divided(_)) => f.write_str(", scaled by rope_freqs"),
        }
    }
}

impl Rope {
    /// Reads the rotary embedding of a configuration; `trained` is its `max_position_embeddings`.
    pub(super) fn of(raw: &RawConfig, trained: usize, path: &Path) -> Result<Self> {
        let refuse = |field, found: String, supported| {
            Err(EngineError::UnsupportedSetting { path: path.to_path_buf(), field, found, supported })
        };
        let fields = raw.rope().cloned().unwrap_or_default();
        if fields.full_attention.is_some() || fields.sliding_attention.is_some() {
            return refuse("rope_parameters", "one for each kind of layer".into(), "one for all layers");
        }
        let theta = fields.rope_theta.or(raw.rope_theta).unwrap_or(10_000.0);
        if !(theta > 0.0 && theta.is_finite()) {
            return Err(invalid(path, "rope_theta", theta, "a positive number"));
        }
        let partial = fields.partial_rotary_factor.or(raw.partial_rotary_factor);
        if let Some(partial) = partial.filter(|&partial| partial != 1.0) {
            return refuse("partial_rotary_factor", partial.to_string(), "1");
        }
        let number = |field: &'static str, value: Option<f64>| match value {
            Some(value) if value > 0.0 && value.is_finite() => Ok(value),
            Some(value) => Err(invalid(path, field, value, "a positive number")),
            None => Err(EngineError::MissingField { path: path.to_path_buf(), field }),
        };
        let factor = || number("factor", fields.factor);
        // The field outside wins, as for Phi-3.
        let original = raw
            .original_max_position_embeddings
            .or(fields.original_max_position_embeddings)
            .unwrap_or(trained);
        if original == 0 || original > MAX_SIZE {
            let expected = format!("1 to {MAX_SIZE}");
            return Err(invalid(path, "original_max_position_embeddings", original, expected));
        }
        let kind = fields.rope_type.as_ref().or(fields.old_type.as_ref()).map_or("default", String::as_str);
        let scaling = match kind {
            "default" => fields.divisors.map(RopeScaling::Divided),
            "linear" => Some(RopeScaling::Linear { factor: factor()? }),
            "dynamic" => Some(RopeScaling::Dynamic { factor: factor()?, original_max_positions: trained }),
            "yarn" => {
                let factor = factor()?;
                // Python's `or`: 0 stands for the default, too.
                let or = |field, value: Option<f64>, default: f64| {
                    number(field, value.filter(|&value| value != 0.0).or(Some(default)))
                };
                let sharpened =
                    |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
                let told = |value: Option<f64>| value.filter(|&value| value != 0.0);
                let attention_factor = match (told(fields.mscale), told(fields.mscale_all_dim)) {
                    (Some(mscale), Some(all)) => sharpened(mscale) / sharpened(all),
                    _ => sharpened(1.0),
                };
                Some(RopeScaling::Yarn(YarnScaling {
                    factor,
                    original_max_positions: original,
                    attention_factor: number(
                        "attention_factor",
                        fields.attention_factor.or(Some(attention_factor)),
                    )?,
                    beta_fast: or("beta_fast", fields.beta_fast, 32.0)?,
                    beta_slow: or("beta_slow", fields.beta_slow, 1.0)?,
                    truncate: fields.truncate.unwrap_or(true),
                }))
            }
            "llama3" => {
                let scaling = Llama3Scaling {
                    factor: factor()?,
                    low_freq_factor: number("low_freq_factor", fields.low_freq_factor)?,
                    high_freq_factor: number("high_freq_factor", fields.high_freq_factor)?,
                    original_max_positions: original,
                };
                if scaling.high_freq_factor <= scaling.low_freq_factor {
                    let expected = format!("more than low_freq_factor, {}", scaling.low_freq_factor);
                    return Err(invalid(path, "high_freq_factor", scaling.high_freq_factor, expected));
                }
                Some(RopeScaling::Llama3(scaling))
            }
            other => {
                return refuse("rope_type", other.to_owned(), "default, linear, dynamic, yarn, llama3");
            }
        };
        Ok(Self { theta, scaling })
    }

    /// Positions that the model is made for. `max_position_embeddings` counts them after the scaling for `llama3`; for
    /// `linear` and `dynamic` transformers documents it as the length of the training, and a YaRN is often added to a
    /// configuration that keeps it.
    pub(super) fn positions(&self, max_position_embeddings: usize) -> usize {
        let grown = |factor: f64, from: usize| ((factor * from as f64) as usize).clamp(1, MAX_SIZE);
        match &self.scaling {
            Some(RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor, .. }) => {
                grown(*factor, max_position_embeddings)
            }
            Some(RopeScaling::Yarn(yarn)) => {
                grown(yarn.factor, yarn.original_max_positions).max(max_position_embeddings)
            }
            Some(RopeScaling::Llama3(_) | RopeScaling::Divided(_)) | None => max_position_embeddings,
        }
    }
}

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
    /// Tables of the given positions of a sequence that ends with them: the length decides a `dynamic` base, at each
    /// call anew, as in transformers.
    #[must_use]
    pub(crate) fn new(config: &ModelConfig, positions: Range<usize>) -> Self {
        let frequencies = inverse_frequencies(config, positions.end);
        let sharpened = match &config.rope.scaling {
            Some(RopeScaling::Yarn(yarn)) => yarn.attention_factor as f32,
            _ => 1.0,
        };
        // f32 products of an f32 position, as transformers computes them: bit-equal angles.
        let angles = || {
            positions
                .clone()
                .flat_map(|position| frequencies.iter().map(move |frequency| position as f32 * frequency))
        };
        Self {
            cos: angles().map(|angle| angle.cos() * sharpened).collect(),
            sin: angles().map(|angle| angle.sin() * sharpened).collect(),
            half_dim: frequencies.len(),
        }
    }
}

/// Radians per position of each rotated pair of a sequence of `len` tokens, fastest first: `head_dim / 2` values.
#[must_use]
pub(crate) fn inverse_frequencies(config: &ModelConfig, len: usize) -> Vec<f32> {
    let dim = config.head_dim;
    let theta = config.rope.theta as f32;
    let periods = |base: f32| (0..dim).step_by(2).map(move |i| base.powf(i as f32 / dim as f32));
    let plain = periods(theta).map(|period| 1.0 / period);
    match &config.rope.scaling {
        None => plain.collect(),
        Some(RopeScaling::Linear { factor }) => plain.map(|frequency| frequency / *factor as f32).collect(),
        Some(RopeScaling::Dynamic { factor, original_max_positions }) => {
            let (factor, trained) = (*factor as f32, *original_max_positions as f32);
            let len = (len as f32).max(trained);
            let grown = (factor * len / trained - (factor - 1.0)).powf(dim as f32 / (dim as f32 - 2.0));
            periods(theta * grown).map(|period| 1.0 / period).collect()
        }
        Some(RopeScaling::Yarn(yarn)) => yarn_frequencies(yarn, config, periods(theta)),
        Some(RopeScaling::Llama3(scaling)) => plain.map(|frequency| llama3(frequency, *scaling)).collect(),
        Some(RopeScaling::Divided(by)) => plain.zip(by).map(|(frequency, by)| frequency / by).collect(),
    }
}

/// `_compute_yarn_parameters`.
fn yarn_frequencies(
    yarn: &YarnScaling,
    config: &ModelConfig,
    periods: impl Iterator<Item = f32>,
) -> Vec<f32> {
    let dim = config.head_dim as f64;
    let pair_of = |rotations: f64| {
        let turns = yarn.original_max_positions as f64 / (rotations * 2.0 * PI);
        dim * turns.ln() / (2.0 * config.rope.theta.ln())
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
    fn llama31() -> ModelConfig {
        let config = br#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 1,
            "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 1, "vocab_size": 1,
            "rope_theta": 500000.0, "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"}}"#;
        ModelConfig::parse(config, Path::new("config.json")).unwrap()
    }

    #[test]
    fn llama3_frequencies_are_those_of_transformers() {
        let frequencies = inverse_frequencies(&llama31(), 1);
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
            let tolerance = 1e-6 + 1.2e-7 * position as f32 * inverse_frequencies(&config, 1)[i];
            assert!((tables.cos[i] - cos).abs() < tolerance, "{position} {i}: {} {cos}", tables.cos[i]);
            assert!((tables.sin[i] - sin).abs() < tolerance, "{position} {i}: {} {sin}", tables.sin[i]);
        }
        let range = RopeTables::new(&config, 5..8);
        assert_eq!((range.half_dim, range.cos.len()), (64, 3 * 64));
        assert_eq!(range.sin[64..128], RopeTables::new(&config, 6..7).sin);
    }
}
