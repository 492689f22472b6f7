//! The `n` highest scores; among equals the lowest position wins (section 1.6). Linear time.

/// Positions of the `n` highest scores, ascending. NaN loses to everything; `n` beyond the row keeps it all.
#[must_use]
pub(crate) fn top(scores: &[f32], n: usize) -> Vec<u32> {
    if n >= scores.len() {
        return (0..scores.len() as u32).collect();
    }
    if n == 0 {
        return Vec::new();
    }
    let keys: Vec<u32> = scores.iter().copied().map(key).collect();
    let cut = nth_highest(keys.clone(), n);
    let mut equals = n - keys.iter().filter(|&&k| k > cut).count();
    let mut kept = Vec::with_capacity(n);
    for (position, &k) in keys.iter().enumerate() {
        if k > cut || (k == cut && equals > 0) {
            equals -= usize::from(k == cut);
            kept.push(position as u32);
        }
    }
    kept
}

/// The `n`-th highest key, `1 <= n <= keys.len()`.
pub(crate) fn nth_highest(mut keys: Vec<u32>, n: usize) -> u32 {
    let index = keys.len() - n;
    *keys.select_nth_unstable(index).1
}

/// An integer that orders like the score: larger score, larger key; -0 equals +0; NaN below everything.
#[inline]
pub(crate) fn key(score: f32) -> u32 {
    if score.is_nan() {
        return 0;
    }
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 0x8000_0000 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    #[test]
    fn lowest_position_wins_among_equals() {
        assert_eq!(top(&[1.0, 2.0, 1.0, 2.0, 1.0], 3), [0, 1, 3]);
        assert_eq!(top(&[0.0, -0.0, 0.0], 2), [0, 1]);
        assert_eq!(top(&[f32::NAN, -1.0, f32::NEG_INFINITY], 2), [1, 2]);
        assert_eq!(top(&[3.0, 4.0], 0), [0u32; 0]);
        assert_eq!(top(&[3.0, 4.0], 9), [0, 1]);
    }

    #[test]
    fn agrees_with_a_stable_sort() {
        for n in [1, 7, 250, 499, 500] {
            let scores: Vec<f32> = random(500, n as u64, 20.0).into_iter().map(f32::round).collect();
            let mut order: Vec<u32> = (0..500).collect();
            order.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
            let mut expected = order[..n].to_vec();
            expected.sort_unstable();
            assert_eq!(top(&scores, n), expected);
        }
    }
}
