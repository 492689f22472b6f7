//! Formulas that the back ends share.

/// `|part - full| / (|full| + 1e-5)`, Euclidean norms (CompressKV's layer error).
pub(crate) fn relative_error(full: &[f32], part: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut full.iter().zip(part).map(|(f, p)| f64::from(p - f)));
    difference / (norm(&mut full.iter().map(|&f| f64::from(f))) + 1e-5)
}
