//! What a prefill is asked to keep for the methods, and what it kept.
//!
//! A method names its [`Observation`]s; the engine computes the union once per layer and every
//! variant reads from it. Attention rows are those of the observation window (SnapKV, section 4): softmax over all
//! prompt columns with a causal mask inside the window, in f32; the window's own columns are dropped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::shape::LayerShape;

/// One thing to observe in every layer of a prefill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Observation {
    /// Attention of the last `window` rows, summed over the rows: `[query_heads][prompt_len - window]`.
    WindowSum {
        /// Rows at the end of the prompt.
        window: usize,
    },
    /// The largest attention that each column gets from the last `window` rows, each of them first pooled over `kernel`
    /// columns and scaled back to what it gave all of them (DefensiveKV): `[query_heads][prompt_len - window]`.
    WindowMax {
        /// Rows at the end of the prompt.
        window: usize,
        /// Pooling size, odd; the mean, with zeros beyond the borders.
        kernel: usize,
    },
    /// Mean and variance over the last `window` rows (CAKE), and the layer's dispersion and shift.
    WindowMoments {
        /// Rows at the end of the prompt.
        window: usize,
    },
    /// Attention of the question's rows, each times the number of positions before it, summed over the rows (FINCH):
    /// `[query_heads][prompt_len - question]`.
    QuestionSum {
        /// Rows at the end of the prompt; `None`: those of its question, as the prefill is told.
        window: Option<usize>,
    },
    /// Attention of ALL rows, summed (H2O), first `prompt_len - recent` columns:
    /// `[query_heads][prompt_len - recent]`.
    AccumulatedSum {
        /// Columns at the end of the prompt that do not compete.
        recent: usize,
    },
    /// Euclidean norm of each rotated key: `[kv_heads][prompt_len]`.
    KeyNorm,
    /// Cosine of each rotated key with the mean direction of its head's keys (KeyDiff): `[kv_heads][prompt_len]`.
    KeySimilarity,
    /// How far keys and values spread against the entries that follow, as a rank (LagKV): `[kv_heads][prompt_len]`.
    LagRank {
        /// First entries, which all rank highest.
        sinks: usize,
        /// Entries of a part: its entries are ranked among themselves.
        lag: usize,
    },
    /// The largest attention that each entry gets while the model repeats the prompt, part by part, behind the whole of
    /// it (KVzip): `[kv_heads][prompt_len]`, [`UNJUDGED`] for the sinks, 0 for what is neither a sink nor repeated. A
    /// second pass shows it, not the prefill.
    Reconstruction {
        /// First entries that every part sees beside itself; `None`: those of the chat template's head.
        sinks: Option<usize>,
        /// Tokens of a part.
        chunk: usize,
    },
    /// Euclidean norm of each value: `[kv_heads][prompt_len]`.
    ValueNorm,
    /// L1 norm of what each value becomes in the query head's part of the output projection, `W_o v` (CriticalKV):
    /// `[query_heads][prompt_len]`.
    OutputNorm,
    /// Attention that the next queries are expected to pay (Expected Attention), the mean over the query heads of a KV
    /// head: `[kv_heads][prompt_len]`. Of queries before RoPE it takes mean and covariance, turned by the mean rotation of
    /// the positions to come.
    ExpectedAttention {
        /// First positions: they are left out of the moments, and no attention falls on them.
        sinks: usize,
        /// Positions behind the prompt whose rotations are averaged.
        future: usize,
    },
}

/// What an entry scores that [`Observation::Reconstruction`] does not judge: more than any attention.
pub const UNJUDGED: f32 = 2.0;

impl Observation {
    /// Whether it reads the attention of every row of the prompt, not only of the last ones.
    #[must_use]
    pub fn reads_every_row(self) -> bool {
        matches!(self, Self::AccumulatedSum { .. })
    }

    /// Whether a second pass over the prompt shows it, and not the prefill.
    #[must_use]
    pub fn repeats_the_prompt(self) -> bool {
        matches!(self, Self::Reconstruction { .. })
    }

    /// Whether it reads values, not only queries and keys.
    #[must_use]
    pub fn reads_values(self) -> bool {
        matches!(self, Self::LagRank { .. } | Self::ValueNorm | Self::OutputNorm)
    }

    /// Whether it reads attention rows of the prefill.
    #[must_use]
    pub fn reads_attention(self) -> bool {
        matches!(
            self,
            Self::WindowSum { .. }
                | Self::QuestionSum { .. }
                | Self::WindowMax { .. }
                | Self::WindowMoments { .. }
                | Self::AccumulatedSum { .. }
        )
    }

    /// Whether it reads the question, wherever that begins.
    #[must_use]
    pub fn reads_the_question(self) -> bool {
        matches!(self, Self::QuestionSum { window: None })
    }

    /// Whether the keys and values of a cache are all that it reads.
    #[must_use]
    pub fn reads_entries_only(self) -> bool {
        matches!(self, Self::KeyNorm | Self::KeySimilarity | Self::LagRank { .. } | Self::ValueNorm)
    }

    /// Positions of a prompt of `prompt_len` tokens that it covers at most, the first ones.
    #[must_use]
    pub fn columns(self, prompt_len: usize) -> usize {
        prompt_len.saturating_sub(match self {
            Self::WindowSum { window } | Self::WindowMax { window, .. } | Self::WindowMoments { window } => {
                window
            }
            Self::QuestionSum { window } => window.unwrap_or(0),
            Self::AccumulatedSum { recent } => recent,
            _ => 0,
        })
    }

    /// Values that one layer of a prompt of `prompt_len` tokens shows for it.
    #[must_use]
    pub fn values(self, shape: &LayerShape, prompt_len: usize) -> usize {
        let rows = match self {
            Self::WindowSum { .. }
            | Self::QuestionSum { .. }
            | Self::WindowMax { .. }
            | Self::AccumulatedSum { .. }
            | Self::OutputNorm => shape.query_heads,
            Self::WindowMoments { .. } => 2 * shape.query_heads,
            Self::KeyNorm
            | Self::KeySimilarity
            | Self::LagRank { .. }
            | Self::ValueNorm
            | Self::ExpectedAttention { .. }
            | Self::Reconstruction { .. } => shape.kv_heads,
        };
        rows * self.columns(prompt_len)
    }
}

/// What one layer showed for one [`Observation`].
#[derive(Clone, Debug, PartialEq)]
pub enum Observed {
    /// Row-major `[rows][columns]`, one row a head, as the [`Observation`] says.
    Rows {
        /// Heads.
        rows: usize,
        /// Positions.
        columns: usize,
        /// `rows * columns` values.
        values: Vec<f32>,
    },
    /// The answer to [`Observation::WindowMoments`].
    Moments {
        /// Query heads.
        rows: usize,
        /// Past positions.
        columns: usize,
        /// Mean over the window's rows, `[rows][columns]`.
        mean: Vec<f32>,
        /// Variance over the window's rows with divisor `window - 1`, `[rows][columns]`.
        variance: Vec<f32>,
        /// `- sum A' ln(A' + 1e-10)` over heads, rows and past columns.
        dispersion: f64,
        /// Sum of `variance` over heads and past columns.
        shift: f64,
    },
}

impl Observed {
    /// Drops every head's first `columns` positions.
    #[must_use]
    pub fn without_first(self, columns: usize) -> Self {
        let dropped = columns;
        let keep = |values: &[f32], columns: usize| -> Vec<f32> {
            let rows = values.chunks_exact(columns.max(1));
            rows.flat_map(|row| &row[dropped.min(columns)..]).copied().collect()
        };
        match self {
            Self::Rows { rows, columns, values } => {
                let values = keep(&values, columns);
                Self::Rows { rows, columns: columns.saturating_sub(dropped), values }
            }
            Self::Moments { rows, columns, mean, variance, dispersion, shift } => Self::Moments {
                rows,
                columns: columns.saturating_sub(dropped),
                mean: keep(&mean, columns),
                variance: keep(&variance, columns),
                dispersion,
                shift,
            },
        }
    }

    /// Its sizes, for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Rows { rows, columns, values } => {
                format!("{rows} heads x {columns} positions in {} values", values.len())
            }
            Self::Moments { rows, columns, .. } => format!("moments of {rows} heads x {columns} positions"),
        }
    }
}

/// Everything that a prefill observed, wherever its keys are: `layers[l][observation]`.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    /// One map a layer; an empty one where [methods do not choose](crate::CacheShape::contested). Columns are the
    /// positions that the layer [still looks at](crate::LayerShape::seen).
    pub layers: Vec<BTreeMap<Observation, Observed>>,
}
