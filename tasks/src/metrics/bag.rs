//! F1 over two bags of tokens.

use std::collections::HashMap;
use std::hash::Hash;

/// How often each token occurs.
pub(super) fn count<T: Hash + Eq>(tokens: impl IntoIterator<Item = T>) -> HashMap<T, usize> {
    let mut counts = HashMap::new();
    for token in tokens {
        *counts.entry(token).or_default() += 1;
    }
    counts
}

/// Size of the multiset intersection.
pub(super) fn overlap<T: Hash + Eq>(a: &HashMap<T, usize>, b: &HashMap<T, usize>) -> usize {
    a.iter().map(|(token, &n)| n.min(b.get(token).copied().unwrap_or(0))).sum()
}

/// LongBench's `f1_score` on token lists: 0 without a common token, else `2pr / (p + r)`.
pub(super) fn f1<T: Hash + Eq>(prediction: Vec<T>, answer: Vec<T>) -> f64 {
    let (n, m) = (prediction.len() as f64, answer.len() as f64);
    let same = overlap(&count(prediction), &count(answer));
    if same == 0 {
        return 0.0;
    }
    let (precision, recall) = (same as f64 / n, same as f64 / m);
    (2.0 * precision * recall) / (precision + recall)
}
