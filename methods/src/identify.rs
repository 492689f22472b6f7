//! Which heads retrieve, and which layers suffer from eviction (sections 4 and 5): the arithmetic, as pure
//! functions that a calibration pass feeds with the attention rows of decode steps.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// What makes a head important.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadKind {
    /// Its strongest attention points at the needle token being copied (HeadKV-R; nightdessert/
    /// Retrieval_Head, 3ac171a6, `retrieval_head_detection.py`).
    Retrieval,
    /// Its strongest attentions fall into the needle, whatever is produced (HeadKV-R2; FYYFU/HeadKV,
    /// 0862a095, `Important_Head/retrieval_head_detection_r2.py`).
    Reasoning,
    /// The attention mass it gives the whole needle while copying from it (CompressKV; TUDa-HWAI/CompressKV,
    /// e8af510b, `Retrieval_Head_Identification/semantic_retrieval_head_detection.py`).
    Semantic,
}

/// Scores one head's attention row of the decode step that produced token `produced`. `span` is the
/// needle's place in `prompt`; `row` covers at least the prompt. Steps of one run are added up.
///
/// A span beyond the row or the prompt scores nothing.
#[must_use]
pub fn step_score(kind: HeadKind, prompt: &[u32], span: &Range<usize>, row: &[f32], produced: u32) -> f64 {
    RowReading::of(kind, prompt, span, row).score(prompt, span, produced)
}

/// What [`step_score`] needs of a row. The token of a step is known only after its rows: a reading is kept until then, a
/// few bytes instead of a row as long as the prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RowReading {
    /// Scores so much, whatever is produced.
    Always(f64),
    /// Scores so much if this token is produced.
    Copying {
        /// The needle's token that the head looks at.
        token: u32,
        /// The score.
        score: f64,
    },
    /// Scores the attention mass on the needle, as often as the needle has the produced token.
    Mass(f64),
}

impl RowReading {
    /// Reads a row; see [`step_score`].
    #[must_use]
    pub fn of(kind: HeadKind, prompt: &[u32], span: &Range<usize>, row: &[f32]) -> Self {
        let (Some(needle), Some(mass)) = (prompt.get(span.clone()), row.get(span.clone())) else {
            return Self::Always(0.0);
        };
        if needle.is_empty() {
            return Self::Always(0.0);
        }
        let n = needle.len();
        match kind {
            HeadKind::Retrieval => {
                let best = row
                    .iter()
                    .enumerate()
                    .fold((0, f32::NEG_INFINITY), |best, (i, &a)| if a > best.1 { (i, a) } else { best });
                match prompt.get(best.0).filter(|_| span.contains(&best.0)) {
                    Some(&token) => Self::Copying { token, score: 1.0 / n as f64 },
                    None => Self::Always(0.0),
                }
            }
            HeadKind::Reasoning => Self::Always(
                crate::topk::top(row, n)
                    .into_iter()
                    .filter(|&i| span.contains(&(i as usize)))
                    .map(|i| f64::from(row[i as usize]) / n as f64)
                    .sum(),
            ),
            HeadKind::Semantic => Self::Mass(mass.iter().copied().map(f64::from).sum()),
        }
    }

    /// The row's score once the token is known.
    #[must_use]
    pub fn score(self, prompt: &[u32], span: &Range<usize>, produced: u32) -> f64 {
        match self {
            Self::Always(score) => score,
            Self::Copying { token, score } => {
                if token == produced {
                    score
                } else {
                    0.0
                }
            }
            Self::Mass(mass) => {
                let needle = prompt.get(span.clone()).unwrap_or_default();
                needle.iter().filter(|&&token| token == produced).count() as f64 * mass
            }
        }
    }
}

/// Where the needle is, for retrieval and semantic heads: the first place where a stretch of the needle's
/// length has more than 90 % of its distinct tokens, in any order. It often starts a few tokens early.
#[must_use]
pub fn find_needle(prompt: &[u32], needle: &[u32]) -> Option<Range<usize>> {
    let wanted = distinct(needle);
    if wanted.is_empty() {
        return None;
    }
    (0..prompt.len())
        .find(|&start| overlap(prompt, start, needle.len(), &wanted) as f64 / wanted.len() as f64 > 0.9)
        .map(|start| start..start + needle.len())
}

/// Where the needle is, for reasoning heads: of all places right after a `bos` token (all places without
/// one) the last with the largest overlap.
#[must_use]
pub fn find_needle_reasoning(prompt: &[u32], needle: &[u32], bos: Option<u32>) -> Range<usize> {
    let wanted = distinct(needle);
    let starts = (0..prompt.len()).filter(|&start| match bos {
        Some(bos) => start > 0 && prompt[start - 1] == bos,
        None => true,
    });
    // `max_by_key` returns the last of equal maxima.
    match starts.max_by_key(|&start| overlap(prompt, start, needle.len(), &wanted)) {
        Some(start) => start..start + needle.len(),
        None => 0..0,
    }
}

fn distinct(tokens: &[u32]) -> Vec<u32> {
    let mut tokens = tokens.to_vec();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

/// How many of the `wanted` tokens occur in `prompt[start .. start + length]`.
fn overlap(prompt: &[u32], start: usize, length: usize, wanted: &[u32]) -> usize {
    let stretch = distinct(&prompt[start..(start + length).min(prompt.len())]);
    wanted.iter().filter(|token| stretch.binary_search(token).is_ok()).count()
}

/// Heads of one layer, best mean score first; equal scores keep the order of heads.
#[must_use]
pub fn rank(means: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..means.len()).collect();
    order.sort_by(|&a, &b| means[b].total_cmp(&means[a]));
    order
}

/// What eviction does to one layer's output in one decode step: `||compressed - full|| / (||full|| + 1e-5)`,
/// both after the output projection. Steps and samples are added up, then divided by the sum over layers.
#[must_use]
pub fn layer_error(full: &[f32], compressed: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut full.iter().zip(compressed).map(|(f, c)| f64::from(*c) - f64::from(*f)));
    difference / (norm(&mut full.iter().map(|f| f64::from(*f))) + 1e-5)
}

/// Shares of each layer: values divided by their sum, all zero when there is nothing to divide.
#[must_use]
pub fn shares(values: &[f64]) -> Vec<f64> {
    let sum: f64 = values.iter().sum();
    values.iter().map(|value| if sum > 0.0 { value / sum } else { 0.0 }).collect()
}

/// The layer scores that CompressKV reads: the mean over data sets, divided by its sum (plus 1e-12).
#[must_use]
pub fn layer_average(data_sets: &BTreeMap<String, Vec<f64>>) -> Vec<f64> {
    let layers = data_sets.values().map(Vec::len).min().unwrap_or(0);
    let mean: Vec<f64> = (0..layers)
        .map(|layer| data_sets.values().map(|scores| scores[layer]).sum::<f64>() / data_sets.len() as f64)
        .collect();
    let sum: f64 = mean.iter().sum::<f64>() + 1e-12;
    mean.into_iter().map(|value| value / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_copies_scores_by_each_rule() {
        let prompt = [5, 7, 8, 7, 9];
        let span = 1..4;
        let row = [0.1, 0.4, 0.1, 0.2, 0.1, 0.1];
        assert_eq!(step_score(HeadKind::Retrieval, &prompt, &span, &row, 7), 1.0 / 3.0);
        assert_eq!(step_score(HeadKind::Retrieval, &prompt, &span, &row, 8), 0.0);
        let semantic = step_score(HeadKind::Semantic, &prompt, &span, &row, 7);
        assert!((semantic - 1.4).abs() < 1e-6, "twice the mass, as 7 occurs twice: {semantic}");
        let reasoning = step_score(HeadKind::Reasoning, &prompt, &span, &row, 0);
        // The top three are positions 1, 3 and, among equals, 0.
        assert!((reasoning - 0.2).abs() < 1e-6, "{reasoning}");
        assert_eq!(step_score(HeadKind::Semantic, &prompt, &(3..9), &row, 7), 0.0);
        assert_eq!(step_score(HeadKind::Retrieval, &prompt, &(2..2), &row, 7), 0.0);
    }

    #[test]
    fn needles_are_found_first_or_last() {
        let prompt = [1, 3, 4, 5, 9, 1, 3, 4, 5, 9];
        assert_eq!(find_needle(&prompt, &[3, 4, 5]), Some(1..4));
        assert_eq!(find_needle(&prompt, &[3, 4, 6]), None);
        assert_eq!(find_needle(&prompt, &[]), None);
        assert_eq!(find_needle_reasoning(&prompt, &[3, 4, 5], Some(1)), 6..9);
        assert_eq!(find_needle_reasoning(&[2, 3], &[3], Some(1)), 0..0);
    }

    #[test]
    fn layer_errors_are_relative() {
        let error = layer_error(&[3.0, 4.0], &[3.0, 1.0]);
        assert!((error - 3.0 / 5.00001).abs() < 1e-9);
        assert_eq!(shares(&[1.0, 3.0]), [0.25, 0.75]);
        assert_eq!(shares(&[0.0, 0.0]), [0.0, 0.0]);
    }
}
