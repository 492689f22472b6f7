//! Values behind the output projection: the plain version of [`Observation::OutputNorm`](crate::Observation::OutputNorm).

use rayon::prelude::*;

use super::LayerTensors;
use crate::error::MethodError;
use crate::observation::Observed;
use crate::shape::LayerShape;

/// L1 norm of `W_o v` of each query head and position.
///
/// # Errors
/// Values or weights that are not there, or of another shape.
pub(super) fn norms(shape: &LayerShape, tensors: &LayerTensors<'_>) -> Result<Observed, MethodError> {
    let values = tensors.values()?;
    let (dim, width) = (shape.head_dim, shape.query_heads * shape.head_dim);
    let output = tensors.output.filter(|weights| !weights.is_empty() && weights.len() % width == 0);
    let output = output.ok_or_else(|| MethodError::Mismatch {
        what: "weights of the output projection to observe".into(),
        expected: format!("rows of {width}"),
        found: tensors.output.map_or_else(|| "none".into(), |weights| format!("{} values", weights.len())),
    })?;
    let norm = |head: usize, token: usize| -> f32 {
        let value = values.row(head / shape.group_size(), token);
        let row = |weights: &[f32]| -> f64 {
            let weights = &weights[head * dim..][..dim];
            weights.iter().zip(value).map(|(w, v)| f64::from(*w) * f64::from(*v)).sum()
        };
        output.chunks_exact(width).map(|weights| row(weights).abs()).sum::<f64>() as f32
    };
    let rows = (0..shape.query_heads)
        .into_par_iter()
        .flat_map_iter(|head| (0..values.tokens).map(move |token| (head, token)))
        .map(|(head, token)| norm(head, token))
        .collect();
    Ok(Observed::Rows { rows: shape.query_heads, columns: values.tokens, values: rows })
}
