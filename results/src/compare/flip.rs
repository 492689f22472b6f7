//! The answers that changed.

use serde::Serialize;

use super::Comparison;
use super::pairing::{Pair, name};
use crate::merge::Group;
use crate::record::ExampleKey;
use crate::stats::SAME;

/// An example whose score changed, with both answers. The texts are untrusted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Flip {
    /// The data set.
    pub dataset: String,
    /// The example.
    pub example: String,
    /// The variant.
    pub variant: String,
    /// The reference answers.
    pub answers: Vec<String>,
    /// Score and prediction in the base.
    pub base: (f64, String),
    /// Score and prediction in the head.
    pub head: (f64, String),
}

impl Comparison {
    pub(super) fn collect_flips(
        &mut self,
        base: &Group,
        head: &Group,
        pairs: &[Pair<'_>],
        shared: &[&ExampleKey],
        limit: usize,
    ) {
        let size = |flip: &Flip| (flip.head.0 - flip.base.0).abs();
        let mut flips: Vec<Flip> = Vec::new();
        for key in shared {
            let (Some(before), Some(after)) = (base.examples.get(*key), head.examples.get(*key)) else {
                continue;
            };
            for (old, new) in pairs {
                let (Some(old), Some(new_record)) = (before.answers.get(old), after.answers.get(new)) else {
                    continue;
                };
                let (old, record) = (&old.record, &new_record.record);
                self.pairs += 1;
                self.changed_texts += usize::from(old.prediction != record.prediction);
                if (old.score - record.score).abs() <= SAME {
                    continue;
                }
                self.changed_scores += 1;
                // Only the largest are kept: all of a long comparison's would be much text.
                if flips.len() >= 4 * limit.max(64) {
                    flips.sort_by(|a, b| size(b).total_cmp(&size(a)));
                    flips.truncate(limit);
                }
                flips.push(Flip {
                    dataset: key.dataset.clone(),
                    example: key.example.clone(),
                    variant: name(new, pairs),
                    answers: after.info.answers.clone(),
                    base: (old.score, old.prediction.to_string()),
                    head: (record.score, record.prediction.to_string()),
                });
            }
        }
        flips.sort_by(|a, b| size(b).total_cmp(&size(a)));
        flips.truncate(limit);
        self.flips = flips;
    }
}
