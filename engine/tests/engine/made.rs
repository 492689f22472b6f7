//! GGUF files made for tests, whole and wrong.

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::{
    DType, Device, Tensor,
    quantized::{GgmlDType, QTensor},
};

use crate::support::fixture;

/// A value of the metadata.
#[derive(Clone)]
pub(crate) enum Meta {
    U32(u32),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

pub(crate) fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn list<T>(bytes: &mut Vec<u8>, kind: u32, items: &[T], mut one: impl FnMut(&mut Vec<u8>, &T)) {
    bytes.extend(9_u32.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend((items.len() as u64).to_le_bytes());
    items.iter().for_each(|item| one(bytes, item));
}

impl Meta {
    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::U32(value) => bytes.extend([4_u32.to_le_bytes(), value.to_le_bytes()].concat()),
            Self::F32(value) => bytes.extend([6_u32.to_le_bytes(), value.to_le_bytes()].concat()),
            Self::F64(value) => {
                bytes.extend(12_u32.to_le_bytes());
                bytes.extend(value.to_le_bytes());
            }
            Self::Bool(value) => {
                bytes.extend(7_u32.to_le_bytes());
                bytes.push(u8::from(*value));
            }
            Self::Text(value) => {
                bytes.extend(8_u32.to_le_bytes());
                text(bytes, value);
            }
            Self::Texts(items) => list(bytes, 8, items, |bytes, item| text(bytes, item)),
            Self::I32s(items) => list(bytes, 5, items, |bytes, item| bytes.extend(item.to_le_bytes())),
            Self::F32s(items) => list(bytes, 6, items, |bytes, item| bytes.extend(item.to_le_bytes())),
        }
    }
}

/// A tensor as the file holds it.
pub(crate) struct Raw {
    /// Outermost first.
    pub(crate) shape: Vec<usize>,
    pub(crate) kind: u32,
    pub(crate) bytes: Vec<u8>,
    /// Where the header says it is; where it really is by default.
    pub(crate) offset: Option<u64>,
}

/// A file in the making.
#[derive(Default)]
pub(crate) struct Made {
    pub(crate) metadata: Vec<(String, Meta)>,
    pub(crate) tensors: Vec<(String, Raw)>,
}

impl Made {
    pub(crate) fn set(&mut self, key: &str, value: Meta) -> &mut Self {
        self.unset(key);
        self.metadata.push((key.to_owned(), value));
        self
    }

    pub(crate) fn unset(&mut self, key: &str) -> &mut Self {
        self.metadata.retain(|(found, _)| found != key);
        self
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Raw {
        &mut self.tensors.iter_mut().find(|(found, _)| found == name).expect(name).1
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            text(&mut bytes, key);
            value.write(&mut bytes);
        }
        let mut data = Vec::new();
        for (name, raw) in &self.tensors {
            text(&mut bytes, name);
            bytes.extend((raw.shape.len() as u32).to_le_bytes());
            raw.shape.iter().rev().for_each(|&one| bytes.extend((one as u64).to_le_bytes()));
            bytes.extend(raw.kind.to_le_bytes());
            bytes.extend(raw.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&raw.bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        [bytes, data].concat()
    }

    pub(crate) fn write(&self, dir: &Path) -> PathBuf {
        let path = dir.join("model.gguf");
        fs::write(&path, self.bytes()).unwrap();
        path
    }
}

/// A tensor in a type, as llama.cpp stores it.
pub(crate) fn raw(tensor: &Tensor, kind: GgmlDType, number: u32) -> Raw {
    let bytes =
        QTensor::quantize(&tensor.to_dtype(DType::F32).unwrap(), kind).unwrap().data().unwrap().into_owned();
    Raw { shape: tensor.dims().to_vec(), kind: number, bytes, offset: None }
}

/// A tensor in the type that it has.
pub(crate) fn plain(tensor: &Tensor) -> Raw {
    match tensor.dtype() {
        DType::F16 => raw(tensor, GgmlDType::F16, 1),
        DType::BF16 => raw(tensor, GgmlDType::BF16, 30),
        _ => raw(tensor, GgmlDType::F32, 0),
    }
}

/// The name of a tensor of the hub in a GGUF (`convert_hf_to_gguf.py` of llama.cpp).
fn gguf_name(name: &str, gemma: bool) -> String {
    let name = name.replace("model.layers.", "blk.").replace("model.", "");
    let pairs = [
        ("embed_tokens", "token_embd"),
        ("lm_head", "output"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("self_attn.qkv_proj", "attn_qkv"),
        ("mlp.gate_up_proj", "ffn_up"),
    ];
    // A Gemma's norms are called like others elsewhere.
    let own = [
        ("post_attention_layernorm", "post_attention_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ];
    let own = if gemma { &own[..] } else { &[] };
    let name = own.iter().fold(name, |name, (hub, gguf)| name.replace(hub, gguf));
    let name = pairs.iter().fold(name, |name, (hub, gguf)| name.replace(hub, gguf));
    if name == "norm.weight" { "output_norm.weight".to_owned() } else { name }
}

/// As llama.cpp's converter moves the rows of a Llama's query and key projections (`LlamaModel.permute`).
pub(crate) fn permuted(weight: &Tensor, heads: usize) -> Tensor {
    let (rows, columns) = weight.dims2().unwrap();
    let halves = weight.reshape((heads, 2, rows / heads / 2, columns)).unwrap();
    halves.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, columns)).unwrap()
}

/// Metadata of a vocabulary of single letters and a few special tokens, `size` in all.
pub(crate) fn vocabulary(made: &mut Made, size: usize) {
    let special = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let letters = (0..size - 4).map(|index| char::from_u32(0x100 + index as u32).unwrap().to_string());
    let letters = letters.chain(["\u{120}\u{121}".to_owned()]);
    let types = (0..size).map(|id| if id < 3 { 3 } else { 1 }).collect();
    made.set("tokenizer.ggml.model", Meta::Text("gpt2".into()))
        .set("tokenizer.ggml.pre", Meta::Text("gpt-2".into()))
        .set("tokenizer.ggml.tokens", Meta::Texts(special.into_iter().chain(letters).collect()))
        .set("tokenizer.ggml.token_type", Meta::I32s(types))
        .set("tokenizer.ggml.merges", Meta::Texts(vec!["\u{120} \u{121}".into()]))
        .set("tokenizer.ggml.bos_token_id", Meta::U32(1))
        .set("tokenizer.ggml.eos_token_id", Meta::U32(2));
}

/// A parity model as a GGUF, in the types that its safetensors have.
pub(crate) fn of_parity(name: &str) -> Made {
    let dir = fixture("parity").join(name);
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
    let tensors = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    let number = |field: &str| config[field].as_u64().map(|value| value as u32);
    let architecture = config["model_type"].as_str().unwrap().trim_end_matches("_text").to_owned();
    let gemma = architecture == "gemma3";
    let heads = [number("num_attention_heads").unwrap(), number("num_key_value_heads").unwrap()];
    let theta = config["rope_theta"].as_f64().or(config["rope_parameters"]["rope_theta"].as_f64()).unwrap();
    let mut made = Made::default();
    let key = |name: &str| format!("{architecture}.{name}");
    made.set("general.architecture", Meta::Text(architecture.clone()))
        .set(&key("block_count"), Meta::U32(number("num_hidden_layers").unwrap()))
        .set(&key("context_length"), Meta::U32(number("max_position_embeddings").unwrap()))
        .set(&key("embedding_length"), Meta::U32(number("hidden_size").unwrap()))
        .set(&key("feed_forward_length"), Meta::U32(number("intermediate_size").unwrap()))
        .set(&key("attention.head_count"), Meta::U32(heads[0]))
        .set(&key("attention.head_count_kv"), Meta::U32(heads[1]))
        .set(&key("attention.layer_norm_rms_epsilon"), Meta::F64(config["rms_norm_eps"].as_f64().unwrap()))
        .set(&key("rope.freq_base"), Meta::F32(theta as f32));
    if let Some(dim) = number("head_dim") {
        made.set(&key("attention.key_length"), Meta::U32(dim))
            .set(&key("attention.value_length"), Meta::U32(dim));
    }
    if let Some(window) = number("sliding_window") {
        made.set(&key("attention.sliding_window"), Meta::U32(window));
    }
    if gemma {
        let [factor, local] = [&config["rope_scaling"]["factor"], &config["rope_local_base_freq"]];
        made.set(&key("rope.scaling.type"), Meta::Text("linear".into()))
            .set(&key("rope.scaling.factor"), Meta::F32(factor.as_f64().unwrap() as f32))
            .set(&key("rope.freq_base_swa"), Meta::F32(local.as_f64().unwrap() as f32))
            .set(&key("attention.sliding_window_pattern"), Meta::U32(3));
    }
    if let Some(long) = config["rope_parameters"]["long_factor"].as_array() {
        let list = |values: &[serde_json::Value]| -> Tensor {
            let values: Vec<f32> = values.iter().map(|value| value.as_f64().unwrap() as f32).collect();
            Tensor::new(values, &Device::Cpu).unwrap()
        };
        let short = config["rope_parameters"]["short_factor"].as_array().unwrap();
        made.tensors.push(("rope_factors_long.weight".into(), plain(&list(long))));
        made.tensors.push(("rope_factors_short.weight".into(), plain(&list(short))));
        let original = number("original_max_position_embeddings").unwrap();
        let factor = f64::from(number("max_position_embeddings").unwrap()) / f64::from(original);
        let sharpened = (1.0 + factor.ln() / f64::from(original).ln()).sqrt();
        made.set(&key("rope.scaling.original_context_length"), Meta::U32(original))
            .set(&key("rope.scaling.attn_factor"), Meta::F64(sharpened))
            .set(&key("rope.dimension_count"), Meta::U32(2 * long.len() as u32));
    }
    vocabulary(&mut made, number("vocab_size").unwrap() as usize);
    for (name, tensor) in tensors {
        let moved = |index: usize| permuted(&tensor, heads[index] as usize);
        let tensor = match (architecture.as_str(), name.as_str()) {
            ("llama", name) if name.ends_with("q_proj.weight") => moved(0),
            ("llama", name) if name.ends_with("k_proj.weight") => moved(1),
            // The converter adds the ones.
            ("gemma3", name) if name.ends_with("norm.weight") => {
                (tensor.to_dtype(DType::F32).unwrap() + 1.0).unwrap()
            }
            _ => tensor,
        };
        made.tensors.push((gguf_name(&name, gemma), plain(&tensor)));
    }
    made.tensors.sort_by(|a, b| a.0.cmp(&b.0));
    made
}
