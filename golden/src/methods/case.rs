//! A tensor case: its entry in the manifest, its shape and its tensors.

use kvsweep_methods::observe::{self, HeadsView, LayerTensors, Rotary, Turns};
use kvsweep_methods::{CacheShape, LayerShape, Observation, Observations, Observed};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};

use super::observer::Observer;
use crate::vectors::get;

/// A case with its files read.
pub(super) struct Case<'a> {
    pub(super) entry: &'a Value,
    pub(super) params: Map<String, Value>,
    pub(super) shape: CacheShape,
    /// Of every layer.
    pub(super) layer: LayerShape,
    pub(super) tensors: SafeTensors<'a>,
}

impl Case<'_> {
    /// A float tensor, widened to f32, with its shape.
    pub(super) fn floats(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), String> {
        let view = self.tensors.tensor(name).map_err(|error| format!("tensor `{name}`: {error}"))?;
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F16 => {
                data.as_chunks::<2>().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f32()).collect()
            }
            Dtype::BF16 => {
                data.as_chunks::<2>().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f32()).collect()
            }
            Dtype::F32 => data.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::F64 => data.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
            other => return Err(format!("tensor `{name}` is {other:?}, not a float")),
        };
        Ok((view.shape().to_vec(), values))
    }

    /// A tensor of that shape.
    pub(super) fn shaped(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let (found, values) = self.floats(name)?;
        if found == shape {
            Ok(values)
        } else {
            Err(format!("tensor `{name}`: expected {shape:?}, found {found:?}"))
        }
    }

    /// A tensor of f64 values, unrounded.
    pub(super) fn doubles(&self, name: &str) -> Result<Vec<f64>, String> {
        let view = self.tensors.tensor(name).map_err(|error| format!("tensor `{name}`: {error}"))?;
        match view.dtype() {
            Dtype::F64 => Ok(view.data().as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b)).collect()),
            _ => Ok(self.floats(name)?.1.into_iter().map(f64::from).collect()),
        }
    }

    pub(super) fn ints(&self, name: &str) -> Result<Vec<i64>, String> {
        let view = self.tensors.tensor(name).map_err(|error| format!("tensor `{name}`: {error}"))?;
        match view.dtype() {
            Dtype::I32 => {
                Ok(view.data().as_chunks::<4>().0.iter().map(|&b| i64::from(i32::from_le_bytes(b))).collect())
            }
            Dtype::I64 => Ok(view.data().as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b)).collect()),
            other => Err(format!("tensor `{name}` is {other:?}, not an integer")),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    /// Observes every layer from `q` and `k`; what a second pass shows is given, `reconstruction.<layer>`.
    pub(super) fn observe(
        &self,
        wanted: &[Observation],
        observer: &dyn Observer,
    ) -> Result<Observations, String> {
        let LayerShape { query_heads, kv_heads, head_dim, .. } = self.layer;
        let (layers, prompt_len) = (self.shape.layers.len(), self.shape.len);
        let (given, wanted): (Vec<_>, Vec<_>) = wanted.iter().partition(|one| one.repeats_the_prompt());
        let (q_shape, q) = self.floats("q")?;
        let rows = *q_shape.get(2).ok_or("tensor `q` has no rows")?;
        if q_shape != [layers, query_heads, rows, head_dim] || rows > prompt_len {
            return Err(format!("tensor `q`: unexpected shape {q_shape:?}"));
        }
        let needed = observe::rows_needed(&wanted, prompt_len);
        if rows < needed {
            return Err(format!("tensor `q` has {rows} rows, {needed} are needed"));
        }
        let k = self.shaped("k", &[layers, kv_heads, prompt_len, head_dim])?;
        let v = match wanted.iter().any(|one| one.reads_values()) {
            true => Some(self.shaped("v", &[layers, kv_heads, prompt_len, head_dim])?),
            false => None,
        };
        let width = query_heads * head_dim;
        let o = match wanted.contains(&Observation::OutputNorm) {
            true => self.floats("o")?.1,
            false => Vec::new(),
        };
        let rotary = self.rotary(&wanted)?;
        let per_layer = |name: &str, all: usize| match all % layers {
            0 => Ok(all / layers),
            _ => Err(format!("tensor `{name}` does not have {layers} layers")),
        };
        let (o_len, kv_len) = (per_layer("o", o.len())?, kv_heads * prompt_len * head_dim);
        let mut observations = Observations::default();
        for layer in 0..layers {
            let stored = [kv_heads, prompt_len, head_dim];
            let q = HeadsView::head_major(&q[layer * width * rows..], [query_heads, rows, head_dim]);
            let k = HeadsView::head_major(&k[layer * kv_len..], stored);
            let v = v.as_ref().map(|v| HeadsView::head_major(&v[layer * kv_len..], stored)).transpose();
            let tensors = LayerTensors {
                queries: q.map_err(|e| e.to_string())?,
                keys: k.map_err(|e| e.to_string())?,
                values: v.map_err(|e| e.to_string())?,
                output: Some(&o[layer * o_len..][..o_len]),
                rotary: rotary.as_ref(),
            };
            let mut seen = observer.observe(&wanted, &self.layer, &tensors).map_err(|e| e.to_string())?;
            for &one in &given {
                let values = self.shaped(&format!("reconstruction.{layer}"), &[kv_heads, prompt_len])?;
                seen.insert(one, Observed::Rows { rows: kv_heads, columns: prompt_len, values });
            }
            observations.layers.push(seen);
        }
        Ok(observations)
    }

    /// Rotations of the prompt's positions and those behind it, from `rope_cos` and `rope_sin`, where they are asked for.
    fn rotary(&self, wanted: &[Observation]) -> Result<Option<Rotary>, String> {
        if !wanted.iter().any(|one| matches!(one, Observation::ExpectedAttention { .. })) {
            return Ok(None);
        }
        let half = self.layer.head_dim / 2;
        let tables = [self.floats("rope_cos")?.1, self.floats("rope_sin")?.1];
        Ok(Rotary::of(wanted, self.shape.len, |positions| {
            // A range beyond the tables gives what is there, which the observation refuses.
            let part = |table: &[f32]| -> Vec<f32> {
                let [first, end] =
                    [positions.start, positions.end].map(|at| at.saturating_mul(half).min(table.len()));
                table[first..end].to_vec()
            };
            Turns { cos: part(&tables[0]), sin: part(&tables[1]) }
        }))
    }

    pub(super) fn ranking(&self) -> Result<Vec<Vec<usize>>, String> {
        get(self.entry, "head_ranking")
    }
}
