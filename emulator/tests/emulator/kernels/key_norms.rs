use super::prompt::Prompt;
use crate::cuda::{kernels::KeyNorms, launcher::Launcher};
use crate::support::{Case, Checked, check_all, close, from_half, int};

pub fn check(case: Case<'_>) -> Checked {
    let prompt = Prompt::random(&case);
    let (dim, values) = (prompt.dim(), prompt.kv_heads * prompt.len);
    let mut card = case.card();
    let k = card.constant(&prompt.k);
    let out = card.output::<f32>(values);
    let arguments = KeyNorms {
        k,
        out,
        kv_len: int(prompt.len),
        capacity: int(prompt.capacity),
        kv_heads: int(prompt.kv_heads),
    };
    card.launch(case.instance, &arguments).map_err(|fault| fault.to_string())?;
    let norm = |head: usize, place: usize| {
        let key = &prompt.k[(head * prompt.capacity + place) * dim..][..dim];
        key.iter().map(|&x| from_half(case.instance.element, x).powi(2)).sum::<f64>().sqrt()
    };
    let exact: Vec<f64> = (0..prompt.kv_heads)
        .flat_map(|head| (0..prompt.len).map(move |place| (head, place)))
        .map(|(head, place)| norm(head, place))
        .collect();
    let ours = card.values::<f32>(out, values).map_err(|fault| fault.to_string())?;
    close("norms", ours.iter().map(|&x| f64::from(x)), &exact, 1e-6)?;
    Ok(card.0.synchronisations())
}

#[test]
fn norms_are_those_of_the_formula() {
    check_all(check, 0..4);
}
