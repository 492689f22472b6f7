//! Reads the tensors of a model from memory-mapped safetensors, checks each against the configuration, and converts
//! it to the compute dtype.

use std::{path::Path, thread};

use candle_core::{DType, Device, Tensor, safetensors::Load};
use safetensors::{Dtype as FileDtype, SafeTensors};
use sha2::{Digest, Sha256};

use super::config::ModelConfig;
use crate::{
    error::{EngineError, Result},
    source::{Blob, BlobBytes, WeightFiles},
};

/// A projection `y = x W^T + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Tensor,
    /// `[out]`.
    pub bias: Option<Tensor>,
}

/// The tensors of one decoder layer.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// RMS norm before attention, `[hidden]`.
    pub input_norm: Tensor,
    /// `[query_heads * head_dim, hidden]`.
    pub q: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub k: Linear,
    /// `[kv_heads * head_dim, hidden]`.
    pub v: Linear,
    /// `[hidden, query_heads * head_dim]`.
    pub o: Linear,
    /// RMS norm of each query head, `[head_dim]` (Qwen3).
    pub q_norm: Option<Tensor>,
    /// RMS norm of each key head, `[head_dim]` (Qwen3).
    pub k_norm: Option<Tensor>,
    /// RMS norm before the MLP, `[hidden]`.
    pub post_norm: Tensor,
    /// `[intermediate, hidden]`.
    pub gate: Linear,
    /// `[intermediate, hidden]`.
    pub up: Linear,
    /// `[hidden, intermediate]`.
    pub down: Linear,
}

/// The tensors of a model.
#[derive(Clone, Debug)]
pub struct ModelWeights {
    /// `[vocab, hidden]`.
    pub embedding: Tensor,
    /// One entry a layer.
    pub layers: Vec<LayerWeights>,
    /// Final RMS norm, `[hidden]`.
    pub norm: Tensor,
    /// `[vocab, hidden]`; the embedding itself where the two are tied.
    pub lm_head: Tensor,
}

impl ModelWeights {
    /// Loads and checks every tensor, and hashes the files' bytes meanwhile.
    ///
    /// # Errors
    /// A file that is no whole safetensors file, a tensor missing, misshapen or of a dtype that is no weight's.
    pub fn load(
        files: &WeightFiles,
        config: &ModelConfig,
        device: &Device,
        dtype: DType,
    ) -> Result<(Self, String)> {
        let mapped = files.files.iter().map(Blob::map).collect::<Result<Vec<_>>>()?;
        let reader = Reader::open(files, &mapped, device, dtype)?;
        thread::scope(|scope| {
            let hash = scope.spawn(|| sha256(&mapped));
            let weights = Self::read(&reader, config)?;
            // The thread only folds bytes; if it panicked, so would we.
            let hash = hash.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((weights, hash))
        })
    }

    fn read(reader: &Reader<'_>, config: &ModelConfig) -> Result<Self> {
        let names = config.family.spec().names;
        let (hidden, intermediate, dim) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (query, kv) = (config.query_heads * dim, config.kv_heads * dim);
        let embedding = reader.tensor(names.embedding, &[config.vocab_size, hidden])?;
        let layer = |index: usize| -> Result<LayerWeights> {
            let prefix = format!("{}{index}.", names.layer_prefix);
            let tensor = |name: &str, shape: &[usize]| reader.tensor(&format!("{prefix}{name}"), shape);
            let linear = |name: &str, out: usize, input: usize, bias: bool| -> Result<Linear> {
                Ok(Linear {
                    weight: tensor(&format!("{name}.weight"), &[out, input])?,
                    bias: bias.then(|| tensor(&format!("{name}.bias"), &[out])).transpose()?,
                })
            };
            Ok(LayerWeights {
                input_norm: tensor(names.input_norm, &[hidden])?,
                q: linear(names.q, query, hidden, config.qkv_bias)?,
                k: linear(names.k, kv, hidden, config.qkv_bias)?,
                v: linear(names.v, kv, hidden, config.qkv_bias)?,
                o: linear(names.o, hidden, query, false)?,
                q_norm: config.qk_norm.then(|| tensor(names.q_norm, &[dim])).transpose()?,
                k_norm: config.qk_norm.then(|| tensor(names.k_norm, &[dim])).transpose()?,
                post_norm: tensor(names.post_norm, &[hidden])?,
                gate: linear(names.gate, intermediate, hidden, false)?,
                up: linear(names.up, intermediate, hidden, false)?,
                down: linear(names.down, hidden, intermediate, false)?,
            })
        };
        Ok(Self {
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            norm: reader.tensor(names.norm, &[hidden])?,
            lm_head: if config.tied_embeddings {
                embedding.clone()
            } else {
                reader.tensor(names.lm_head, &[config.vocab_size, hidden])?
            },
            embedding,
        })
    }
}

/// Hex sha256 of the files' bytes, one after the other.
fn sha256(files: &[BlobBytes]) -> String {
    let mut hasher = Sha256::new();
    for bytes in files {
        hasher.update(&**bytes);
    }
    format!("{:x}", hasher.finalize())
}

/// Finds tensors in the files, checks and converts them.
struct Reader<'a> {
    source: &'a WeightFiles,
    files: Vec<SafeTensors<'a>>,
    device: &'a Device,
    dtype: DType,
}

impl<'a> Reader<'a> {
    fn open(
        source: &'a WeightFiles,
        mapped: &'a [BlobBytes],
        device: &'a Device,
        dtype: DType,
    ) -> Result<Self> {
        let open = |(blob, bytes): (&Blob, &'a BlobBytes)| {
            SafeTensors::deserialize(bytes).map_err(|error| EngineError::CorruptWeights {
                path: blob.path().to_path_buf(),
                reason: error.to_string(),
                bytes: bytes.len(),
            })
        };
        let files = source.files.iter().zip(mapped).map(open).collect::<Result<_>>()?;
        Ok(Self { source, files, device, dtype })
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let missing = |path: &Path, hint| EngineError::MissingTensor {
            path: path.to_path_buf(),
            tensor: name.to_owned(),
            hint,
        };
        let (file, hint) = match &self.source.index {
            Some(index) => (
                *index.file_of.get(name).ok_or_else(|| {
                    missing(&index.path, "config.json calls for it, the index does not list it")
                })?,
                "the index says it is there: index and files are of different models, or one file is incomplete",
            ),
            None => (0, "config.json calls for it: configuration and weights are of different models"),
        };
        let (Some(blob), Some(tensors)) = (self.source.files.get(file), self.files.get(file)) else {
            return Err(missing(Path::new("model.safetensors"), "no weight file is named"));
        };
        let view = tensors.tensor(name).map_err(|_| missing(blob.path(), hint))?;
        if view.shape() != shape {
            return Err(EngineError::WrongShape {
                path: blob.path().to_path_buf(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                found: view.shape().to_vec(),
            });
        }
        if !matches!(view.dtype(), FileDtype::F32 | FileDtype::F16 | FileDtype::BF16) {
            return Err(EngineError::WrongDtype {
                path: blob.path().to_path_buf(),
                tensor: name.to_owned(),
                found: format!("{:?}", view.dtype()),
            });
        }
        Ok(view.load(self.device)?.to_dtype(self.dtype)?)
    }
}
