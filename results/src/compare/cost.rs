//! What a variant costs in both runs.

use serde::Serialize;

use super::pairing::Pair;
use crate::merge::Group;
use crate::record::VariantKey;

/// What a variant costs, in both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CostChange {
    /// The variant.
    pub variant: String,
    /// Mean entries per head, base and head.
    pub entries: (f64, f64),
    /// Mean bytes held, base and head.
    pub bytes: (f64, f64),
    /// Decoded tokens per second, base and head, where timed.
    pub tokens_per_s: (Option<f64>, Option<f64>),
}

pub(super) fn cost(base: &Group, head: &Group, (old, new): Pair<'_>, variant: String) -> CostChange {
    let of = |group: &Group, key: &VariantKey| {
        let all: Vec<_> = group.examples.values().filter_map(|example| example.answers.get(key)).collect();
        let n = all.len().max(1) as f64;
        let seconds: Option<f64> = all.iter().map(|variant| variant.decode_s).sum();
        let tokens: u32 = all.iter().map(|variant| variant.record.new_tokens).sum();
        (
            all.iter().map(|variant| variant.record.kept.entries_mean).sum::<f64>() / n,
            all.iter().map(|variant| variant.record.kept.bytes as f64).sum::<f64>() / n,
            seconds.filter(|seconds| *seconds > 0.0).map(|seconds| f64::from(tokens) / seconds),
        )
    };
    let (before, after) = (of(base, old), of(head, new));
    CostChange {
        variant,
        entries: (before.0, after.0),
        bytes: (before.1, after.1),
        tokens_per_s: (before.2, after.2),
    }
}
