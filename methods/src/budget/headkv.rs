//! HeadKV's capacities (section 2.6): a floor for every head, and a pool shared in proportion to head
//! scores over the whole model. All in `f64`, with Python's floor division: at published settings the
//! obvious arithmetic is off by one.

/// The capacities and what they were made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Capacities {
    /// Tokens shared by score.
    pub pool: f64,
    /// Tokens every head gets.
    pub min_num: f64,
    /// Past tokens of each head, layer-major, not limited to the prompt.
    pub heads: Vec<u64>,
}

/// Splits `base` tokens a head by the heads' mean scores (layer-major, all layers of the model).
/// No positive score at all splits evenly.
#[must_use]
pub fn capacities(scores: &[f64], base: usize, beta: f64, temp: f64) -> Capacities {
    let base = base as f64;
    let share = python_floordiv(base, beta);
    let pool = share * scores.len() as f64;
    let min_num = base - share;
    let shares = normalized(&normalized(scores).iter().map(|p| p.powf(temp)).collect::<Vec<_>>());
    let heads = shares.iter().map(|p| (p * pool + min_num).round_ties_even().max(0.0) as u64).collect();
    Capacities { pool, min_num, heads }
}

fn normalized(values: &[f64]) -> Vec<f64> {
    let sum: f64 = values.iter().sum();
    if sum > 0.0 {
        values.iter().map(|value| value / sum).collect()
    } else {
        vec![1.0 / values.len() as f64; values.len()]
    }
}

/// Capacities of KV heads: the mean of each contiguous group in `f32`, halves to even (KVCache-Factory).
#[must_use]
pub(crate) fn group_mean(heads: &[u64], group: usize) -> Vec<u64> {
    heads
        .chunks(group.max(1))
        .map(|group| {
            let sum: f32 = group.iter().map(|&capacity| capacity as f32).sum();
            (sum / group.len() as f32).round_ties_even() as u64
        })
        .collect()
}

/// Python's `a // b` for positive floats, which is not `floor(a / b)`.
fn python_floordiv(a: f64, b: f64) -> f64 {
    let quotient = (a - a % b) / b;
    let floor = quotient.floor();
    if quotient - floor > 0.5 { floor + 1.0 } else { floor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_is_pythons() {
        for (a, b, expected) in
            [(101.0, 1.01, 99.0), (2040.0, 1.02, 1999.0), (120.0, 1.2, 100.0), (504.0, 1.2, 420.0)]
        {
            assert_eq!(python_floordiv(a, b), expected, "{a} // {b}");
        }
    }

    #[test]
    fn floor_and_pool() {
        let split = capacities(&[0.0, 1.0, 3.0, 0.0], 120, 1.2, 1.0);
        assert_eq!((split.pool, split.min_num), (400.0, 20.0));
        assert_eq!(split.heads, [20, 120, 320, 20]);
        assert_eq!(capacities(&[0.0; 4], 120, 1.2, 1.0).heads, [120; 4]);
        assert_eq!(group_mean(&[1, 2, 3, 4], 2), [2, 4]); // 1.5 and 3.5 round to even
    }
}
