//! Reads the tensors of a model from memory-mapped safetensors, part by part, and checks each against the
//! configuration.

use std::{path::Path, thread};

use candle_core::{DType, Device, Tensor, safetensors::Load};
use safetensors::{Dtype as FileDtype, SafeTensors};

use super::config::{ModelConfig, TensorNames};
use crate::{
    error::{EngineError, Result},
    files::{Blob, BlobBytes, sha256_of},
    source::WeightFiles,
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
    /// `[vocab, hidden]`; `None` where it is the embedding itself.
    pub lm_head: Option<Tensor>,
}

/// Hands out the tensors of a model part by part: a back end brings each into its own form and drops it before it
/// takes the next, so that no model is in memory twice.
pub(crate) trait WeightParts {
    /// `[vocab, hidden]`.
    fn embedding(&self) -> Result<Tensor>;
    /// `[vocab, hidden]`; `None` where it is the embedding itself.
    fn lm_head(&self) -> Result<Option<Tensor>>;
    /// Final RMS norm, `[hidden]`.
    fn norm(&self) -> Result<Tensor>;
    /// One decoder layer.
    fn layer(&self, index: usize) -> Result<LayerWeights>;
}

impl WeightParts for ModelWeights {
    fn embedding(&self) -> Result<Tensor> {
        Ok(self.embedding.clone())
    }

    fn lm_head(&self) -> Result<Option<Tensor>> {
        Ok(self.lm_head.clone())
    }

    fn norm(&self) -> Result<Tensor> {
        Ok(self.norm.clone())
    }

    fn layer(&self, index: usize) -> Result<LayerWeights> {
        Ok(self.layers[index].clone())
    }
}

impl ModelWeights {
    /// Takes every part to a device and a dtype.
    pub(crate) fn collect(
        parts: &dyn WeightParts,
        layers: usize,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let tensor = |tensor: Tensor| -> Result<Tensor> { Ok(tensor.to_dtype(dtype)?.to_device(device)?) };
        let linear = |linear: Linear| -> Result<Linear> {
            Ok(Linear { weight: tensor(linear.weight)?, bias: linear.bias.map(tensor).transpose()? })
        };
        let layer = |index| -> Result<LayerWeights> {
            let layer = parts.layer(index)?;
            Ok(LayerWeights {
                input_norm: tensor(layer.input_norm)?,
                q: linear(layer.q)?,
                k: linear(layer.k)?,
                v: linear(layer.v)?,
                o: linear(layer.o)?,
                q_norm: layer.q_norm.map(tensor).transpose()?,
                k_norm: layer.k_norm.map(tensor).transpose()?,
                post_norm: tensor(layer.post_norm)?,
                gate: linear(layer.gate)?,
                up: linear(layer.up)?,
                down: linear(layer.down)?,
            })
        };
        Ok(Self {
            embedding: tensor(parts.embedding()?)?,
            layers: (0..layers).map(layer).collect::<Result<_>>()?,
            norm: tensor(parts.norm()?)?,
            lm_head: parts.lm_head()?.map(tensor).transpose()?,
        })
    }
}

/// Opens the weight files, lets `build` take the parts, and hashes the files' bytes meanwhile: what was built, and the
/// hash.
///
/// # Errors
/// A file that is no whole safetensors file, a tensor missing, misshapen or of a dtype that is no weight's, and what
/// `build` fails with.
pub(crate) fn load<T>(
    files: &WeightFiles,
    config: &ModelConfig,
    build: impl FnOnce(&dyn WeightParts) -> Result<T>,
) -> Result<(T, String)> {
    let mapped = files.files.iter().map(Blob::map).collect::<Result<Vec<_>>>()?;
    let reader = Reader::open(files, &mapped, config)?;
    thread::scope(|scope| {
        let hash = scope.spawn(|| sha256_of(&files.files));
        let built = build(&reader)?;
        // The thread only folds bytes; if it panicked, so would we.
        let hash = hash.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((built, hash))
    })
}

/// Finds tensors in the files and checks them against the configuration.
struct Reader<'a> {
    source: &'a WeightFiles,
    config: &'a ModelConfig,
    names: &'static TensorNames,
    files: Vec<(&'a BlobBytes, SafeTensors<'a>)>,
}

impl WeightParts for Reader<'_> {
    fn embedding(&self) -> Result<Tensor> {
        self.tensor(self.names.embedding, &[self.config.vocab_size, self.config.hidden_size])
    }

    fn lm_head(&self) -> Result<Option<Tensor>> {
        let shape = [self.config.vocab_size, self.config.hidden_size];
        (!self.config.tied_embeddings).then(|| self.tensor(self.names.lm_head, &shape)).transpose()
    }

    fn norm(&self) -> Result<Tensor> {
        self.tensor(self.names.norm, &[self.config.hidden_size])
    }

    fn layer(&self, index: usize) -> Result<LayerWeights> {
        let Self { config, names, .. } = self;
        let (hidden, intermediate, dim) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (query, kv) = (config.query_heads * dim, config.kv_heads * dim);
        let prefix = format!("{}{index}.", names.layer_prefix);
        let tensor = |name: &str, shape: &[usize]| self.tensor(&format!("{prefix}{name}"), shape);
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
    }
}

impl<'a> Reader<'a> {
    fn open(source: &'a WeightFiles, mapped: &'a [BlobBytes], config: &'a ModelConfig) -> Result<Self> {
        let open = |(blob, bytes): (&Blob, &'a BlobBytes)| match SafeTensors::deserialize(bytes) {
            Ok(tensors) => Ok((bytes, tensors)),
            Err(error) => Err(EngineError::CorruptWeights {
                path: blob.path().to_path_buf(),
                reason: error.to_string(),
                bytes: bytes.len(),
            }),
        };
        let files = source.files.iter().zip(mapped).map(open).collect::<Result<_>>()?;
        Ok(Self { source, config, names: config.family.spec().names, files })
    }

    /// Copies a tensor, in the dtype that the file stores it in.
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
        let (Some(blob), Some((bytes, tensors))) = (self.source.files.get(file), self.files.get(file)) else {
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
        let tensor = view.load(&Device::Cpu)?;
        bytes.release(view.data());
        Ok(tensor)
    }
}
