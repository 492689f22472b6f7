//! Real models as laptops have them: `scripts/real_models.sh` fetches the files, `scripts/make_gguf_goldens.py` says what
//! transformers makes of them.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor, quantized::gguf_file};
use kvsweep_engine::{
    Cpu,
    model::Card,
    session::Session,
    source::{from_dir, resolve, resolve_card},
};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    parity::run,
    support::{fixture, shared},
};

/// Where the files are; naming the folder makes a missing SmolLM2, which CI fetches, a failure.
const FOLDER: &str = "KVSWEEP_REAL_MODELS";
const SMOLLM: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const QWEN: &str = "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf";

#[derive(Deserialize)]
struct Golden {
    file_sha256: String,
    text: String,
    prompt: Vec<u32>,
    greedy: Vec<u32>,
    /// The five best tokens of each position, with their logits.
    top: Vec<Vec<(usize, f32)>>,
    weights_sha256: BTreeMap<String, String>,
    /// Hash of the ids of all texts of a file of rows.
    ids_sha256: BTreeMap<String, String>,
}

/// A real model's file; `None`, said aloud, where it is not there.
fn file(name: &str) -> Option<PathBuf> {
    let named = std::env::var_os(FOLDER).map(PathBuf::from);
    let folder =
        named.clone().unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/models"));
    let path = folder.join(name);
    if path.is_file() {
        return Some(path);
    }
    assert!(named.is_none() || name != SMOLLM, "{} is not there", path.display());
    println!("skipped: {} not present (scripts/real_models.sh)", path.display());
    None
}

fn golden(name: &str) -> Golden {
    serde_json::from_slice(&fs::read(fixture("gguf").join(name)).unwrap()).unwrap()
}

fn load(path: &Path) -> Session<Cpu> {
    Session::<Cpu>::load(&resolve(path.to_str().unwrap()).unwrap()).unwrap()
}

/// Ids of every text of every row.
fn check_tokens(path: &Path, golden: &Golden) {
    let card = Card::load(&resolve_card(path.to_str().unwrap()).unwrap()).unwrap();
    let tokenizer = card.tokenizer().unwrap();
    assert_eq!(tokenizer.encode(&golden.text, false).unwrap(), golden.prompt);
    assert_eq!(tokenizer.decode(&golden.prompt, false).unwrap(), golden.text);
    let Some(data) = shared("data") else { return };
    assert!(golden.ids_sha256.len() > 40);
    for (file, expected) in &golden.ids_sha256 {
        let mut hash = Sha256::new();
        for line in fs::read_to_string(data.join(file)).unwrap().lines() {
            let row: BTreeMap<String, Value> = serde_json::from_str(line).unwrap();
            for text in row.values().filter_map(Value::as_str) {
                let ids = tokenizer.encode(text, false).unwrap();
                hash.update(ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
                hash.update("\n");
            }
        }
        assert_eq!(&format!("{:x}", hash.finalize()), expected, "{file}");
    }
}

fn check_logits(model: &Session<Cpu>, golden: &Golden) {
    assert_eq!(model.weights_sha256, golden.file_sha256, "the file is another one");
    let (rows, greedy) = run(model, &golden.prompt, golden.greedy.len());
    assert_eq!(rows.len(), golden.top.len());
    for (position, (row, top)) in rows.iter().zip(&golden.top).enumerate() {
        for &(id, logit) in top {
            let found = row[id];
            assert!(
                (found - logit).abs() < 2e-3,
                "position {position}, token {id}: {found} instead of {logit}"
            );
        }
        let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(best, row[top[0].0], "position {position}");
    }
    assert_eq!(greedy, golden.greedy);
}

/// The hub's layout of a GGUF of a Llama, by candle's own reader.
fn convert(path: &Path, dir: &Path, config: &Value) -> HashMap<String, Tensor> {
    let mut reader = fs::File::open(path).unwrap();
    let content = gguf_file::Content::read(&mut reader).unwrap();
    let layer = [
        ("attn_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ];
    let mut tensors = HashMap::new();
    for name in content.tensor_infos.keys() {
        let tensor =
            content.tensor(&mut reader, name, &Device::Cpu).unwrap().dequantize(&Device::Cpu).unwrap();
        let parts: Vec<&str> = name.split('.').collect();
        let hub = match parts[..] {
            ["token_embd", _] => "model.embed_tokens.weight".to_owned(),
            ["output_norm", _] => "model.norm.weight".to_owned(),
            ["blk", index, part, kind] => {
                let (_, hub) = layer.iter().find(|(gguf, _)| *gguf == part).unwrap();
                format!("model.layers.{index}.{hub}.{kind}")
            }
            _ => panic!("{name}"),
        };
        let heads = match parts[..] {
            ["blk", _, "attn_q", _] => config["num_attention_heads"].as_u64(),
            ["blk", _, "attn_k", _] => config["num_key_value_heads"].as_u64(),
            _ => None,
        };
        let tensor = match heads {
            Some(heads) => {
                let (rows, columns) = tensor.dims2().unwrap();
                let pairs = tensor.reshape((heads as usize, rows / heads as usize / 2, 2, columns)).unwrap();
                pairs.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, columns)).unwrap()
            }
            None => tensor,
        };
        tensors.insert(hub, tensor);
    }
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    tensors
}

#[test]
fn smollm2_is_the_model_that_transformers_reads() {
    let Some(path) = file(SMOLLM) else { return };
    let golden = golden("smollm2-135m.json");
    check_tokens(&path, &golden);
    let model = load(&path);
    assert_eq!(model.name, "SmolLM2-135M-Instruct.Q4_1");
    assert!(model.chat_template.is_some() && model.no_template.is_none());
    check_logits(&model, &golden);

    // The same from the hub's layout: the same weights, bit by bit, and the same logits.
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5_f32, "rope_theta": 100000.0,
        "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
    });
    let dir = tempfile::tempdir().unwrap();
    let tensors = convert(&path, dir.path(), &config);
    for (name, expected) in &golden.weights_sha256 {
        // transformers lists the embedding again as the output layer that is tied to it.
        let name = if name == "lm_head.weight" { "model.embed_tokens.weight" } else { name };
        let numbers: Vec<f32> = tensors[name].flatten_all().unwrap().to_vec1().unwrap();
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        assert_eq!(&format!("{:x}", Sha256::digest(bytes)), expected, "{name}");
    }
    drop(tensors);
    let hub = Session::<Cpu>::load(&from_dir(dir.path()).unwrap()).unwrap();
    assert_eq!(hub.config, model.config);
    assert_eq!(run(&hub, &golden.prompt, 8), run(&model, &golden.prompt, 8));
}

#[test]
fn qwen_coder_is_the_model_that_transformers_reads() {
    let Some(path) = file(QWEN) else { return };
    let golden = golden("qwen2.5-coder-0.5b.json");
    check_tokens(&path, &golden);
    check_logits(&load(&path), &golden);
}
