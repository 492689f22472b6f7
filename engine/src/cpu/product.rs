//! The one matrix product of the CPU path: rows times a matrix in panels of 32 columns.
//!
//! Each element of the result is one chain of fused multiply-adds over the depth, in ascending order, in a lane of
//! its own. So its bits depend on its row and its column alone: not on the rows beside it in the batch, not on the
//! threads, not on the width of the vectors. The same code serves the projections, the scores and the weighted
//! sums of values, in prefill and in decode.

use super::simd::Simd;

#[cfg(target_arch = "x86_64")]
mod avx512;
mod vector;

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
                Self::Avx2(set) => vector::panels(set, tile, x.rows, b.columns),
                #[cfg(target_arch = "aarch64")]
                Self::Neon(set) => vector::panels(set, tile, x.rows, b.columns),
                Self::Portable => vector::panels(pulp::Scalar256b, tile, x.rows, b.columns),
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
