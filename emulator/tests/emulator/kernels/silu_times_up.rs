use crate::cuda::{kernels::SiluTimesUp, launcher::Launcher};
use crate::support::{Case, Checked, check_all, close, from_half, int, rounding, to_half, wide};

pub fn check(case: Case<'_>) -> Checked {
    let mut random = case.random();
    let (width, count) = (8 * (1 + random.below(300)), 1 + random.below(4));
    let element = case.instance.element;
    let mut gate_up = random.halves(element, count * 2 * width, 2.0);
    gate_up[0] = to_half(element, -300.0); // its exponential is infinite
    gate_up[1] = to_half(element, 300.0);
    let mut card = case.card();
    let out = card.output::<u16>(count * width);
    let arguments =
        SiluTimesUp { gate_up: card.constant(&gate_up), out, width: int(width), count: int(count) };
    card.launch(case.instance, &arguments).map_err(|fault| fault.to_string())?;
    let exact: Vec<f64> = wide(element, &gate_up)
        .chunks_exact(2 * width)
        .flat_map(|row| {
            let (gate, up) = row.split_at(width);
            gate.iter().zip(up).map(|(x, y)| x / (1.0 + (-x).exp()) * y).collect::<Vec<_>>()
        })
        .collect();
    let ours = card.values::<u16>(out, exact.len()).map_err(|fault| fault.to_string())?;
    close("output", ours.iter().map(|&x| from_half(element, x)), &exact, rounding(element))?;
    Ok(card.0.synchronisations())
}

#[test]
fn activations_are_those_of_the_formula() {
    check_all(check, 0..2);
}
