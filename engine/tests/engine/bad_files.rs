//! Every damaged or contradictory model directory is refused by name, with the remedy.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Device, Tensor};
use kvsweep_engine::{
    Cpu,
    error::Result,
    session::Session,
    source::{from_dir, resolve},
};
use serde_json::{Value, json};

use crate::support::{copy_of, fixture};

fn load(dir: &Path) -> Result<Session<Cpu>> {
    Session::<Cpu>::load(&from_dir(dir)?)
}

/// Loads `dir`, which must fail with a message that contains all of `expected`.
fn refused(dir: &Path, expected: &[&str]) {
    let message = load(dir).expect_err(&format!("{expected:?}")).to_string();
    for part in expected {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// Rewrites the tensors of a single-file model.
fn edit_tensors(dir: &Path, edit: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let path = dir.join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    edit(&mut tensors);
    candle_core::safetensors::save(&tensors, path).unwrap();
}

#[test]
fn cut_or_lying_weight_files() {
    let dir = copy_of("llama2");
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let name = path.to_string_lossy().into_owned();
    for keep in [0, 4, 9, 500, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..keep]).unwrap();
        refused(dir.path(), &[&name, "is not a whole safetensors file", &format!("it has {keep} bytes")]);
    }
    let mut longer = whole.clone();
    longer.push(0);
    fs::write(&path, &longer).unwrap();
    refused(dir.path(), &["is not a whole safetensors file"]);
    // A header that claims another size for a tensor than its bytes have.
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(whole[8..8 + header].to_vec()).unwrap();
    let lie = text.replacen("[32,56]", "[32,65]", 1);
    assert!(lie != text);
    fs::write(&path, [&whole[..8], lie.as_bytes(), &whole[8 + header..]].concat()).unwrap();
    refused(dir.path(), &[&name, "is not a whole safetensors file"]);
    let mut huge = whole.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, &huge).unwrap();
    refused(dir.path(), &[&name, "is not a whole safetensors file"]);
    fs::write(&path, &whole).unwrap();
    assert!(load(dir.path()).is_ok());
}

#[test]
fn tensors_that_do_not_fit_the_configuration() {
    let dir = copy_of("llama2");
    let v = "model.layers.1.self_attn.v_proj.weight";
    edit_tensors(dir.path(), |tensors| {
        let tensor = tensors[v].t().unwrap().narrow(0, 0, 16).unwrap().contiguous().unwrap();
        tensors.insert(v.into(), tensor);
    });
    refused(
        dir.path(),
        &[&format!("tensor `{v}` in `"), "has shape [16, 32], config.json calls for [32, 32]"],
    );
    edit_tensors(dir.path(), |tensors| {
        tensors.insert(v.into(), Tensor::zeros((32, 32), DType::I64, &Device::Cpu).unwrap());
    });
    refused(dir.path(), &[v, "holds I64; supported: F32, F16, BF16"]);
    edit_tensors(dir.path(), |tensors| drop(tensors.remove(v)));
    refused(dir.path(), &[&format!("tensor `{v}` is missing from `"), "model.safetensors`"]);

    let dir = copy_of("llama2");
    edit_json(&dir.path().join("config.json"), |config| config["num_hidden_layers"] = json!(3));
    refused(dir.path(), &["tensor `model.layers.2.input_layernorm.weight` is missing"]);
    let dir = copy_of("llama3");
    edit_json(&dir.path().join("config.json"), |config| config["tie_word_embeddings"] = json!(false));
    refused(dir.path(), &["tensor `lm_head.weight` is missing"]);
}

#[test]
fn shards_and_their_index() {
    let dir = copy_of("mistral");
    let index = dir.path().join("model.safetensors.index.json");
    let norm = "model.norm.weight";
    let true_file = |value: &Value| value["weight_map"][norm].as_str().unwrap().to_owned();
    let mut moved = String::new();
    edit_json(&index, |value| {
        let file = true_file(value);
        let other = ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"]
            .into_iter()
            .find(|other| *other != file)
            .unwrap();
        moved = other.to_owned();
        value["weight_map"][norm] = json!(other);
    });
    refused(dir.path(), &[&format!("tensor `{norm}` is missing from"), &moved, "the index says it is there"]);
    edit_json(&index, |value| drop(value["weight_map"].as_object_mut().unwrap().remove(norm)));
    refused(
        dir.path(),
        &[&format!("tensor `{norm}` is missing from"), "index.json`", "the index does not list it"],
    );
    let dir = copy_of("mistral");
    fs::remove_file(dir.path().join("model-00002-of-00003.safetensors")).unwrap();
    refused(dir.path(), &["has no `model-00002-of-00003.safetensors`; its index names this shard"]);
    let dir = copy_of("mistral");
    fs::write(dir.path().join("model.safetensors.index.json"), "{\"weight_map\":\n 7}").unwrap();
    refused(dir.path(), &["model.safetensors.index.json` is not the JSON expected", "line 2"]);
}

#[test]
fn directories_that_are_no_model() {
    let dir = tempfile::tempdir().unwrap();
    refused(dir.path(), &["has no `config.json`", "layout"]);
    let dir = copy_of("qwen2");
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    refused(dir.path(), &["has no `model.safetensors`"]);
    fs::write(dir.path().join("pytorch_model.bin"), b"\x80\x02").unwrap();
    refused(
        dir.path(),
        &["pytorch_model.bin` is a PyTorch pickle, which runs code", "convert the model to safetensors"],
    );
    let dir = copy_of("qwen2");
    fs::write(dir.path().join("config.json"), "{\n\"vocab_size\": oops}").unwrap();
    refused(dir.path(), &["config.json` is not the JSON expected", "line 2"]);
    let dir = copy_of("qwen2");
    fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": -1}"#).unwrap();
    refused(dir.path(), &["generation_config.json`", "`-1` is no token id"]);
    let message = resolve("no/such/model/here").unwrap_err().to_string();
    assert!(
        message.contains("model `no/such/model/here` is neither `tiny`, nor an existing directory"),
        "{message}"
    );
}

#[test]
fn a_model_without_a_tokenizer_says_so_when_text_is_asked_for() {
    let model = load(&fixture("parity/qwen3")).unwrap();
    let message = model.tokenizer().unwrap_err().to_string();
    assert!(
        message.starts_with("model `qwen3` has no tokenizer.json") && message.contains("put the model's")
    );
    assert!(model.chat_template.is_none());
    assert_eq!(model.generation.eos_ids, [2].into());
    assert!(
        model.check_prompt(&[5; 1025], 0).unwrap_err().to_string().contains("more than the 1024 positions")
    );
}

#[test]
fn the_hash_names_the_weights() {
    let hash = |dir: &Path| load(dir).unwrap().weights_sha256.clone();
    let original = hash(&fixture("parity/mistral"));
    let dir = copy_of("mistral");
    assert_eq!(hash(dir.path()), original);
    let path = dir.path().join("model-00003-of-00003.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_ne!(hash(dir.path()), original);
}
