//! Weights of a projection, packed once at load into the panels that the product reads.

use rayon::prelude::*;

use super::{
    product::{Output, PANEL, Panels, Rows},
    simd::Simd,
};

/// The transposed weight of one or several projections of the same input, `[panels][input][32]`.
#[derive(Debug)]
pub(crate) struct PackedMatrix {
    input: usize,
    output: usize,
    panels: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl PackedMatrix {
    /// Packs row-major `[output, input]` weights, one below the other.
    pub(crate) fn new(input: usize, parts: &[(&[f32], Option<&[f32]>)]) -> Self {
        let output = parts.iter().map(|(weight, _)| weight.len() / input).sum::<usize>();
        let mut panels = vec![0.0; output.div_ceil(PANEL) * PANEL * input];
        let rows = parts.iter().flat_map(|(weight, _)| weight.chunks_exact(input));
        for (column, row) in rows.enumerate() {
            let panel = &mut panels[column / PANEL * PANEL * input..];
            for (k, &weight) in row.iter().enumerate() {
                panel[k * PANEL + column % PANEL] = weight;
            }
        }
        let bias = parts.iter().any(|(_, bias)| bias.is_some()).then(|| {
            parts
                .iter()
                .flat_map(|(weight, bias)| match bias {
                    Some(bias) => bias.to_vec(),
                    None => vec![0.0; weight.len() / input],
                })
                .collect()
        });
        Self { input, output, panels, bias }
    }

    /// Elements of a result row.
    pub(crate) fn output(&self) -> usize {
        self.output
    }

    fn columns(&self, first: usize, columns: usize) -> Panels<'_> {
        Panels::packed(&self.panels[first * self.input..], self.input, columns)
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
