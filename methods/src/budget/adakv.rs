//! AdaKV's split of a layer's budget over its heads (section 2.5): what a head wins in the competition of
//! all heads' scores, mixed with a floor.

use rayon::prelude::*;

use crate::topk;

/// Past tokens of each head. `base` is the layer's budget without the window, at most the row length.
///
/// The mixing is in `f32`, halves round to even and the floor is truncated, as in the reference; the sum
/// can miss `heads * base` by about one token a head. Among equal scores the lower head wins.
#[must_use]
pub(crate) fn head_budgets(scores: &[Vec<f32>], base: usize, floor: f64, normalize: bool) -> Vec<usize> {
    let columns = scores.first().map_or(0, Vec::len);
    let total = scores.len() * base.min(columns);
    if total == 0 {
        return vec![0; scores.len()];
    }
    let keys: Vec<Vec<u32>> = scores
        .par_iter()
        .map(|row| {
            let factor = if normalize { concentration(row, base) } else { 1.0 };
            row.iter().map(|&score| topk::key(score * factor)).collect()
        })
        .collect();
    let wins = wins(&keys, total);
    let least = (base as f64 * floor) as usize as f32;
    let share = (1.0 - floor) as f32;
    wins.into_iter().map(|wins| (wins as f32 * share + least).round_ties_even() as usize).collect()
}

/// Entries of each head when all compete for `total` together: after each head's `safe` best ones
/// the best of all heads win, as kvpress's AdaKV has it. Among equal scores the lower head wins.
#[must_use]
pub(crate) fn competition(scores: &[Vec<f32>], total: usize, safe: usize) -> Vec<usize> {
    let keys: Vec<Vec<u32>> = scores
        .par_iter()
        .map(|row| {
            let mut keys: Vec<u32> = row.iter().copied().map(topk::key).collect();
            topk::top(row, safe).into_iter().for_each(|best| keys[best as usize] = u32::MAX);
            keys
        })
        .collect();
    wins(&keys, total)
}

/// Entries of each row among the `total` highest of all rows.
fn wins(keys: &[Vec<u32>], total: usize) -> Vec<usize> {
    let all = keys.iter().map(Vec::len).sum();
    if total == 0 || total >= all {
        return keys.iter().map(|row| if total == 0 { 0 } else { row.len() }).collect();
    }
    let cut = topk::nth_highest(keys.concat(), total);
    let mut wins: Vec<usize> = keys.iter().map(|row| row.iter().filter(|&&k| k > cut).count()).collect();
    let mut equals = total - wins.iter().sum::<usize>();
    for (wins, row) in wins.iter_mut().zip(keys) {
        let taken = row.iter().filter(|&&k| k == cut).count().min(equals);
        *wins += taken;
        equals -= taken;
    }
    wins
}

/// The share of a row's mass in its `base` best entries.
fn concentration(row: &[f32], base: usize) -> f32 {
    let all: f64 = row.iter().copied().map(f64::from).sum();
    let mut sorted = row.to_vec();
    if base < sorted.len() {
        sorted.select_nth_unstable_by(base, |a, b| b.total_cmp(a));
        sorted.truncate(base);
    }
    let best: f64 = sorted.iter().copied().map(f64::from).sum();
    if all > 0.0 { (best / all) as f32 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn winners_are_mixed_with_the_floor() {
        let scores = [vec![9.0, 8.0, 7.0, 6.0], vec![1.0, 1.0, 1.0, 1.0]];
        assert_eq!(head_budgets(&scores, 2, 0.0, false), [4, 0]);
        assert_eq!(head_budgets(&scores, 2, 0.5, false), [3, 1]);
        assert_eq!(head_budgets(&scores, 2, 1.0, false), [2, 2]);
        // Six winners: four of head 0, then the lowest positions of head 1. 2.5 and 3.5 round to even.
        assert_eq!(head_budgets(&scores, 3, 0.5, false), [3, 2]);
        assert_eq!(head_budgets(&[vec![1.0; 3], vec![1.0; 3]], 1, 0.0, false), [2, 0]);
        assert_eq!(head_budgets(&[vec![], vec![]], 3, 0.2, true), [0, 0]);
    }

    #[test]
    fn every_head_keeps_its_safe_best() {
        let scores = [vec![9.0, 8.0, 7.0, 6.0], vec![1.0, 2.0, 3.0, 1.0]];
        assert_eq!(competition(&scores, 4, 0), [4, 0]);
        assert_eq!(competition(&scores, 4, 1), [3, 1]);
        assert_eq!(competition(&scores, 4, 2), [2, 2]);
        assert_eq!(competition(&scores, 0, 0), [0, 0]);
        assert_eq!(competition(&scores, 9, 1), [4, 4]);
    }

    #[test]
    fn normalising_favours_the_concentrated_head() {
        let scores = [vec![4.0, 4.0, 4.0, 4.0], vec![3.9, 0.0, 0.0, 0.0]];
        assert_eq!(head_budgets(&scores, 1, 0.0, false), [2, 0]);
        assert_eq!(head_budgets(&scores, 1, 0.0, true), [1, 1]);
    }
}
