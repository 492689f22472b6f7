//! Tensors out of memory-mapped safetensors, the files of the hub.

use std::path::Path;

use candle_core::{Device, Tensor, safetensors::Load};
use safetensors::{Dtype as FileDtype, SafeTensors};

use super::layout::Tensors;
use crate::{
    error::{EngineError, Result},
    files::{Blob, BlobBytes},
    source::WeightIndex,
};

/// The hub's prefix of every tensor but the output layer; files saved from a base model lack it.
const BASE: &str = "model.";

/// What comes before it where the text is a part of a model that sees images, too: as transformers 5 saves it, and as 4 did.
const OF_TEXT: [&str; 2] = ["model.language_model.", "language_model.model."];

/// The open files of a model.
pub(super) struct Opened<'a> {
    blobs: &'a [Blob],
    index: Option<&'a WeightIndex>,
    files: Vec<(&'a BlobBytes, SafeTensors<'a>)>,
}

impl<'a> Opened<'a> {
    /// Reads the headers.
    pub(super) fn new(
        blobs: &'a [Blob],
        index: Option<&'a WeightIndex>,
        mapped: &'a [BlobBytes],
    ) -> Result<Self> {
        let open = |(blob, bytes): (&Blob, &'a BlobBytes)| match SafeTensors::deserialize(bytes) {
            Ok(tensors) => Ok((bytes, tensors)),
            Err(error) => Err(EngineError::CorruptWeights {
                path: blob.path().to_path_buf(),
                reason: error.to_string(),
                bytes: bytes.len(),
            }),
        };
        let files = blobs.iter().zip(mapped).map(open).collect::<Result<_>>()?;
        Ok(Self { blobs, index, files })
    }

    /// The name under which the files hold a tensor, and the place of the file.
    fn find(&self, name: &str) -> Option<(String, usize)> {
        let base = name.strip_prefix(BASE);
        let part = base.into_iter().flat_map(|base| OF_TEXT.map(|prefix| format!("{prefix}{base}")));
        [Some(name), base].into_iter().flatten().map(ToOwned::to_owned).chain(part).find_map(|name| {
            let file = match self.index {
                Some(index) => *index.file_of.get(&name)?,
                None => self.files.first().filter(|(_, tensors)| tensors.tensor(&name).is_ok()).map(|_| 0)?,
            };
            Some((name, file))
        })
    }
}

impl Tensors for Opened<'_> {
    /// In the dtype that the file stores it in.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let missing = |path: &Path, hint| EngineError::MissingTensor {
            path: path.to_path_buf(),
            tensor: name.to_owned(),
            hint,
        };
        let Some((stored, file)) = self.find(name) else {
            return Err(match self.index {
                Some(index) => missing(&index.path, "config.json calls for it, the index does not list it"),
                None => missing(
                    self.blobs.first().map_or(Path::new("model.safetensors"), Blob::path),
                    "config.json calls for it: configuration and weights are of different models",
                ),
            });
        };
        let (blob, (bytes, tensors)) = (&self.blobs[file], &self.files[file]);
        let view = tensors.tensor(&stored).map_err(|_| {
            missing(
                blob.path(),
                "the index says it is there: index and files are of different models, or one file is incomplete",
            )
        })?;
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

    fn holds(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}
