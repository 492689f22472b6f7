//! Weights of a projection, packed once at load into the panels that the product reads.

use half::{bf16, f16};
use rayon::prelude::*;

use super::{
    buffer::{Buffer, Plain},
    product::{Output, PANEL, Panels, Rows},
    simd::Simd,
    stored::Stored,
};

/// The transposed weight of one or several projections of the same input, `[panels][input][32]`.
#[derive(Debug)]
pub(crate) struct PackedMatrix {
    input: usize,
    output: usize,
    panels: PackedPanels,
    bias: Option<Vec<f32>>,
}

#[derive(Debug)]
enum PackedPanels {
    F32(Buffer<f32>),
    F16(Buffer<f16>),
    Bf16(Buffer<bf16>),
}

impl PackedPanels {
    fn stored(&self) -> Stored<'_> {
        match self {
            Self::F32(numbers) => Stored::F32(numbers),
            Self::F16(numbers) => Stored::F16(numbers),
            Self::Bf16(numbers) => Stored::Bf16(numbers),
        }
    }
}

/// Packs rows of `input` numbers, the columns of the product.
fn packed<T: Plain>(input: usize, rows: &[&[T]]) -> Buffer<T> {
    let mut panels = Buffer::zeros(rows.len().next_multiple_of(PANEL) * input);
    panels.par_chunks_exact_mut(PANEL * input).zip(rows.par_chunks(PANEL)).for_each(|(panel, rows)| {
        for (k, step) in panel.chunks_exact_mut(PANEL).enumerate() {
            for (number, row) in step.iter_mut().zip(rows) {
                *number = row[k];
            }
        }
    });
    panels
}

impl PackedMatrix {
    /// Packs row-major `[output, input]` weights, one below the other: in the type that they are stored in, or in
    /// f32 where they differ. A part's bias may be missing.
    pub(crate) fn new(input: usize, parts: &[(Stored<'_>, Option<&[f32]>)]) -> Self {
        let outputs = |weight: &Stored<'_>| weight.len() / input;
        let panels = if let Some(rows) = rows_of(input, parts, |stored| match stored {
            Stored::F16(numbers) => Some(numbers),
            _ => None,
        }) {
            PackedPanels::F16(packed(input, &rows))
        } else if let Some(rows) = rows_of(input, parts, |stored| match stored {
            Stored::Bf16(numbers) => Some(numbers),
            _ => None,
        }) {
            PackedPanels::Bf16(packed(input, &rows))
        } else {
            let wide: Vec<_> = parts.iter().map(|(weight, _)| weight.to_f32()).collect();
            let rows: Vec<_> = wide.iter().flat_map(|weight| weight.chunks_exact(input)).collect();
            PackedPanels::F32(packed(input, &rows))
        };
        let bias = parts.iter().any(|(_, bias)| bias.is_some()).then(|| {
            parts
                .iter()
                .flat_map(|(weight, bias)| match bias {
                    Some(bias) => bias.to_vec(),
                    None => vec![0.0; outputs(weight)],
                })
                .collect()
        });
        Self { input, output: parts.iter().map(|(weight, _)| outputs(weight)).sum(), panels, bias }
    }

    /// Elements of a result row.
    pub(crate) fn output(&self) -> usize {
        self.output
    }

    /// One row of the weights, as f32: the column of the product that it makes.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        let numbers = self.panels.stored().from(row / PANEL * PANEL * self.input + row % PANEL);
        for (k, out) in out.iter_mut().enumerate() {
            *out = numbers.at(k * PANEL);
        }
    }

    fn columns(&self, first: usize, columns: usize) -> Panels<'_> {
        Panels::packed(self.panels.stored().from(first * self.input), self.input, columns)
    }

    /// All columns, of the inputs from `first` on: what is multiplied with fewer inputs reads those.
    pub(super) fn inputs(&self, first: usize) -> Panels<'_> {
        Panels { data: self.panels.stored().from(first * PANEL), ..self.columns(0, self.output) }
    }

    /// Rows of this matrix's input, `stride` apart.
    fn rows<'a>(&self, x: &'a [f32], stride: usize) -> Rows<'a> {
        Rows { data: x, stride, rows: x.len().div_ceil(stride), depth: self.input }
    }

    /// `out = x W^T + b`, or `out += x W^T` (no bias then), on this thread. The rows of `x` are `stride` apart, those
    /// of `out` contiguous.
    pub(crate) fn multiply(&self, simd: Simd, x: &[f32], stride: usize, out: &mut [f32], accumulate: bool) {
        let rows = self.rows(x, stride);
        let accumulate = accumulate || self.seed(out, rows.rows);
        simd.product(
            rows,
            self.columns(0, self.output),
            Output { data: out, stride: self.output, accumulate },
        );
    }

    /// Writes the bias into each row; `false` if there is none.
    fn seed(&self, out: &mut [f32], rows: usize) -> bool {
        let Some(bias) = &self.bias else { return false };
        for row in out.chunks_exact_mut(self.output).take(rows) {
            row.copy_from_slice(bias);
        }
        true
    }

    /// [`PackedMatrix::multiply`] with the columns spread over the threads: for the few rows of a decode step, where
    /// reading the weights is what costs.
    pub(crate) fn multiply_spread(
        &self,
        simd: Simd,
        x: &[f32],
        stride: usize,
        out: &mut [f32],
        accumulate: bool,
    ) {
        let rows = self.rows(x, stride);
        let accumulate = accumulate || self.seed(out, rows.rows);
        assert!(out.len() >= rows.rows * self.output, "the result fits");
        let step = column_step(self.output);
        let target = SharedOutput(out.as_mut_ptr());
        (0..self.output.div_ceil(step)).into_par_iter().for_each(|piece| {
            let first = piece * step;
            let columns = step.min(self.output - first);
            // SAFETY: pieces are disjoint columns of `out`, which has room for all rows (checked above) and is
            // borrowed mutably for the whole loop.
            unsafe {
                let out = target.get().add(first);
                simd.product_to(rows, self.columns(first, columns), out, self.output, accumulate);
            }
        });
    }
}

/// The rows of all parts, if all are of the type that `of` picks.
fn rows_of<'a, T>(
    input: usize,
    parts: &[(Stored<'a>, Option<&[f32]>)],
    of: impl Fn(Stored<'a>) -> Option<&'a [T]>,
) -> Option<Vec<&'a [T]>> {
    let parts = parts.iter().map(|(weight, _)| of(*weight)).collect::<Option<Vec<_>>>()?;
    Some(parts.into_iter().flat_map(|weight| weight.chunks_exact(input)).collect())
}

/// Columns that one task computes: groups of four panels, about two tasks a thread.
fn column_step(columns: usize) -> usize {
    let tasks = rayon::current_num_threads() * 2;
    columns.div_ceil(tasks).next_multiple_of(PANEL * 4)
}

/// The start of a result that threads write disjoint parts of.
#[derive(Clone, Copy)]
struct SharedOutput(*mut f32);

impl SharedOutput {
    fn get(self) -> *mut f32 {
        self.0
    }
}

// SAFETY: only `multiply_spread` uses it, whose tasks write disjoint elements.
unsafe impl Send for SharedOutput {}
// SAFETY: as above.
unsafe impl Sync for SharedOutput {}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(len: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 % 64) as f32 - 31.5) / 16.0).collect()
    }

    #[test]
    fn two_byte_weights_multiply_as_if_they_were_wide() {
        let (input, outputs) = (150, [40, 7]);
        let weights: Vec<_> = outputs.iter().map(|output| numbers(output * input)).collect();
        let f16: Vec<Vec<_>> =
            weights.iter().map(|w| w.iter().map(|&x| f16::from_f32(x)).collect()).collect();
        let bf16: Vec<Vec<_>> =
            weights.iter().map(|w| w.iter().map(|&x| bf16::from_f32(x)).collect()).collect();
        let bias = numbers(40);
        let pack = |a, b| PackedMatrix::new(input, &[(a, Some(&*bias)), (b, None)]);
        // These numbers lose nothing in either type.
        let wide = pack(Stored::F32(&weights[0]), Stored::F32(&weights[1]));
        let simd = Simd::in_use();
        let x = numbers(9 * input);
        let run = |matrix: &PackedMatrix, rows: usize| {
            let mut out = vec![0.0; rows * 47];
            matrix.multiply(simd, &x[..rows * input], input, &mut out, false);
            let mut spread = vec![0.0; rows * 47];
            matrix.multiply_spread(simd, &x[..rows * input], input, &mut spread, false);
            assert_eq!(out, spread);
            out
        };
        for narrow in [
            pack(Stored::F16(&f16[0]), Stored::F16(&f16[1])),
            pack(Stored::Bf16(&bf16[0]), Stored::Bf16(&bf16[1])),
            pack(Stored::F16(&f16[0]), Stored::Bf16(&bf16[1])),
        ] {
            for rows in [1, 4, 9] {
                assert_eq!(run(&narrow, rows), run(&wide, rows));
            }
            let mut row = vec![0.0; input];
            narrow.row(42, &mut row);
            assert_eq!(row, weights[1][2 * input..][..input]);
        }
        assert!(matches!(pack(Stored::F16(&f16[0]), Stored::F16(&f16[1])).panels, PackedPanels::F16(_)));
    }
}
