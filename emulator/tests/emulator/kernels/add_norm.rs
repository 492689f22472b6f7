use crate::cuda::{
    kernels::AddNorm,
    launcher::{Address, Launcher},
};
use crate::support::{Case, Checked, check_all, close, from_half, int, rounding, wide};

pub fn check(case: Case<'_>) -> Checked {
    let mut random = case.random();
    let (width, count) = (8 * (1 + random.below(200)), 1 + random.below(6));
    let (element, epsilon) = (case.instance.element, random.pick(&[1e-5f32, 1e-6, 0.5]));
    let residual = random.floats(count * width, 2.0);
    let add = (random.below(3) > 0).then(|| random.halves(element, count * width, 1.0));
    let weight = random.halves(element, width, 1.0);
    let mut card = case.card();
    let stream = Address(card.0.state(&residual));
    let out = card.output::<u16>(count * width);
    let arguments = AddNorm {
        residual: stream,
        add: add.as_ref().map_or(Address::NONE, |add| card.constant(add)),
        weight: card.constant(&weight),
        out,
        width: int(width),
        epsilon,
        count: int(count),
    };
    card.launch(case.instance, &arguments).map_err(|fault| fault.to_string())?;
    let add = add.map_or_else(|| vec![0.0; count * width], |add| wide(element, &add));
    let sums: Vec<f64> = residual.iter().zip(add).map(|(&x, y)| f64::from(x) + y).collect();
    let exact: Vec<f64> = sums
        .chunks_exact(width)
        .flat_map(|row| {
            let mean = row.iter().map(|x| x * x).sum::<f64>() / width as f64;
            let inverse = 1.0 / (mean + f64::from(epsilon)).sqrt();
            row.iter()
                .zip(&weight)
                .map(move |(x, &w)| x * inverse * from_half(element, w))
                .collect::<Vec<_>>()
        })
        .collect();
    let ours = card.values::<f32>(stream, sums.len()).map_err(|fault| fault.to_string())?;
    close("residual stream", ours.iter().map(|&x| f64::from(x)), &sums, 1e-6)?;
    let ours = card.values::<u16>(out, exact.len()).map_err(|fault| fault.to_string())?;
    close("normed", ours.iter().map(|&x| from_half(element, x)), &exact, rounding(element))?;
    Ok(card.0.synchronisations())
}

#[test]
fn sums_and_norms_are_those_of_the_formula() {
    check_all(check, 0..3);
}
