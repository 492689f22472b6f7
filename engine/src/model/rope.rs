//! Rotary position embeddings: what a configuration asks for.
//!
//! Source of every formula: transformers 5.2 `modeling_rope_utils.py`.

use std::{fmt, path::Path};

use super::raw::{MAX_SIZE, RawConfig, RawRope, invalid};
use crate::error::{EngineError, Result};

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How the frequencies are changed for longer contexts, where the model has it.
    pub scaling: Option<RopeScaling>,
    /// Elements of a head that are rotated, where not all are; even.
    pub rotated: Option<usize>,
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
    /// `longrope`: Phi-3 and Phi-4.
    Long(LongScaling),
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

/// LongRoPE (arXiv 2402.13753): each frequency has two divisors, and the length of the sequence says which holds.
#[derive(Clone, Debug, PartialEq)]
pub struct LongScaling {
    /// Divisors of sequences that are not longer than [`LongScaling::original_max_positions`], one a rotated pair.
    pub short: Vec<f32>,
    /// Divisors of longer ones.
    pub long: Vec<f32>,
    /// Positions before the extension.
    pub original_max_positions: usize,
    /// Factor of cosines and sines.
    pub attention_factor: f64,
}

impl fmt::Display for Rope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.theta)?;
        if let Some(rotated) = self.rotated {
            write!(f, " of {rotated} elements")?;
        }
        match &self.scaling {
            None => Ok(()),
            Some(RopeScaling::Linear { factor }) => write!(f, ", scaled by {factor} (linear)"),
            Some(RopeScaling::Dynamic { factor, .. }) => write!(f, ", scaled by {factor} (dynamic)"),
            Some(RopeScaling::Yarn(yarn)) => write!(f, ", scaled by {} (yarn)", yarn.factor),
            Some(RopeScaling::Llama3(llama3)) => write!(f, ", scaled by {} (llama3)", llama3.factor),
            Some(RopeScaling::Long(long)) => {
                write!(f, ", scaled beyond {} (longrope)", long.original_max_positions)
            }
            Some(RopeScaling::Divided(_)) => f.write_str(", scaled by rope_freqs"),
        }
    }
}

impl Rope {
    /// Reads a rotary embedding of a configuration: `fields` of heads of `head_dim`, which may be `partly` rotated;
    /// `trained` is `max_position_embeddings`.
    pub(super) fn of(
        raw: &RawConfig,
        fields: RawRope,
        [head_dim, trained]: [usize; 2],
        partly: bool,
        path: &Path,
    ) -> Result<Self> {
        let refuse = |field, found: String, supported| {
            Err(EngineError::UnsupportedSetting { path: path.to_path_buf(), field, found, supported })
        };
        if fields.full_attention.is_some() || fields.sliding_attention.is_some() {
            return refuse("rope_parameters", "one for each kind of layer".into(), "one for all layers");
        }
        let theta = fields.rope_theta.or(raw.rope_theta).unwrap_or(10_000.0);
        if !(theta > 0.0 && theta.is_finite()) {
            return Err(invalid(path, "rope_theta", theta, "a positive number"));
        }
        let partial = fields.partial_rotary_factor.or(raw.partial_rotary_factor);
        let partial = partial.filter(|&partial| partial != 1.0);
        let rotated = match partial {
            Some(partial) if !partly => return refuse("partial_rotary_factor", partial.to_string(), "1"),
            Some(partial) => Some(((head_dim as f64 * partial) as usize, partial)),
            None => None,
        };
        if let Some((rotated, partial)) = rotated
            && !(rotated > 0 && rotated <= head_dim && rotated.is_multiple_of(2))
        {
            let expected = format!("a share of {head_dim} that is an even number of elements");
            return Err(invalid(path, "partial_rotary_factor", partial, expected));
        }
        let rotated = rotated.map(|(rotated, _)| rotated).filter(|&rotated| rotated < head_dim);
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
        let kind = fields.kind().to_owned();
        let scaling = match kind.as_str() {
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
            "longrope" => {
                let pairs = rotated.unwrap_or(head_dim) / 2;
                let divisors = |field: &'static str, divisors: Option<Vec<f32>>| match divisors {
                    None => Err(EngineError::MissingField { path: path.to_path_buf(), field }),
                    Some(divisors)
                        if divisors.len() == pairs
                            && divisors.iter().all(|by| by.is_finite() && *by > 0.0) =>
                    {
                        Ok(divisors)
                    }
                    Some(divisors) => {
                        let found = format!("{} numbers", divisors.len());
                        Err(invalid(
                            path,
                            field,
                            found,
                            format!("{pairs} positive numbers, one a rotated pair"),
                        ))
                    }
                };
                let factor = match fields.factor {
                    Some(_) => factor()?,
                    None => trained as f64 / original as f64,
                };
                let sharpened = if factor <= 1.0 || original < 2 {
                    1.0
                } else {
                    (1.0 + factor.ln() / (original as f64).ln()).sqrt()
                };
                Some(RopeScaling::Long(LongScaling {
                    short: divisors("short_factor", fields.short_factor)?,
                    long: divisors("long_factor", fields.long_factor)?,
                    original_max_positions: original,
                    attention_factor: number(
                        "attention_factor",
                        fields.attention_factor.or(Some(sharpened)),
                    )?,
                }))
            }
            other => {
                return refuse(
                    "rope_type",
                    other.to_owned(),
                    "default, linear, dynamic, yarn, llama3, longrope",
                );
            }
        };
        Ok(Self { theta, scaling, rotated })
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
            Some(RopeScaling::Llama3(_) | RopeScaling::Long(_) | RopeScaling::Divided(_)) | None => {
                max_position_embeddings
            }
        }
    }
}
