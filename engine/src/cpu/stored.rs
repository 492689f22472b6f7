//! Weights in the type that the model's files store them in. Two-byte types are widened on their way into a product,
//! which changes no bit of the result: every f16 and bf16 number is an f32 number.

use std::borrow::Cow;

use half::{bf16, f16};

use super::simd::Simd;

/// Numbers of a matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stored<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl<'a> Stored<'a> {
    pub(crate) fn len(self) -> usize {
        match self {
            Self::F32(numbers) => numbers.len(),
            Self::F16(numbers) => numbers.len(),
            Self::Bf16(numbers) => numbers.len(),
        }
    }

    /// The numbers from `start` on.
    pub(crate) fn from(self, start: usize) -> Self {
        match self {
            Self::F32(numbers) => Self::F32(&numbers[start..]),
            Self::F16(numbers) => Self::F16(&numbers[start..]),
            Self::Bf16(numbers) => Self::Bf16(&numbers[start..]),
        }
    }

    /// All of them as f32: copied, unless they are.
    pub(crate) fn to_f32(self) -> Cow<'a, [f32]> {
        match self {
            Self::F32(numbers) => Cow::Borrowed(numbers),
            _ => {
                let mut wide = vec![0.0; self.len()];
                Simd::in_use().widen(self, &mut wide);
                Cow::Owned(wide)
            }
        }
    }

    /// One number.
    pub(crate) fn at(self, index: usize) -> f32 {
        match self {
            Self::F32(numbers) => numbers[index],
            Self::F16(numbers) => numbers[index].to_f32(),
            Self::Bf16(numbers) => numbers[index].to_f32(),
        }
    }
}

impl<'a> std::convert::From<&'a [f32]> for Stored<'a> {
    fn from(numbers: &'a [f32]) -> Self {
        Self::F32(numbers)
    }
}

impl Simd {
    /// The first `wide.len()` of `stored`, as f32.
    pub(crate) fn widen(self, stored: Stored<'_>, wide: &mut [f32]) {
        match stored {
            Stored::F32(numbers) => wide.copy_from_slice(&numbers[..wide.len()]),
            Stored::F16(numbers) => self.widen_f16(&numbers[..wide.len()], wide),
            Stored::Bf16(numbers) => self.widen_bf16(&numbers[..wide.len()], wide),
        }
    }

    fn widen_f16(self, narrow: &[f16], wide: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if !matches!(self, Self::Portable) && std::is_x86_feature_detected!("f16c") {
            // SAFETY: the instruction was just detected.
            return unsafe { widen_f16c(narrow, wide) };
        }
        half::slice::HalfFloatSliceExt::convert_to_f32_slice(narrow, wide);
    }
}

super::simd::for_each_simd! {
    /// Puts each number's bits at the top of an f32.
    fn widen_bf16(narrow: &[bf16], wide: &mut [f32]) {
        for (wide, narrow) in wide.iter_mut().zip(narrow) {
            *wide = f32::from_bits(u32::from(narrow.to_bits()) << 16);
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx,f16c")]
fn widen_f16c(narrow: &[f16], wide: &mut [f32]) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
    let (narrow, narrow_rest) = narrow.as_chunks::<8>();
    let (wide, wide_rest) = wide.as_chunks_mut::<8>();
    for (narrow, wide) in narrow.iter().zip(wide) {
        // SAFETY: both hold eight numbers, at any address.
        unsafe {
            _mm256_storeu_ps(wide.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(narrow.as_ptr().cast())))
        };
    }
    for (narrow, wide) in narrow_rest.iter().zip(wide_rest) {
        *wide = narrow.to_f32();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_two_byte_number_widens_to_itself_on_every_instruction_set() {
        // Quiet NaNs only: the instruction makes signalling ones quiet, as IEEE 754 says.
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        let halves: Vec<f16> =
            bits.iter().map(|&bits| f16::from_bits(bits)).filter(|x| !x.is_nan()).collect();
        let brains: Vec<bf16> = bits.iter().map(|&bits| bf16::from_bits(bits)).collect();
        for simd in Simd::available() {
            let mut wide = vec![0.0; halves.len() - 3];
            simd.widen(Stored::F16(&halves), &mut wide);
            for (wide, narrow) in wide.iter().zip(&halves) {
                assert_eq!(wide.to_bits(), narrow.to_f32_const().to_bits(), "{simd:?}: {narrow}");
            }
            let mut wide = vec![0.0; brains.len()];
            simd.widen(Stored::Bf16(&brains), &mut wide);
            for (wide, narrow) in wide.iter().zip(&brains) {
                assert_eq!(wide.to_bits(), u32::from(narrow.to_bits()) << 16, "{simd:?}: {narrow}");
            }
        }
    }
}
