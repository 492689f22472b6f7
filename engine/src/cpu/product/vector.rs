//! Tiles for every set whose registers hold 4 or 8 floats: AVX2, NEON, and plain code. The vectors are pulp's, so one
//! text serves all of them.

use std::{any::TypeId, hint::black_box};

use pulp::{Simd, WithSimd};

use super::{CHAINS, PANEL, Tile, number::Number, portable};

/// Columns of a tile of several rows.
const NARROW: usize = 16;
/// Rows of a tile: with [`NARROW`] columns their sums fill 12 of AVX2's 16 registers.
pub(super) const ROWS: usize = 6;
/// Steps of the depth that all rows take before the next ones: a panel's are half of a first-level cache.
const DEPTH: usize = 128;

/// All panels of the product, compiled for the set.
///
/// # Safety
/// As [`super::Simd::product_to`], with lengths checked.
pub(super) unsafe fn panels<S: Simd, N: Number>(set: S, tile: Tile<N>, rows: usize, columns: usize) {
    struct Panels<N> {
        tile: Tile<N>,
        rows: usize,
        columns: usize,
    }

    impl<N: Number> WithSimd for Panels<N> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, set: S) {
            // SAFETY: whoever made this struct promised it.
            unsafe { panels_inlined(set, self.tile, self.rows, self.columns) }
        }
    }

    set.vectorize(Panels { tile, rows, columns });
}

/// All panels of the product, for a caller that is compiled for the set.
///
/// # Safety
/// As [`panels`].
#[inline(always)]
pub(super) unsafe fn panels_inlined<S: Simd, N: Number>(set: S, tile: Tile<N>, rows: usize, columns: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows {
            1 => few_rows::<S, N, 1, 64>(set, tile, columns),
            2 => few_rows::<S, N, 2, 32>(set, tile, columns),
            3 => few_rows::<S, N, 3, 32>(set, tile, columns),
            4 if size_of::<N>() == 4 => four_rows(set, tile, columns),
            _ => many_rows(set, tile, rows, 0, columns),
        }
    }
}

/// `R` rows, `C` columns at a time over the whole depth: the right-hand side is read once, in long streams.
///
/// # Safety
/// As [`panels`].
#[inline(always)]
unsafe fn few_rows<S: Simd, N: Number, const R: usize, const C: usize>(
    set: S,
    tile: Tile<N>,
    columns: usize,
) {
    let whole = columns / C * C;
    // SAFETY: `C` is a number of whole panels, and columns stay below `columns`.
    unsafe {
        for first in (0..whole).step_by(C) {
            columns_of_block::<S, N, R, C>(set, tile.at(0, first / PANEL));
        }
        many_rows(set, tile, R, whole, columns);
    }
}

/// Four rows of four-byte numbers wait for memory. The first one streams a piece of two panels, which the processor's own
/// prefetching serves best; the others find it in the first-level cache, and ask for the start of the next one.
///
/// # Safety
/// As [`panels`].
#[inline(always)]
unsafe fn four_rows<S: Simd, N: Number>(set: S, tile: Tile<N>, columns: usize) {
    const DEPTH: usize = 64;
    let whole = columns / (2 * PANEL) * (2 * PANEL);
    // SAFETY: columns stay below `columns`; pieces of the depth follow each other.
    unsafe {
        for first in (0..whole).step_by(2 * PANEL) {
            for start in (0..tile.depth).step_by(DEPTH) {
                let piece = Tile {
                    depth: DEPTH.min(tile.depth - start),
                    x: tile.x.add(start),
                    b: tile.b.add(start * tile.row_stride),
                    accumulate: tile.accumulate || start > 0,
                    ..tile
                }
                .at(0, first / PANEL);
                columns_of_block::<S, N, 1, 64>(set, piece);
                for panel in 0..2 {
                    let others = piece.at(1, panel);
                    let next = others.b.wrapping_add(others.depth * PANEL);
                    columns_of_block::<S, N, 3, PANEL>(set, others.followed_by(next).share_of_ahead(0, 2));
                }
            }
        }
        many_rows(set, tile, 4, whole, columns);
    }
}

/// Any number of rows: the columns from `first` on, a panel's. Its depth is cut into pieces that stay in the first-level
/// cache until all rows are through.
///
/// # Safety
/// As [`panels`].
#[inline(always)]
unsafe fn many_rows<S: Simd, N: Number>(set: S, tile: Tile<N>, rows: usize, first: usize, columns: usize) {
    // SAFETY: columns stay below `columns`; pieces of the depth follow each other, and the later ones add to what
    // the earlier ones left.
    unsafe {
        for first in (first..columns).step_by(PANEL) {
            let panel = tile.at(0, first / PANEL);
            for start in (0..tile.depth).step_by(DEPTH) {
                let depth = DEPTH.min(tile.depth - start);
                let b = panel.b.add(start * panel.row_stride);
                let piece = Tile {
                    depth,
                    x: panel.x.add(start),
                    b,
                    accumulate: tile.accumulate || start > 0,
                    ..panel
                };
                let piece = if tile.ahead.is_null() {
                    piece.followed_by(b.wrapping_add(depth * PANEL))
                } else {
                    piece
                };
                for half in (0..PANEL.min(columns - first)).step_by(NARROW) {
                    let width = columns - first - half;
                    let piece = Tile { b: piece.b.add(half), out: piece.out.add(half), ..piece };
                    if width >= NARROW {
                        row_groups(set, piece, rows, half);
                    } else {
                        last_columns(set, piece, rows, width);
                    }
                }
            }
        }
    }
}

/// Tiles of [`NARROW`] columns, the rows in groups of nearly equal size. Together, the tiles of both halves of the panel
/// fetch the piece that follows.
///
/// # Safety
/// As [`panels`].
#[inline(always)]
unsafe fn row_groups<S: Simd, N: Number>(set: S, tile: Tile<N>, rows: usize, half: usize) {
    let groups = rows.div_ceil(ROWS);
    let mut row = 0;
    // SAFETY: the groups' sizes add up to `rows`.
    unsafe {
        for group in 0..groups {
            let next = (group + 1) * rows / groups;
            let at = tile.at(row, 0).share_of_ahead(half / NARROW * groups + group, 2 * groups);
            match next - row {
                1 => columns_of_block::<S, N, 1, NARROW>(set, at),
                2 => columns_of_block::<S, N, 2, NARROW>(set, at),
                3 => columns_of_block::<S, N, 3, NARROW>(set, at),
                4 => columns_of_block::<S, N, 4, NARROW>(set, at),
                5 => columns_of_block::<S, N, 5, NARROW>(set, at),
                _ => columns_of_block::<S, N, 6, NARROW>(set, at),
            }
            row = next;
        }
    }
}

/// Fewer than [`NARROW`] columns of at most [`DEPTH`] steps: through copies that are wide enough.
///
/// # Safety
/// As [`panels`]; there are `width` columns.
#[inline(always)]
unsafe fn last_columns<S: Simd, N: Number>(set: S, tile: Tile<N>, rows: usize, width: usize) {
    let mut b = [[N::default(); NARROW]; DEPTH];
    let mut out = [[0.0f32; NARROW]; ROWS];
    // SAFETY: only the `width` columns that exist are read and written.
    unsafe {
        for (k, b) in b.iter_mut().enumerate().take(tile.depth) {
            std::ptr::copy_nonoverlapping(tile.b.add(k * tile.row_stride), b.as_mut_ptr(), width);
        }
        for row in (0..rows).step_by(ROWS) {
            let group = ROWS.min(rows - row);
            let real = tile.at(row, 0);
            for (r, out) in out.iter_mut().enumerate().take(group) {
                std::ptr::copy_nonoverlapping(real.out.add(r * tile.out_stride), out.as_mut_ptr(), width);
            }
            let copy = Tile {
                b: b.as_ptr().cast(),
                row_stride: NARROW,
                panel_stride: 0,
                out: out.as_mut_ptr().cast(),
                out_stride: NARROW,
                ..real
            };
            row_groups(set, copy, group, 0);
            for (r, out) in out.iter().enumerate().take(group) {
                std::ptr::copy_nonoverlapping(out.as_ptr(), real.out.add(r * tile.out_stride), width);
            }
        }
    }
}

/// `R` rows times `C` columns.
///
/// # Safety
/// All of them exist; `C` is [`NARROW`] or a number of whole panels.
#[inline(always)]
unsafe fn columns_of_block<S: Simd, N: Number, const R: usize, const C: usize>(set: S, tile: Tile<N>) {
    // SAFETY: the caller's promise. `V` vectors hold `C` columns.
    unsafe {
        match C / S::F32_LANES {
            1 => block::<S, N, R, 1>(set, tile),
            2 => block::<S, N, R, 2>(set, tile),
            4 => block::<S, N, R, 4>(set, tile),
            8 => block::<S, N, R, 8>(set, tile),
            16 => block::<S, N, R, 16>(set, tile),
            _ => unreachable!("vectors hold 4 to 16 floats"),
        }
    }
}

/// `R` rows times `V` vectors of columns.
///
/// # Safety
/// All of them exist.
#[inline(always)]
unsafe fn block<S: Simd, N: Number, const R: usize, const V: usize>(set: S, tile: Tile<N>) {
    let lanes = S::F32_LANES;
    // Where vector `v` of a row lies: panels are apart on the right-hand side, columns of the result are not.
    let side = |v: usize| v * lanes / PANEL * tile.panel_stride + v * lanes % PANEL;
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[set.splat_f32s(0.0); V]; R];
        if tile.accumulate {
            for (r, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = tile.out.add(r * tile.out_stride + v * lanes).cast::<S::f32s>().read_unaligned();
                }
            }
        }
        let mut b = tile.b;
        let mut x = tile.x;
        let mut ahead = tile.ahead;
        for _ in 0..tile.depth {
            fetch(ahead);
            ahead = ahead.wrapping_add(tile.ahead_bytes);
            // The longer side goes through one register after the other.
            if R <= V {
                let xs: [_; R] = std::array::from_fn(|r| set.splat_f32s(*x.add(r * tile.x_stride)));
                for v in 0..V {
                    let b = N::load(set, b.add(side(v)));
                    for (acc, &x) in acc.iter_mut().zip(&xs) {
                        acc[v] = multiply_add(set, x, b, acc[v]);
                    }
                }
            } else {
                let bs: [_; V] = std::array::from_fn(|v| N::load(set, b.add(side(v))));
                for (r, acc) in acc.iter_mut().enumerate() {
                    let x = set.splat_f32s(*x.add(r * tile.x_stride));
                    for (acc, &b) in acc.iter_mut().zip(&bs) {
                        *acc = multiply_add(set, x, b, *acc);
                    }
                }
            }
            b = b.add(tile.row_stride);
            x = x.add(1);
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, &acc) in acc.iter().enumerate() {
                tile.out.add(r * tile.out_stride + v * lanes).cast::<S::f32s>().write_unaligned(acc);
            }
        }
    }
}

/// `x * y + z`, rounded once.
#[inline(always)]
fn multiply_add<S: Simd>(set: S, x: S::f32s, y: S::f32s, z: S::f32s) -> S::f32s {
    if TypeId::of::<S>() != TypeId::of::<pulp::Scalar256b>() {
        return set.mul_add_f32s(x, y, z);
    }
    // SAFETY: this set's vectors are eight floats.
    unsafe {
        let [x, y, z] = [x, y, z].map(|vector| std::mem::transmute_copy(&vector));
        std::mem::transmute_copy(&portable::multiply_add(x, y, z))
    }
}

/// Asks for a line of memory, wherever it is; nothing happens where there is none.
#[inline(always)]
fn fetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, and it accepts any address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Reads all of `numbers` as fast as memory gives them; their sum, so that nothing is left out.
pub(super) fn read<S: Simd>(set: S, numbers: &[f32]) -> f32 {
    struct Read<'a>(&'a [f32]);

    impl WithSimd for Read<'_> {
        type Output = f32;

        #[inline(always)]
        fn with_simd<S: Simd>(self, set: S) -> f32 {
            let (vectors, _) = S::as_simd_f32s(self.0);
            // Several streams: one alone does not fill the memory's queues.
            let mut sums = [set.splat_f32s(0.0); 4];
            let (streams, _) = vectors.as_chunks::<2>();
            let length = streams.len() / sums.len();
            for i in 0..length {
                for (stream, sum) in sums.iter_mut().enumerate() {
                    let [a, b] = streams[stream * length + i];
                    *sum = set.add_f32s(*sum, set.add_f32s(a, b));
                }
            }
            sums.into_iter().map(|sum| set.reduce_sum_f32s(sum)).sum()
        }
    }

    set.vectorize(Read(numbers))
}

/// Chains of multiply-adds that no other waits for, nor for memory: the peak that products are measured by.
pub(super) fn multiply_adds<S: Simd>(set: S, steps: usize) -> f32 {
    struct Chains(usize);

    impl WithSimd for Chains {
        type Output = f32;

        #[inline(always)]
        fn with_simd<S: Simd>(self, set: S) -> f32 {
            let factor = set.splat_f32s(black_box(0.5));
            let mut chains = [set.splat_f32s(black_box(1.0)); CHAINS];
            for _ in 0..self.0 {
                for chain in &mut chains {
                    *chain = multiply_add(set, *chain, factor, factor);
                }
            }
            chains.into_iter().map(|chain| set.reduce_sum_f32s(chain)).sum()
        }
    }

    set.vectorize(Chains(steps))
}
