//! How a model's tensors come out of its files: part by part, each checked against the configuration.

use std::thread;

use super::{
    config::ModelConfig,
    gguf,
    layout::{Layout, Parts, Tensors, has_both_tables},
    safetensors,
    weights::WeightParts,
};
use crate::{
    error::Result,
    files::{Blob, BlobBytes, sha256_of},
    source::WeightFiles,
};

/// The open weight files of a model.
pub(crate) struct Weights<'a> {
    files: &'a WeightFiles,
    mapped: Vec<BlobBytes>,
}

impl<'a> Weights<'a> {
    /// Maps the files.
    pub(crate) fn open(files: &'a WeightFiles) -> Result<Self> {
        let mapped = files.blobs().iter().map(Blob::map).collect::<Result<_>>()?;
        Ok(Self { files, mapped })
    }

    /// Lets `build` take the parts, and hashes the files' bytes meanwhile: what was built, and the hash. A table of its
    /// own for the output corrects `config`.
    ///
    /// # Errors
    /// A file that is not whole, a tensor missing, misshapen or of a dtype that is no weight's, and what `build` fails
    /// with.
    pub(crate) fn build<T>(
        &self,
        config: &mut ModelConfig,
        build: impl FnOnce(&ModelConfig, &dyn WeightParts) -> Result<T>,
    ) -> Result<(T, String)> {
        let spec = config.family.spec();
        match self.files {
            WeightFiles::Safetensors { files, index } => {
                let opened = safetensors::Opened::new(files, index.as_ref(), &self.mapped)?;
                self.built(config, spec.hub, &opened, build)
            }
            WeightFiles::Gguf(file) => {
                let bytes = &self.mapped[0];
                let opened = gguf::tensors::Opened::new(gguf::Header::read(bytes, file.path())?, bytes);
                let layout = spec.gguf.map_or(spec.hub, |(_, layout)| layout);
                let built = self.built(config, layout, &opened, build)?;
                opened.all_taken()?;
                Ok(built)
            }
        }
    }

    fn built<T>(
        &self,
        config: &mut ModelConfig,
        layout: &'static Layout,
        tensors: &dyn Tensors,
        build: impl FnOnce(&ModelConfig, &dyn WeightParts) -> Result<T>,
    ) -> Result<(T, String)> {
        if has_both_tables(layout, tensors) {
            config.tied_embeddings = false;
        }
        let parts = Parts { config, layout, tensors };
        thread::scope(|scope| {
            let hash = scope.spawn(|| sha256_of(self.files.blobs()));
            let built = build(config, &parts)?;
            // The thread only folds bytes; if it panicked, so would we.
            let hash = hash.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok((built, hash))
        })
    }
}
