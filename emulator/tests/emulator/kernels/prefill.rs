use super::prompt::Prompt;
use crate::cuda::{
    kernels::{NO_WINDOW, Prefill, scale_log2},
    launcher::{Element, Launcher},
};
use crate::support::{
    Case, Checked, TestCard, check_all, close, from_half, instance, int, program, rounding,
};

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

#[test]
fn tiles_that_nobody_sees_are_left_out() {
    let Some(program) = program() else { return };
    // 200 rows of one head of 64: blocks of 128 rows, tiles of 64 keys. A warp makes 128 products a tile.
    for (window, tiles) in [(NO_WINDOW, 2 + 4), (66, 2 + 4), (65, 2 + 3), (1, 2 + 2)] {
        let mut card = TestCard::new(program, 0, None);
        let instance = instance(Element::F16, 64);
        let zeros = card.constant(&[0u16; 200 * 64]);
        let arguments = Prefill {
            q: zeros,
            k: zeros,
            v: zeros,
            out: card.output::<u16>(200 * 64),
            log_sums: card.output::<f32>(200),
            q_len: 200,
            q_start: 0,
            kv_len: 200,
            capacity: 200,
            heads: 1,
            group: 1,
            window,
            scale_log2: scale_log2(instance.head_dim),
        };
        card.launch(instance, &arguments).unwrap();
        assert_eq!(card.0.counters().products, tiles * 4 * 128, "window {window}");
    }
}
