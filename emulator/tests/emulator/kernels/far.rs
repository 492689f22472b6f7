//! Places that 32 bits do not count: heads that begin beyond 4 GiB, positions of many millions. A kernel must compute
//! there what it computes near the start, bit for bit.

use crate::cuda::{
    kernels::{ColumnSums, KeyNorms, Prefill, WindowMoments, scale_log2},
    launcher::{Address, Element, Instance, Launcher},
};
use crate::support::{Random, TestCard, instance, int, program};

const DIM: usize = 128;
const ROWS: usize = 70;
const HEADS: usize = 2;
/// A head of so many positions takes 4 GiB.
const FAR: usize = 1 << 24;

/// K and V of two heads, of which positions `start..start + len` are there.
fn caches(card: &mut TestCard<'_>, [capacity, start, len]: [usize; 3]) -> [Address; 2] {
    let mut random = Random::new(8);
    [(); 2].map(|()| {
        let cache = Address(card.0.sparse::<u16>(HEADS * capacity * DIM));
        for head in 0..HEADS {
            let rows = random.halves(Element::Bf16, len * DIM, 1.3);
            assert!(card.0.write(cache.at(head * capacity + start, DIM * 2).0, &rows));
        }
        cache
    })
}

fn queries(card: &mut TestCard<'_>) -> Address {
    card.constant(&Random::new(9).halves(Element::Bf16, ROWS * HEADS * DIM, 1.3))
}

/// Rows `start..start + ROWS` with a window that reaches 50 positions before them.
fn prefill(
    card: &mut TestCard<'_>,
    instance: Instance,
    capacity: usize,
    start: usize,
) -> (Vec<u16>, Vec<f32>) {
    let [k, v] = caches(card, [capacity, start - 50, ROWS + 50]);
    let (out, log_sums) = (card.output::<u16>(ROWS * HEADS * DIM), card.output::<f32>(HEADS * ROWS));
    let arguments = Prefill {
        q: queries(card),
        k,
        v,
        out,
        log_sums,
        q_len: int(ROWS),
        q_start: int(start),
        kv_len: int(start + ROWS),
        capacity: int(capacity),
        heads: int(HEADS),
        group: 1,
        window: 51,
        scale_log2: scale_log2(instance.head_dim),
    };
    card.launch(instance, &arguments).unwrap();
    (card.values(out, ROWS * HEADS * DIM).unwrap(), card.values(log_sums, HEADS * ROWS).unwrap())
}

/// Sums, moments and norms of a prompt of `ROWS`.
fn observed(card: &mut TestCard<'_>, instance: Instance, capacity: usize) -> Vec<Vec<f32>> {
    let [k, _] = caches(card, [capacity, 0, ROWS]);
    let (q, log_sums) = (queries(card), card.constant(&[9f32; HEADS * ROWS]));
    let [sums, norms] = [(); 2].map(|()| card.output::<f32>(HEADS * ROWS));
    let [mean, variance] = [(); 2].map(|()| card.output::<f32>(HEADS * (ROWS - 9)));
    let entropy = card.output::<f32>(HEADS);
    let (q_len, capacity, heads) = (int(ROWS), int(capacity), int(HEADS));
    let (window, scale_log2) = (i32::MAX, scale_log2(instance.head_dim));
    let columns = ColumnSums {
        q,
        k,
        log_sums,
        out: sums,
        q_len,
        q_start: 0,
        kv_len: q_len,
        capacity,
        heads,
        group: 1,
        window,
        first_row: 0,
        columns: q_len,
        accumulate: 0,
        scale_log2,
    };
    card.launch(instance, &columns).unwrap();
    let moments = WindowMoments {
        q,
        k,
        log_sums,
        mean,
        variance,
        entropy,
        q_len,
        q_start: 0,
        kv_len: q_len,
        capacity,
        heads,
        group: 1,
        window,
        first_row: q_len - 9,
        columns: q_len - 9,
        scale_log2,
    };
    card.launch(instance, &moments).unwrap();
    card.launch(instance, &KeyNorms { k, out: norms, kv_len: q_len, capacity, kv_heads: heads }).unwrap();
    let read = |at, len| card.values::<f32>(at, len).unwrap();
    let (past, all) = (HEADS * (ROWS - 9), HEADS * ROWS);
    vec![read(sums, all), read(norms, all), read(mean, past), read(variance, past), read(entropy, HEADS)]
}

#[test]
fn heads_beyond_four_gibibytes_are_as_near_ones() {
    let Some(program) = program() else { return };
    let instance = instance(Element::Bf16, DIM);
    let mut card = TestCard::new(program, 1, None);
    assert_eq!(prefill(&mut card, instance, FAR + 128, FAR), prefill(&mut card, instance, 192, 64));
    card.0.clear();
    assert_eq!(observed(&mut card, instance, FAR + 1), observed(&mut card, instance, ROWS));
}
