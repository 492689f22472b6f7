//! Tiles of 16 columns for every set whose registers hold 4 or 8 floats: AVX2, NEON, and plain code. The vectors are
//! pulp's, so one text serves all of them.

use pulp::{Simd, WithSimd};

use super::{PANEL, Tile};

/// Columns of a tile of several rows.
const NARROW: usize = 16;
/// Rows of a tile: with [`NARROW`] columns their sums fill 12 of AVX2's 16 registers.
const ROWS: usize = 6;
/// Steps of the depth that one pass takes: 16 columns of them fill half of a first-level cache.
const DEPTH: usize = 256;

/// All panels of the product.
///
/// # Safety
/// As [`super::Simd::product_to`], with lengths checked.
pub(super) unsafe fn panels<S: Simd>(set: S, tile: Tile, rows: usize, columns: usize) {
    struct Panels {
        tile: Tile,
        rows: usize,
        columns: usize,
    }

    impl WithSimd for Panels {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, set: S) {
            let Self { tile, rows, columns } = self;
            // SAFETY: whoever made this struct promised it.
            unsafe {
                match rows {
                    1 => few_rows::<S, 1, 64>(set, tile, columns),
                    2 => few_rows::<S, 2, 32>(set, tile, columns),
                    3 => few_rows::<S, 3, 32>(set, tile, columns),
                    _ => many_rows(set, tile, rows, columns),
                }
            }
        }
    }

    set.vectorize(Panels { tile, rows, columns });
}

/// `R` rows, `C` columns at a time over the whole depth: the right-hand side is read once, in long streams.
///
/// # Safety
/// As [`panels`].
#[inline(always)]
unsafe fn few_rows<S: Simd, const R: usize, const C: usize>(set: S, tile: Tile, columns: usize) {
    let whole = columns / C * C;
    // SAFETY: `C` is a number of whole panels, and columns stay below `columns`.
    unsafe {
        for first in (0..whole).step_by(C) {
            columns_of_block::<S, R, C>(set, tile.at(0, first / PANEL));
        }
        narrow_columns(set, tile, R, whole, columns);
    }
}

/// Any number of rows, the depth cut into pieces that the first-level cache holds for all rows.
///
/// # Safety
/// As [`panels`].
#[inline(always)]
unsafe fn many_rows<S: Simd>(set: S, tile: Tile, rows: usize, columns: usize) {
    // SAFETY: pieces of the depth follow each other; the later ones add to what the earlier ones left.
    unsafe {
        let mut start = 0;
        loop {
            let depth = DEPTH.min(tile.depth - start);
            let piece = Tile {
                depth,
                x: tile.x.add(start),
                b: tile.b.add(start * tile.row_stride),
                accumulate: tile.accumulate || start > 0,
                ..tile
            };
            narrow_columns(set, piece, rows, 0, columns);
            start += depth;
            if start == tile.depth {
                break;
            }
        }
    }
}

/// The columns from `first` on, a multiple of [`NARROW`], in tiles of [`NARROW`] columns.
///
/// # Safety
/// As [`panels`].
#[inline(always)]
unsafe fn narrow_columns<S: Simd>(set: S, tile: Tile, rows: usize, first: usize, columns: usize) {
    // SAFETY: columns stay below `columns`, rows below `rows`.
    unsafe {
        for first in (first..columns).step_by(NARROW) {
            let panel = tile.at(0, first / PANEL);
            let piece = Tile { b: panel.b.add(first % PANEL), out: panel.out.add(first % PANEL), ..panel };
            let width = columns - first;
            if width >= NARROW {
                row_groups(set, piece, rows);
            } else {
                last_columns(set, piece, rows, width);
            }
        }
    }
}

/// Tiles of [`NARROW`] columns, the rows in groups of nearly equal size.
///
/// # Safety
/// As [`panels`].
#[inline(always)]
unsafe fn row_groups<S: Simd>(set: S, tile: Tile, rows: usize) {
    let groups = rows.div_ceil(ROWS);
    let mut row = 0;
    // SAFETY: the groups' sizes add up to `rows`.
    unsafe {
        for group in 0..groups {
            let next = (group + 1) * rows / groups;
            let at = tile.at(row, 0);
            match next - row {
                1 => columns_of_block::<S, 1, NARROW>(set, at),
                2 => columns_of_block::<S, 2, NARROW>(set, at),
                3 => columns_of_block::<S, 3, NARROW>(set, at),
                4 => columns_of_block::<S, 4, NARROW>(set, at),
                5 => columns_of_block::<S, 5, NARROW>(set, at),
                _ => columns_of_block::<S, 6, NARROW>(set, at),
            }
            row = next;
        }
    }
}

/// Fewer than [`NARROW`] columns: through copies that are wide enough.
///
/// # Safety
/// As [`panels`]; there are `width` columns.
#[inline(always)]
unsafe fn last_columns<S: Simd>(set: S, tile: Tile, rows: usize, width: usize) {
    let mut b = [[0.0f32; NARROW]; DEPTH];
    let mut out = [[0.0f32; NARROW]; ROWS];
    // SAFETY: only the `width` columns that exist are read and written.
    unsafe {
        let mut start = 0;
        loop {
            let depth = DEPTH.min(tile.depth - start);
            for (k, b) in b.iter_mut().enumerate().take(depth) {
                std::ptr::copy_nonoverlapping(
                    tile.b.add((start + k) * tile.row_stride),
                    b.as_mut_ptr(),
                    width,
                );
            }
            for row in (0..rows).step_by(ROWS) {
                let group = ROWS.min(rows - row);
                for (r, out) in out.iter_mut().enumerate().take(group) {
                    std::ptr::copy_nonoverlapping(
                        tile.out.add((row + r) * tile.out_stride),
                        out.as_mut_ptr(),
                        width,
                    );
                }
                let copy = Tile {
                    depth,
                    x: tile.x.add(row * tile.x_stride + start),
                    b: b.as_ptr().cast(),
                    row_stride: NARROW,
                    out: out.as_mut_ptr().cast(),
                    out_stride: NARROW,
                    accumulate: tile.accumulate || start > 0,
                    ..tile
                };
                row_groups(set, copy, group);
                for (r, out) in out.iter().enumerate().take(group) {
                    std::ptr::copy_nonoverlapping(
                        out.as_ptr(),
                        tile.out.add((row + r) * tile.out_stride),
                        width,
                    );
                }
            }
            start += depth;
            if start == tile.depth {
                break;
            }
        }
    }
}

/// `R` rows times `C` columns.
///
/// # Safety
/// All of them exist; `C` is [`NARROW`] or a number of whole panels.
#[inline(always)]
unsafe fn columns_of_block<S: Simd, const R: usize, const C: usize>(set: S, tile: Tile) {
    // SAFETY: the caller's promise. `V` vectors hold `C` columns.
    unsafe {
        match C / S::F32_LANES {
            1 => block::<S, R, 1>(set, tile),
            2 => block::<S, R, 2>(set, tile),
            4 => block::<S, R, 4>(set, tile),
            8 => block::<S, R, 8>(set, tile),
            16 => block::<S, R, 16>(set, tile),
            _ => unreachable!("vectors hold 4 to 16 floats"),
        }
    }
}

/// `R` rows times `V` vectors of columns.
///
/// # Safety
/// All of them exist.
#[inline(always)]
unsafe fn block<S: Simd, const R: usize, const V: usize>(set: S, tile: Tile) {
    let lanes = S::F32_LANES;
    // Where vector `v` of a row lies: panels are apart on the right-hand side, columns of the result are not.
    let side = |v: usize| v * lanes / PANEL * tile.panel_stride + v * lanes % PANEL;
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[set.splat_f32s(0.0); V]; R];
        if tile.accumulate {
            for (r, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = load::<S>(tile.out.add(r * tile.out_stride + v * lanes));
                }
            }
        }
        let mut b = tile.b;
        let mut x = tile.x;
        for _ in 0..tile.depth {
            // The longer side goes through one register after the other.
            if R <= V {
                let xs: [_; R] = std::array::from_fn(|r| set.splat_f32s(*x.add(r * tile.x_stride)));
                for v in 0..V {
                    let b = load::<S>(b.add(side(v)));
                    for (acc, &x) in acc.iter_mut().zip(&xs) {
                        acc[v] = set.mul_add_f32s(x, b, acc[v]);
                    }
                }
            } else {
                let bs: [_; V] = std::array::from_fn(|v| load::<S>(b.add(side(v))));
                for (r, acc) in acc.iter_mut().enumerate() {
                    let x = set.splat_f32s(*x.add(r * tile.x_stride));
                    for (acc, &b) in acc.iter_mut().zip(&bs) {
                        *acc = set.mul_add_f32s(x, b, *acc);
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

/// One vector from anywhere.
///
/// # Safety
/// Its elements can be read.
#[inline(always)]
unsafe fn load<S: Simd>(from: *const f32) -> S::f32s {
    // SAFETY: the caller's promise.
    unsafe { from.cast::<S::f32s>().read_unaligned() }
}
