//! Layer error cases: what each layer's output loses in decode steps under the CompressKV rule.

use kvsweep_methods::method::Method;
use kvsweep_methods::method::compresskv::CompressKv;
use kvsweep_methods::{LayerSelection, LayerShape, Selection, identify};
use serde_json::Value;

use super::case::Case;
use super::observer::Observer;
use super::tensors::{compare, compresskv, context};
use crate::vectors::{close, get};

pub(super) fn check(case: &Case<'_>, observer: &dyn Observer) -> Result<(), String> {
    let params = Value::Object(case.params.clone());
    let method = CompressKv {
        window: get(&params, "window")?,
        kernel: get(&params, "kernel")?,
        pooling: get(&params, "pooling")?,
        first_k: get(&params, "first_k")?,
        ..CompressKv::default()
    };
    let budget: usize = get(&params, "budget")?;
    let layers = case.shape.layers.len();
    let (selection, observations, inputs) = compresskv(case, &method, &vec![budget; layers], observer)?;
    let ctx = context(case, &observations, &inputs, budget)?;
    // The recorded answer has one set per layer.
    let first = |layer: &LayerSelection| match layer {
        LayerSelection::Heads(heads) => LayerSelection::Heads(heads.iter().take(1).cloned().collect()),
        LayerSelection::All => LayerSelection::All,
    };
    let shared = Selection { layers: selection.layers.iter().map(first).collect(), ..selection };
    compare(case, &shared, method.window, 1.0, |layer| {
        method.scores(&ctx, layer).map_err(|error| error.to_string())
    })?;

    let steps: usize = get(&params, "decode_steps")?;
    let errors = decode(case, &shared, steps)?;
    // A layer that was not cut loses nothing but rounding.
    let recorded = |name: &str| -> Result<Vec<f64>, String> {
        Ok(case.doubles(name)?.into_iter().map(|error| if error < 1e-6 { 0.0 } else { error }).collect())
    };
    close("layer_error_steps", &recorded("layer_error_steps")?, &errors.concat(), 1e-4)?;
    let sums: Vec<f64> = errors.iter().map(|steps| steps.iter().sum()).collect();
    close("layer_error", &recorded("layer_error")?, &sums, 1e-4)
}

/// Relative error of every layer and decode step.
fn decode(case: &Case<'_>, selection: &Selection, steps: usize) -> Result<Vec<Vec<f64>>, String> {
    let LayerShape { query_heads, kv_heads, head_dim, .. } = case.layer;
    let (layers, prompt_len) = (case.shape.layers.len(), case.shape.len);
    let hidden = query_heads * head_dim;
    let prompt = [layers, kv_heads, prompt_len, head_dim];
    let (k, v) = (case.shaped("k", &prompt)?, case.shaped("v", &prompt)?);
    let new = [layers, kv_heads, steps, head_dim];
    let (k_dec, v_dec) = (case.shaped("k_dec", &new)?, case.shaped("v_dec", &new)?);
    let q_dec = case.shaped("q_dec", &[layers, query_heads, steps, head_dim])?;
    let projection = case.shaped("o_proj", &[layers, hidden, hidden])?;
    let all: Vec<u32> = (0..prompt_len as u32).collect();
    let mut errors = Vec::with_capacity(layers);
    for (layer, chosen) in selection.layers.iter().enumerate() {
        let kept = match chosen {
            LayerSelection::All => &all,
            LayerSelection::Heads(heads) => heads.first().ok_or("nothing selected")?,
        };
        let weights = &projection[layer * hidden * hidden..][..hidden * hidden];
        let output = |step: usize, positions: &[u32]| -> Vec<f32> {
            let mut heads = Vec::with_capacity(hidden);
            for head in 0..query_heads {
                let kv = layer * kv_heads + head * kv_heads / query_heads;
                let query = &q_dec[((layer * query_heads + head) * steps + step) * head_dim..][..head_dim];
                let row = |prompt: &'_ [f32], new: &'_ [f32], entry: usize| -> Vec<f32> {
                    match positions.get(entry) {
                        Some(&position) => {
                            prompt[(kv * prompt_len + position as usize) * head_dim..][..head_dim].to_vec()
                        }
                        None => new[(kv * steps + entry - positions.len()) * head_dim..][..head_dim].to_vec(),
                    }
                };
                let entries = positions.len() + step + 1;
                let logits: Vec<f64> = (0..entries)
                    .map(|entry| {
                        let key = row(&k, &k_dec, entry);
                        let dot: f64 =
                            query.iter().zip(&key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                        dot / (head_dim as f64).sqrt()
                    })
                    .collect();
                let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let exps: Vec<f64> = logits.iter().map(|x| (x - max).exp()).collect();
                let sum: f64 = exps.iter().sum();
                let mut out = vec![0f64; head_dim];
                for (entry, weight) in exps.iter().enumerate() {
                    for (o, value) in out.iter_mut().zip(row(&v, &v_dec, entry)) {
                        *o += weight / sum * f64::from(value);
                    }
                }
                heads.extend(out);
            }
            weights
                .chunks(hidden)
                .map(|row| row.iter().zip(&heads).map(|(w, x)| f64::from(*w) * x).sum::<f64>() as f32)
                .collect()
        };
        errors.push(
            (0..steps).map(|step| identify::layer_error(&output(step, &all), &output(step, kept))).collect(),
        );
    }
    Ok(errors)
}
