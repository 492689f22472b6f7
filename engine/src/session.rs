//! A model at work on one device: reads prompts, and decodes their variants.

use std::{collections::BTreeSet, ops::Deref};

use candle_core::{DType, Device};
use kvsweep_methods::observation::Observation;

use crate::{
    backend::Backend,
    cancel::Cancel,
    candle::Candle,
    cpu::Cpu,
    decode::{self, DecodeProgress, Decoded, Sequence},
    error::{EngineError, Result},
    model::{
        Card, Model, card,
        config::ModelConfig,
        weight_files::Weights,
        weights::{ModelWeights, WeightParts},
    },
    prefill::{Prefill, PrefillOptions},
    reconstruct,
    repeat::RepeatRequest,
    source::{self, ModelFiles, WeightFiles},
};

/// A model and the back end that holds its weights; it is used as its [`Model`], too.
#[derive(Debug)]
pub struct Session<B> {
    pub(crate) backend: B,
    /// Ends prefills and decodes of this session.
    pub cancel: Cancel,
    model: Model,
}

impl<B> Deref for Session<B> {
    type Target = Model;

    fn deref(&self) -> &Model {
        &self.model
    }
}

impl<B> Session<B> {
    fn read(
        files: &ModelFiles,
        device: &Device,
        dtype: DType,
        build: impl FnOnce(&ModelConfig, &dyn WeightParts) -> Result<B>,
    ) -> Result<Self> {
        let mut card = Card::load(&files.card)?;
        if let WeightFiles::Safetensors { index: Some(index), .. } = &files.weights {
            card.files_sha256.insert(source::INDEX.to_owned(), index.sha256.clone());
        }
        let asked_to_tie = card.config.tied_embeddings;
        let (backend, weights_sha256) = Weights::open(&files.weights)?.build(&mut card.config, build)?;
        if asked_to_tie && !card.config.tied_embeddings {
            card.notes.push(card::UNTIED.to_owned());
        }
        Ok(Self::of(backend, Model { weights_sha256, device: device.clone(), dtype, card }))
    }

    /// A model of given weights, without tokenizer: for measurements and tests on random weights.
    fn of_weights(name: &str, config: ModelConfig, backend: B, device: &Device, dtype: DType) -> Self {
        let card = Card::from_config(name, config);
        Self::of(backend, Model { weights_sha256: String::new(), device: device.clone(), dtype, card })
    }

    fn of(backend: B, model: Model) -> Self {
        Self { backend, cancel: Cancel::default(), model }
    }
}

impl Session<Cpu> {
    /// Loads a model into our kernels.
    ///
    /// # Errors
    /// Any file that is missing, corrupt, contradictory or of an unsupported kind, named with its remedy.
    pub fn load(files: &ModelFiles) -> Result<Self> {
        Self::read(files, &Device::Cpu, DType::F32, |config, parts| Cpu::new(config, parts))
    }

    /// A model of given weights, without tokenizer: for measurements and tests on random weights.
    ///
    /// # Errors
    /// A tensor operation that fails.
    pub fn from_weights(name: &str, config: ModelConfig, weights: &ModelWeights) -> Result<Self> {
        let backend = Cpu::new(&config, weights)?;
        Ok(Self::of_weights(name, config, backend, &Device::Cpu, DType::F32))
    }
}

impl Session<Candle> {
    /// Loads a model into candle's tensors.
    ///
    /// # Errors
    /// Any file that is missing, corrupt, contradictory or of an unsupported kind, named with its remedy; a device
    /// that fails.
    pub fn load(files: &ModelFiles, device: &Device, dtype: DType) -> Result<Self> {
        Self::read(files, device, dtype, |config, parts| Candle::new(config, parts, device, dtype))
    }

    /// A model of given weights, without tokenizer: for measurements and tests on random weights.
    ///
    /// # Errors
    /// A tensor operation that fails.
    pub fn from_weights(
        name: &str,
        config: ModelConfig,
        weights: &ModelWeights,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let backend = Candle::new(&config, weights, device, dtype)?;
        Ok(Self::of_weights(name, config, backend, device, dtype))
    }
}

impl<B: Backend> Session<B> {
    /// Reads a prompt with full causal attention, once for every variant, and once more for each observation that wants
    /// it repeated. Memory grows linearly with its length.
    ///
    /// # Errors
    /// A prompt that this model cannot read (see [`Model::check_prompt`]) or repeat, a failing device, numbers that are not
    /// finite, or [`EngineError::Interrupted`] where [`Session::cancel`] asks for it.
    pub fn prefill(
        &self,
        ids: &[u32],
        wanted: &BTreeSet<Observation>,
        options: PrefillOptions<'_>,
    ) -> Result<Prefill<B::Prompt>> {
        self.check_prompt(ids, 0)?;
        self.check_repeat(ids, wanted, options.repeat)?;
        let (repeated, once): (Vec<_>, Vec<_>) = wanted.iter().partition(|one| one.repeats_the_prompt());
        let once = questions_resolved(once, options.question)?;
        let wanted: Vec<_> = once.iter().map(|&(_, seen)| seen).collect();
        let mut prefill = self.backend.prefill(ids, &wanted, options, &self.cancel)?;
        if once.iter().any(|(asked, seen)| asked != seen) {
            for layer in &mut prefill.observations.layers {
                let named = |&(asked, seen): &(_, _)| Some((asked, layer.get(&seen)?.clone()));
                *layer = once.iter().filter_map(named).collect();
            }
        }
        for one in repeated {
            reconstruct::observe(&self.backend, &mut prefill, one, options.repeat, &self.cancel)?;
        }
        Ok(prefill)
    }

    /// Refuses a prompt that this model cannot repeat, where an observation wants that.
    ///
    /// # Errors
    /// No request, no positions behind the prompt, or windows that it does not fit in.
    pub fn check_repeat(
        &self,
        ids: &[u32],
        wanted: &BTreeSet<Observation>,
        request: Option<&RepeatRequest>,
    ) -> Result<()> {
        wanted.iter().try_for_each(|&one| reconstruct::check(&self.config, ids, one, request))
    }

    /// Decodes all sequences in one batch, greedily; ties go to the lowest id. The token at step `t` stands at
    /// position `prompt_len + follow.len() + t`, whatever was evicted. Finished sequences leave the batch; sequences
    /// that are equal by construction are computed once.
    ///
    /// `progress` is called before every step.
    ///
    /// # Errors
    /// A prompt and answer that do not fit the model (see [`Model::check_prompt`]), a selection that does not fit its
    /// prompt, a failing device, numbers that are not finite, or
    /// [`EngineError::Interrupted`] where [`Session::cancel`] asks for it.
    pub fn decode(
        &self,
        sequences: &[Sequence<B::Prompt>],
        progress: &mut dyn FnMut(DecodeProgress),
    ) -> Result<Vec<Decoded>> {
        for Sequence { prefill, follow, rule, .. } in sequences {
            self.config.check_ids(follow)?;
            self.config.check_room(prefill.shape().len + follow.len(), rule.max_new)?;
        }
        decode::decode(&self.backend, sequences, progress, &self.cancel)
    }
}

/// Each observation with what a back end computes for it: a window of the question's length for what reads the question.
fn questions_resolved(
    wanted: Vec<Observation>,
    question: Option<usize>,
) -> Result<Vec<(Observation, Observation)>> {
    let resolve = |asked: Observation| match (asked.reads_the_question(), question) {
        (false, _) => Ok((asked, asked)),
        (true, Some(tokens)) => Ok((asked, Observation::QuestionSum { window: Some(tokens) })),
        (true, None) => Err(EngineError::NoQuestion),
    };
    wanted.into_iter().map(resolve).collect()
}

/// A session of the back end that a device and a dtype call for; it is used as its [`Model`], too.
/// [`with_session!`](crate::with_session) runs code on whichever it is.
#[derive(Debug)]
pub enum AnySession {
    /// f32 on the CPU.
    Cpu(Session<Cpu>),
    /// Any other device or dtype.
    Candle(Session<Candle>),
}

impl AnySession {
    /// Loads a model: our kernels for f32 on the CPU, candle for everything else. `cancel` ends its prefills and
    /// decodes.
    ///
    /// # Errors
    /// As [`Session::load`].
    pub fn load(files: &ModelFiles, device: &Device, dtype: DType, cancel: Cancel) -> Result<Self> {
        Ok(if device.is_cpu() && dtype == DType::F32 {
            Self::Cpu(Session { cancel, ..Session::<Cpu>::load(files)? })
        } else {
            Self::Candle(Session { cancel, ..Session::<Candle>::load(files, device, dtype)? })
        })
    }
}

impl Deref for AnySession {
    type Target = Model;

    fn deref(&self) -> &Model {
        crate::with_session!(self, session => session)
    }
}

/// Runs an expression on the [`Session`] that an [`AnySession`] is, whatever its back end.
#[macro_export]
macro_rules! with_session {
    ($any:expr, $session:ident => $body:expr) => {
        match $any {
            $crate::session::AnySession::Cpu($session) => $body,
            $crate::session::AnySession::Candle($session) => $body,
        }
    };
}
