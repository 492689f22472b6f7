//! CompressKV's error-aware split of the budget over layers (section 2.7). Window included.

/// Tokens of each layer for a model's `total`, each between `min` and `max`. The sum is exactly `total`
/// unless the limits make that impossible. `errors` ideally sum to one.
///
/// Equal errors are ordered by layer; the reference's sort is unstable there. Repeating its one-token
/// rounds is replaced by whole rounds at once, with the same result.
#[must_use]
pub fn layer_budgets(errors: &[f64], total: usize, min: usize, max: usize) -> Vec<usize> {
    // Far above any cache, far below an overflow.
    let [total, min, max] = [total, min, max].map(|tokens| tokens.min(1 << 40) as i64);
    let shared = (total - min * errors.len() as i64) as f64;
    let mut budgets: Vec<i64> = errors
        .iter()
        .map(|error| min.saturating_add((error * shared).round_ties_even() as i64).min(max).max(min))
        .collect();
    let mut order: Vec<usize> = (0..errors.len()).collect();
    let mut missing = total - budgets.iter().sum::<i64>();
    if missing > 0 {
        order.sort_by(|&a, &b| errors[b].total_cmp(&errors[a]));
    } else {
        order.sort_by(|&a, &b| errors[a].total_cmp(&errors[b]));
    }
    let sign = missing.signum();
    while missing != 0 {
        let room = |budget: i64| if sign > 0 { max - budget } else { budget - min };
        order.retain(|&layer| room(budgets[layer]) > 0);
        let Some(least) = order.iter().map(|&layer| room(budgets[layer])).min() else { break };
        let rounds = least.min(missing.abs() / order.len() as i64);
        if rounds > 0 {
            for &layer in &order {
                budgets[layer] += sign * rounds;
            }
            missing -= sign * rounds * order.len() as i64;
        } else {
            for &layer in order.iter().take(missing.unsigned_abs() as usize) {
                budgets[layer] += sign;
            }
            missing = 0;
        }
    }
    budgets.into_iter().map(|budget| usize::try_from(budget).unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference's loop, one token at a time.
    fn one_by_one(errors: &[f64], total: i64, min: i64, max: i64) -> Vec<usize> {
        let shared = (total - min * errors.len() as i64) as f64;
        let mut b: Vec<i64> =
            errors.iter().map(|e| (min + (e * shared).round_ties_even() as i64).min(max).max(min)).collect();
        let mut d = total - b.iter().sum::<i64>();
        while d != 0 {
            let mut c: Vec<usize> =
                (0..b.len()).filter(|&l| if d > 0 { b[l] < max } else { b[l] > min }).collect();
            if c.is_empty() {
                break;
            }
            c.sort_by(
                |&x, &y| {
                    if d > 0 { errors[y].total_cmp(&errors[x]) } else { errors[x].total_cmp(&errors[y]) }
                },
            );
            for l in c {
                b[l] += d.signum();
                d -= d.signum();
                if d == 0 {
                    break;
                }
            }
        }
        b.into_iter().map(|x| x as usize).collect()
    }

    #[test]
    fn rounds_at_once_equal_rounds_one_by_one() {
        let errors = [0.4, 0.05, 0.05, 0.2, 0.3];
        for (total, min, max) in
            [(320, 32, 192), (900, 32, 192), (960, 32, 192), (2000, 32, 192), (100, 32, 48), (161, 32, 64)]
        {
            for scale in [1.0, 0.5, 3.0] {
                let errors: Vec<f64> = errors.iter().map(|e| e * scale).collect();
                assert_eq!(
                    layer_budgets(&errors, total as usize, min as usize, max as usize),
                    one_by_one(&errors, total, min, max)
                );
            }
        }
        assert!(layer_budgets(&[], 10, 1, 5).is_empty());
    }
}
