use super::prompt::Prompt;
use crate::cuda::{kernels::WindowMoments, launcher::Launcher};
use crate::support::{Case, Checked, check_all, close, int};

pub fn check(case: Case<'_>) -> Checked {
    let prompt = Prompt::random(&case);
    let mut random = case.random();
    let rows = prompt.rows();
    // One tile of rows, or two.
    let window = (1 + random.below(64) + 64 * random.below(2)).min(rows);
    let (first_row, columns) = (rows - window, prompt.len - window);
    let blocks = columns.div_ceil(64);

    let mut card = case.card();
    let [q, k, log_sums] = prompt.upload(&mut card);
    let values = prompt.heads() * columns;
    let (mean, variance) = (card.output::<f32>(values), card.output::<f32>(values));
    let entropy = card.output::<f32>(prompt.heads() * blocks);
    let arguments = WindowMoments {
        q,
        k,
        log_sums,
        mean,
        variance,
        entropy,
        q_len: int(rows),
        q_start: int(prompt.start),
        kv_len: int(prompt.len),
        capacity: int(prompt.capacity),
        heads: int(prompt.heads()),
        group: int(prompt.group),
        window: prompt.window,
        first_row: int(first_row),
        columns: int(columns),
        scale_log2: prompt.scale(),
    };
    card.launch(case.instance, &arguments).map_err(|fault| fault.to_string())?;
    let (mut means, mut variances) = (vec![0.0; values], vec![0.0; values]);
    let mut entropies = vec![0.0; prompt.heads() * blocks];
    for head in 0..prompt.heads() {
        for column in 0..columns {
            let weights: Vec<f64> = (first_row..rows)
                .map(|row| prompt.weights[(head * rows + row) * prompt.len + column])
                .collect();
            let mean = weights.iter().sum::<f64>() / window as f64;
            let squares: f64 = weights.iter().map(|w| (w - mean).powi(2)).sum();
            means[head * columns + column] = mean;
            variances[head * columns + column] = squares / (window as f64 - 1.0).max(1.0);
            entropies[head * blocks + column / 64] -=
                weights.iter().map(|w| w * (w + 1e-10).ln()).sum::<f64>();
        }
    }
    let read = |at, len| -> Result<Vec<f64>, String> {
        let ours = card.values::<f32>(at, len).map_err(|fault| fault.to_string())?;
        Ok(ours.into_iter().map(f64::from).collect())
    };
    let limit = 2.0 * prompt.sum_limit();
    close("means", read(mean, values)?, &means, limit)?;
    close("variances", read(variance, values)?, &variances, limit)?;
    // An entropy near zero is made of terms that are larger: compared as a part of one.
    let with_one = |x: Vec<f64>| x.into_iter().map(|x| 1.0 + x).collect::<Vec<_>>();
    close("entropies", with_one(read(entropy, entropies.len())?), &with_one(entropies), limit)?;
    match card.0.counters().bank_conflicts {
        0 => Ok(card.0.synchronisations()),
        conflicts => Err(format!("{conflicts} bank conflicts")),
    }
}

#[test]
fn moments_and_entropy_are_those_of_the_formula() {
    check_all(check, 0..5);
}
