use crate::cuda::{kernels::Embedding, launcher::Launcher};
use crate::support::{Case, Checked, check_all, from_half, int};

pub fn check(case: Case<'_>) -> Checked {
    let mut random = case.random();
    let (vocab, width, count) = (1 + random.below(50), 8 * (1 + random.below(300)), 1 + random.below(20));
    let element = case.instance.element;
    let table = random.halves(element, vocab * width, 1.0);
    let tokens: Vec<u32> = (0..count).map(|_| random.below(vocab) as u32).collect();
    let mut card = case.card();
    let out = card.output::<f32>(count * width);
    let arguments = Embedding {
        table: card.constant(&table),
        tokens: card.constant(&tokens),
        out,
        width: int(width),
        count: int(count),
    };
    card.launch(case.instance, &arguments).map_err(|fault| fault.to_string())?;
    let ours = card.values::<f32>(out, count * width).map_err(|fault| fault.to_string())?;
    let exact = tokens.iter().flat_map(|&token| &table[token as usize * width..][..width]);
    if !ours.iter().map(|&x| f64::from(x)).eq(exact.map(|&x| from_half(element, x))) {
        return Err("rows differ".into());
    }
    Ok(card.0.synchronisations())
}

#[test]
fn rows_are_those_of_the_table() {
    check_all(check, 0..2);
}
