use crate::cuda::{kernels::Argmax, launcher::Launcher};
use crate::support::{Case, Checked, check_all, int};

/// Few different logits, so that there are ties; in some rows something that is no number.
pub fn check(case: Case<'_>) -> Checked {
    let mut random = case.random();
    let (vocab, rows) = (1 + random.below(2000), 1 + random.below(5));
    let mut logits: Vec<f32> = (0..rows * vocab).map(|_| random.below(9) as f32 - 4.0).collect();
    for _ in 0..random.below(3) {
        let at = random.below(logits.len());
        logits[at] = random.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
    }
    let mut card = case.card();
    let out = card.output::<[u32; 2]>(rows);
    let arguments = Argmax { logits: card.constant(&logits), out, vocab: int(vocab), rows: int(rows) };
    card.launch(case.instance, &arguments).map_err(|fault| fault.to_string())?;
    let ours = card.values::<[u32; 2]>(out, rows).map_err(|fault| fault.to_string())?;
    for (row, [best, bad]) in logits.chunks_exact(vocab).zip(ours) {
        let first_bad = row.iter().position(|x| !x.is_finite()).unwrap_or(vocab);
        if bad as usize != first_bad {
            return Err(format!("the first bad logit is {first_bad}, not {bad}"));
        }
        let top = row.iter().copied().filter(|x| x.is_finite()).fold(f32::MIN, f32::max);
        if first_bad == vocab && row.iter().position(|&x| x == top) != Some(best as usize) {
            return Err(format!("{best} is not the first of the largest"));
        }
    }
    Ok(card.0.synchronisations())
}

#[test]
fn the_lowest_index_of_the_largest_is_found() {
    check_all(check, 0..3);
}
