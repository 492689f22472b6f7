//! The PyPI package `rouge` 1.0.1 (pltrdy/rouge): set-based, summary-level ROUGE.
//!
//! Not the ROUGE of other packages: words are counted as sets, sentences end at ASCII full stops only, all longest
//! common subsequences share one union, and the denominator has 1e-8 added.

use std::collections::{HashMap, HashSet};

use crate::python::text::collapse_spaces;

/// Precision, recall and F of one ROUGE variant, 0..1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Score {
    /// Share of the prediction.
    pub p: f64,
    /// Share of the reference.
    pub r: f64,
    /// Their harmonic mean with 1e-8 in the denominator: a perfect match gives 0.999999995.
    pub f: f64,
}

/// Splits a text at `.` and collapses white space, as `Rouge._get_scores` does.
///
/// Empty pieces go before the white space is cleaned up, so a blank after the last stop is one more sentence that
/// holds one empty word.
pub(crate) fn sentences(text: &str) -> Vec<String> {
    text.split('.').filter(|piece| !piece.is_empty()).map(collapse_spaces).collect()
}

/// The words of a sentence as small numbers: equal words, equal numbers.
fn numbers<'a>(ids: &mut HashMap<&'a str, u32>, sentence: &'a str) -> Vec<u32> {
    let mut number = |word| {
        let next = ids.len() as u32;
        *ids.entry(word).or_insert(next)
    };
    sentence.split(' ').map(&mut number).collect()
}

fn score(overlap: usize, prediction: usize, reference: usize) -> Score {
    let share = |total: usize| if total == 0 { 0.0 } else { overlap as f64 / total as f64 };
    let (p, r) = (share(prediction), share(reference));
    Score { p, r, f: 2.0 * ((p * r) / (p + r + 1e-8)) }
}

/// ROUGE-N over the sets of n-grams of the words of all sentences.
///
/// `None` where the package raises: a side without sentences, or `n` = 0.
pub(crate) fn rouge_n(prediction: &[String], reference: &[String], n: usize) -> Option<Score> {
    if prediction.is_empty() || reference.is_empty() || n == 0 {
        return None;
    }
    let mut ids = HashMap::new();
    let mut flat =
        |sentences| <[String]>::iter(sentences).flat_map(|s| numbers(&mut ids, s)).collect::<Vec<_>>();
    let (prediction, reference) = (flat(prediction), flat(reference));
    let prediction: HashSet<&[u32]> = prediction.windows(n).collect();
    let reference: HashSet<&[u32]> = reference.windows(n).collect();
    Some(score(prediction.intersection(&reference).count(), prediction.len(), reference.len()))
}

/// Summary-level ROUGE-L, and how many nested calls the package's recursive read-out of a subsequence needs.
///
/// `None` where the package raises: a side without sentences, or a read-out of more than `max_calls` nested calls
/// (Python's recursion limit; `usize::MAX` for none).
pub(crate) fn rouge_l(
    prediction: &[String],
    reference: &[String],
    max_calls: usize,
) -> Option<(Score, usize)> {
    if prediction.is_empty() || reference.is_empty() {
        return None;
    }
    let mut ids = HashMap::new();
    let reference: Vec<Vec<u32>> = reference.iter().map(|s| numbers(&mut ids, s)).collect();
    let m = ids.len();
    let prediction: Vec<Vec<u32>> = prediction.iter().map(|s| numbers(&mut ids, s)).collect();
    let n = prediction.iter().flatten().collect::<HashSet<_>>().len();

    let mut union = vec![false; ids.len()];
    let mut deepest = 0;
    for x in &reference {
        for y in &prediction {
            // The walk ends on an edge of the table, so it takes at least as many steps as the shorter side has words.
            if x.len().min(y.len()) >= max_calls {
                return None;
            }
            let calls = collect_lcs(x, y, max_calls, &mut union)?;
            deepest = deepest.max(calls);
        }
    }
    Some((score(union.iter().filter(|&&hit| hit).count(), n, m), deepest))
}

/// Marks the words of one longest common subsequence of `x` and `y`; gives the steps of the walk plus one, or `None` if
/// these are more than `max_calls`.
///
/// Which subsequence: from the ends, equal words are taken, else the walk steps back in `x` if that keeps strictly more
/// than stepping back in `y`, and in `y` otherwise, ties included.
fn collect_lcs(x: &[u32], y: &[u32], max_calls: usize, union: &mut [bool]) -> Option<usize> {
    // A walk of `max_calls` steps stays in this corner of the table, so a very long text needs no very large table.
    let (from_i, from_j) = (x.len().saturating_sub(max_calls), y.len().saturating_sub(max_calls));
    let width = y.len() - from_j;
    // One bit a cell: whether T[i-1][j] > T[i][j-1]. The walk needs no more of the table.
    let mut up = vec![0u64; ((x.len() - from_i) * width).div_ceil(64)];
    let bit = |i: usize, j: usize| (i - from_i) * width + (j - from_j);
    let mut row = vec![0u32; y.len() + 1];
    for (i, a) in x.iter().enumerate() {
        let mut diagonal = 0;
        let mut left = 0;
        for (j, b) in y.iter().enumerate() {
            let above = row[j + 1];
            if above > left && i >= from_i && j >= from_j {
                up[bit(i, j) / 64] |= 1 << (bit(i, j) % 64);
            }
            left = if a == b { diagonal + 1 } else { above.max(left) };
            diagonal = above;
            row[j + 1] = left;
        }
    }
    let (mut i, mut j, mut calls) = (x.len(), y.len(), 1);
    while i > 0 && j > 0 {
        calls += 1;
        if calls > max_calls {
            return None;
        }
        (i, j) = (i - 1, j - 1);
        if x[i] == y[j] {
            union[x[i] as usize] = true;
        } else if up[bit(i, j) / 64] >> (bit(i, j) % 64) & 1 == 1 {
            j += 1;
        } else {
            i += 1;
        }
    }
    Some(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f(prediction: &str, reference: &str) -> f64 {
        rouge_l(&sentences(prediction), &sentences(reference), usize::MAX).map_or(-1.0, |(score, _)| score.f)
    }

    #[test]
    fn sentences_keep_blank_pieces_but_not_empty_ones() {
        assert_eq!(sentences("a  b. "), ["a b", ""]);
        assert_eq!(sentences("a b."), ["a b"]);
        assert_eq!(sentences("..."), [""; 0]);
        assert_eq!(sentences(" "), [""]);
    }

    #[test]
    fn known_scores() {
        assert_eq!(f("a b", "a b"), 0.999999995);
        assert_eq!(f("a b. ", "a b."), 0.7999999952000001);
        assert_eq!(f("", "a"), -1.0);
        assert_eq!(f("x", "a"), 0.0);
    }

    #[test]
    fn counts_the_calls_of_the_walk() {
        let long = "a ".repeat(989) + "a";
        let calls = |limit| rouge_l(&sentences(&long), &sentences(&long), limit).map(|(_, calls)| calls);
        assert_eq!(calls(usize::MAX), Some(991));
        assert_eq!(calls(991), Some(991));
        assert_eq!(calls(990), None);
        // One long side: the walk may end before it has crossed it.
        let side = format!("{}z", "b ".repeat(5000));
        let score =
            |limit| rouge_l(&sentences(&side), &sentences("z"), limit).map(|(score, calls)| (score.r, calls));
        assert_eq!((score(2), score(1)), (Some((1.0, 2)), None));
    }
}
