//! How much attention each position receives from the whole prompt (H2O), whichever thread sees its share first.

use std::sync::{Mutex, PoisonError};

use kvsweep_methods::observation::Observed;

use super::simd::{Simd, UNITS};

/// Attention that positions receive in one layer, summed over all query rows before or at the end of the prompt.
///
/// Blocks of rows arrive in any order, so the sums are integers of [`UNITS`] a weight of one: adding them leaves no
/// trace of the order, which f32 sums would. A block's own sum over its rows is f32, in ascending order.
#[derive(Debug)]
pub(crate) struct Received {
    /// `[group][prompt]` of each KV head.
    heads: Vec<Mutex<Vec<u64>>>,
    group: usize,
    prompt: usize,
}

impl Received {
    /// Nothing received yet.
    pub(crate) fn new(kv_heads: usize, group: usize, prompt: usize) -> Self {
        let head = || Mutex::new(vec![0; group * prompt]);
        Self { heads: (0..kv_heads).map(|_| head()).collect(), group, prompt }
    }

    /// Adds a block of rows of one KV head: `block` is `[group][columns]`, the first columns of the prompt.
    pub(crate) fn add(&self, simd: Simd, kv_head: usize, block: &[f32]) {
        let mut sums = self.heads[kv_head].lock().unwrap_or_else(PoisonError::into_inner);
        let columns = block.len() / self.group;
        for (sums, block) in sums.chunks_exact_mut(self.prompt).zip(block.chunks_exact(columns)) {
            simd.add_units(block, sums);
        }
    }

    /// The sums of every query head over its first `columns` positions.
    pub(crate) fn observed(&self, columns: usize) -> Observed {
        let rows = self.heads.len() * self.group;
        let mut values = Vec::with_capacity(rows * columns);
        for head in &self.heads {
            let sums = head.lock().unwrap_or_else(PoisonError::into_inner);
            for row in sums.chunks_exact(self.prompt) {
                values.extend(row[..columns].iter().map(|&sum| (sum as f64 / UNITS) as f32));
            }
        }
        Observed::Rows { rows, columns, values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_blocks_leaves_no_trace() {
        let blocks: Vec<Vec<f32>> = (1..=40usize)
            .map(|columns| (0..2 * columns).map(|i| ((i * 37 + columns) as f32).sin().abs() * 9.0).collect())
            .collect();
        let add = |order: &mut dyn Iterator<Item = &Vec<f32>>| {
            let received = Received::new(1, 2, 40);
            order.for_each(|block| received.add(Simd::in_use(), 0, block));
            received.observed(37)
        };
        let forward = add(&mut blocks.iter());
        assert_eq!(forward, add(&mut blocks.iter().rev()));
        let Observed::Rows { rows: 2, columns: 37, values } = forward else { panic!("{forward:?}") };
        for (i, value) in values.into_iter().enumerate() {
            let (head, column) = (i / 37, i % 37);
            let exact: f64 = (column + 1..=40).map(|n| f64::from(blocks[n - 1][head * n + column])).sum();
            assert!((f64::from(value) - exact).abs() < 1e-7 * exact, "{value} {exact}");
        }
    }
}
