use crate::cuda::{
    kernels::{Gather, GatherItem},
    launcher::Launcher,
};
use crate::support::{Case, Checked, check_all, int};

/// Lists of any length, also none, out of prompts of one head each.
pub fn check(case: Case<'_>) -> Checked {
    let (mut random, dim) = (case.random(), case.instance.head_dim.get());
    let mut card = case.card();
    let (mut items, mut expected) = (Vec::new(), Vec::new());
    for _ in 0..1 + random.below(5) {
        let len = 1 + random.below(200);
        let [k, v] = [(); 2].map(|()| random.halves(case.instance.element, len * dim, 1.0));
        let share = random.below(4);
        let positions: Vec<u32> = (0..len as u32).filter(|_| random.below(3) < share).collect();
        let kept = |rows: &[u16]| -> Vec<u16> {
            positions.iter().flat_map(|&at| &rows[at as usize * dim..][..dim]).copied().collect()
        };
        let (to_k, to_v) =
            (card.output::<u16>(positions.len() * dim), card.output::<u16>(positions.len() * dim));
        expected.push((to_k, kept(&k)));
        expected.push((to_v, kept(&v)));
        let item = GatherItem {
            k: card.constant(&k),
            v: card.constant(&v),
            positions: card.constant(&positions),
            to_k,
            to_v,
            len: int(positions.len()),
            reserved: 0,
        };
        items.push(item);
    }
    let longest = items.iter().map(|item| item.len).max().unwrap_or(0);
    let count = int(items.len());
    let items = card.store(&items).map_err(|fault| fault.to_string())?;
    card.launch(case.instance, &Gather { items, count, longest }).map_err(|fault| fault.to_string())?;
    for (at, expected) in expected {
        let ours = card.values::<u16>(at, expected.len()).map_err(|fault| fault.to_string())?;
        if ours != expected {
            return Err("entries differ".into());
        }
    }
    Ok(card.0.synchronisations())
}

#[test]
fn lists_are_copied_whatever_their_lengths() {
    check_all(check, 0..4);
}
