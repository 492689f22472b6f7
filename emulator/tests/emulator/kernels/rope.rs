use crate::cuda::{
    kernels::Rope,
    launcher::{Address, Launcher},
};
use crate::support::{Case, Checked, check_all, close, from_half, int, rounding, wide};

/// Tokens anywhere, to rows of the caches anywhere, with and without bias and norms.
pub fn check(case: Case<'_>) -> Checked {
    let (mut random, dim) = (case.random(), case.instance.head_dim.get());
    let element = case.instance.element;
    let (heads, kv_heads, count) = (1 + random.below(9), 1 + random.below(3), 1 + random.below(5));
    let (all, positions, epsilon) = (heads + 2 * kv_heads, 50, 1e-6f32);
    let projected = random.halves(element, count * all * dim, 1.0);
    let bias = (random.below(2) == 0).then(|| random.halves(element, all * dim, 1.0));
    let norms = (random.below(2) == 0).then(|| [(); 2].map(|()| random.halves(element, dim, 1.0)));
    let angles = random.floats(positions * dim / 2, 3.0);
    let (cosines, sines): (Vec<f32>, Vec<f32>) = angles.iter().map(|x| (x.cos(), x.sin())).unzip();
    let places: Vec<u32> = (0..count).map(|_| random.below(positions) as u32).collect();
    // Every token has its own row; the heads of a token lie `head_rows` apart.
    let head_rows = count + random.below(3);
    let rows: Vec<u32> = (0..count as u32).rev().collect();

    let mut card = case.card();
    let q = card.output::<u16>(count * heads * dim);
    let [k, v] = [(); 2].map(|()| card.output::<u16>(kv_heads * head_rows * dim));
    let [q_norm, k_norm] = match &norms {
        Some([q, k]) => [card.constant(q), card.constant(k)],
        None => [Address::NONE; 2],
    };
    let arguments = Rope {
        projected: card.constant(&projected),
        bias: bias.as_ref().map_or(Address::NONE, |bias| card.constant(bias)),
        q_norm,
        k_norm,
        cosines: card.constant(&cosines),
        sines: card.constant(&sines),
        positions: card.constant(&places),
        rows: card.constant(&rows),
        q,
        k,
        v,
        heads: int(heads),
        kv_heads: int(kv_heads),
        head_rows: int(head_rows),
        epsilon,
        count: int(count),
    };
    card.launch(case.instance, &arguments).map_err(|fault| fault.to_string())?;
    for token in 0..count {
        for head in 0..all {
            let mut x = wide(element, &projected[(token * all + head) * dim..][..dim]);
            if let Some(bias) = &bias {
                x.iter_mut().zip(wide(element, &bias[head * dim..][..dim])).for_each(|(x, b)| *x += b);
            }
            let value = head >= heads + kv_heads;
            if let (Some([q_norm, k_norm]), false) = (&norms, value) {
                let mean = x.iter().map(|x| x * x).sum::<f64>() / dim as f64;
                let inverse = 1.0 / (mean + f64::from(epsilon)).sqrt();
                let weight = wide(element, if head < heads { q_norm } else { k_norm });
                x.iter_mut().zip(weight).for_each(|(x, w)| *x *= inverse * w);
            }
            if !value {
                for i in 0..dim / 2 {
                    let at = places[token] as usize * dim / 2 + i;
                    let (c, s) = (f64::from(cosines[at]), f64::from(sines[at]));
                    (x[i], x[i + dim / 2]) = (x[i] * c - x[i + dim / 2] * s, x[i + dim / 2] * c + x[i] * s);
                }
            }
            let (base, row) = match head.checked_sub(heads) {
                None => (q, token * heads + head),
                Some(kv) => (if value { v } else { k }, rows[token] as usize + kv % kv_heads * head_rows),
            };
            let ours = card.values::<u16>(base.at(row, dim * 2), dim).map_err(|fault| fault.to_string())?;
            close("head", ours.iter().map(|&x| from_half(element, x)), &x, rounding(element))?;
        }
    }
    Ok(card.0.synchronisations())
}

#[test]
fn heads_are_normed_and_rotated_as_the_formulas_say() {
    check_all(check, 0..4);
}
