//! Everything that loading or running a model can refuse, each with the value at fault and the remedy.

use std::{borrow::Cow, path::PathBuf};

/// The error of this crate. Messages are fragments that fit behind `failed: `.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A file could not be read or written.
    #[error("cannot read `{path}`: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A JSON file does not parse, or a value has the wrong type; serde names line and column.
    #[error("`{path}` is not the JSON expected: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// A model directory lacks a file that cannot be done without.
    #[error("`{dir}` has no `{file}`; {hint}")]
    MissingFile {
        /// The directory searched.
        dir: PathBuf,
        /// The file expected.
        file: String,
        /// Remedy.
        hint: Cow<'static, str>,
    },
    /// A file that ought to hold a model is something else.
    #[error("`{path}` is {found}; {hint}")]
    NoModel {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// Remedy.
        hint: &'static str,
    },
    /// Only PyTorch pickles hold the weights.
    #[error(
        "`{path}` is a PyTorch pickle, which runs code of its author's choice when it is opened; convert the model \
         to safetensors in a place where you trust it (transformers: `model.save_pretrained(DIR)`)"
    )]
    PickledWeights {
        /// The pickle found.
        path: PathBuf,
    },
    /// `architectures` or `model_type` names something this crate has no graph for.
    #[error("`{path}`: architecture `{found}` is not supported{lacks}; supported: {supported}")]
    UnsupportedArchitecture {
        /// The configuration file.
        path: PathBuf,
        /// The architecture named there.
        found: String,
        /// What its graph has that none here does, as the message's next words; empty where that is not known.
        lacks: &'static str,
        /// Those that are supported, comma-separated.
        supported: String,
    },
    /// A configuration asks for something the graph does not compute.
    #[error("`{path}`: {field} `{found}` is not supported; supported: {supported}")]
    UnsupportedSetting {
        /// The configuration file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What is supported instead.
        supported: &'static str,
    },
    /// A configuration lacks a field.
    #[error("`{path}`: field `{field}` is missing")]
    MissingField {
        /// The configuration file.
        path: PathBuf,
        /// The field.
        field: &'static str,
    },
    /// A field's value makes no model.
    #[error("`{path}`: field `{field}` is {found}, expected {expected}")]
    InvalidField {
        /// The configuration file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What would do.
        expected: String,
    },
    /// A safetensors file is cut short or its header contradicts its bytes.
    #[error(
        "`{path}` is not a whole safetensors file ({reason}); it has {bytes} bytes: fetch or copy it again"
    )]
    CorruptWeights {
        /// The file.
        path: PathBuf,
        /// What the format check said.
        reason: String,
        /// Bytes in the file.
        bytes: usize,
    },
    /// A GGUF is cut short, or its header contradicts itself or its bytes.
    #[error("`{path}` is not a whole GGUF file ({reason}); it has {bytes} bytes: fetch or copy it again")]
    CorruptGguf {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
        /// Bytes in the file.
        bytes: usize,
    },
    /// A tensor of a GGUF is of a type that is not read.
    #[error("tensor `{tensor}` in `{path}` holds {found}; supported: {supported}")]
    UnreadTensorType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type, by its name or number.
        found: String,
        /// Those that are read, comma-separated.
        supported: &'static str,
    },
    /// An entry of a GGUF's metadata makes no model that this program computes.
    #[error("`{path}`: metadata `{key}` is {found}, expected {expected}")]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The entry.
        key: String,
        /// Its value, or `missing`.
        found: String,
        /// What would do.
        expected: String,
    },
    /// A GGUF holds a tensor that the graph of its architecture has no use for.
    #[error(
        "tensor `{tensor}` in `{path}` is no part of the graph that its architecture stands for here: the model computes \
         something that this program does not"
    )]
    ForeignTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor that the configuration calls for is in no weight file.
    #[error("tensor `{tensor}` is missing from `{path}`; {hint}")]
    MissingTensor {
        /// The weight file, or the index of a sharded model.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Where to look.
        hint: &'static str,
    },
    /// A tensor's shape is not the one that the configuration calls for.
    #[error("tensor `{tensor}` in `{path}` has shape {found:?}, config.json calls for {expected:?}")]
    WrongShape {
        /// The weight file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Shape by the configuration.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A tensor holds numbers of a type that is not a weight's.
    #[error("tensor `{tensor}` in `{path}` holds {found}; supported: F32, F16, BF16 (unquantised weights)")]
    WrongDtype {
        /// The weight file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type in the file.
        found: String,
    },
    /// Text was to be encoded or decoded, and the model came without a tokenizer.
    #[error(
        "model `{model}` has no tokenizer.json, so text can be neither read nor written; put the model's \
         tokenizer.json into its directory (transformers makes one of other files: \
         `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`; raw token ids work without it)"
    )]
    MissingTokenizer {
        /// The model.
        model: String,
    },
    /// The tokenizer file does not load, or refused a text.
    #[error("tokenizer `{path}`: {reason}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizer library said.
        reason: String,
    },
    /// A chat template does not parse, raised an exception, or is not there by that name.
    #[error("chat template of `{path}`: {reason}")]
    ChatTemplate {
        /// The file that holds it.
        path: PathBuf,
        /// What the template or its parser said.
        reason: String,
    },
    /// `--model` is neither `tiny`, nor a directory or file, nor a hub id.
    #[error(
        "model `{name}` is neither `tiny`, nor an existing directory or GGUF file, nor a hub id such as `owner/name`"
    )]
    UnknownModel {
        /// The name given.
        name: String,
    },
    /// The program was built without the embedded model's files.
    #[error("this build has no embedded model `tiny`; name a model directory or a hub id instead")]
    NoEmbeddedModel,
    /// A hub model is not in the local cache, and the network may not be used.
    #[error("`{file}` of hub model `{id}` is not in `{cache}`; download it with `kvsweep fetch model {id}`")]
    NotFetched {
        /// The hub id.
        id: String,
        /// The first file found missing.
        file: String,
        /// The cache directory.
        cache: PathBuf,
    },
    /// The hub refused or could not be reached.
    #[error("cannot fetch `{file}` of hub model `{id}`: {reason}{hint}")]
    Hub {
        /// The hub id.
        id: String,
        /// The file asked for.
        file: String,
        /// What the hub or the network said.
        reason: String,
        /// Remedy, with its separator; may be empty.
        hint: &'static str,
    },
    /// A fetched file is not the one that the hub announced.
    #[error(
        "`{path}` has sha256 {found}, the hub announced {expected}; delete it if it is still there, and fetch again"
    )]
    HashMismatch {
        /// The file in the cache.
        path: PathBuf,
        /// The announced hash.
        expected: String,
        /// The hash of the bytes here.
        found: String,
    },
    /// There is nothing to prefill.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// A token id is outside the vocabulary.
    #[error("token id {id} at position {position} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Where it stands in the prompt.
        position: usize,
        /// The model's vocabulary.
        vocab_size: usize,
    },
    /// Prompt and answer together need more positions than the model has.
    #[error(
        "{prompt} prompt tokens and {new} new ones need more than the {limit} positions of this model; \
         shorten or truncate the prompt"
    )]
    PromptTooLong {
        /// Prompt tokens.
        prompt: usize,
        /// Tokens to be generated.
        new: usize,
        /// The model's positions.
        limit: usize,
    },
    /// A method wants the prompt repeated, and nothing says how to ask for that.
    #[error("a method wants the prompt repeated, and the request for that needs the model's tokenizer")]
    NoRepeatRequest,
    /// A method reads the question, and nothing says where it begins.
    #[error(
        "a method reads the question, and where that begins is not known; say how long it is (`window` of the method)"
    )]
    NoQuestion,
    /// The model has no positions left to repeat the prompt behind it.
    #[error(
        "a prompt of {prompt} tokens is repeated behind it in parts of up to {repeat} tokens, and this model has {limit} \
         positions; repeat smaller parts (`chunk` of the method) or shorten the prompt"
    )]
    RepeatTooLong {
        /// Prompt tokens.
        prompt: usize,
        /// Tokens of the longest part and its request.
        repeat: usize,
        /// The model's positions.
        limit: usize,
    },
    /// Kept entries would get new positions in a model whose layers look through windows.
    #[error(
        "a method gives kept entries new positions, which is not computed where layers look through windows; \
         `renumber=false` of the method leaves them where they are"
    )]
    RenumberedWindows,
    /// The prompt is to be repeated, and no layer of the model looks at all of it.
    #[error(
        "a method has the prompt repeated, which is not computed where every layer looks through a window, here of {window}, \
         and {prompt} prompt tokens do not fit in it; leave the method out, or shorten the prompt"
    )]
    RepeatBeyondWindow {
        /// Prompt tokens.
        prompt: usize,
        /// Positions that a layer looks at.
        window: usize,
    },
    /// A method would evict again in a model all of whose layers lose entries to their windows.
    #[error(
        "`interval` is not computed where every layer looks through a window, here of {window}, and {prompt} prompt \
         tokens and {new} new ones do not fit in it; leave `interval` out, or shorten the prompt"
    )]
    IntervalBeyondWindow {
        /// Prompt tokens.
        prompt: usize,
        /// Tokens to be generated.
        new: usize,
        /// The window.
        window: usize,
    },
    /// A selection does not fit the prompt that it is applied to.
    #[error("the selection does not fit the prompt: {reason}")]
    BadSelection {
        /// What is wrong, with the layer and the head.
        reason: String,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {reason}")]
    Threads {
        /// What the system said.
        reason: String,
    },
    /// The model computes a number that is none.
    #[error(
        "{stage} computes {value} at position {position}, so there is no answer: its weights hold NaN or infinity, or \
         numbers overflow the type they are computed in\n\
         hint: fetch or copy the weights again, and where the device computes in f16, use `--dtype f32`"
    )]
    NotFinite {
        /// What computed it.
        stage: Stage,
        /// Position of its token, from 0.
        position: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// The caller asked to stop, by [`crate::cancel::Cancel`].
    #[error("interrupted")]
    Interrupted,
    /// A method's observation could not be computed.
    #[error("observing the prompt: {0}")]
    Observe(#[from] kvsweep_methods::error::MethodError),
    /// A tensor operation failed: device out of memory, driver error.
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// A part of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// A layer, from 0.
    Layer(usize),
    /// The output layer.
    Output,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Layer(layer) => write!(f, "layer {layer}"),
            Self::Output => f.write_str("the output layer"),
        }
    }
}

/// The result of this crate.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;
