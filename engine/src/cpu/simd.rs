//! The kernels by instruction set, and the element-wise loops, compiled for each.
//!
//! Every path computes bit for bit the same: sums run in 16 fixed lanes, products are fused multiply-adds
//! everywhere (a portable build without the instruction emulates it).

use kvsweep_methods::instructions::InstructionSet;
#[cfg(target_arch = "aarch64")]
use pulp::aarch64::Neon;
#[cfg(target_arch = "x86_64")]
use pulp::x86::V3;

/// Instruction set of the kernels.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Simd {
    /// 512-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 256-bit vectors with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2(V3),
    /// ARM's 128-bit vectors.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    /// What the target offers by default.
    Portable,
}

impl Simd {
    /// The set in use.
    pub(crate) fn in_use() -> Self {
        Self::of(InstructionSet::in_use())
    }

    /// Every set of this machine, widest first.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Self> {
        InstructionSet::available().into_iter().map(Self::of).collect()
    }

    pub(crate) fn of(set: InstructionSet) -> Self {
        match set {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => Self::Avx512,
            // The oldest processors with AVX2 lack none of what pulp asks for beside it; others would compute plainly.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => V3::try_new().map_or(Self::Portable, Self::Avx2),
            #[cfg(target_arch = "aarch64")]
            InstructionSet::Neon => Neon::try_new().map_or(Self::Portable, Self::Neon),
            _ => Self::Portable,
        }
    }
}

/// Compiles a loop for each instruction set, as a method of [`Simd`].
macro_rules! for_each_simd {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        impl Simd {
            $(#[$doc])*
            #[inline]
            pub(crate) fn $name(self, $($arg: $ty),*) $(-> $ret)? {
                #[inline(always)]
                fn portable($($arg: $ty),*) $(-> $ret)? $body
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx512f,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { portable($($arg),*) }
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { portable($($arg),*) }
                match self {
                    // SAFETY: `Simd::available` offers the variant only where the instructions exist.
                    #[cfg(target_arch = "x86_64")]
                    Self::Avx512 => unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Self::Avx2(_) => unsafe { avx2($($arg),*) },
                    #[cfg(target_arch = "aarch64")]
                    Self::Neon(_) => portable($($arg),*),
                    Self::Portable => portable($($arg),*),
                }
            }
        }
    )*};
}
pub(crate) use for_each_simd;

/// Units of a weight of one in [`Simd::add_units`]: more than f32 resolves, and prompts of 2^24 tokens fit.
pub(crate) const UNITS: f64 = (1u64 << 40) as f64;

/// Columns whose sums [`Simd::add_rows`] keeps in registers.
const STRIP: usize = 4 * LANES;

/// Lanes of every sum and maximum.
const LANES: usize = 16;

/// Adds 16 lanes in a fixed tree.
#[inline(always)]
fn sum_lanes(lanes: [f32; LANES]) -> f32 {
    let mut lanes = lanes;
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// `2^x` for `x` up to 126 (below -126: the value there), relative error below 2e-7.
#[expect(clippy::approx_constant, reason = "a minimax coefficient near ln 2, not ln 2")]
#[inline(always)]
fn exp2(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x > -126.0 { x } else { -126.0 };
    let shifted = x + ROUND;
    let fraction = x - (shifted - ROUND);
    // Minimax on -0.5 to 0.5 with 2^0 = 1.
    let mut p = 1.326_472_7e-3;
    p = fraction.mul_add(p, 9.671_513e-3);
    p = fraction.mul_add(p, 5.550_733_6e-2);
    p = fraction.mul_add(p, 2.402_224_2e-1);
    p = fraction.mul_add(p, 6.931_47e-1);
    p = fraction.mul_add(p, 1.0);
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

for_each_simd! {
    /// Largest element; `-inf` of none.
    fn max(row: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (chunks, rest) = row.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane = if x > *lane { x } else { *lane };
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane = if x > *lane { x } else { *lane };
        }
        lanes.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
    }

    /// Replaces each element by `2^(element - max)` and returns their sum.
    fn exp2_sum(row: &mut [f32], max: f32) -> f32 {
        let mut lanes = [0.0; LANES];
        let (chunks, rest) = row.as_chunks_mut::<LANES>();
        for chunk in chunks {
            for x in chunk.iter_mut() {
                *x = exp2(*x - max);
            }
            for (lane, &x) in lanes.iter_mut().zip(&*chunk) {
                *lane += x;
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *x = exp2(*x - max);
            *lane += *x;
        }
        sum_lanes(lanes)
    }

    /// Makes `2^(before - max) / sum` of each `before`: what brings weights relative to an earlier maximum to their
    /// final value.
    fn final_factors(before: &mut [f32], max: &[f32], sum: &[f32]) {
        for ((x, &max), &sum) in before.iter_mut().zip(max).zip(sum) {
            *x = exp2(*x - max) / sum;
        }
    }

    /// Adds `factors[r]` times row `r` to `sums`, for every `step`-th `r` in ascending order. Rows are `stride` apart.
    fn add_rows(rows: &[f32], stride: usize, factors: &[f32], step: usize, sums: &mut [f32]) {
        let taken = || factors.iter().enumerate().step_by(step);
        let (strips, rest) = sums.as_chunks_mut::<STRIP>();
        let done = strips.len() * STRIP;
        for (i, strip) in strips.iter_mut().enumerate() {
            let mut sums = *strip;
            for (r, &factor) in taken() {
                for (sum, &x) in sums.iter_mut().zip(&rows[r * stride + i * STRIP..][..STRIP]) {
                    *sum = x.mul_add(factor, *sum);
                }
            }
            *strip = sums;
        }
        for (r, &factor) in taken() {
            for (sum, &x) in rest.iter_mut().zip(&rows[r * stride + done..]) {
                *sum = x.mul_add(factor, *sum);
            }
        }
    }

    /// Adds each `x`, from 0 to below 4,096, to its sum in units of `1 / UNITS`, rounded to the nearest.
    fn add_units(x: &[f32], sums: &mut [u64]) {
        // The last bit of an f64 from here up to 8,192 is one unit.
        const BASE: f64 = (1u64 << 52) as f64 / UNITS;
        for (sum, &x) in sums.iter_mut().zip(x) {
            *sum += (f64::from(x) + BASE).to_bits() - BASE.to_bits();
        }
    }

    /// Multiplies every element.
    fn scale(row: &mut [f32], factor: f32) {
        for x in row {
            *x *= factor;
        }
    }

    /// `out = x * factor`.
    fn scaled_copy(x: &[f32], factor: f32, out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x * factor;
        }
    }

    /// RMS norm of each row of `weight.len()` elements.
    fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let width = weight.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let mut lanes = [0.0f32; LANES];
            let (chunks, rest) = x.as_chunks::<LANES>();
            for chunk in chunks {
                for (lane, &x) in lanes.iter_mut().zip(chunk) {
                    *lane = x.mul_add(x, *lane);
                }
            }
            for (lane, &x) in lanes.iter_mut().zip(rest) {
                *lane = x.mul_add(x, *lane);
            }
            let factor = 1.0 / (sum_lanes(lanes) / width as f32 + eps).sqrt();
            for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
                *out = x * factor * weight;
            }
        }
    }

    /// RMS norm of each head in place (Qwen3).
    fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
        let width = weight.len();
        for x in x.chunks_exact_mut(width) {
            let mut lanes = [0.0f32; LANES];
            for (i, &x) in x.iter().enumerate() {
                lanes[i % LANES] = x.mul_add(x, lanes[i % LANES]);
            }
            let factor = 1.0 / (sum_lanes(lanes) / width as f32 + eps).sqrt();
            for (x, &weight) in x.iter_mut().zip(weight) {
                *x = *x * factor * weight;
            }
        }
    }

    /// Rotates each head of one position: `cos` and `sin` hold half a head.
    fn rotate(heads: &mut [f32], cos: &[f32], sin: &[f32]) {
        let half = cos.len();
        for head in heads.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for (((low, high), &cos), &sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                let (a, b) = (*low, *high);
                *low = a * cos - b * sin;
                *high = b * cos + a * sin;
            }
        }
    }

    /// `x += y`.
    fn add(x: &mut [f32], y: &[f32]) {
        for (x, &y) in x.iter_mut().zip(y) {
            *x += y;
        }
    }

    /// `gate = gelu(gate) * up`, by tanh: `gelu(x) = x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))`.
    fn gelu_mul(gate: &mut [f32], up: &[f32]) {
        // 2 sqrt(2 / pi) log2(e).
        const FACTOR: f32 = -2.302_208_2;
        for (gate, &up) in gate.iter_mut().zip(up) {
            let x = *gate;
            let power = FACTOR * (x + 0.044_715 * x * x * x);
            *gate = x / (1.0 + exp2(if power < 126.0 { power } else { 126.0 })) * up;
        }
    }

    /// `gate = silu(gate) * up`.
    fn silu_mul(gate: &mut [f32], up: &[f32]) {
        for (gate, &up) in gate.iter_mut().zip(up) {
            let x = *gate;
            let power = x * -std::f32::consts::LOG2_E;
            *gate = x / (1.0 + exp2(if power < 126.0 { power } else { 126.0 })) * up;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, spread: f32) -> Vec<f32> {
        let mut state = 7u64;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * spread
            })
            .collect()
    }

    #[test]
    fn exp2_is_close_to_the_exact_power() {
        for x in noise(100_000, 125.0) {
            let exact = f64::from(x).exp2();
            assert!((f64::from(exp2(x)) - exact).abs() < 2e-7 * exact, "2^{x}");
        }
        assert_eq!(exp2(0.0), 1.0);
        assert!(exp2(f32::NEG_INFINITY) < 2e-38);
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for len in [2, 5, 16, 37, 256, 1000] {
            let (x, weight) = (noise(len, 9.0), noise(len, 1.5));
            let run = |simd: Simd| {
                let mut soft = x.clone();
                let max = simd.max(&soft);
                let sum = simd.exp2_sum(&mut soft, max);
                let mut factors = vec![-3.5; 7];
                simd.final_factors(&mut factors, &[1.25; 7], &[3.0; 7]);
                let mut sums = x[..len / 2].to_vec();
                simd.add_rows(&[&*x, &*weight].concat(), len / 4, &factors, 2, &mut sums);
                let mut norm = vec![0.0; len];
                simd.rms_norm(&x, &weight, 1e-5, &mut norm);
                let mut silu = x.clone();
                simd.silu_mul(&mut silu, &weight);
                let mut gelu = x.clone();
                simd.gelu_mul(&mut gelu, &weight);
                simd.add(&mut silu, &gelu);
                let mut rotated = x[..len / 2 * 2].to_vec();
                simd.rotate(&mut rotated, &weight[..len / 2], &weight[len - len / 2..]);
                let all = [soft, factors, sums, norm, silu, rotated, vec![max, sum]].concat();
                all.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            for simd in Simd::available() {
                assert_eq!(run(simd), run(Simd::Portable), "{simd:?}, length {len}");
            }
        }
    }

    #[test]
    fn norm_and_activation_follow_their_definitions() {
        let (x, weight) = (noise(48, 3.0), noise(48, 1.0));
        let simd = Simd::in_use();
        let mut out = vec![0.0; 48];
        simd.rms_norm(&x, &weight, 1e-5, &mut out);
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 48.0;
        let mut act = x.clone();
        simd.silu_mul(&mut act, &weight);
        let mut gelu = x.clone();
        simd.gelu_mul(&mut gelu, &weight);
        for i in 0..48 {
            let (x, w) = (f64::from(x[i]), f64::from(weight[i]));
            assert!((f64::from(out[i]) - x / (mean + 1e-5).sqrt() * w).abs() < 1e-6);
            assert!((f64::from(act[i]) - x / (1.0 + (-x).exp()) * w).abs() < 1e-6);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            assert!((f64::from(gelu[i]) - 0.5 * x * (1.0 + inner.tanh()) * w).abs() < 2e-6, "{x}");
        }
    }
}
