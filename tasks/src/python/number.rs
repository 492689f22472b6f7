//! Python's and numpy's rounding and numpy's mean.

/// `round(x, 2)` on a Python float: correctly rounded from the exact binary value, exact ties to even.
pub fn round2(x: f64) -> f64 {
    // Formatting is exact with ties to even, and every finite result parses.
    if x.is_finite() { format!("{x:.2}").parse().unwrap_or(x) } else { x }
}

/// `round(x, 4)` on a Python float.
pub fn round4(x: f64) -> f64 {
    if x.is_finite() { format!("{x:.4}").parse().unwrap_or(x) } else { x }
}

/// `round(numpy.float64(x), 2)`: scale, round to even, scale back. `2.675` gives `2.68` here and `2.67` in [`round2`].
pub fn numpy_round2(x: f64) -> f64 {
    (x * 100.0).round_ties_even() / 100.0
}

/// `int(round(x))`: ties to even.
pub fn round_to_int(x: f64) -> f64 {
    x.round_ties_even()
}

/// `numpy.mean(values)`: pairwise summation, then one division; `NaN` for an empty list.
pub fn numpy_mean(values: &[f64]) -> f64 {
    pairwise_sum(values) / values.len() as f64
}

/// numpy's summation order: eight interleaved accumulators up to 128 values, halves (rounded to 8) above.
fn pairwise_sum(values: &[f64]) -> f64 {
    let n = values.len();
    if n < 8 {
        return values.iter().sum();
    }
    if n > 128 {
        let (head, tail) = values.split_at(n / 2 - (n / 2) % 8);
        return pairwise_sum(head) + pairwise_sum(tail);
    }
    let mut lanes = [0.0; 8];
    let chunks = values.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    rest.iter().fold(((a + b) + (c + d)) + ((e + f) + (g + h)), |sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_roundings_differ() {
        assert_eq!((round2(2.675), numpy_round2(2.675)), (2.67, 2.68));
        assert_eq!((round2(1.005), round2(64.125), round2(64.375)), (1.0, 64.12, 64.38));
        assert!(round2(f64::NAN).is_nan());
        assert_eq!(round2(f64::INFINITY), f64::INFINITY);
        assert_eq!(round4(0.360_45), 0.3604);
    }

    #[test]
    fn mean_of_nothing_is_nan() {
        assert!(numpy_mean(&[]).is_nan());
        assert_eq!(numpy_mean(&[1.0; 300]), 1.0);
    }
}
