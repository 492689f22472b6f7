//! A model with the tokenizer and chat template that prompts are built with.

use candle_core::{DType, Device};
use kvsweep_engine::chat::{ChatTemplate, Message};
use kvsweep_engine::error::EngineError;
use kvsweep_engine::model::config::ModelConfig;
use kvsweep_engine::model::{Card, Model, known};
use kvsweep_engine::session::AnySession;
use kvsweep_engine::source;
use kvsweep_engine::tokenizer::Tokenizer;
use kvsweep_methods::instructions::InstructionSet;
use kvsweep_tasks::{ModelFacts, ModelText, TextError};

use crate::cli::ModelArgs;
use crate::exit::usage;
use crate::{interrupt, machine, nearest, output};

/// What a person is told whose processor has none of the vectors that the kernels are written for.
pub(crate) const SLOW: &str =
    "warning: the CPU kernels run without vectors (no AVX2 with FMA, no NEON), about 40 times slower";

/// The default model: embedded in the program.
pub(crate) const TINY: &str = "tiny";

impl ModelArgs {
    /// The model's name as given, or the default.
    pub(crate) fn name(&self) -> &str {
        self.model.as_deref().unwrap_or(TINY)
    }

    /// Loads the model on its device, in its compute type. It stops computing on Ctrl-C.
    pub(crate) fn load(&self) -> anyhow::Result<AnySession> {
        let (cuda_index, dtype) = self.place()?;
        InstructionSet::asked_for()?;
        if cuda_index.is_none() && InstructionSet::in_use() == InstructionSet::Portable {
            output::note(SLOW);
        }
        let files = source::resolve(self.name())?;
        let session = AnySession::load(&files, &self.device()?, dtype, interrupt::signal())?;
        tell(&session);
        Ok(session)
    }

    /// Opens the device that the options name.
    ///
    /// # Errors
    /// Unknown names, a device that this build or machine lacks.
    pub(crate) fn device(&self) -> anyhow::Result<Device> {
        let (cuda_index, _) = self.place()?;
        cuda_index.map_or(Ok(Device::Cpu), cuda)
    }

    /// What the model is, without its weights. A model of the published tables needs not even its `config.json`: then
    /// the second value says what stands in for it.
    ///
    /// # Errors
    /// A model that is not on this machine, or whose files are wrong.
    pub(crate) fn card(&self) -> anyhow::Result<(Card, Option<String>)> {
        let name = self.name();
        match source::resolve_card(name) {
            Ok(files) => {
                let card = Card::load(&files)?;
                tell(&card);
                Ok((card, None))
            }
            Err(error @ EngineError::NotFetched { .. }) => match known::config(name)? {
                Some(config) => Ok((
                    Card::from_config(name, config),
                    Some(format!("`{name}` is not on this machine: its shape as this program knows it")),
                )),
                None => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// The CUDA device by its number, `None` for the CPU, and the compute type, as named: nothing is opened.
    ///
    /// # Errors
    /// Unknown names; a type that the device does not compute in.
    pub(crate) fn place(&self) -> anyhow::Result<(Option<usize>, DType)> {
        let name = self.device.as_deref().unwrap_or("cpu");
        let (kind, index) = name.split_once(':').unwrap_or((name, "0"));
        let cuda_index = match (kind, index.parse::<usize>()) {
            ("cpu", Ok(0)) => None,
            ("cuda", Ok(index)) => Some(index),
            _ => return Err(usage(format!("unknown device `{name}`; known: cpu, cuda, cuda:N"))),
        };
        Ok((cuda_index, self.dtype(cuda_index.is_none())?))
    }

    fn dtype(&self, on_cpu: bool) -> anyhow::Result<DType> {
        let name = self.dtype.as_deref().unwrap_or("f32");
        let dtype = match name {
            "f32" => DType::F32,
            "f16" => DType::F16,
            "bf16" => DType::BF16,
            other => {
                let hint = nearest::hint(other, ["f32", "f16", "bf16"]);
                return Err(usage(format!("unknown dtype `{other}`{hint}")));
            }
        };
        if on_cpu && dtype != DType::F32 {
            return Err(usage(format!(
                "the CPU computes in f32, not {name}: leave --dtype out (weights of any type are widened on loading)"
            )));
        }
        Ok(dtype)
    }
}

/// Says on stderr what a person should know of how a model's files were read.
fn tell(card: &Card) {
    card.notes.iter().chain(&card.no_template).for_each(|note| output::note(note));
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> anyhow::Result<Device> {
    Device::new_cuda(index).map_err(|error| {
        // candle may put a backtrace behind the first line.
        let error = error.to_string();
        let reason = error.lines().next().unwrap_or_default();
        anyhow::anyhow!(
            "cannot use CUDA device {index}, no driver or no such device: {reason}\n\
             hint: `nvidia-smi` shows the driver and the devices; --device cpu needs neither"
        )
    })
}

/// Bytes that are free where a model computes: on the card, or of this machine's memory as far as this process may
/// take it. `None` where the system does not tell.
#[cfg(feature = "cuda")]
pub fn free_memory(device: &Device) -> Option<u64> {
    match device {
        Device::Cuda(card) => {
            let (free, _total) = card.cuda_stream().context().mem_get_info().ok()?;
            Some(free as u64)
        }
        _ => machine::available_memory(),
    }
}

/// Bytes that are free where a model computes: of this machine's memory as far as this process may take it. `None`
/// where the system does not tell.
#[cfg(not(feature = "cuda"))]
pub(crate) fn free_memory(_device: &Device) -> Option<u64> {
    machine::available_memory()
}

#[cfg(not(feature = "cuda"))]
fn cuda(_index: usize) -> anyhow::Result<Device> {
    anyhow::bail!(
        "this build has no CUDA support; build with `--features cuda` (docs/cuda.md) or use --device cpu"
    )
}

/// The facts about a model that prompts depend on.
pub(crate) fn facts(card: &Card) -> ModelFacts {
    ModelFacts {
        name: card.name.clone(),
        max_positions: card.config.max_positions,
        max_prompt: None,
        eos_ids: card.generation.eos_ids.iter().copied().collect(),
        clean_up_spaces: card.tokenizer().is_ok_and(Tokenizer::cleans_up_spaces),
    }
}

/// What the model's graph is, weights aside, for manifests: two models of one name may be nothing alike.
pub(crate) fn shape(config: &ModelConfig) -> String {
    let window = config.sliding.as_ref().map_or(String::new(), |sliding| {
        let slide = sliding.layers.iter().filter(|&&slides| slides).count();
        let some = if slide < config.layers { format!(" in {slide} of them") } else { String::new() };
        let rope = sliding.rope.as_ref().map_or(String::new(), |rope| format!(", RoPE {rope} there"));
        format!(", window {}{some}{rope}", sliding.window)
    });
    format!(
        "{}: {} layers of {}, MLP {}, {} query and {} KV heads of {}, vocabulary {}, RoPE {}{window}",
        config.family.architecture(),
        config.layers,
        config.hidden_size,
        config.intermediate_size,
        config.query_heads,
        config.kv_heads,
        config.head_dim,
        config.vocab_size,
        config.rope
    )
}

/// [`shape`] of a hub model, where this program knows it without its files.
pub(crate) fn known_shape(hub: &str) -> Option<String> {
    known::config(hub).ok().flatten().map(|config| shape(&config))
}

/// The device's kind, for manifests: `cpu` or `cuda`.
pub(crate) fn device_kind(model: &Model) -> &'static str {
    if matches!(model.device, Device::Cpu) { "cpu" } else { "cuda" }
}

/// The compute type's name, for manifests.
pub(crate) fn dtype_name(model: &Model) -> &'static str {
    model.dtype.as_str()
}

/// How `tasks` sees a model: its tokenizer and its chat template.
#[derive(Clone, Copy)]
pub(crate) struct TextSide<'a> {
    tokenizer: &'a Tokenizer,
    chat_template: Option<&'a ChatTemplate>,
}

impl<'a> TextSide<'a> {
    /// The text side of a model.
    ///
    /// # Errors
    /// A model without a tokenizer.
    pub(crate) fn new(card: &'a Card) -> anyhow::Result<Self> {
        Ok(Self { tokenizer: card.tokenizer()?, chat_template: card.chat_template.as_ref() })
    }
}

impl ModelText for TextSide<'_> {
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        self.tokenizer.encode(text, add_special_tokens).map_err(TextError::new)
    }

    fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
        self.tokenizer.decode(ids, skip_special_tokens).map_err(TextError::new)
    }

    fn bos_id(&self) -> Option<u32> {
        self.tokenizer.bos_id()
    }

    fn eos_id(&self) -> Option<u32> {
        self.tokenizer.eos_id()
    }

    fn id_of(&self, token: &str) -> Option<u32> {
        self.tokenizer.id_of(token)
    }

    fn has_chat_template(&self) -> bool {
        self.chat_template.is_some()
    }

    fn render_user(&self, user: &str) -> Result<String, TextError> {
        let template = self.chat_template.ok_or_else(|| TextError::new("the model has no chat template"))?;
        template.render(&[Message { role: "user", content: user }], true).map_err(TextError::new)
    }

    fn render_user_without_thinking(&self, user: &str) -> Result<String, TextError> {
        let template = self.chat_template.ok_or_else(|| TextError::new("the model has no chat template"))?;
        let turn = [Message { role: "user", content: user }];
        template.render_without_thinking(&turn, true).map_err(TextError::new)
    }
}
