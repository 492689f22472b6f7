//! Attention over prompt caches: blocked and causal in prefill, over ragged caches in decode.
//!
//! Keys are kept in panels of 32 positions, `[panels][head_dim][32]`, so that scores are one product with a lane a
//! position; values are row-major, `[positions][head_dim]`, so that the weighted sum is one product with a lane a
//! dimension. The query heads of a group are rows of the same product: K and V are never repeated. Queries come
//! scaled by `log2(e) / sqrt(head_dim)`, and weights are powers of two.

use kvsweep_methods::shape::Reach;

use crate::cache::first_seen;

use super::{
    product::{Output, PANEL, Panels, Rows},
    simd::Simd,
};

/// Positions that one step of the prefill kernel scores at once.
const KEY_BLOCK: usize = 128;
/// Query rows that go through a key block together: their scores stay in the first-level cache.
const ROW_BLOCK: usize = 32;

/// Entries in a panel of keys.
pub(crate) const KEY_PANEL: usize = PANEL;

/// Factor on the queries: with it, weights are `2^(score - max)`.
pub(crate) fn query_scale(head_dim: usize) -> f32 {
    std::f32::consts::LOG2_E / (head_dim as f32).sqrt()
}

/// Elements that `len` keys take in panels.
pub(crate) fn key_panels_len(len: usize, head_dim: usize) -> usize {
    len.next_multiple_of(PANEL) * head_dim
}

/// Writes one key into its panel.
pub(crate) fn store_key(panels: &mut [f32], position: usize, key: &[f32]) {
    let panel = &mut panels[position / PANEL * PANEL * key.len()..];
    for (d, &x) in key.iter().enumerate() {
        panel[d * PANEL + position % PANEL] = x;
    }
}

/// Copies the keys of the given positions into panels of their own.
pub(crate) fn gather_keys(source: &[f32], positions: &[u32], panels: &mut [f32], head_dim: usize) {
    for (positions, panel) in positions.chunks(PANEL).zip(panels.chunks_exact_mut(PANEL * head_dim)) {
        let mut starts = [0; PANEL];
        for (start, &position) in starts.iter_mut().zip(positions) {
            let position = position as usize;
            *start = position / PANEL * PANEL * head_dim + position % PANEL;
        }
        for (d, row) in panel.chunks_exact_mut(PANEL).enumerate() {
            let source = &source[d * PANEL..];
            for (x, &start) in row.iter_mut().zip(&starts[..positions.len()]) {
                *x = source[start];
            }
        }
    }
}

/// Reads one key from its panel.
pub(crate) fn load_key(panels: &[f32], position: usize, key: &mut [f32]) {
    let panel = &panels[position / PANEL * PANEL * key.len()..];
    for (d, x) in key.iter_mut().enumerate() {
        *x = panel[d * PANEL + position % PANEL];
    }
}

/// Keys and values of one head.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entries<'a> {
    /// `[panels][head_dim][32]`.
    pub(crate) keys: &'a [f32],
    /// `[len][head_dim]`.
    pub(crate) values: &'a [f32],
    /// Entries in use.
    pub(crate) len: usize,
    /// The first ones, which the query does not look at; less than a panel.
    unseen: usize,
}

impl<'a> Entries<'a> {
    /// All of them.
    pub(crate) fn new(keys: &'a [f32], values: &'a [f32], len: usize) -> Self {
        Self { keys, values, len, unseen: 0 }
    }

    /// The same without the first `unseen`, of heads of `head_dim`.
    pub(crate) fn after(self, unseen: usize, head_dim: usize) -> Self {
        let dropped = unseen / PANEL * PANEL;
        Self {
            keys: &self.keys[dropped * head_dim..],
            values: &self.values[dropped * head_dim..],
            len: self.len - dropped,
            unseen: unseen - dropped,
        }
    }
}

/// Scores of a row block and a key block.
const TILE: usize = ROW_BLOCK * KEY_BLOCK;

/// Scratch of [`Causal::attend`].
#[derive(Default)]
pub(crate) struct CausalScratch {
    /// One tile, or all tiles of a row block if what positions receive is summed.
    scores: Vec<f32>,
    /// Each row's running maximum and sum of weights.
    max: Vec<f32>,
    sum: Vec<f32>,
    /// The maxima that each kept tile's weights are relative to, `[tiles][rows]`.
    maxima: Vec<f32>,
}

/// Which query rows attend: row `r` stands at position `first + r / group`.
#[derive(Clone, Copy)]
pub(crate) struct Causal {
    /// Position of the first row.
    pub(crate) first: usize,
    /// Query heads that share the KV head.
    pub(crate) group: usize,
    /// Elements of a head.
    pub(crate) head_dim: usize,
    /// What a row looks at.
    pub(crate) reach: Reach,
}

impl Causal {
    /// Causal attention of a block of query rows of one KV head over the prompt before them, with a running
    /// softmax. `queries` and `out` are `[tokens * group][head_dim]`; without `out` no values are read.
    ///
    /// `received` becomes the attention that each position gets from these rows, `[group][positions up to the
    /// last row]`. For this the weights of [`ROW_BLOCK`] rows are kept until the rows' sums are known; otherwise
    /// there are never more than [`ROW_BLOCK`] x [`KEY_BLOCK`] of them. `out` has the same bits either way.
    pub(crate) fn attend(
        self,
        simd: Simd,
        queries: &[f32],
        head: Entries<'_>,
        mut out: Option<&mut [f32]>,
        mut received: Option<&mut Vec<f32>>,
        scratch: &mut CausalScratch,
    ) {
        let Self { first, group, head_dim, reach } = self;
        let columns = first + queries.len() / (group * head_dim);
        let tiles = if received.is_some() { columns.div_ceil(KEY_BLOCK) } else { 1 };
        scratch.scores.resize(tiles * TILE, 0.0);
        if let Some(received) = &mut received {
            received.clear();
            received.resize(group * columns, 0.0);
        }
        for (block, queries) in queries.chunks(ROW_BLOCK * head_dim).enumerate() {
            let rows = queries.len() / head_dim;
            let position = |row: usize| first + (block * ROW_BLOCK + row) / group;
            let end = position(rows - 1) + 1;
            let begin = first_seen(reach, position(0)) / KEY_BLOCK * KEY_BLOCK;
            let mut out =
                out.as_deref_mut().map(|out| &mut out[block * ROW_BLOCK * head_dim..][..queries.len()]);
            if let Some(out) = &mut out {
                out.fill(0.0);
            }
            scratch.max.clear();
            scratch.max.resize(rows, f32::NEG_INFINITY);
            scratch.sum.clear();
            scratch.sum.resize(rows, 0.0);
            scratch.maxima.clear();
            for start in (begin..end).step_by(KEY_BLOCK) {
                let keys = KEY_BLOCK.min(end - start);
                let tile = if received.is_some() { start * ROW_BLOCK } else { 0 };
                let tile = &mut scratch.scores[tile..][..TILE];
                let q = Rows { data: queries, stride: head_dim, rows, depth: head_dim };
                let k =
                    Panels::packed(&head.keys[start * head_dim..], head_dim, keys.next_multiple_of(PANEL));
                simd.product(q, k, Output { data: tile, stride: KEY_BLOCK, accumulate: false });
                for row in 0..rows {
                    let scores = &mut tile[row * KEY_BLOCK..][..keys];
                    let seen = (position(row) + 1).saturating_sub(start).min(keys);
                    let (scores, unseen) = scores.split_at_mut(seen);
                    unseen.fill(0.0);
                    let before = first_seen(reach, position(row)).saturating_sub(start).min(seen);
                    let (unseen, scores) = scores.split_at_mut(before);
                    unseen.fill(0.0);
                    if scores.is_empty() {
                        continue;
                    }
                    let max = simd.max(scores).max(scratch.max[row]);
                    if max > scratch.max[row] {
                        // The first block finds `-inf` here and scales zeros.
                        let shrink = (scratch.max[row] - max).exp2();
                        scratch.sum[row] *= shrink;
                        if let Some(out) = &mut out {
                            simd.scale(&mut out[row * head_dim..][..head_dim], shrink);
                        }
                        scratch.max[row] = max;
                    }
                    scratch.sum[row] += simd.exp2_sum(scores, max);
                }
                scratch.maxima.extend_from_slice(&scratch.max);
                if let Some(out) = &mut out {
                    let weights = Rows { data: tile, stride: KEY_BLOCK, rows, depth: keys };
                    let v = Panels::row_major(&head.values[start * head_dim..], head_dim);
                    simd.product(weights, v, Output { data: out, stride: head_dim, accumulate: true });
                }
            }
            if let Some(received) = &mut received {
                let tiles = scratch.scores.chunks_exact(TILE).skip(begin / KEY_BLOCK);
                let tiles = tiles.zip(scratch.maxima.chunks_exact_mut(rows));
                for (start, (tile, factors)) in (begin..end).step_by(KEY_BLOCK).zip(tiles) {
                    simd.final_factors(factors, &scratch.max, &scratch.sum);
                    for (query_head, sums) in received.chunks_exact_mut(columns).enumerate() {
                        // The head's first row: a block may start inside a token.
                        let row = (query_head + group - block * ROW_BLOCK % group) % group;
                        let sums = &mut sums[start..][..KEY_BLOCK.min(end - start)];
                        if let Some(factors) = factors.get(row..) {
                            simd.add_rows(&tile[row * KEY_BLOCK..], KEY_BLOCK, factors, group, sums);
                        }
                    }
                }
            }
            if let Some(out) = &mut out {
                for (out, sum) in out.chunks_exact_mut(head_dim).zip(&scratch.sum) {
                    simd.scale(out, 1.0 / sum);
                }
            }
        }
    }
}

/// The prompt's entries as one variant kept them.
#[derive(Clone, Copy)]
pub(crate) enum KeptEntries<'a> {
    /// One list for all query heads of the group.
    Shared(Entries<'a>),
    /// One list a query head.
    PerQuery(&'a [Entries<'a>]),
}

/// Attention of one decode step in one KV head: `queries` and `out` are `[group][head_dim]`, the entries are what
/// was kept of the prompt and then `tail`, the tokens generated so far.
///
/// `weights` is scratch; afterwards it holds the attention weights, laid out as returned.
pub(crate) fn decode(
    simd: Simd,
    queries: &[f32],
    kept: KeptEntries<'_>,
    tail: Entries<'_>,
    out: &mut [f32],
    weights: &mut Vec<f32>,
    head_dim: usize,
) -> WeightLayout {
    let group = queries.len() / head_dim;
    let longest = match kept {
        KeptEntries::Shared(entries) => entries.len,
        KeptEntries::PerQuery(heads) => heads.iter().map(|entries| entries.len).max().unwrap_or(0),
    };
    let tail_at = longest.next_multiple_of(PANEL);
    let stride = tail_at + tail.len.next_multiple_of(PANEL);
    weights.resize(group * stride, 0.0);

    // The parts that each block of rows attends to: (first row, rows, first weight, entries).
    let all = |at: usize, entries| Part { row: 0, rows: group, at, entries };
    let per_query;
    let shared;
    let parts: &[Part<'_>] = match kept {
        KeptEntries::Shared(entries) => {
            shared = [all(0, entries), all(tail_at, tail)];
            &shared
        }
        KeptEntries::PerQuery(heads) => {
            let own = heads.iter().enumerate().map(|(row, &entries)| Part { row, rows: 1, at: 0, entries });
            per_query = own.chain([all(tail_at, tail)]).collect::<Vec<_>>();
            &per_query
        }
    };
    for part in parts.iter().filter(|part| part.entries.len > 0) {
        let q = Rows {
            data: &queries[part.row * head_dim..],
            stride: head_dim,
            rows: part.rows,
            depth: head_dim,
        };
        let k = Panels::packed(part.entries.keys, head_dim, part.entries.len.next_multiple_of(PANEL));
        let data = &mut weights[part.row * stride + part.at..];
        simd.product(q, k, Output { data, stride, accumulate: false });
    }
    out.fill(0.0);
    for row in 0..group {
        let own = match kept {
            KeptEntries::Shared(entries) => entries,
            KeptEntries::PerQuery(heads) => heads[row],
        };
        let (kept, tail_weights) = weights[row * stride..][..stride].split_at_mut(tail_at);
        let (unseen, kept) = kept[..own.len].split_at_mut(own.unseen);
        unseen.fill(0.0);
        let (unseen, tail_weights) = tail_weights[..tail.len].split_at_mut(tail.unseen);
        unseen.fill(0.0);
        let max = simd.max(kept).max(simd.max(tail_weights));
        let sum = simd.exp2_sum(kept, max) + simd.exp2_sum(tail_weights, max);
        simd.scale(kept, 1.0 / sum);
        simd.scale(tail_weights, 1.0 / sum);
    }
    for part in parts.iter().filter(|part| part.entries.len > 0) {
        let data = &weights[part.row * stride + part.at..];
        let x = Rows { data, stride, rows: part.rows, depth: part.entries.len };
        let v = Panels::row_major(&part.entries.values[..part.entries.len * head_dim], head_dim);
        let data = &mut out[part.row * head_dim..];
        simd.product(x, v, Output { data, stride: head_dim, accumulate: true });
    }
    WeightLayout { stride, kept: longest, tail_at, tail: tail.len }
}

/// Where [`decode`] left the attention weights.
#[derive(Clone, Copy)]
pub(crate) struct WeightLayout {
    /// Distance of two query heads.
    pub(crate) stride: usize,
    /// Weights of the kept entries at the start of a row (the longest list, where lists differ).
    pub(crate) kept: usize,
    /// Where the tail's weights start in a row.
    pub(crate) tail_at: usize,
    /// Weights of the tail.
    pub(crate) tail: usize,
}

#[derive(Clone, Copy)]
struct Part<'a> {
    row: usize,
    rows: usize,
    at: usize,
    entries: Entries<'a>,
}
