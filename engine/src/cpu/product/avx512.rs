//! 512-bit tiles of up to 8 rows, masked at the last panel.

use std::{
    arch::x86_64::{
        __mmask16, _MM_HINT_T0, _mm_prefetch, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps,
        _mm512_maskz_loadu_ps, _mm512_reduce_add_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    },
    hint::black_box,
};

use super::{CHAINS, PANEL, Tile};

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
                    *acc =
                        _mm512_maskz_loadu_ps(mask, tile.out.wrapping_add(r * tile.out_stride + half * 16));
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

/// Chains of multiply-adds that no other waits for, nor for memory: the peak that products are measured by.
///
/// # Safety
/// The instructions exist.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn multiply_adds(steps: usize) -> f32 {
    let factor = _mm512_set1_ps(black_box(0.5));
    let mut chains = [_mm512_set1_ps(black_box(1.0)); CHAINS];
    for _ in 0..steps {
        for chain in &mut chains {
            *chain = _mm512_fmadd_ps(*chain, factor, factor);
        }
    }
    chains.into_iter().map(|chain| _mm512_reduce_add_ps(chain)).sum()
}
