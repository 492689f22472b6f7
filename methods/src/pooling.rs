//! Pooling of scores over neighbouring positions (section 1.5): stride 1, `kernel / 2` padding on both
//! sides, over the past positions only.

use serde::{Deserialize, Serialize};

/// How neighbours are pooled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Pooling {
    /// Zero padding, and the divisor is always the kernel size: positions at the borders are scaled down.
    #[serde(rename = "avgpool")]
    Avg,
    /// Padding never wins.
    #[serde(rename = "maxpool")]
    Max,
}

/// Pools one row; `kernel` is odd.
#[must_use]
pub fn pool(row: &[f32], pooling: Pooling, kernel: usize) -> Vec<f32> {
    let half = kernel / 2;
    let n = row.len();
    let mut out = match pooling {
        Pooling::Avg => vec![0.0; n],
        Pooling::Max => vec![f32::NEG_INFINITY; n],
    };
    // One pass per neighbour, from the leftmost on, so that the loop vectorises and sums keep one order.
    for offset in half.saturating_sub(n)..kernel.min(half.saturating_add(n)) {
        let (skip_out, skip_in) = (half.saturating_sub(offset).min(n), offset.saturating_sub(half).min(n));
        let pairs = out[skip_out..].iter_mut().zip(&row[skip_in..]);
        match pooling {
            Pooling::Avg => pairs.for_each(|(o, &x)| *o += x),
            Pooling::Max => pairs.for_each(|(o, &x)| *o = if x > *o { x } else { *o }),
        }
    }
    if pooling == Pooling::Avg {
        let kernel = kernel as f32;
        out.iter_mut().for_each(|x| *x /= kernel);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_follow_the_padding_rules() {
        let row = [3.0, 1.0, 2.0, 6.0];
        assert_eq!(pool(&row, Pooling::Avg, 3), [4.0 / 3.0, 2.0, 3.0, 8.0 / 3.0]);
        assert_eq!(pool(&row, Pooling::Max, 3), [3.0, 3.0, 6.0, 6.0]);
        assert_eq!(pool(&row, Pooling::Max, 1), row);
        assert_eq!(pool(&[-1.0, -2.0], Pooling::Max, 7), [-1.0, -1.0]);
        assert_eq!(pool(&[1.0], Pooling::Avg, 5), [0.2]);
        assert!(pool(&[], Pooling::Avg, 5).is_empty());
    }
}
