//! The one matrix product of the CPU path: rows times a matrix in panels of 32 columns.
//!
//! Each element of the result is one chain of fused multiply-adds over the depth, in ascending order, in a lane of
//! its own. So its bits depend on its row and its column alone: not on the rows beside it in the batch, not on the
//! threads, not on the width of the vectors. The same code serves the projections, the scores and the weighted
//! sums of values, in prefill and in decode.

use super::simd::Simd;

/// Columns of a panel.
pub(crate) const PANEL: usize = 32;

/// Rows of the left-hand side: row `r` starts at `r * stride`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// Elements.
    pub(crate) data: &'a [f32],
    /// Distance of two rows.
    pub(crate) stride: usize,
    /// Number of rows.
    pub(crate) rows: usize,
    /// Elements of a row that take part.
    pub(crate) depth: usize,
}

/// The right-hand side: element `(k, c)` is at `c / 32 * panel_stride + k * row_stride + c % 32`.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    /// Elements.
    pub(crate) data: &'a [f32],
    /// Distance of two rows of one panel.
    pub(crate) row_stride: usize,
    /// Distance of two panels.
    pub(crate) panel_stride: usize,
    /// Columns in all panels together.
    pub(crate) columns: usize,
}

impl<'a> Panels<'a> {
    /// A plain row-major matrix.
    pub(crate) fn row_major(data: &'a [f32], columns: usize) -> Self {
        Self { data, row_stride: columns, panel_stride: PANEL, columns }
    }

    /// Whole panels one after another, `[panels][depth][32]`.
    pub(crate) fn packed(data: &'a [f32], depth: usize, columns: usize) -> Self {
        Self { data, row_stride: PANEL, panel_stride: depth * PANEL, columns }
    }

    /// Elements that must be there for `depth` rows.
    fn extent(&self, depth: usize) -> usize {
        if depth == 0 || self.columns == 0 {
            return 0;
        }
        let last = self.columns - 1;
        last / PANEL * self.panel_stride + (depth - 1) * self.row_stride + last % PANEL + 1
    }
}

/// Where the result goes: rows of `stride` elements. Column 0 of the product is column 0 here.
pub(crate) struct Output<'a> {
    /// Elements.
    pub(crate) data: &'a mut [f32],
    /// Distance of two rows.
    pub(crate) stride: usize,
    /// Adds to what is there.
    pub(crate) accumulate: bool,
}

impl Simd {
    /// `out (+)= x * b`.
    pub(crate) fn product(self, x: Rows<'_>, b: Panels<'_>, out: Output<'_>) {
        if x.rows == 0 || b.columns == 0 {
            return;
        }
        assert!(out.data.len() >= (x.rows - 1) * out.stride + b.columns, "the result fits");
        // SAFETY: `out` is a mutable slice with room for every row and column.
        unsafe { self.product_to(x, b, out.data.as_mut_ptr(), out.stride, out.accumulate) }
    }

    /// [`Simd::product`] into raw memory, for threads that write disjoint columns of one matrix.
    ///
    /// # Safety
    /// For each row `r` and column `c` of the product, `out + r * stride + c` is valid for reads and writes and no
    /// other thread touches it meanwhile.
    pub(crate) unsafe fn product_to(
        self,
        x: Rows<'_>,
        b: Panels<'_>,
        out: *mut f32,
        stride: usize,
        accumulate: bool,
    ) {
        if x.rows == 0 || b.columns == 0 {
            return;
        }
        assert!(x.depth == 0 || x.data.len() >= (x.rows - 1) * x.stride + x.depth, "the rows are whole");
        assert!(b.data.len() >= b.extent(x.depth), "the panels are whole");
        let tile = Tile {
            depth: x.depth,
            x: x.data.as_ptr(),
            x_stride: x.stride,
            b: b.data.as_ptr(),
            row_stride: b.row_stride,
            panel_stride: b.panel_stride,
            out,
            out_stride: stride,
            accumulate,
            ahead: b.data.as_ptr(),
            ahead_bytes: 0,
        };
        // SAFETY: lengths were checked above, `out` is the caller's promise, and `Simd::available` offers a set
        // only where its instructions exist.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => avx512::panels(tile, x.rows, b.columns),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => panels_avx2(tile, x.rows, b.columns),
                Self::Portable => panels_portable(tile, x.rows, b.columns),
            }
        }
    }
}

/// Rows of a row-major right-hand side that are fetched ahead.
#[cfg(target_arch = "x86_64")]
const ROWS_AHEAD: usize = 32;

/// Pointers to the first row, the first panel and the first element of a piece of the product.
#[derive(Clone, Copy)]
struct Tile {
    depth: usize,
    x: *const f32,
    x_stride: usize,
    b: *const f32,
    row_stride: usize,
    panel_stride: usize,
    out: *mut f32,
    out_stride: usize,
    accumulate: bool,
    /// What will be read next, to be fetched meanwhile: one address a panel, and its bytes per step of the depth.
    ahead: *const f32,
    ahead_bytes: usize,
}

impl Tile {
    /// The piece `rows` further down and `panels` further right.
    ///
    /// # Safety
    /// That piece exists.
    #[inline(always)]
    unsafe fn at(self, rows: usize, panels: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                x: self.x.add(rows * self.x_stride),
                b: self.b.add(panels * self.panel_stride),
                out: self.out.add(rows * self.out_stride + panels * PANEL),
                ..self
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Tile {
    /// Sets what to fetch: each of `groups` row groups fetches its share of the panels after the next `panels`, or,
    /// of a row-major matrix, the rows further down.
    #[inline(always)]
    fn fetching(self, panels: usize, group: usize, groups: usize) -> Self {
        let row_bytes = self.row_stride * size_of::<f32>();
        let (ahead, ahead_bytes) = if self.panel_stride > self.row_stride {
            let share = row_bytes / groups;
            let skip = group * self.depth * share / size_of::<f32>();
            (self.b.wrapping_add(panels * self.panel_stride + skip), share)
        } else {
            (self.b.wrapping_add(ROWS_AHEAD * self.row_stride), row_bytes)
        };
        Self { ahead, ahead_bytes, ..self }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! 512-bit tiles of up to 8 rows, masked at the last panel.

    use std::arch::x86_64::{
        __mmask16, _MM_HINT_T0, _mm_prefetch, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps,
        _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use super::{PANEL, Tile};

    /// # Safety
    /// As [`super::Simd::product_to`], with lengths checked.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn panels(tile: Tile, rows: usize, columns: usize) {
        let whole = columns / PANEL;
        let mut panel = 0;
        // SAFETY: panels below `whole` have 32 columns, row groups stay below `rows`.
        unsafe {
            // Few rows: several panels at once, or the multiply-adds would wait for each other.
            let wide = match rows {
                1..=2 => 4,
                3..=4 => 2,
                _ => 1,
            };
            while panel + wide <= whole {
                let at = tile.at(0, panel).fetching(wide, 0, 1);
                match rows {
                    1 => block::<1, 4>(at),
                    2 => block::<2, 4>(at),
                    3 => block::<3, 2>(at),
                    4 => block::<4, 2>(at),
                    _ => rows_of_panel(at, rows, PANEL),
                }
                panel += wide;
            }
            while panel < whole {
                rows_of_panel(tile.at(0, panel), rows, PANEL);
                panel += 1;
            }
            if !columns.is_multiple_of(PANEL) {
                rows_of_panel(tile.at(0, whole), rows, columns % PANEL);
            }
        }
    }

    /// All rows of one panel.
    ///
    /// # Safety
    /// As [`panels`].
    #[target_feature(enable = "avx512f")]
    unsafe fn rows_of_panel(tile: Tile, rows: usize, columns: usize) {
        let groups = rows.div_ceil(8);
        let mut row = 0;
        // SAFETY: row groups stay below `rows`.
        unsafe {
            while rows - row >= 8 {
                one::<8>(tile.at(row, 0).fetching(1, row / 8, groups), columns);
                row += 8;
            }
            let last = tile.at(row, 0).fetching(1, row / 8, groups);
            match rows - row {
                1 => one::<1>(last, columns),
                2 => one::<2>(last, columns),
                3 => one::<3>(last, columns),
                4 => one::<4>(last, columns),
                5 => one::<5>(last, columns),
                6 => one::<6>(last, columns),
                7 => one::<7>(last, columns),
                _ => {}
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn one<const R: usize>(tile: Tile, columns: usize) {
        // SAFETY: as `panels`; the masked tile touches `columns` columns only.
        unsafe { if columns == PANEL { block::<R, 1>(tile) } else { masked::<R>(tile, columns) } }
    }

    /// `R` rows times `P` whole panels.
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn block<const R: usize, const P: usize>(tile: Tile) {
        // SAFETY: all `R` rows and all columns of the `P` panels exist.
        unsafe {
            let mut acc = [[[_mm512_setzero_ps(); 2]; P]; R];
            if tile.accumulate {
                for (r, acc) in acc.iter_mut().enumerate() {
                    for (p, acc) in acc.iter_mut().enumerate() {
                        let out = tile.out.add(r * tile.out_stride + p * PANEL);
                        *acc = [_mm512_loadu_ps(out), _mm512_loadu_ps(out.add(16))];
                    }
                }
            }
            let mut b = tile.b;
            let mut x = tile.x;
            let mut ahead = tile.ahead.cast::<i8>();
            for _ in 0..tile.depth {
                // A fetch beyond the end does nothing.
                for p in 0..P {
                    let line = ahead.wrapping_add(p * tile.panel_stride * size_of::<f32>());
                    _mm_prefetch::<_MM_HINT_T0>(line);
                    _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(64));
                }
                ahead = ahead.wrapping_add(tile.ahead_bytes);
                let mut columns = [[_mm512_setzero_ps(); 2]; P];
                for (p, columns) in columns.iter_mut().enumerate() {
                    let b = b.add(p * tile.panel_stride);
                    *columns = [_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16))];
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*x.add(r * tile.x_stride));
                    for (acc, b) in acc.iter_mut().zip(&columns) {
                        acc[0] = _mm512_fmadd_ps(x, b[0], acc[0]);
                        acc[1] = _mm512_fmadd_ps(x, b[1], acc[1]);
                    }
                }
                b = b.add(tile.row_stride);
                x = x.add(1);
            }
            for (r, acc) in acc.iter().enumerate() {
                for (p, acc) in acc.iter().enumerate() {
                    let out = tile.out.add(r * tile.out_stride + p * PANEL);
                    _mm512_storeu_ps(out, acc[0]);
                    _mm512_storeu_ps(out.add(16), acc[1]);
                }
            }
        }
    }

    /// `R` rows times the first `columns` columns of a panel.
    #[target_feature(enable = "avx512f")]
    unsafe fn masked<const R: usize>(tile: Tile, columns: usize) {
        let bits = (1u32 << columns) - 1;
        let masks = [bits as __mmask16, (bits >> 16) as __mmask16];
        // SAFETY: masked lanes are neither read nor written; the others exist.
        unsafe {
            for (half, mask) in masks.into_iter().enumerate() {
                let mut acc = [_mm512_setzero_ps(); R];
                if tile.accumulate {
                    for (r, acc) in acc.iter_mut().enumerate() {
                        *acc = _mm512_maskz_loadu_ps(
                            mask,
                            tile.out.wrapping_add(r * tile.out_stride + half * 16),
                        );
                    }
                }
                for k in 0..tile.depth {
                    let b = _mm512_maskz_loadu_ps(mask, tile.b.wrapping_add(k * tile.row_stride + half * 16));
                    for (r, acc) in acc.iter_mut().enumerate() {
                        *acc = _mm512_fmadd_ps(_mm512_set1_ps(*tile.x.add(r * tile.x_stride + k)), b, *acc);
                    }
                }
                for (r, acc) in acc.iter().enumerate() {
                    let out = tile.out.wrapping_add(r * tile.out_stride + half * 16);
                    _mm512_mask_storeu_ps(out, mask, *acc);
                }
            }
        }
    }
}

/// # Safety
/// As [`Simd::product_to`], with lengths checked, on a machine with these instructions.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn panels_avx2(tile: Tile, rows: usize, columns: usize) {
    // SAFETY: the caller's promise.
    unsafe { panels_portable(tile, rows, columns) }
}

/// Columns that the portable tile keeps in registers.
const NARROW: usize = 16;

/// # Safety
/// As [`Simd::product_to`], with lengths checked.
#[inline(always)]
unsafe fn panels_portable(tile: Tile, rows: usize, columns: usize) {
    // SAFETY: columns stay below `columns`, rows below `rows`.
    unsafe {
        for first in (0..columns).step_by(NARROW) {
            let offset = first % PANEL;
            let whole = tile.at(0, first / PANEL);
            let piece = Tile { b: whole.b.add(offset), out: whole.out.add(offset), ..whole };
            let width = NARROW.min(columns - first);
            let mut row = 0;
            while rows - row >= 4 {
                block_portable::<4>(piece.at(row, 0), width);
                row += 4;
            }
            while row < rows {
                block_portable::<1>(piece.at(row, 0), width);
                row += 1;
            }
        }
    }
}

/// # Safety
/// `R` rows and `width` (at most 16) columns exist.
#[inline(always)]
unsafe fn block_portable<const R: usize>(tile: Tile, width: usize) {
    // SAFETY: the caller's promise; a narrow last piece is copied element by element.
    unsafe {
        let mut acc = [[0.0f32; NARROW]; R];
        if tile.accumulate {
            for (r, acc) in acc.iter_mut().enumerate() {
                for (c, acc) in acc.iter_mut().enumerate().take(width) {
                    *acc = *tile.out.add(r * tile.out_stride + c);
                }
            }
        }
        let step = |acc: &mut [[f32; NARROW]; R], k: usize, b: &[f32; NARROW]| {
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = *tile.x.add(r * tile.x_stride + k);
                for (acc, &b) in acc.iter_mut().zip(b) {
                    *acc = x.mul_add(b, *acc);
                }
            }
        };
        if width == NARROW {
            for k in 0..tile.depth {
                step(&mut acc, k, &*tile.b.add(k * tile.row_stride).cast::<[f32; NARROW]>());
            }
        } else {
            let mut b = [0.0; NARROW];
            for k in 0..tile.depth {
                for (c, b) in b.iter_mut().enumerate().take(width) {
                    *b = *tile.b.add(k * tile.row_stride + c);
                }
                step(&mut acc, k, &b);
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (c, &acc) in acc.iter().enumerate().take(width) {
                *tile.out.add(r * tile.out_stride + c) = acc;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    /// The definition, element by element.
    fn naive(x: Rows<'_>, b: Panels<'_>, out: &mut [f32], stride: usize, accumulate: bool) {
        for r in 0..x.rows {
            for c in 0..b.columns {
                let mut sum = if accumulate { out[r * stride + c] } else { 0.0 };
                for k in 0..x.depth {
                    let b = b.data[c / PANEL * b.panel_stride + k * b.row_stride + c % PANEL];
                    sum = x.data[r * x.stride + k].mul_add(b, sum);
                }
                out[r * stride + c] = sum;
            }
        }
    }

    #[test]
    fn every_instruction_set_follows_the_definition_bit_for_bit() {
        for rows in [1, 2, 3, 4, 5, 7, 8, 13, 37] {
            for columns in [1, 8, 16, 31, 32, 40, 64, 150, 288] {
                for depth in [0, 1, 9, 64] {
                    let data = noise(rows * (depth + 3), 1);
                    let x = Rows { data: &data, stride: depth + 3, rows, depth };
                    let flat = noise(depth * columns, 2);
                    let packed = noise(columns.div_ceil(PANEL) * PANEL * depth, 3);
                    let start = noise(rows * (columns + 5), 4);
                    let sides = [Panels::row_major(&flat, columns), Panels::packed(&packed, depth, columns)];
                    for (b, accumulate) in sides.into_iter().zip([true, false]) {
                        let mut expected = start.clone();
                        naive(x, b, &mut expected, columns + 5, accumulate);
                        for simd in Simd::available() {
                            let mut out = start.clone();
                            simd.product(x, b, Output { data: &mut out, stride: columns + 5, accumulate });
                            assert_eq!(out, expected, "{simd:?} {rows}x{depth}x{columns}");
                        }
                    }
                }
            }
        }
    }
}
