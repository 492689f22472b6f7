use std::ops::Range;

use crate::cuda::{
    kernels::{Merge, RaggedDecode, scale_log2},
    launcher::{Address, Instance, Launcher},
    lists::{List, ListLen, Lists, PIECE},
};
use crate::support::{
    Case, Checked, Mood, Random, TestCard, check_all, close, from_half, int, rounding, wide,
};

/// Entries of one head on the card, with a copy here.
struct Entries {
    k: Vec<u16>,
    v: Vec<u16>,
    list: List,
}

/// One sequence: the lists that each of its query rows attends to.
struct Variant {
    lists: Vec<(Range<usize>, Entries)>,
}

/// Lengths at the edges of steps and pieces, and any.
fn length(random: &mut Random) -> usize {
    let edges = [0, 1, 2, 15, 16, 17, 63, 64, 65, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 1];
    if random.below(2) == 0 { random.pick(&edges) } else { random.below(600) }
}

fn entries(case: &Case<'_>, random: &mut Random, card: &mut TestCard<'_>, mood: Mood, len: usize) -> Entries {
    let dim = case.instance.head_dim.get();
    let k = random.heads(case.instance, len, mood, -1.0);
    let v = random.halves(case.instance.element, len * dim, 1.0);
    let list = List { k: card.constant(&k), v: card.constant(&v), len: ListLen::Known(len) };
    Entries { k, v, list }
}

/// A tail in a buffer with more room, whose length is on the card.
fn tail(
    case: &Case<'_>,
    random: &mut Random,
    card: &mut TestCard<'_>,
    mood: Mood,
    [len, room, place]: [usize; 3],
) -> Entries {
    let dim = case.instance.head_dim.get();
    let k = random.heads(case.instance, len, mood, -1.0);
    let v = random.halves(case.instance.element, len * dim, 1.0);
    let padded = |rows: &[u16]| {
        let mut rows = rows.to_vec();
        rows.resize(room * dim, 0x7fff); // NaN
        rows
    };
    let list = List { k: card.constant(&padded(&k)), v: card.constant(&padded(&v)), len: ListLen::At(place) };
    Entries { k, v, list }
}

pub fn check(case: Case<'_>) -> Checked {
    let (mut random, dim) = (case.random(), case.instance.head_dim.get());
    let mut card = case.card();
    let mood = random.mood();
    let group = random.pick(&[1, 2, 3, 4, 7, 8, 9, 16, 20]);
    let kv_heads = 1 + random.below(2);
    let (heads, variants, room) = (group * kv_heads, 1 + random.below(3), 5);
    let q = random.heads(case.instance, variants * heads, mood, 1.0);
    let lens: Vec<usize> =
        (0..variants).map(|variant| if variant == 0 { 1 } else { random.below(room + 1) }).collect();
    let made: Vec<Variant> = (0..variants)
        .map(|variant| {
            // Query heads share their KV head's list, or each has its own.
            let per = if random.below(3) == 0 { 1 } else { group };
            let mut lists = Vec::new();
            for first in (0..heads).step_by(per) {
                let len = length(&mut random) / if per == 1 { group } else { 1 };
                lists.push((first..first + per, entries(&case, &mut random, &mut card, mood, len)));
            }
            for first in (0..heads).step_by(group) {
                let tail = tail(&case, &mut random, &mut card, mood, [lens[variant], room, variant]);
                lists.push((first..first + group, tail));
            }
            Variant { lists }
        })
        .collect();
    let lens = card.constant(&lens.iter().map(|&len| int(len)).collect::<Vec<_>>());
    let all = step(&mut card, case.instance, &q, lens, heads, &made)?;
    let exact: Vec<f64> = (0..variants * heads)
        .flat_map(|row| {
            let query = &q[row * dim..][..dim];
            attend(case.instance, query, row % heads, &made[row / heads])
        })
        .collect();
    let element = case.instance.element;
    close("output", all.iter().map(|&x| from_half(element, x)), &exact, 1.5 * rounding(element))?;

    let one = random.below(variants);
    let own = one * heads * dim..(one + 1) * heads * dim;
    let alone = step(&mut card, case.instance, &q[own.clone()], lens, heads, &made[one..=one])?;
    if alone != all[own] {
        return Err("a sequence's bits depend on its batch".into());
    }
    Ok(card.0.synchronisations())
}

/// One decode step of a batch: `[rows][dim]`.
fn step(
    card: &mut TestCard<'_>,
    instance: Instance,
    q: &[u16],
    lens: Address,
    heads: usize,
    variants: &[Variant],
) -> Result<Vec<u16>, String> {
    let mut lists = Lists::new(variants.len() * heads, instance.head_dim);
    for (index, variant) in variants.iter().enumerate() {
        for (rows, entries) in &variant.lists {
            lists.attend(index * heads + rows.start..index * heads + rows.end, entries.list);
        }
    }
    let tables = lists.tables();
    let part_out = card.output::<f32>(tables.part_count * instance.head_dim.get());
    let part_sums = card.output::<[f32; 2]>(tables.part_count);
    let decode = RaggedDecode {
        q: card.constant(q),
        items: card.store(&tables.items).map_err(|fault| fault.to_string())?,
        lens,
        part_out,
        part_sums,
        scale_log2: scale_log2(instance.head_dim),
        count: int(tables.items.len()),
    };
    let out = card.output::<u16>(q.len());
    let merge = Merge {
        part_out,
        part_sums,
        parts: card.constant(&tables.parts),
        first: card.constant(&tables.first),
        out,
        rows: int(variants.len() * heads),
    };
    card.launch(instance, &decode).map_err(|fault| fault.to_string())?;
    card.launch(instance, &merge).map_err(|fault| fault.to_string())?;
    card.values(out, q.len()).map_err(|fault| fault.to_string())
}

/// The formula, in f64.
fn attend(instance: Instance, query: &[u16], head: usize, variant: &Variant) -> Vec<f64> {
    let (dim, element) = (query.len(), instance.element);
    let query = wide(element, query);
    let seen: Vec<(Vec<f64>, Vec<f64>)> = variant
        .lists
        .iter()
        .filter(|(rows, _)| rows.contains(&head))
        .flat_map(|(_, entries)| entries.k.chunks_exact(dim).zip(entries.v.chunks_exact(dim)))
        .map(|(k, v)| (wide(element, k), wide(element, v)))
        .collect();
    let scores: Vec<f64> = seen
        .iter()
        .map(|(key, _)| query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() / (dim as f64).sqrt())
        .collect();
    let top = scores.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut out = vec![0.0; dim];
    for (weight, (_, value)) in weights.iter().zip(&seen) {
        for (out, value) in out.iter_mut().zip(value) {
            *out += weight / sum * value;
        }
    }
    out
}

#[test]
fn steps_are_those_of_the_formula_alone_and_in_a_batch() {
    check_all(check, 0..5);
}

#[test]
fn a_list_is_split_by_its_own_length_and_rows_by_sixteen() {
    let head_dim = crate::support::instance(crate::cuda::launcher::Element::Bf16, 64).head_dim;
    let list = |len| List { k: Address(4096), v: Address(8192), len };
    let mut lists = Lists::new(23, head_dim);
    lists.attend(0..20, list(ListLen::Known(PIECE + 1)));
    lists.attend(20..21, list(ListLen::Known(0)));
    lists.attend(21..22, list(ListLen::At(3)));
    let tables = lists.tables();
    let short: Vec<_> =
        tables.items.iter().map(|x| (x.k.0, x.v.0, x.len, x.len_from, x.q_row, x.q_count, x.part)).collect();
    let second = (PIECE * 64 * 2) as u64;
    let piece = int(PIECE);
    assert_eq!(
        short,
        [
            (4096, 8192, piece, -1, 0, 16, 0),
            (4096 + second, 8192 + second, 1, -1, 0, 16, 16),
            (4096, 8192, piece, -1, 16, 4, 32),
            (4096 + second, 8192 + second, 1, -1, 16, 4, 36),
            (4096, 8192, 0, 3, 21, 1, 40),
        ]
    );
    assert_eq!(tables.part_count, 41);
    assert_eq!(tables.parts[..4], [0, 16, 1, 17]);
    assert_eq!(tables.first[18..], [36, 38, 40, 40, 41, 41]);
}
