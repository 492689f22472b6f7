//! The pyramid schedule (section 2.4): earlier layers get more.

use crate::context::{CapacityFrom, Context, MethodState};

/// Past tokens of each layer, window excluded, from a prompt with `past` past tokens. `base` is the
/// budget without the window. Never negative here; the last layers may exceed `base` when `past` is small.
///
/// One layer gets `base`: the published formula divides by zero there.
#[must_use]
pub fn layers(layers: usize, base: usize, beta: usize, past: i64) -> Vec<usize> {
    let Some(last) = i64::try_from(layers).ok().filter(|&n| n > 1).map(|n| n - 1) else {
        return vec![base; layers];
    };
    // Far beyond any cache, far from an overflow.
    let (base, past) = (base.min(1 << 40) as i64, past.clamp(-(1 << 40), 1 << 40));
    let mut lo = base / beta.max(1) as i64;
    let mut hi = 2 * base - lo;
    if hi >= past {
        hi = past;
        lo = 2 * base - hi;
    }
    let step = (hi - lo).div_euclid(last);
    (0..=last).map(|layer| usize::try_from(hi - layer * step).unwrap_or(0)).collect()
}

/// The same, recomputed for each prompt: uniform while `past + window < 2 * base`.
#[must_use]
pub fn per_prompt(
    layer_count: usize,
    base: usize,
    beta: usize,
    prompt_len: usize,
    window: usize,
) -> Vec<usize> {
    if prompt_len / 2 < base {
        vec![base; layer_count]
    } else {
        layers(layer_count, base, beta, (prompt_len as i64).saturating_sub(window as i64))
    }
}

/// Past tokens of each layer for one prompt of a method that follows the pyramid.
#[must_use]
pub(crate) fn schedule(
    ctx: &Context<'_>,
    window: usize,
    beta: usize,
    capacity: CapacityFrom,
    state: &MethodState,
) -> Vec<usize> {
    let (count, base, prompt_len) =
        (ctx.shape.layers.len(), ctx.budget.saturating_sub(window), ctx.shape.len);
    match capacity {
        CapacityFrom::Prompt => per_prompt(count, base, beta, prompt_len, window),
        CapacityFrom::Dataset | CapacityFrom::Run => {
            let first = state.first_prompt_len.unwrap_or(prompt_len);
            layers(count, base, beta, (first as i64).saturating_sub(window as i64))
        }
    }
}

/// Refuses a steepness that divides by zero.
///
/// # Errors
/// `(parameter, problem)`.
pub(crate) fn check_beta(beta: usize) -> Result<(), (&'static str, String)> {
    if beta == 0 { Err(("beta", "the steepness must be at least 1".into())) } else { Ok(()) }
}

/// kvpress' schedule, window INCLUDED: a share of the prompt instead of a budget, real-valued steps
/// rounded half to even, uniform unless the pyramid fits between the window and the prompt.
#[must_use]
pub fn kvpress(
    layers: usize,
    prompt_len: usize,
    compression_ratio: f64,
    window: usize,
    beta: f64,
) -> Vec<usize> {
    let prompt = prompt_len as f64;
    let base = prompt * (1.0 - compression_ratio);
    let past = prompt - window as f64;
    let mut lo = base / beta;
    let mut hi = base * 2.0 - lo;
    if hi >= past {
        hi = past;
        lo = base * 2.0 - hi;
    }
    if layers < 2 || !(prompt >= hi && hi >= lo && lo >= window as f64) {
        return vec![base.round_ties_even() as usize; layers];
    }
    let step = (hi - lo) / (layers - 1) as f64;
    (0..layers).map(|layer| (hi - layer as f64 * step).round_ties_even() as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_schedule() {
        let n = layers(32, 120, 20, 10_000);
        assert_eq!((n[0], n[31]), (234, 234 - 31 * 7));
        assert_eq!(n.iter().sum::<usize>() + 32 * 8, 4272);
    }

    #[test]
    fn negative_steps_round_down() {
        let n = layers(32, 56, 20, 50 - 8);
        assert_eq!((n[0], n[31]), (42, 73)); // (42 - 70) / 31 floors to -1
    }

    #[test]
    fn one_layer_gets_its_budget() {
        assert_eq!(layers(1, 40, 20, 500), [40]);
        assert_eq!(kvpress(1, 100, 0.5, 8, 20.0), [50]);
    }
}
