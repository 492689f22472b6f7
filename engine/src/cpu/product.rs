//! The one matrix product of the CPU path: rows times a matrix in panels of 32 columns.
//!
//! Each element of the result is one chain of fused multiply-adds over the depth, in ascending order, in a lane of
//! its own. So its bits depend on its row and its column alone: not on the rows beside it in the batch, not on the
//! threads, not on the width of the vectors. The same code serves the projections, the scores and the weighted
//! sums of values, in prefill and in decode.

#[cfg(target_arch = "x86_64")]
use pulp::x86::V3;

use super::{simd::Simd, stored::Stored};

#[cfg(target_arch = "x86_64")]
mod avx512;
mod number;
mod portable;
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
    pub(crate) data: Stored<'a>,
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
        Self { data: data.into(), row_stride: columns, panel_stride: PANEL, columns }
    }

    /// Whole panels one after another, `[panels][depth][32]`.
    pub(crate) fn packed(data: impl Into<Stored<'a>>, depth: usize, columns: usize) -> Self {
        Self { data: data.into(), row_stride: PANEL, panel_stride: depth * PANEL, columns }
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
        if x.depth == 0 {
            for row in (0..x.rows).filter(|_| !accumulate) {
                // SAFETY: the row is inside `out`.
                unsafe { std::ptr::write_bytes(out.add(row * stride), 0, b.columns) };
            }
            return;
        }
        // SAFETY: lengths were checked above, and `out` is the caller's promise.
        unsafe {
            match b.data {
                Stored::F32(data) => {
                    self.panels(Tile::new(x, b, data.as_ptr(), out, stride, accumulate), x.rows, b.columns);
                }
                Stored::F16(_) | Stored::Bf16(_) => self.two_byte_panels(x, b, out, stride, accumulate),
            }
        }
    }

    /// All panels of a product.
    ///
    /// # Safety
    /// As [`Simd::product_to`], with lengths checked.
    unsafe fn panels(self, tile: Tile, rows: usize, columns: usize) {
        // SAFETY: the caller's promise, and `Simd::of` offers a set only where its instructions exist.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => avx512::panels(tile, rows, columns),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2(set) => vector::panels(set, tile, rows, columns),
                #[cfg(target_arch = "aarch64")]
                Self::Neon(set) => vector::panels(set, tile, rows, columns),
                Self::Portable => vector::panels(pulp::Scalar256b, tile, rows, columns),
            }
        }
    }

    /// [`Simd::panels`] of a matrix of two-byte numbers. Few rows widen each vector as they read it. More rows would
    /// widen it again and again: for them a piece is widened once, and is in the first-level cache until all are
    /// through.
    ///
    /// # Safety
    /// As [`Simd::product_to`], with lengths checked.
    unsafe fn two_byte_panels(
        self,
        x: Rows<'_>,
        b: Panels<'_>,
        out: *mut f32,
        stride: usize,
        accumulate: bool,
    ) {
        #[cfg(target_arch = "x86_64")]
        if x.rows <= vector::ROWS
            && !matches!(self, Self::Portable)
            && std::is_x86_feature_detected!("f16c")
            && let Some(set) = V3::try_new()
        {
            // SAFETY: the caller's promise, and the instructions were just detected.
            unsafe {
                match b.data {
                    Stored::F16(data) => {
                        let tile = Tile::new(x, b, data.as_ptr(), out, stride, accumulate);
                        return f16_panels(set, tile, x.rows, b.columns);
                    }
                    Stored::Bf16(data) => {
                        let tile = Tile::new(x, b, data.as_ptr(), out, stride, accumulate);
                        return vector::panels(set, tile, x.rows, b.columns);
                    }
                    Stored::F32(_) => {}
                }
            }
        }
        assert!(b.row_stride == PANEL, "two-byte matrices are packed");
        let mut piece = [0.0; PIECE * PANEL];
        let tile = Tile::new(x, b, piece.as_ptr(), out, stride, accumulate);
        for first in (0..b.columns).step_by(PANEL) {
            for start in (0..tile.depth).step_by(PIECE) {
                let depth = PIECE.min(tile.depth - start);
                let from = first / PANEL * b.panel_stride + start * b.row_stride;
                // The last row of a last narrow panel may end before the panel does.
                let there = (depth * PANEL).min(b.data.len() - from);
                self.widen(b.data.from(from), &mut piece[..there]);
                // SAFETY: the piece holds `depth` rows of these columns; `x` and `out` are the caller's promise.
                unsafe {
                    let at = Tile {
                        depth,
                        x: tile.x.add(start),
                        b: piece.as_ptr(),
                        panel_stride: depth * PANEL,
                        out: tile.out.add(first),
                        accumulate: tile.accumulate || start > 0,
                        ..tile
                    };
                    let at = match b.data {
                        Stored::F16(data) => at.followed_by(data.as_ptr().wrapping_add(from + PIECE * PANEL)),
                        Stored::Bf16(data) => {
                            at.followed_by(data.as_ptr().wrapping_add(from + PIECE * PANEL))
                        }
                        Stored::F32(_) => at,
                    };
                    self.panels(at, x.rows, PANEL.min(b.columns - first));
                }
            }
        }
    }
}

/// [`vector::panels`] where F16C is there beside pulp's instructions.
///
/// # Safety
/// As [`Simd::product_to`], with lengths checked; the instructions exist.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c")]
unsafe fn f16_panels(set: V3, tile: Tile<half::f16>, rows: usize, columns: usize) {
    // SAFETY: the caller's promise.
    unsafe { vector::panels_inlined(set, tile, rows, columns) }
}

/// Rows of a widened piece: with a panel's columns, half of a first-level cache of 32 KiB.
const PIECE: usize = 128;

/// Independent chains of [`Simd::multiply_adds`]: enough to hide the instruction's latency, and they fit the registers.
const CHAINS: usize = 12;

impl Simd {
    /// Multiply-adds and nothing else, `steps` in each of some independent chains; how many floating-point operations
    /// that was.
    pub(crate) fn multiply_adds(self, steps: usize) -> usize {
        let (result, lanes) = match self {
            // SAFETY: `Simd::of` offers the set only where its instructions exist.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => (unsafe { avx512::multiply_adds(steps) }, 16),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(set) => (vector::multiply_adds(set, steps), 8),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(set) => (vector::multiply_adds(set, steps), 4),
            Self::Portable => (vector::multiply_adds(pulp::Scalar256b, steps), 8),
        };
        std::hint::black_box(result);
        2 * CHAINS * steps * lanes
    }

    /// Reads memory and does next to nothing with it.
    pub(crate) fn read(self, numbers: &[f32]) {
        std::hint::black_box(match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(set) => vector::read(set, numbers),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => V3::try_new().map_or(0.0, |set| vector::read(set, numbers)),
            #[cfg(target_arch = "aarch64")]
            Self::Neon(set) => vector::read(set, numbers),
            Self::Portable => vector::read(pulp::Scalar256b, numbers),
        });
    }
}

/// Rows of a row-major right-hand side that are fetched ahead.
#[cfg(target_arch = "x86_64")]
const ROWS_AHEAD: usize = 32;

/// Pointers to the first row, the first panel and the first element of a piece of the product.
#[derive(Clone, Copy)]
struct Tile<N = f32> {
    depth: usize,
    x: *const f32,
    x_stride: usize,
    b: *const N,
    row_stride: usize,
    panel_stride: usize,
    out: *mut f32,
    out_stride: usize,
    accumulate: bool,
    /// What will be read next, to be fetched meanwhile: one address a panel, and its bytes per step of the depth.
    ahead: *const u8,
    ahead_bytes: usize,
}

impl<N> Tile<N> {
    /// The whole product, with the matrix's numbers at `numbers`; nothing is fetched ahead.
    fn new(
        x: Rows<'_>,
        b: Panels<'_>,
        numbers: *const N,
        out: *mut f32,
        out_stride: usize,
        accumulate: bool,
    ) -> Self {
        Self {
            depth: x.depth,
            x: x.data.as_ptr(),
            x_stride: x.stride,
            b: numbers,
            row_stride: b.row_stride,
            panel_stride: b.panel_stride,
            out,
            out_stride,
            accumulate,
            ahead: std::ptr::null(),
            ahead_bytes: 0,
        }
    }

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

    /// Says what will be read after this piece, as long as this is.
    #[inline(always)]
    fn followed_by<M>(self, next: *const M) -> Self {
        Self { ahead: next.cast(), ahead_bytes: PANEL * size_of::<M>(), ..self }
    }

    /// Fetches one of `shares` equal parts of what was said to follow.
    #[inline(always)]
    fn share_of_ahead(self, share: usize, shares: usize) -> Self {
        let ahead_bytes = self.ahead_bytes.div_ceil(shares);
        Self { ahead: self.ahead.wrapping_add(share * self.depth * ahead_bytes), ahead_bytes, ..self }
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
        Self { ahead: ahead.cast(), ahead_bytes, ..self }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

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
                    let b = b.data.at(c / PANEL * b.panel_stride + k * b.row_stride + c % PANEL);
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
                for depth in [0, 1, 9, 64, 300] {
                    let data = noise(rows * (depth + 3), 1);
                    let x = Rows { data: &data, stride: depth + 3, rows, depth };
                    let flat = noise(depth * columns, 2);
                    let packed = noise(columns.div_ceil(PANEL) * PANEL * depth, 3);
                    let f16: Vec<_> = packed.iter().map(|&x| f16::from_f32(x)).collect();
                    let bf16: Vec<_> = packed.iter().map(|&x| bf16::from_f32(x)).collect();
                    let start = noise(rows * (columns + 5), 4);
                    let sides = [
                        Panels::row_major(&flat, columns),
                        Panels::packed(Stored::F32(&packed), depth, columns),
                        Panels::packed(Stored::F16(&f16), depth, columns),
                        Panels::packed(Stored::Bf16(&bf16), depth, columns),
                    ];
                    for (i, b) in sides.into_iter().enumerate() {
                        let accumulate = (i + rows) % 2 == 0;
                        let mut expected = start.clone();
                        naive(x, b, &mut expected, columns + 5, accumulate);
                        for simd in Simd::available() {
                            let mut out = start.clone();
                            simd.product(x, b, Output { data: &mut out, stride: columns + 5, accumulate });
                            assert_eq!(out, expected, "{simd:?} side {i}: {rows}x{depth}x{columns}");
                        }
                    }
                }
            }
        }
    }
}
