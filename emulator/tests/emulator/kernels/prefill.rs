use super::prompt::Prompt;
use crate::cuda::{card::Card, kernels::Prefill};
use crate::support::{Case, Checked, check_all, close, from_half, int, rounding};

pub fn check(case: Case<'_>) -> Checked {
    check_prompt(case, &Prompt::random(&case))
}

fn check_prompt(case: Case<'_>, prompt: &Prompt) -> Checked {
    let mut card = case.card();
    let [q, k, _] = prompt.upload(&mut card);
    let v = card.constant(&prompt.v);
    let out = card.output::<u16>(prompt.q.len());
    let log_sums = card.output::<f32>(prompt.log_sums.len());
    let arguments = Prefill {
        q,
        k,
        v,
        out,
        log_sums,
        q_len: int(prompt.rows()),
        q_start: int(prompt.start),
        kv_len: int(prompt.len),
        capacity: int(prompt.capacity),
        heads: int(prompt.heads()),
        group: int(prompt.group),
        window: prompt.window,
        scale_log2: prompt.scale(),
    };
    card.launch(case.instance, &arguments).map_err(|fault| fault.to_string())?;
    let element = case.instance.element;
    let ours = card.values::<u16>(out, prompt.q.len()).map_err(|fault| fault.to_string())?;
    close("output", ours.iter().map(|&x| from_half(element, x)), &prompt.out(), 1.5 * rounding(element))?;
    let ours = card.values::<f32>(log_sums, prompt.log_sums.len()).map_err(|fault| fault.to_string())?;
    close("log-sums", ours.iter().map(|&x| f64::from(x)), &prompt.log_sums, 1e-5)?;
    match card.0.counters().bank_conflicts {
        0 => Ok(card.0.synchronisations()),
        conflicts => Err(format!("{conflicts} bank conflicts")),
    }
}

#[test]
fn attention_is_that_of_the_formula() {
    check_all(check, 0..5);
}
