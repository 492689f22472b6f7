//! Tensors out of a memory-mapped GGUF. Quantised ones are widened to f32, each number as llama.cpp defines it: the
//! kernels here compute with plain numbers.

use std::{collections::BTreeSet, sync::Mutex};

use candle_core::{DType, Device, Tensor, quantized::GgmlDType, quantized::ggml_file::qtensor_from_ggml};

use super::Header;
use crate::{
    error::{EngineError, Result},
    files::BlobBytes,
    model::layout::Tensors,
};

/// Tensors that say something of the graph and are read with the configuration.
pub(super) const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// The same of LongRoPE: for long texts, and for short ones.
pub(super) const LONG_ROPE_DIVISORS: [&str; 2] = ["rope_factors_long.weight", "rope_factors_short.weight"];

/// The tensors of an open file.
pub(in crate::model) struct Opened<'a> {
    header: Header<'a>,
    bytes: &'a BlobBytes,
    taken: Mutex<BTreeSet<String>>,
}

impl<'a> Opened<'a> {
    pub(in crate::model) fn new(header: Header<'a>, bytes: &'a BlobBytes) -> Self {
        Self { header, bytes, taken: Mutex::default() }
    }

    /// Refuses a file with tensors that nobody asked for: the model is not of the graph that was built.
    pub(in crate::model) fn all_taken(&self) -> Result<()> {
        let taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let of_graph =
            |name: &&str| ![[ROPE_DIVISORS].as_slice(), &LONG_ROPE_DIVISORS].concat().contains(name);
        match self.header.tensor_names().find(|name| !taken.contains(*name) && of_graph(name)) {
            None => Ok(()),
            Some(name) => Err(EngineError::ForeignTensor {
                path: self.header.path().to_path_buf(),
                tensor: name.to_owned(),
            }),
        }
    }
}

impl Tensors for Opened<'_> {
    /// In f32, or in the two bytes of F16 and BF16.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let path = self.header.path().to_path_buf();
        let info = self.header.tensor(name).ok_or_else(|| EngineError::MissingTensor {
            path: path.clone(),
            tensor: name.to_owned(),
            hint: "its metadata calls for it: the file is of another kind of model, or was cut when it was made",
        })?;
        if info.shape != shape {
            return Err(EngineError::CorruptGguf {
                path,
                reason: format!(
                    "tensor `{name}` has shape {:?}, its metadata calls for {shape:?}",
                    info.shape
                ),
                bytes: self.bytes.len(),
            });
        }
        let raw = &self.bytes[info.place.clone()];
        let tensor = widened(raw, info.kind, shape)?;
        self.bytes.release(raw);
        self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(name.to_owned());
        Ok(tensor)
    }

    fn holds(&self, name: &str) -> bool {
        self.header.tensor(name).is_some()
    }
}

/// A tensor of the file's bytes, which are aligned to [`super::header`]'s least alignment.
pub(super) fn widened(raw: &[u8], kind: GgmlDType, shape: &[usize]) -> Result<Tensor> {
    let plain = match kind {
        GgmlDType::F32 => Some(DType::F32),
        GgmlDType::F16 => Some(DType::F16),
        GgmlDType::BF16 => Some(DType::BF16),
        _ => None,
    };
    Ok(match plain {
        Some(dtype) => Tensor::from_raw_buffer(raw, dtype, shape, &Device::Cpu)?,
        None => qtensor_from_ggml(kind, raw, shape.to_vec(), &Device::Cpu)?.dequantize(&Device::Cpu)?,
    })
}
