//! What is known of a model without its weights: configuration, tokenizer, chat template, stop tokens.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{config::ModelConfig, gguf, raw::TokenIds};
use crate::{
    chat::ChatTemplate,
    error::{EngineError, Result},
    files::Blob,
    source::{CardFiles, CardLayout, HubFiles},
    tokenizer::Tokenizer,
    tokenizer_config::TokenizerConfig,
};

/// What generation needs to know beyond the graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenerationConfig {
    /// Tokens that end an answer: those of generation_config.json, else those of config.json.
    pub eos_ids: BTreeSet<u32>,
}

/// What is known of a model without its weights.
#[derive(Debug)]
pub struct Card {
    /// What the user called the model: `tiny`, a directory's name, or a hub id.
    pub name: String,
    /// Shape and switches of the graph.
    pub config: ModelConfig,
    /// The chat template, if the model has one.
    pub chat_template: Option<ChatTemplate>,
    /// Stop tokens.
    pub generation: GenerationConfig,
    /// What a person should know of how the files were read: each a line for stderr.
    pub notes: Vec<String>,
    /// Why a model that seems made for turns has no chat template: what a person should know whose prompts run raw.
    pub no_template: Option<String>,
    /// Hex sha256 of every file that was read beside the weights and `tokenizer.json`, by its name in the model's
    /// directory: each decides numbers, by the graph's switches, by stop tokens, or by the prompt's text.
    pub files_sha256: BTreeMap<String, String>,
    tokenizer: Option<Tokenizer>,
}

impl Card {
    /// Reads what a model is. A missing tokenizer is no error here (raw token ids work): see [`Card::tokenizer`].
    ///
    /// # Errors
    /// Any file that is missing, corrupt, contradictory or of an unsupported kind, named with its remedy.
    pub fn load(files: &CardFiles) -> Result<Self> {
        match &files.layout {
            CardLayout::Hub(hub) => Self::of_hub(files.name.clone(), hub),
            CardLayout::Gguf(file) => Self::of_gguf(files.name.clone(), file),
        }
    }

    fn of_hub(name: String, files: &HubFiles) -> Result<Self> {
        let config = ModelConfig::parse(&files.config.read()?, files.config.path())?;
        let (generation, notes) = generation_config(files.generation_config.as_ref(), &config)?;
        let said = TokenizerConfig::read(
            files.tokenizer_config.as_ref(),
            files.special_tokens_map.as_ref(),
            files.added_tokens.as_ref(),
        )?;
        let tokenizer = match &files.tokenizer {
            Some(blob) => Some(Tokenizer::load(blob, &said, config.bos_ids.first().copied())?),
            None => None,
        };
        let chat_template = ChatTemplate::load(&said, files.chat_template.as_ref())?;
        let no_template = match chat_template {
            Some(_) => None,
            None => no_template(&name, tokenizer.as_ref(), files.processor_template.as_ref()),
        };
        let read = [
            Some(&files.config),
            files.generation_config.as_ref(),
            files.tokenizer_config.as_ref(),
            files.special_tokens_map.as_ref(),
            files.added_tokens.as_ref(),
            files.chat_template.as_ref(),
        ];
        let mut files_sha256 = BTreeMap::new();
        for blob in read.into_iter().flatten() {
            files_sha256.insert(blob.file_name(), blob.sha256()?);
        }
        Ok(Self { name, config, chat_template, generation, notes, no_template, files_sha256, tokenizer })
    }

    /// All that the file says is in the hash of the weights, which are the same file.
    fn of_gguf(name: String, file: &Blob) -> Result<Self> {
        let bytes = file.map()?;
        let header = gguf::Header::read(&bytes, file.path())?;
        let config = header.model_config(&bytes)?;
        let tokenizer = header.tokenizer(config.vocab_size)?;
        let chat_template = header.chat_template(config.vocab_size)?;
        let no_template = match chat_template {
            Some(_) => None,
            None => no_template(&name, tokenizer.as_ref(), None),
        };
        let generation = GenerationConfig { eos_ids: config.eos_ids.iter().copied().collect() };
        let (notes, files_sha256) = (Vec::new(), BTreeMap::new());
        Ok(Self { name, config, chat_template, generation, notes, no_template, files_sha256, tokenizer })
    }

    /// A model of which only the configuration is known.
    #[must_use]
    pub fn from_config(name: &str, config: ModelConfig) -> Self {
        let generation = GenerationConfig { eos_ids: config.eos_ids.iter().copied().collect() };
        Self {
            name: name.to_owned(),
            config,
            chat_template: None,
            generation,
            notes: Vec::new(),
            no_template: None,
            files_sha256: BTreeMap::new(),
            tokenizer: None,
        }
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`EngineError::MissingTokenizer`] if the model came without one.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| EngineError::MissingTokenizer { model: self.name.clone() })
    }
}

#[derive(Deserialize)]
struct RawGeneration {
    eos_token_id: Option<TokenIds>,
    repetition_penalty: Option<f64>,
    no_repeat_ngram_size: Option<u64>,
    suppress_tokens: Option<Vec<u32>>,
    begin_suppress_tokens: Option<Vec<u32>>,
}

impl RawGeneration {
    /// The fields that change the greedy answer of `generate` in transformers, and that nothing here computes.
    fn unheeded(&self) -> Vec<String> {
        let penalty = self.repetition_penalty.filter(|&penalty| penalty != 1.0);
        let ngrams = self.no_repeat_ngram_size.filter(|&size| size != 0);
        let suppressed = [
            ("suppress_tokens", &self.suppress_tokens),
            ("begin_suppress_tokens", &self.begin_suppress_tokens),
        ];
        let suppressed =
            suppressed.into_iter().filter(|(_, ids)| ids.as_ref().is_some_and(|ids| !ids.is_empty()));
        penalty
            .map(|penalty| format!("repetition_penalty {penalty}"))
            .into_iter()
            .chain(ngrams.map(|size| format!("no_repeat_ngram_size {size}")))
            .chain(suppressed.map(|(name, _)| name.to_owned()))
            .collect()
    }
}

/// The stop tokens, and what to say of the rest.
fn generation_config(blob: Option<&Blob>, config: &ModelConfig) -> Result<(GenerationConfig, Vec<String>)> {
    let told = blob.map(Blob::json::<RawGeneration>).transpose()?;
    let unheeded = told.as_ref().map(RawGeneration::unheeded).unwrap_or_default();
    let notes = (!unheeded.is_empty()).then(|| {
        format!(
            "generation_config.json asks for {}, which is not applied: answers are plain greedy decoding",
            unheeded.join(", ")
        )
    });
    let eos_ids = match told.and_then(|told| told.eos_token_id) {
        Some(ids) => ids.into_vec(),
        None => config.eos_ids.clone(),
    };
    Ok((GenerationConfig { eos_ids: eos_ids.into_iter().collect() }, notes.into_iter().collect()))
}

/// Tokens that only models have which were trained on turns.
const TURNS: [&str; 7] = [
    "<|im_start|>",
    "<|start_header_id|>",
    "<start_of_turn>",
    "<|assistant|>",
    "<|Assistant|>",
    "[/INST]",
    "<\u{ff5c}Assistant\u{ff5c}>",
];

/// Says that a model which seems to be made for turns has no chat template, so that its prompts run raw.
fn no_template(name: &str, tokenizer: Option<&Tokenizer>, processor: Option<&Blob>) -> Option<String> {
    let lower = name.to_lowercase();
    let called = ["instruct", "chat", "-it"].into_iter().find(|word| match *word {
        "-it" => lower.ends_with(word),
        word => lower.contains(word),
    });
    let token =
        tokenizer.and_then(|tokenizer| TURNS.into_iter().find(|token| tokenizer.id_of(token).is_some()));
    let why = match (processor, called, token) {
        (Some(_), ..) => "it has a chat_template.json, which only image processors read".to_owned(),
        (None, Some(word), _) => format!("its name has `{word}`"),
        (None, None, Some(token)) => format!("its tokenizer has `{token}`"),
        (None, None, None) => return None,
    };
    Some(format!(
        "no chat template was found for `{name}`, which seems made for turns ({why}): prompts run raw\n\
         hint: put its template into chat_template.jinja, or as chat_template into tokenizer_config.json"
    ))
}

/// Says that an output layer of its own is used.
pub(crate) const UNTIED: &str = "the weights have an output layer beside the embedding, though config.json says \
     tie_word_embeddings: both are used, as transformers 5 does; transformers 4 would use the embedding for both";
