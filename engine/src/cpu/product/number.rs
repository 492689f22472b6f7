//! What a matrix's numbers may be stored as, and how a vector of them is read into a product.

use half::{bf16, f16};
use pulp::Simd;

/// A stored number.
pub(super) trait Number: Copy + Default {
    /// As many as a vector holds, widened.
    ///
    /// # Safety
    /// They can be read, and the caller is compiled for the instructions that the implementation names.
    unsafe fn load<S: Simd>(set: S, from: *const Self) -> S::f32s;
}

impl Number for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(_: S, from: *const Self) -> S::f32s {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<S::f32s>().read_unaligned() }
    }
}

impl Number for f16 {
    /// On x86-64 with vectors of eight floats: F16C. Otherwise number by number.
    #[inline(always)]
    unsafe fn load<S: Simd>(set: S, from: *const Self) -> S::f32s {
        // SAFETY: the caller's promise; eight floats are one 256-bit vector.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if S::F32_LANES == 8 {
                use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps};
                return std::mem::transmute_copy(&_mm256_cvtph_ps(_mm_loadu_si128(from.cast())));
            }
            widened(set, from, Self::to_f32)
        }
    }
}

impl Number for bf16 {
    /// On x86-64 with vectors of eight floats: AVX2. Otherwise number by number.
    #[inline(always)]
    unsafe fn load<S: Simd>(set: S, from: *const Self) -> S::f32s {
        // SAFETY: the caller's promise; eight floats are one 256-bit vector.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if S::F32_LANES == 8 {
                use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtepu16_epi32, _mm256_slli_epi32};
                let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                return std::mem::transmute_copy(&_mm256_slli_epi32::<16>(low));
            }
            widened(set, from, Self::to_f32)
        }
    }
}

/// A vector of numbers, one by one.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn widened<S: Simd, N: Copy>(set: S, from: *const N, widen: impl Fn(N) -> f32) -> S::f32s {
    let mut vector = set.splat_f32s(0.0);
    let floats = std::ptr::from_mut(&mut vector).cast::<f32>();
    for lane in 0..S::F32_LANES {
        // SAFETY: the caller's promise, and the vector has that many lanes.
        unsafe { floats.add(lane).write(widen(from.add(lane).read())) };
    }
    vector
}
