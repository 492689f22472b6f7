//! Logits and greedy tokens are those of Hugging Face transformers, for every family:
//! `scripts/make_parity_models.py`. And those of candle-transformers, for Llama.

use std::{collections::HashMap, fs, sync::Arc};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama as candle_llama;
use kvsweep_engine::{
    Candle, Cpu,
    backend::Backend,
    decode::{DecodeRule, Sequence},
    prefill::PrefillOptions,
    session::Session,
    source::from_dir,
};
use kvsweep_methods::selection::{Granularity, LayerSelection, Selection};

use crate::support::fixture;

/// Every model of the fixtures.
const ALL: [&str; 13] = [
    "llama2",
    "llama3",
    "mistral",
    "qwen2",
    "qwen3",
    "linear",
    "dynamic",
    "yarn",
    "mistral-window",
    "qwen2-window",
    "gemma3",
    "phi3",
    "phi3-window",
];

/// Largest difference allowed in any logit; logits are of the size of 5.
const TOLERANCE: f32 = 1e-4;

pub(crate) fn load(model: &str) -> Session<Cpu> {
    let files = from_dir(&fixture("parity").join(model)).unwrap();
    Session::<Cpu>::load(&files).unwrap()
}

/// Logits of every prompt position, and `new` greedy tokens with the full cache.
pub(crate) fn run<B: Backend>(model: &Session<B>, prompt: &[u32], new: usize) -> (Vec<Vec<f32>>, Vec<u32>) {
    let options = PrefillOptions { keep_all_logits: true, ..PrefillOptions::default() };
    let prefill = Arc::new(model.prefill(prompt, &[].into(), options).unwrap());
    let rows: Vec<_> =
        prefill.all_logits().unwrap().chunks(model.config.vocab_size).map(<[f32]>::to_vec).collect();
    assert_eq!(prefill.logits(), rows.last().unwrap());
    let everything = Selection {
        granularity: Granularity::KvHead,
        layers: vec![LayerSelection::All; model.config.layers],
    };
    let sequence = Sequence {
        prefill,
        selection: Arc::new(everything),
        follow: Arc::default(),
        renumbered: false,
        again: None,
        rule: DecodeRule { max_new: new, stop_ids: vec![], ban_stops_on_first: false, ignore_stops: true },
        keep_logits: false,
        masked_heads: None,
    };
    let mut decoded = model.decode(&[sequence], &mut |_| ()).unwrap();
    (rows, decoded.remove(0).ids)
}

/// Fails on the first logit that differs by more than the tolerance, or is no number.
pub(crate) fn assert_close(found: &[f32], expected: &[f32], tolerance: f32, place: &str) {
    assert_eq!(found.len(), expected.len(), "{place}");
    for (id, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(difference <= tolerance, "{place}, token {id}: {found} instead of {expected}");
    }
}

fn integers(tensors: &HashMap<String, Tensor>, name: String) -> Vec<u32> {
    let values: Vec<i64> = tensors[&name].to_vec1().unwrap();
    values.into_iter().map(|value| u32::try_from(value).unwrap()).collect()
}

fn reference(model: &str) -> HashMap<String, Tensor> {
    let path = fixture("parity").join(model).join("reference.safetensors");
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn check(name: &str) {
    let (model, reference) = (load(name), reference(name));
    for length in [1, 2, 17, 700] {
        let prompt = integers(&reference, format!("prompt_{length}"));
        assert_eq!(prompt.len(), length);
        let (rows, greedy) = run(&model, &prompt, 64);
        let expected: Vec<Vec<f32>> = reference[&format!("logits_{length}")].to_vec2().unwrap();
        let stored = integers(&reference, format!("rows_{length}"));
        assert!(stored.len() >= length.min(100) && stored.len() == expected.len());
        for (row, expected) in stored.into_iter().zip(expected) {
            let place = format!("{name}, prompt of {length}, position {row}");
            assert_close(&rows[row as usize], &expected, TOLERANCE, &place);
        }
        assert_eq!(greedy, integers(&reference, format!("greedy_{length}")), "{name}, prompt of {length}");
        assert_eq!(greedy.len(), 64);
    }
}

#[test]
fn llama2() {
    check("llama2");
}

#[test]
fn llama3_scaled_rope_tied_bf16() {
    check("llama3");
}

#[test]
fn mistral_sharded_f16() {
    check("mistral");
}

#[test]
fn qwen2_bias_tied() {
    check("qwen2");
}

#[test]
fn qwen3_head_norm_bf16() {
    check("qwen3");
}

#[test]
fn linear_rope_in_the_old_spelling() {
    check("linear");
}

#[test]
fn dynamic_rope_beyond_its_training() {
    check("dynamic");
}

#[test]
fn yarn_beyond_max_position_embeddings() {
    check("yarn");
}

#[test]
fn mistral_through_a_window() {
    check("mistral-window");
}

#[test]
fn qwen2_through_a_window_from_one_layer_on() {
    check("qwen2-window");
}

/// Windows, norms behind attention and MLP, two rotary embeddings, and scores not scaled by the size of a head; in the old
/// spelling.
#[test]
fn gemma3_tied_bf16() {
    check("gemma3");
}

/// Heads rotated in part, and divisors that change where the text outgrows its training.
#[test]
fn phi3_fused_longrope() {
    check("phi3");
}

#[test]
fn phi3_fused_through_a_window() {
    check("phi3-window");
}

#[test]
fn llama_agrees_with_candle_transformers() {
    for name in ["llama2", "llama3"] {
        let dir = fixture("parity").join(name);
        let config: candle_llama::LlamaConfig =
            serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
        let config = config.into_config(false);
        let tensors = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
        let builder = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let theirs = candle_llama::Llama::load(builder, &config).unwrap();
        let (ours, reference) = (load(name), reference(name));
        for length in [1, 2, 17, 700] {
            let prompt = integers(&reference, format!("prompt_{length}"));
            let mut cache = candle_llama::Cache::new(true, DType::F32, &config, &Device::Cpu).unwrap();
            let input = Tensor::new(prompt.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
            let expected: Vec<f32> =
                theirs.forward(&input, 0, &mut cache).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let prefill = ours.prefill(&prompt, &[].into(), PrefillOptions::default()).unwrap();
            assert_close(prefill.logits(), &expected, TOLERANCE, &format!("{name}, prompt of {length}"));
        }
    }
}

/// In f16 the logits of late positions stay near those of f32. With RoPE tables in f16 they would not: an angle of 700
/// radians is then off by up to a quarter of a radian (huggingface/candle#3698).
#[test]
fn half_precision_keeps_late_positions() {
    for name in ALL {
        let files = from_dir(&fixture("parity").join(name)).unwrap();
        let model = Session::<Candle>::load(&files, &Device::Cpu, DType::F16).unwrap();
        let reference = reference(name);
        let (rows, _) = run(&model, &integers(&reference, "prompt_700".into()), 1);
        let expected: Vec<Vec<f32>> = reference["logits_700"].to_vec2().unwrap();
        let late =
            integers(&reference, "rows_700".into()).into_iter().zip(&expected).filter(|(row, _)| *row >= 600);
        let differences: Vec<f32> = late
            .flat_map(|(row, expected)| rows[row as usize].iter().zip(expected).map(|(a, b)| (a - b).abs()))
            .collect();
        let mean = differences.iter().sum::<f32>() / differences.len() as f32;
        assert!(mean < 0.02, "{name}: logits differ by {mean} on average");
    }
}
