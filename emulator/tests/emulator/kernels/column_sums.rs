use super::prompt::Prompt;
use crate::cuda::{kernels::ColumnSums, launcher::Launcher};
use crate::support::{Case, Checked, check_all, close, int};

/// Sums of the window's rows or of all; in one launch, or on top of what is there.
pub fn check(case: Case<'_>) -> Checked {
    let prompt = Prompt::random(&case);
    let mut random = case.random();
    let rows = prompt.rows();
    let first_row = if random.below(2) == 0 { 0 } else { rows - (1 + random.below(40)).min(rows) };
    let columns = (prompt.len - random.below(9).min(prompt.len - 1)).max(1);
    let before = (random.below(2) == 0).then(|| random.floats(prompt.heads() * columns, 0.1));

    let mut card = case.card();
    let [q, k, log_sums] = prompt.upload(&mut card);
    let out = card.output::<f32>(prompt.heads() * columns);
    if let Some(before) = &before {
        assert!(card.0.write(out.0, before));
    }
    let arguments = ColumnSums {
        q,
        k,
        log_sums,
        out,
        q_len: int(rows),
        q_start: int(prompt.start),
        kv_len: int(prompt.len),
        capacity: int(prompt.capacity),
        heads: int(prompt.heads()),
        group: int(prompt.group),
        window: prompt.window,
        first_row: int(first_row),
        columns: int(columns),
        accumulate: i32::from(before.is_some()),
        scale_log2: prompt.scale(),
    };
    card.launch(case.instance, &arguments).map_err(|fault| fault.to_string())?;
    let mut expected = before.unwrap_or_else(|| vec![0.0; prompt.heads() * columns]);
    let mut exact: Vec<f64> = expected.drain(..).map(f64::from).collect();
    for head in 0..prompt.heads() {
        for row in first_row..rows {
            let weights = &prompt.weights[(head * rows + row) * prompt.len..][..columns];
            for (sum, weight) in exact[head * columns..][..columns].iter_mut().zip(weights) {
                *sum += weight;
            }
        }
    }
    let ours = card.values::<f32>(out, exact.len()).map_err(|fault| fault.to_string())?;
    close("sums", ours.iter().map(|&x| f64::from(x)), &exact, prompt.sum_limit())?;
    match card.0.counters().bank_conflicts {
        0 => Ok(card.0.synchronisations()),
        conflicts => Err(format!("{conflicts} bank conflicts")),
    }
}

#[test]
fn sums_of_the_window_and_of_all_rows_are_those_of_the_formula() {
    check_all(check, 0..5);
}
