//! The real weights of stories260K, with grouped-query attention, tell their story: the layout is in the README of
//! the shared data.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use candle_core::{Device, Tensor};
use kvsweep_engine::{Cpu, session::Session, source::from_dir};
use serde::Deserialize;

use crate::{
    parity::{assert_close, run},
    support::shared,
};

#[derive(Deserialize)]
struct Expected {
    greedy_ids: Vec<u32>,
    top_logits_at_position: BTreeMap<usize, Vec<(usize, f32)>>,
}

/// Reads tensors one after the other from llama2.c's file.
struct Reader {
    floats: std::vec::IntoIter<f32>,
    tensors: HashMap<String, Tensor>,
}

impl Reader {
    fn take(&mut self, name: impl Into<String>, shape: &[usize]) {
        let values: Vec<f32> = self.floats.by_ref().take(shape.iter().product()).collect();
        self.tensors.insert(name.into(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    }

    fn layers(&mut self, layers: usize, name: &str, shape: &[usize]) {
        for layer in 0..layers {
            self.take(format!("model.layers.{layer}.{name}.weight"), shape);
        }
    }

    /// Moves the rows of a projection from interleaved pairs to the half-split layout.
    fn split_pairs(&mut self, layers: usize, name: &str, head_dim: usize) {
        for layer in 0..layers {
            let weight = self.tensors.get_mut(&format!("model.layers.{layer}.{name}.weight")).unwrap();
            let (rows, columns) = weight.dims2().unwrap();
            *weight = weight
                .reshape((rows / head_dim, head_dim / 2, 2, columns))
                .and_then(|pairs| pairs.transpose(1, 2)?.contiguous()?.reshape((rows, columns)))
                .unwrap();
        }
    }
}

/// Writes the model in the hub's layout.
fn convert(bin: &Path, out: &Path) {
    let bytes = fs::read(bin).unwrap();
    let (header, body) = bytes.split_at(28);
    let sizes: Vec<usize> =
        header.chunks(4).map(|word| i32::from_le_bytes(word.try_into().unwrap()) as usize).collect();
    let [dim, hidden, layers, heads, kv_heads, vocab, positions] = sizes[..] else { panic!("{sizes:?}") };
    let floats: Vec<f32> = body.chunks(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect();
    let (head_dim, kv_dim) = (dim / heads, dim / heads * kv_heads);
    let mut reader = Reader { floats: floats.into_iter(), tensors: HashMap::new() };
    reader.take("model.embed_tokens.weight", &[vocab, dim]);
    reader.layers(layers, "input_layernorm", &[dim]);
    reader.layers(layers, "self_attn.q_proj", &[dim, dim]);
    reader.layers(layers, "self_attn.k_proj", &[kv_dim, dim]);
    reader.layers(layers, "self_attn.v_proj", &[kv_dim, dim]);
    reader.layers(layers, "self_attn.o_proj", &[dim, dim]);
    reader.layers(layers, "post_attention_layernorm", &[dim]);
    reader.layers(layers, "mlp.gate_proj", &[hidden, dim]);
    reader.layers(layers, "mlp.down_proj", &[dim, hidden]);
    reader.layers(layers, "mlp.up_proj", &[hidden, dim]);
    reader.take("model.norm.weight", &[dim]);
    assert_eq!(reader.floats.len(), positions * head_dim, "two unused RoPE tables follow");
    reader.split_pairs(layers, "self_attn.q_proj", head_dim);
    reader.split_pairs(layers, "self_attn.k_proj", head_dim);
    candle_core::safetensors::save(&reader.tensors, out.join("model.safetensors")).unwrap();
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": dim, "intermediate_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "vocab_size": vocab, "max_position_embeddings": positions, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "bos_token_id": 1
    });
    fs::write(out.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn stories260k() {
    let Some(data) = shared("data/models/stories260K") else { return };
    let dir = tempfile::tempdir().unwrap();
    convert(&data.join("stories260K.bin"), dir.path());
    let model = Session::<Cpu>::load(&from_dir(dir.path()).unwrap()).unwrap();
    assert_eq!((model.config.query_heads, model.config.kv_heads), (8, 4));
    let expected: Expected =
        serde_json::from_slice(&fs::read(data.join("expected_greedy.json")).unwrap()).unwrap();

    let (prompt, story) = expected.greedy_ids.split_at(1);
    assert_eq!(story.len(), 256);
    assert_eq!(run(&model, prompt, story.len()).1, story);
    // From inside the story too: prefill and decode agree on where it goes on.
    let (prompt, story) = expected.greedy_ids.split_at(100);
    let (rows, continued) = run(&model, prompt, story.len());
    assert_eq!(continued, story);
    for (position, top) in expected.top_logits_at_position {
        let found: Vec<f32> = top.iter().map(|&(id, _)| rows[position][id]).collect();
        let expected: Vec<f32> = top.iter().map(|&(_, logit)| logit).collect();
        assert_close(&found, &expected, 1e-4, &format!("position {position}"));
        let best = rows[position].iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(best, found[0], "position {position}");
    }
}
