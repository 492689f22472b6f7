//! Fused multiply-adds for processors without the instruction, several at once and without a call: the product of two
//! f32 numbers is exact in f64, so that only the sum is rounded twice, first to f64 and then to f32. The second rounding
//! can go wrong only from exactly half way between two f32 numbers, and among subnormal ones; there the definition decides.

/// Numbers that are worked on at once.
pub(super) const LANES: usize = 8;

/// `x * y + z`, rounded once.
#[inline(always)]
pub(super) fn multiply_add(x: [f32; LANES], y: [f32; LANES], z: [f32; LANES]) -> [f32; LANES] {
    let mut sums = [0f64; LANES];
    for (((sum, x), y), z) in sums.iter_mut().zip(x).zip(y).zip(z) {
        *sum = f64::from(x) * f64::from(y) + f64::from(z);
    }
    let doubts: u64 = sums.iter().map(|&sum| doubtful(sum)).fold(0, |doubts, doubt| doubts | doubt);
    if doubts != 0 {
        return std::array::from_fn(|lane| x[lane].mul_add(y[lane], z[lane]));
    }
    sums.map(|sum| sum as f32)
}

/// Not zero where rounding to f32 may not give what rounding the exact number would.
#[inline(always)]
fn doubtful(sum: f64) -> u64 {
    /// The bits of an f64 that an f32 does not have, and the highest of them alone.
    const CUT: u64 = (1 << 29) - 1;
    const HALF: u64 = 1 << 28;
    /// 2^-125: above it, and one rounding up, f32 numbers are normal.
    const NORMAL: u64 = (1023 - 125) << 52;
    let bits = sum.to_bits() & (u64::MAX >> 1);
    u64::from(bits & CUT == HALF) | u64::from(bits.wrapping_sub(1) < NORMAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_the_fused_operation() {
        let mut state = 5u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        };
        let (mut halves, mut subnormal) = (0, 0);
        for round in 0..400_000u32 {
            // All finite numbers; numbers of like size; sums half way between two f32; subnormal ones.
            let mut number = |low: u32, high: u32| {
                let exponent = low + random() % (high - low);
                f32::from_bits((random() & 0x807f_ffff) | (exponent << 23))
            };
            let ranges = [(0, 255), (120, 134), (126, 128), (40, 70)];
            let (low, high) = ranges[round as usize % ranges.len()];
            let mut x: [f32; LANES] = std::array::from_fn(|_| number(low, high));
            let mut y: [f32; LANES] = std::array::from_fn(|_| number(low, high));
            let (low, high) = if round % 4 == 3 { (0, 4) } else { (low, high) };
            let z: [f32; LANES] = std::array::from_fn(|_| number(low, high));
            if round % 4 == 2 {
                // 2^-24 of a number near one is half of its last place; the last bit of x decides.
                x = std::array::from_fn(|lane| if lane % 2 == 0 { 1.0 } else { 1.0 + f32::EPSILON });
                y = [f32::EPSILON / 2.0; LANES];
            }
            let sums: [f64; LANES] =
                std::array::from_fn(|i| f64::from(x[i]) * f64::from(y[i]) + f64::from(z[i]));
            halves += sums.iter().filter(|sum| sum.to_bits() & ((1 << 29) - 1) == 1 << 28).count();
            subnormal +=
                sums.iter().filter(|sum| **sum != 0.0 && sum.abs() < f64::from(f32::MIN_POSITIVE)).count();
            let ours = multiply_add(x, y, z);
            for lane in 0..LANES {
                let exact = x[lane].mul_add(y[lane], z[lane]);
                assert!(
                    ours[lane].to_bits() == exact.to_bits() || (ours[lane].is_nan() && exact.is_nan()),
                    "{:e} * {:e} + {:e} = {exact:e}, not {:e}",
                    x[lane],
                    y[lane],
                    z[lane],
                    ours[lane]
                );
            }
        }
        assert!(halves > 1000 && subnormal > 1000, "{halves} half way, {subnormal} subnormal");
    }
}
