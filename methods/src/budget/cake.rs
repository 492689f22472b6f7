//! CAKE's cascade (section 2.8): after each layer of the prefill the model's budget is split anew over the
//! layers seen so far, by their preference; what a layer gave up never comes back.

/// The budgets of a cascade.
#[derive(Clone, Debug, PartialEq)]
pub struct Cascade {
    /// After layer `l`: the real-valued budgets of layers `0..=l`.
    pub raw: Vec<Vec<f64>>,
    /// The same, adjusted to integers.
    pub steps: Vec<Vec<i64>>,
    /// Past tokens each layer holds in the end.
    pub kept: Vec<usize>,
}

/// A layer's preference: `dispersion^(1/tau1) * shift^(1/tau2)`.
#[must_use]
pub(crate) fn preference(dispersion: f64, shift: f64, tau1: f64, tau2: f64) -> f64 {
    dispersion.max(0.0).powf(1.0 / tau1) * shift.max(0.0).powf(1.0 / tau2)
}

/// Runs the cascade for layers with these preferences. `total` are the past tokens of a whole model,
/// `past` those of the prompt. Preferences that sum to nothing split evenly.
#[must_use]
pub fn cascade(preferences: &[f64], total: usize, past: usize) -> Cascade {
    let mut kept = Vec::with_capacity(preferences.len());
    let (mut raws, mut steps) = (Vec::new(), Vec::new());
    let mut sum = 0.0;
    for (layer, preference) in preferences.iter().enumerate() {
        sum += preference;
        let seen = &preferences[..=layer];
        let raw: Vec<f64> = if sum > 0.0 {
            seen.iter().map(|p| p / sum * total as f64).collect()
        } else {
            vec![total as f64 / seen.len() as f64; seen.len()]
        };
        let step = adjust(&raw, total, past);
        kept.push(past);
        for (held, &budget) in kept.iter_mut().zip(&step) {
            *held = (*held).min(usize::try_from(budget).unwrap_or(0));
        }
        raws.push(raw);
        steps.push(step);
    }
    Cascade { raw: raws, steps, kept }
}

/// Real budgets to integers: truncate, limit to `past`, give the excess and the remainder to layers with
/// room. As in the reference, results are not limited again afterwards.
#[must_use]
pub fn adjust(raw: &[f64], total: usize, past: usize) -> Vec<i64> {
    // Far above any cache, far below an overflow.
    let [total, past] = [total, past].map(|tokens| tokens.min(1 << 40) as i64);
    let mut budgets: Vec<i64> = raw.iter().map(|&budget| budget.clamp(-1e12, 1e12) as i64).collect();
    let excess: i64 = budgets.iter().map(|&budget| (budget - past).max(0)).sum();
    budgets.iter_mut().for_each(|budget| *budget = (*budget).min(past));
    if excess > 0 {
        spread(&mut budgets, excess, 1, |budget| budget < past);
    }
    let missing = total - budgets.iter().sum::<i64>();
    if missing > 0 {
        spread(&mut budgets, missing, 1, |budget| budget < past);
    } else if missing < 0 {
        spread(&mut budgets, -missing, -1, |budget| budget > 1);
    }
    budgets
}

/// Adds `sign * amount`, split evenly over the budgets that `open` admits, the first ones taking the rest.
fn spread(budgets: &mut [i64], amount: i64, sign: i64, open: impl Fn(i64) -> bool) {
    let count = budgets.iter().filter(|&&budget| open(budget)).count() as i64;
    if count == 0 {
        return;
    }
    for (index, budget) in budgets.iter_mut().filter(|budget| open(**budget)).enumerate() {
        *budget += sign * (amount / count + i64::from((index as i64) < amount % count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excess_goes_to_layers_with_room() {
        assert_eq!(adjust(&[110.28, 82.5, 38.2], 231, 99), [99, 89, 43]);
        assert_eq!(adjust(&[], 10, 5), [0i64; 0]);
    }

    #[test]
    fn tokens_never_come_back() {
        let cascade = cascade(&[1.0, 3.0, 1.0], 30, 100);
        assert_eq!(cascade.steps[0], [30]);
        assert_eq!(cascade.steps[2], [6, 18, 6]);
        assert_eq!(cascade.kept, [6, 18, 6]);
        assert_eq!(super::cascade(&[0.0, 0.0], 8, 100).kept, [4, 4]);
    }
}
