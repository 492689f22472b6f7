//! The weights of a model, packed for the kernels, and what prefill and decode do alike with them.

use candle_core::{CpuStorage, DType, Layout, Storage, Tensor};

use super::{matrix::PackedMatrix, simd::Simd, sized, stored::Stored};
use crate::{
    error::{Result, Stage},
    finite::check_rows,
    model::{
        config::{Activation, ModelConfig},
        weights::{LayerWeights, Linear, WeightParts},
    },
};

/// Our kernels on the CPU, in f32: the weights of a model, packed.
#[derive(Debug)]
pub struct Cpu {
    pub(super) config: ModelConfig,
    pub(super) simd: Simd,
    /// The embedding; it is the output layer, too, unless there is one of its own.
    embedding: PackedMatrix,
    lm_head: Option<PackedMatrix>,
    pub(super) layers: Vec<CpuLayer>,
    norm: Vec<f32>,
}

#[derive(Debug)]
pub(super) struct CpuLayer {
    pub(super) input_norm: Vec<f32>,
    pub(super) qkv: PackedMatrix,
    pub(super) q_norm: Option<Vec<f32>>,
    pub(super) k_norm: Option<Vec<f32>>,
    pub(super) o: PackedMatrix,
    pub(super) attention_norm: Option<Vec<f32>>,
    pub(super) post_norm: Vec<f32>,
    pub(super) gate_up: PackedMatrix,
    pub(super) down: PackedMatrix,
    pub(super) mlp_norm: Option<Vec<f32>>,
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// Packs projections of one input side by side, in the type that they are stored in.
fn pack(input: usize, parts: &[Linear]) -> Result<PackedMatrix> {
    let biases =
        parts.iter().map(|part| part.bias.as_ref().map(floats).transpose()).collect::<Result<Vec<_>>>()?;
    let weights = parts.iter().map(|part| part.weight.contiguous()).collect::<Result<Vec<_>, _>>()?;
    let storages: Vec<_> = weights.iter().map(Tensor::storage_and_layout).collect();
    let stored = storages.iter().map(|(storage, layout)| match &**storage {
        Storage::Cpu(numbers) => numbers_of(numbers, layout),
        _ => None,
    });
    match stored.collect::<Option<Vec<_>>>() {
        Some(stored) => {
            let parts: Vec<_> = stored.into_iter().zip(biases.iter().map(Option::as_deref)).collect();
            Ok(PackedMatrix::new(input, &parts))
        }
        None => {
            let wide = weights.iter().map(floats).collect::<Result<Vec<_>>>()?;
            let parts: Vec<_> = wide
                .iter()
                .map(|wide| wide.as_slice().into())
                .zip(biases.iter().map(Option::as_deref))
                .collect();
            Ok(PackedMatrix::new(input, &parts))
        }
    }
}

/// A contiguous tensor's numbers, if they are of a type that weights are packed in.
fn numbers_of<'a>(numbers: &'a CpuStorage, layout: &Layout) -> Option<Stored<'a>> {
    let (start, end) = layout.contiguous_offsets()?;
    match numbers {
        CpuStorage::F32(numbers) => numbers.get(start..end).map(Stored::F32),
        CpuStorage::F16(numbers) => numbers.get(start..end).map(Stored::F16),
        CpuStorage::BF16(numbers) => numbers.get(start..end).map(Stored::Bf16),
        _ => None,
    }
}

impl CpuLayer {
    fn new(config: &ModelConfig, layer: LayerWeights) -> Result<Self> {
        let hidden = config.hidden_size;
        Ok(Self {
            input_norm: floats(&layer.input_norm)?,
            qkv: pack(hidden, &[layer.q, layer.k, layer.v])?,
            q_norm: layer.q_norm.as_ref().map(floats).transpose()?,
            k_norm: layer.k_norm.as_ref().map(floats).transpose()?,
            o: pack(config.query_heads * config.head_dim, &[layer.o])?,
            attention_norm: layer.attention_norm.as_ref().map(floats).transpose()?,
            post_norm: floats(&layer.post_norm)?,
            gate_up: pack(hidden, &[layer.gate, layer.up])?,
            down: pack(config.intermediate_size, &[layer.down])?,
            mlp_norm: layer.mlp_norm.as_ref().map(floats).transpose()?,
        })
    }
}

impl Cpu {
    /// Packs the weights part by part, the largest first: while it is there twice, little else is.
    pub(crate) fn new(config: &ModelConfig, parts: &dyn WeightParts) -> Result<Self> {
        let table = |weight| pack(config.hidden_size, &[Linear { weight, bias: None }]);
        Ok(Self {
            simd: Simd::in_use(),
            embedding: table(parts.embedding()?)?,
            lm_head: parts.lm_head()?.map(table).transpose()?,
            layers: (0..config.layers)
                .map(|index| CpuLayer::new(config, parts.layer(index)?))
                .collect::<Result<_>>()?,
            norm: floats(&parts.norm()?)?,
            config: config.clone(),
        })
    }

    pub(super) fn eps(&self) -> f32 {
        self.config.rms_norm_eps as f32
    }

    fn lm_head(&self) -> &PackedMatrix {
        self.lm_head.as_ref().unwrap_or(&self.embedding)
    }

    /// Starts the residual stream of a token.
    pub(super) fn embed(&self, id: u32, hidden: &mut [f32]) {
        self.embedding.row(id as usize, hidden);
        if let Some(scale) = self.config.embedding_scale() {
            self.simd.scale(hidden, scale as f32);
        }
    }

    /// Adds what a projection makes to the residual stream, by way of a norm where the layer has one behind it.
    pub(super) fn add(
        &self,
        hidden: &mut [f32],
        norm: Option<&[f32]>,
        scratch: &mut Vec<f32>,
        project: impl FnOnce(&mut [f32], bool),
    ) {
        let Some(norm) = norm else { return project(hidden, true) };
        let out = sized(scratch, hidden.len());
        project(out, false);
        self.simd.rms_norm_in_place(out, norm, self.eps());
        self.simd.add(hidden, out);
    }

    /// Head norms (Qwen3, Gemma 3) and RoPE of one row of projections, `[query | key | value]`.
    pub(super) fn rotate(&self, layer: &CpuLayer, row: &mut [f32], cos: &[f32], sin: &[f32]) {
        let query_width = self.config.query_heads * self.config.head_dim;
        let (queries, kv) = row.split_at_mut(query_width);
        let keys = &mut kv[..self.config.kv_heads * self.config.head_dim];
        if let Some(weight) = &layer.q_norm {
            self.simd.rms_norm_in_place(queries, weight, self.eps());
        }
        if let Some(weight) = &layer.k_norm {
            self.simd.rms_norm_in_place(keys, weight, self.eps());
        }
        self.simd.rotate(queries, cos, sin);
        self.simd.rotate(keys, cos, sin);
    }

    /// `gate = activation(gate) * up` in each row `[gate | up]`.
    pub(super) fn activate(&self, gate_up: &mut [f32]) {
        let width = self.config.intermediate_size;
        for row in gate_up.chunks_exact_mut(2 * width) {
            let (gate, up) = row.split_at_mut(width);
            match self.config.activation {
                Activation::Silu => self.simd.silu_mul(gate, up),
                Activation::GeluTanh => self.simd.gelu_mul(gate, up),
            }
        }
    }

    /// Logits of rows of the residual stream, which stand at `positions`.
    ///
    /// # Errors
    /// [`EngineError::NotFinite`].
    pub(super) fn logits(&self, positions: impl Iterator<Item = usize>, hidden: &[f32]) -> Result<Vec<f32>> {
        let width = self.config.hidden_size;
        let mut normed = vec![0.0; hidden.len()];
        self.simd.rms_norm(hidden, &self.norm, self.eps(), &mut normed);
        let mut logits = vec![0.0; hidden.len() / width * self.lm_head().output()];
        self.lm_head().multiply_spread(self.simd, &normed, width, &mut logits, false);
        for (position, row) in positions.zip(logits.chunks_exact(self.lm_head().output())) {
            check_rows(Stage::Output, position, row, row.len())?;
        }
        Ok(logits)
    }
}
