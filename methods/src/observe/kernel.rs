//! The inner loops of the observations, compiled for the vector units this machine has.

use super::{HeadsView, LANES, PIECE, QueryBlock, Reduction};
use crate::instructions::InstructionSet;

/// Writes `scale * <q, k>` of one piece of keys: `out[(head * rows + row) * PIECE + key]`.
pub(super) fn logits(
    set: InstructionSet,
    block: &QueryBlock,
    queries: &HeadsView<'_>,
    keys: &HeadsView<'_>,
    piece: usize,
    out: &mut [f32],
) {
    match set {
        // SAFETY: `InstructionSet::available` offers a set only where its instructions exist.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => unsafe { logits_avx512(block, queries, keys, piece, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => unsafe { logits_avx2(block, queries, keys, piece, out) },
        _ => logits_body::<2>(block, queries, keys, piece, out),
    }
}

/// Normalises the rows of the `index`-th head of the group and adds them to its reductions.
pub(super) fn reduce(
    set: InstructionSet,
    block: &QueryBlock,
    index: usize,
    logits: &[f32],
    reductions: &mut [Reduction],
) {
    match set {
        // SAFETY: `InstructionSet::available` offers a set only where its instructions exist.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => unsafe { reduce_avx512(block, index, logits, reductions) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => unsafe { reduce_avx2(block, index, logits, reductions) },
        _ => reduce_body(block, index, logits, reductions),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn logits_avx512(
    block: &QueryBlock,
    queries: &HeadsView<'_>,
    keys: &HeadsView<'_>,
    piece: usize,
    out: &mut [f32],
) {
    logits_body::<8>(block, queries, keys, piece, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn logits_avx2(
    block: &QueryBlock,
    queries: &HeadsView<'_>,
    keys: &HeadsView<'_>,
    piece: usize,
    out: &mut [f32],
) {
    logits_body::<4>(block, queries, keys, piece, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn reduce_avx512(block: &QueryBlock, index: usize, logits: &[f32], reductions: &mut [Reduction]) {
    reduce_body(block, index, logits, reductions);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn reduce_avx2(block: &QueryBlock, index: usize, logits: &[f32], reductions: &mut [Reduction]) {
    reduce_body(block, index, logits, reductions);
}

/// `ROWS` query rows at a time against a transposed tile of [`LANES`] keys.
#[inline(always)]
fn logits_body<const ROWS: usize>(
    block: &QueryBlock,
    queries: &HeadsView<'_>,
    keys: &HeadsView<'_>,
    piece: usize,
    out: &mut [f32],
) {
    let scale = 1.0 / (queries.head_dim as f32).sqrt();
    let start = piece * PIECE;
    let end = (start + PIECE).min(block.position + block.rows);
    let rows = block.group * block.rows;
    let query = |row: usize| {
        let head = block.kv_head * block.group + row / block.rows;
        queries.row(head, block.first + row % block.rows)
    };
    let mut tile = vec![[0f32; LANES]; queries.head_dim];
    for first in (start..end).step_by(LANES) {
        for lane in 0..LANES {
            // Keys beyond the end repeat the last one; nothing reads their logits.
            let key = keys.row(block.kv_head, (first + lane).min(end - 1));
            for (column, &value) in tile.iter_mut().zip(key) {
                column[lane] = value;
            }
        }
        let at = first - start;
        let mut row = 0;
        while row + ROWS <= rows {
            let sums = dots::<ROWS>(std::array::from_fn(|r| query(row + r)), &tile);
            for (r, sum) in sums.iter().enumerate() {
                let place = (row + r) * PIECE + at;
                for (o, s) in out[place..place + LANES].iter_mut().zip(sum) {
                    *o = s * scale;
                }
            }
            row += ROWS;
        }
        for row in row..rows {
            let [sum] = dots::<1>([query(row)], &tile);
            let place = row * PIECE + at;
            for (o, s) in out[place..place + LANES].iter_mut().zip(&sum) {
                *o = s * scale;
            }
        }
    }
}

#[inline(always)]
fn dots<const ROWS: usize>(rows: [&[f32]; ROWS], tile: &[[f32; LANES]]) -> [[f32; LANES]; ROWS] {
    let mut sums = [[0f32; LANES]; ROWS];
    let rows = rows.map(|row| &row[..tile.len()]);
    for (d, column) in tile.iter().enumerate() {
        for (sum, row) in sums.iter_mut().zip(&rows) {
            let q = row[d];
            for (s, &k) in sum.iter_mut().zip(column) {
                *s = q.mul_add(k, *s);
            }
        }
    }
    sums
}

#[inline(always)]
fn reduce_body(block: &QueryBlock, index: usize, logits: &[f32], reductions: &mut [Reduction]) {
    let piece_len = block.group * block.rows * PIECE;
    let mut weights = vec![0f32; block.position + block.rows];
    for row in 0..block.rows {
        let position = block.position + row;
        let weights = &mut weights[..=position];
        let place = (index * block.rows + row) * PIECE;
        let piece = |piece: usize, len: usize| &logits[piece * piece_len + place..][..len];
        let mut max = f32::NEG_INFINITY;
        for (i, part) in weights.chunks(PIECE).enumerate() {
            max = largest(max, piece(i, part.len()));
        }
        let mut total = 0f64;
        for (i, part) in weights.chunks_mut(PIECE).enumerate() {
            total += exponentials(piece(i, part.len()), max, part);
        }
        let inverse = (1.0 / total) as f32;
        for reduction in reductions.iter_mut() {
            reduction.add(position, weights, inverse);
        }
    }
}

#[inline(always)]
fn largest(max: f32, row: &[f32]) -> f32 {
    let mut lanes = [max; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(max, |m, &x| if x > m { x } else { m })
}

/// Writes `exp(x - max)`; returns the sum.
#[inline(always)]
fn exponentials(row: &[f32], max: f32, out: &mut [f32]) -> f64 {
    let mut lanes = [0f32; LANES];
    let (rows, rows_rest) = row.as_chunks::<LANES>();
    let (outs, outs_rest) = out.as_chunks_mut::<LANES>();
    for (row, out) in rows.iter().zip(outs) {
        for ((lane, &x), o) in lanes.iter_mut().zip(row).zip(out) {
            *o = exp(x - max);
            *lane += *o;
        }
    }
    for ((lane, &x), o) in lanes.iter_mut().zip(rows_rest).zip(outs_rest) {
        *o = exp(x - max);
        *lane += *o;
    }
    lanes.iter().map(|&x| f64::from(x)).sum()
}

/// `e^x` for `x <= 0` within 2 ulp; zero below -87 (Cephes `expf`, branch-free so that it vectorises).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // 1.5 * 2^23: adding it rounds to the nearest integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > -87.0 { x } else { -87.0 };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (clamped - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5e-1;
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    let value = (p * r * r + r + 1.0) * power;
    if x > -87.0 { value } else { 0.0 }
}

/// `ln(x)` for normal `x > 0` within 2 ulp (Cephes `logf`, branch-free).
#[inline(always)]
pub(super) fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let mantissa = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000); // [0.5, 1)
    let exponent = (bits >> 23) as i32 - 126;
    let small = mantissa < std::f32::consts::FRAC_1_SQRT_2;
    let e = (if small { exponent - 1 } else { exponent }) as f32;
    let m = if small { mantissa + mantissa - 1.0 } else { mantissa - 1.0 };
    let z = m * m;
    let mut p = 7.037_683_6e-2;
    p = p * m - 1.151_461e-1;
    p = p * m + 1.167_699_87e-1;
    p = p * m - 1.242_014_1e-1;
    p = p * m + 1.424_932_3e-1;
    p = p * m - 1.666_805_7e-1;
    p = p * m + 2.000_071_4e-1;
    p = p * m - 2.499_999_4e-1;
    p = p * m + 3.333_333e-1;
    let y = p * m * z + e * -2.121_944_4e-4 - 0.5 * z;
    m + y + e * 0.693_359_4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Observation;
    use crate::testing::random;

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let (tokens, dim, rows) = (301, 24, 9);
        let q = random(2 * tokens * dim, 1, 2.0);
        let k = random(tokens * dim, 2, 2.0);
        let queries = HeadsView::head_major(&q, [2, tokens, dim]).unwrap();
        let keys = HeadsView::head_major(&k, [1, tokens, dim]).unwrap();
        let first = tokens - rows;
        let block = QueryBlock { kv_head: 0, group: 2, first, position: first, rows };
        let outcome = |set| {
            let mut scores = vec![0.0; block.pieces() * 2 * rows * PIECE];
            for (piece, out) in scores.chunks_mut(2 * rows * PIECE).enumerate() {
                logits(set, &block, &queries, &keys, piece, out);
            }
            let wanted = [
                Observation::WindowSum { window: 7 },
                Observation::WindowMax { window: 6, kernel: 5 },
                Observation::WindowMoments { window: 5 },
            ];
            let mut reductions = wanted.map(|observation| Reduction::new(observation, tokens)).to_vec();
            reduce(set, &block, 1, &scores, &mut reductions);
            reductions.iter().flat_map(values).map(f64::to_bits).collect::<Vec<_>>()
        };
        let portable = outcome(InstructionSet::Portable);
        assert!(portable.len() > 2 * (tokens - 7));
        for set in InstructionSet::available() {
            assert_eq!(outcome(set), portable, "{}", set.name());
        }
    }

    fn values(reduction: &Reduction) -> Vec<f64> {
        match reduction {
            Reduction::Sum { sum: row, .. }
            | Reduction::Counted { sum: row, .. }
            | Reduction::Max { max: row, .. } => row.iter().copied().map(f64::from).collect(),
            Reduction::Moments { sum, squares, entropy, .. } => [&sum[..], squares, &[*entropy]].concat(),
            Reduction::None => Vec::new(),
        }
    }
}
