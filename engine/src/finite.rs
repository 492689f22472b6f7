//! Numbers that are none. NaN and infinity in weights, or an overflow, would go on as a plausible answer: the largest
//! of scores that are NaN is some token, and softmax kernels may swallow a NaN.

use crate::error::{EngineError, Result, Stage};

/// The index of the first value that is NaN or infinite. Costs one pass without branches where there is none.
pub(crate) fn first_not_finite(values: &[f32]) -> Option<usize> {
    const EXPONENT: u32 = 0x7f80_0000;
    let largest = values.iter().fold(0, |most, x| (x.to_bits() & EXPONENT).max(most));
    if largest == EXPONENT { values.iter().position(|x| !x.is_finite()) } else { None }
}

/// Refuses rows of `width` values, the first of which stands at position `first`.
///
/// # Errors
/// [`EngineError::NotFinite`] with the first bad value.
pub(crate) fn check_rows(stage: Stage, first: usize, values: &[f32], width: usize) -> Result<()> {
    match first_not_finite(values) {
        None => Ok(()),
        Some(at) => {
            Err(EngineError::NotFinite { stage, position: first + at / width.max(1), value: values[at] })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bad_value_is_found_wherever_it_is() {
        let good = [0.0, -0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45];
        assert_eq!(first_not_finite(&good), None);
        assert_eq!(first_not_finite(&[]), None);
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 1, 15, 16, 99] {
                let mut values = vec![1.0; 100];
                values[at] = bad;
                values[99] = f32::NAN;
                assert_eq!(first_not_finite(&values), Some(at));
            }
        }
        let error = check_rows(Stage::Layer(3), 64, &[0.0, 0.0, 1.0, f32::INFINITY], 2).unwrap_err();
        assert!(error.to_string().starts_with("layer 3 computes inf at position 65"), "{error}");
    }
}
