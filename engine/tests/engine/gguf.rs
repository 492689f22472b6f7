//! A GGUF is the model that the hub's files are; a hostile one is refused by name.

use std::{fs, path::Path};

use candle_core::{
    DType, Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use kvsweep_engine::{
    Cpu,
    error::Result,
    model::Card,
    session::Session,
    source::{resolve, resolve_card},
    tokenizer::Tokenizer,
};
use serde_json::Value;

use crate::{
    made::{Made, Meta, Raw, of_parity, permuted, plain, raw, text, vocabulary},
    parity::{assert_close, load as load_parity, run},
    support::{fixture, shared},
    tokens::goldens,
};

fn load(path: &Path) -> Result<Session<Cpu>> {
    Session::<Cpu>::load(&resolve(path.to_str().unwrap())?)
}

fn loaded(made: &Made) -> Result<Session<Cpu>> {
    let dir = tempfile::tempdir().unwrap();
    load(&made.write(dir.path()))
}

fn card(made: &Made) -> Result<Card> {
    let dir = tempfile::tempdir().unwrap();
    Card::load(&resolve_card(made.write(dir.path()).to_str().unwrap())?)
}

const PROMPT: [u32; 12] = [3, 90, 4, 5, 44, 17, 3, 3, 60, 61, 7, 12];

#[test]
fn every_family_computes_what_it_computes_from_the_hub() {
    for name in ["llama2", "qwen2", "qwen3", "phi3", "phi3-window"] {
        let (gguf, hub) = (loaded(&of_parity(name)).unwrap(), load_parity(name));
        assert_eq!(gguf.name, "model");
        assert_eq!(gguf.config, hub.config, "{name}");
        assert_eq!(gguf.generation.eos_ids, hub.generation.eos_ids);
        assert_eq!(run(&gguf, &PROMPT, 16), run(&hub, &PROMPT, 16), "{name}");
        assert_eq!(gguf.weights_sha256.len(), 64);
        assert_ne!(gguf.weights_sha256, hub.weights_sha256);
    }
}

/// No entry of a Gemma says what scores are divided by, unless the model is the largest.
#[test]
fn gemma3_computes_what_it_computes_from_the_hub() {
    let (mut made, hub) = (of_parity("gemma3"), load_parity("gemma3"));
    assert_eq!((hub.config.query_scalar, hub.config.head_dim), (Some(24.0), 16));
    // So the queries' norms make up for it here.
    for (_, raw) in made.tensors.iter_mut().filter(|(name, _)| name.ends_with("attn_q_norm.weight")) {
        let numbers = raw.bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        raw.bytes = numbers.flat_map(|x| (x * (16.0_f32 / 24.0).sqrt()).to_le_bytes()).collect();
    }
    let gguf = loaded(&made).unwrap();
    assert_eq!(gguf.config.query_scalar, None);
    assert_eq!((&gguf.config.sliding, &gguf.config.rope), (&hub.config.sliding, &hub.config.rope));
    let prompt = [PROMPT; 6].concat();
    let ((rows, greedy), (expected, theirs)) = (run(&gguf, &prompt, 16), run(&hub, &prompt, 16));
    for (row, expected) in rows.iter().zip(&expected) {
        assert_close(row, expected, 1e-4, "gemma3");
    }
    assert_eq!(greedy, theirs);
}

/// The text of a model that sees images is the same model, in both layouts of the hub.
#[test]
fn the_text_of_a_larger_gemma3_is_read() {
    let text = load_parity("gemma3");
    let expected = run(&text, &PROMPT, 16);
    let from = fixture("parity").join("gemma3");
    let config: Value = serde_json::from_slice(&fs::read(from.join("config.json")).unwrap()).unwrap();
    let tensors = candle_core::safetensors::load(from.join("model.safetensors"), &Device::Cpu).unwrap();
    for prefix in ["language_model.model.", "model.language_model."] {
        let dir = tempfile::tempdir().unwrap();
        let inside = tensors.iter().map(|(name, tensor)| (name.replace("model.", prefix), tensor.clone()));
        let inside: std::collections::HashMap<String, Tensor> = inside.collect();
        candle_core::safetensors::save(&inside, dir.path().join("model.safetensors")).unwrap();
        let outer = serde_json::json!({
            "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": config,
        });
        fs::write(dir.path().join("config.json"), outer.to_string()).unwrap();
        let model = load(dir.path()).unwrap();
        assert_eq!(model.config, text.config);
        assert_eq!(run(&model, &PROMPT, 16), expected, "{prefix}");
    }
}

/// llama.cpp's converter writes the frequencies' divisors of Llama 3.1 as a tensor (`generate_extra_tensors`).
#[test]
fn scaled_rope_of_llama3_is_a_tensor() {
    let mut made = of_parity("llama3");
    let (factor, low, high, old, dim) = (8.0_f64, 1.0, 4.0, 256.0, 8);
    let divisor = |pair: usize| {
        let wavelength = 2.0 * std::f64::consts::PI * 500_000.0_f64.powf(2.0 * pair as f64 / dim as f64);
        if wavelength < old / high {
            return 1.0;
        }
        if wavelength > old / low {
            return factor as f32;
        }
        let smooth = (old / wavelength - low) / (high - low);
        (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
    };
    let divisors: Vec<f32> = (0..dim as usize / 2).map(divisor).collect();
    assert!(divisors[0] == 1.0 && divisors[dim as usize / 2 - 1] > 1.0, "{divisors:?}");
    let (hub, long) = (load_parity("llama3"), [PROMPT; 8].concat());
    let (expected, greedy) = run(&hub, &long, 8);
    let plain_rope = loaded(&made).unwrap();
    assert_ne!(run(&plain_rope, &long, 8).0, expected, "the divisors matter");
    made.tensors.push(("rope_freqs.weight".into(), plain(&Tensor::new(divisors, &Device::Cpu).unwrap())));
    let model = loaded(&made).unwrap();
    assert!(model.config.tied_embeddings);
    let (rows, found) = run(&model, &long, 8);
    for (row, expected) in rows.iter().zip(&expected) {
        assert_close(row, expected, 1e-4, "llama3");
    }
    assert_eq!(found, greedy);
}

/// A Llama of one layer whose rows are whole blocks of every type.
fn wide(kind: GgmlDType, number: u32) -> (Made, std::collections::HashMap<String, Tensor>) {
    let mut made = of_parity("llama2");
    made.set("llama.block_count", Meta::U32(1))
        .set("llama.embedding_length", Meta::U32(256))
        .set("llama.feed_forward_length", Meta::U32(512))
        .unset("llama.attention.key_length")
        .unset("llama.attention.value_length");
    made.tensors.clear();
    let mut hub = std::collections::HashMap::new();
    let mut seed = 1_u32;
    let mut drawn = |rows: usize, columns: usize| {
        let numbers = (0..rows * columns).map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (f64::from(seed) / f64::from(u32::MAX) - 0.5) as f32 * 0.3
        });
        Tensor::from_vec(numbers.collect::<Vec<_>>(), (rows, columns), &Device::Cpu).unwrap()
    };
    let matrices = [
        ("model.embed_tokens", "token_embd", 96, 256),
        ("lm_head", "output", 96, 256),
        ("model.layers.0.self_attn.q_proj", "blk.0.attn_q", 256, 256),
        ("model.layers.0.self_attn.k_proj", "blk.0.attn_k", 256, 256),
        ("model.layers.0.self_attn.v_proj", "blk.0.attn_v", 256, 256),
        ("model.layers.0.self_attn.o_proj", "blk.0.attn_output", 256, 256),
        ("model.layers.0.mlp.gate_proj", "blk.0.ffn_gate", 512, 256),
        ("model.layers.0.mlp.up_proj", "blk.0.ffn_up", 512, 256),
        ("model.layers.0.mlp.down_proj", "blk.0.ffn_down", 256, 512),
    ];
    for (hub_name, name, rows, columns) in matrices {
        let tensor = drawn(rows, columns);
        let is_rotated = name.ends_with("attn_q") || name.ends_with("attn_k");
        let stored = if is_rotated { permuted(&tensor, 4) } else { tensor };
        let stored = QTensor::quantize(&stored, kind).unwrap();
        // What the file says, in the hub's order of rows.
        let widened = stored.dequantize(&Device::Cpu).unwrap();
        let widened = if is_rotated { back(&widened, 4) } else { widened };
        hub.insert(format!("{hub_name}.weight"), widened);
        let bytes = stored.data().unwrap().into_owned();
        made.tensors.push((
            format!("{name}.weight"),
            Raw { shape: vec![rows, columns], kind: number, bytes, offset: None },
        ));
    }
    let norm = Tensor::ones(256, DType::F32, &Device::Cpu).unwrap();
    for (hub_name, name) in [
        ("model.norm", "output_norm"),
        ("model.layers.0.input_layernorm", "blk.0.attn_norm"),
        ("model.layers.0.post_attention_layernorm", "blk.0.ffn_norm"),
    ] {
        hub.insert(format!("{hub_name}.weight"), norm.clone());
        made.tensors.push((format!("{name}.weight"), plain(&norm)));
    }
    (made, hub)
}

/// Undoes [`permuted`], row by row.
fn back(weight: &Tensor, heads: usize) -> Tensor {
    let rows = weight.dim(0).unwrap();
    let dim = rows / heads;
    let from = |row: usize| (row / dim * dim + row % dim % (dim / 2) * 2 + row % dim / (dim / 2)) as u32;
    weight.index_select(&Tensor::from_iter((0..rows).map(from), &Device::Cpu).unwrap(), 0).unwrap()
}

#[test]
fn every_quantised_type_is_read() {
    let kinds = [
        (GgmlDType::F16, 1),
        (GgmlDType::Q4_0, 2),
        (GgmlDType::Q4_1, 3),
        (GgmlDType::Q5_0, 6),
        (GgmlDType::Q5_1, 7),
        (GgmlDType::Q8_0, 8),
        (GgmlDType::Q2K, 10),
        (GgmlDType::Q3K, 11),
        (GgmlDType::Q4K, 12),
        (GgmlDType::Q5K, 13),
        (GgmlDType::Q6K, 14),
        (GgmlDType::BF16, 30),
    ];
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 96, "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "eos_token_id": 2, "bos_token_id": 1,
    });
    for (kind, number) in kinds {
        let (made, tensors) = wide(kind, number);
        let gguf = loaded(&made).unwrap();
        let dir = tempfile::tempdir().unwrap();
        candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let hub = load(dir.path()).unwrap();
        let two_bytes = matches!(kind, GgmlDType::F16 | GgmlDType::BF16);
        assert_eq!(gguf.config.weight_bytes, if two_bytes { 2 } else { 4 });
        let ((found, _), (expected, _)) = (run(&gguf, &PROMPT, 2), run(&hub, &PROMPT, 2));
        // Weights of two bytes are multiplied as they are: the same numbers in another kernel.
        let tolerance = if two_bytes { 1e-5 } else { 0.0 };
        for (found, expected) in found.iter().zip(&expected) {
            assert_close(found, expected, tolerance, &format!("{kind:?}"));
        }
    }
}

#[test]
fn the_metadata_says_template_stops_and_tokens() {
    let mut made = of_parity("llama2");
    made.set(
        "tokenizer.chat_template",
        Meta::Text("{{ bos_token }}[{{ messages[0].content }}]{{ eos_token }}".into()),
    )
    .set("tokenizer.ggml.eot_token_id", Meta::U32(7))
    .set("tokenizer.ggml.add_bos_token", Meta::Bool(true))
    .set("tokenizer.ggml.add_eos_token", Meta::Bool(true));
    let model = loaded(&made).unwrap();
    let message = kvsweep_engine::chat::Message { role: "user", content: "hi" };
    let rendered = model.chat_template.as_ref().unwrap().render(&[message], true).unwrap();
    assert_eq!(rendered, "<s>[hi]</s>");
    assert_eq!(model.generation.eos_ids, [2, 7].into());
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(1), Some(2)));
    // U+0120 is how byte-level tokenizers write a space.
    let space = tokenizer.id_of("\u{120}").unwrap();
    assert_eq!(tokenizer.encode(" <s>", true).unwrap(), [1, space, 1, 2]);
    assert_eq!(tokenizer.decode(&[1, space], true).unwrap(), " ");

    made.unset("tokenizer.ggml.model");
    let message = loaded(&made).unwrap().tokenizer().unwrap_err().to_string();
    assert!(message.contains("has no tokenizer"), "{message}");
}

#[test]
fn rope_scaling_of_the_metadata() {
    let read = |entries: &[(&str, Meta)]| {
        let mut made = of_parity("qwen2");
        for (key, value) in entries {
            made.set(&format!("qwen2.rope.{key}"), value.clone());
        }
        card(&made).map(|card| (card.config.rope.to_string(), card.config.max_positions))
    };
    let kind = |kind: &str| ("scaling.type", Meta::Text(kind.into()));
    let four = ("scaling.factor", Meta::F32(4.0));
    assert_eq!(read(&[kind("none"), four.clone()]).unwrap(), ("1000000".into(), 1024));
    assert_eq!(
        read(&[kind("linear"), four.clone()]).unwrap(),
        ("1000000, scaled by 4 (linear)".into(), 4096)
    );
    assert_eq!(read(&[("scale_linear", Meta::F32(2.0))]).unwrap().0, "1000000, scaled by 2 (linear)");
    let original = ("scaling.original_context_length", Meta::U32(512));
    assert_eq!(
        read(&[kind("yarn"), four.clone(), original]).unwrap(),
        ("1000000, scaled by 4 (yarn)".into(), 2048)
    );
    let refused = read(&[kind("longrope"), four]).unwrap_err().to_string();
    assert!(refused.contains("field `short_factor` is missing"), "{refused}");
}

/// A vocabulary as llama.cpp's converter writes it, with an embedding of its size.
fn with_tokens(tokens: Vec<(String, f32, i32)>, bos: &str) -> Made {
    let size = tokens.len();
    let bos = tokens.iter().position(|(text, ..)| text == bos).unwrap() as u32;
    let mut made = of_parity("llama2");
    made.set("tokenizer.ggml.token_type", Meta::I32s(tokens.iter().map(|token| token.2).collect()))
        .set("tokenizer.ggml.scores", Meta::F32s(tokens.iter().map(|token| token.1).collect()))
        .set("tokenizer.ggml.tokens", Meta::Texts(tokens.into_iter().map(|token| token.0).collect()))
        .set("tokenizer.ggml.bos_token_id", Meta::U32(bos))
        .unset("tokenizer.ggml.pre")
        .unset("tokenizer.ggml.merges");
    *made.tensor("token_embd.weight") =
        Raw { shape: vec![size, 32], kind: 8, bytes: vec![0; size * 34], offset: None };
    made
}

/// Of a `tokenizer.json` of Llama 3.
fn of_bpe(path: &Path) -> Made {
    let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let vocab = file["model"]["vocab"].as_object().unwrap().iter();
    let mut tokens: std::collections::BTreeMap<u64, (String, f32, i32)> =
        vocab.map(|(text, id)| (id.as_u64().unwrap(), (text.clone(), 0.0, 1))).collect();
    for token in file["added_tokens"].as_array().unwrap() {
        tokens.insert(token["id"].as_u64().unwrap(), (token["content"].as_str().unwrap().to_owned(), 0.0, 3));
    }
    assert_eq!(*tokens.last_key_value().unwrap().0 as usize, tokens.len() - 1);
    let merges = file["model"]["merges"].as_array().unwrap();
    let merge = |merge: &Value| match merge.as_array() {
        Some(parts) => format!("{} {}", parts[0].as_str().unwrap(), parts[1].as_str().unwrap()),
        None => merge.as_str().unwrap().to_owned(),
    };
    let mut made = with_tokens(tokens.into_values().collect(), "<|begin_of_text|>");
    made.set("tokenizer.ggml.pre", Meta::Text("llama-bpe".into()))
        .set("tokenizer.ggml.merges", Meta::Texts(merges.iter().map(merge).collect()));
    made
}

/// Of a `tokenizer.model`, a protocol buffer: field 1 of the model is a piece, whose fields are text, score and type.
fn of_sentence_piece(path: &Path) -> Made {
    fn varint(bytes: &mut &[u8]) -> usize {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= usize::from(first & 127) << shift;
            if first & 128 == 0 {
                break;
            }
        }
        value
    }
    /// Number and content of the next field; that of a varint is its value.
    fn field<'b>(bytes: &mut &'b [u8]) -> (usize, usize, &'b [u8]) {
        let tag = varint(bytes);
        let (value, len) = match tag & 7 {
            0 => (varint(bytes), 0),
            5 => (0, 4),
            _ => (0, varint(bytes)),
        };
        let (content, rest) = bytes.split_at(len);
        *bytes = rest;
        (tag >> 3, value, content)
    }
    let file = fs::read(path).unwrap();
    let (mut rest, mut tokens) = (&file[..], Vec::new());
    while !rest.is_empty() {
        let (1, _, mut piece) = field(&mut rest) else { continue };
        let mut token = (String::new(), 0.0, 1);
        while !piece.is_empty() {
            match field(&mut piece) {
                (1, _, text) => token.0 = String::from_utf8(text.to_vec()).unwrap(),
                (2, _, score) => token.1 = f32::from_le_bytes(score.try_into().unwrap()),
                (_, kind, _) => token.2 = kind as i32,
            }
        }
        tokens.push(token);
    }
    let mut made = with_tokens(tokens, "<s>");
    made.set("tokenizer.ggml.model", Meta::Text("llama".into()))
        .set("tokenizer.ggml.unknown_token_id", Meta::U32(0));
    made
}

#[test]
fn rebuilt_tokenizers_give_the_ids_of_the_hub() {
    let Some(data) = shared("data/models") else { return };
    for name in ["llama3", "mistral_v1", "mistral_v3"] {
        let made = match name {
            "llama3" => of_bpe(&data.join(name).join("tokenizer.json")),
            _ => of_sentence_piece(&data.join(name).join("tokenizer.model")),
        };
        let card = card(&made).unwrap();
        let tokenizer: &Tokenizer = card.tokenizer().unwrap();
        assert_eq!(goldens(name, tokenizer), 42);
        let ids = tokenizer.encode(" It's 12345 \u{1f999}s.\n\n", true).unwrap();
        assert_eq!(Some(ids[0]), tokenizer.bos_id());
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), " It's 12345 \u{1f999}s.\n\n");
    }
}

/// Refused with a message that names the file and contains all of `expected`.
fn refused(bytes: &[u8], expected: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    let message = load(&path).expect_err(&format!("{expected:?}")).to_string();
    for part in [path.to_str().unwrap()].iter().chain(expected) {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    assert!(message.len() < 900, "{message}");
}

#[test]
fn cut_files() {
    let whole = of_parity("llama2").bytes();
    for keep in [4, 7, 8, 15, 23, 24, 30, 100, 2000, whole.len() / 2, whole.len() - 33] {
        refused(&whole[..keep], &["is not a whole GGUF file", &format!("it has {keep} bytes")]);
    }
    refused(b"GGML not quite", &["is no GGUF file"]);
    refused(b"", &["is no GGUF file"]);
    refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:0", &["a pointer of Git LFS"]);
}

#[test]
fn lying_counts() {
    let whole = of_parity("llama2").bytes();
    let with = |at: usize, value: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    let huge = (1_u64 << 60).to_le_bytes();
    refused(&with(8, &huge), &["1152921504606846976 tensors are announced"]);
    refused(&with(16, &huge), &["1152921504606846976 entries of metadata are announced"]);
    refused(&with(24, &huge), &["1152921504606846976 bytes are announced at byte 32"]);
    refused(&with(4, &7_u32.to_le_bytes()), &["it has version 7, read are 2 and 3"]);
    refused(&with(4, &3_u32.to_be_bytes()), &["little-endian"]);
    let mut list = Made::default();
    list.set("x", Meta::I32s(vec![1]));
    let mut bytes = list.bytes();
    bytes[24 + 9 + 4 + 4..][..8].copy_from_slice(&huge);
    refused(&bytes, &["metadata `x`: 1152921504606846976 elements of a list are announced"]);
    // A list of texts of gigabytes, and lists within lists.
    let mut header = b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
    text(&mut header, "y");
    let mut texts = header.clone();
    texts.extend([9_u32, 8, 1, 0].map(u32::to_le_bytes).concat());
    texts.extend((5_u64 << 30).to_le_bytes());
    refused(&texts, &["metadata `y`: 5368709120 bytes are announced"]);
    let mut nested = header.clone();
    nested.extend(9_u32.to_le_bytes());
    for _ in 0..1000 {
        nested.extend([9_u32, 1, 0].map(u32::to_le_bytes).concat());
    }
    refused(&nested, &["lists are nested more than 4 deep"]);
    header.extend(77_u32.to_le_bytes());
    header.extend([0; 64]);
    refused(&header, &["there is no type 77 of metadata"]);
}

#[test]
fn lying_tensors() {
    let with = |name: &str, edit: &dyn Fn(&mut Raw), expected: &[&str]| {
        let mut made = of_parity("llama2");
        edit(made.tensor(name));
        refused(&made.bytes(), expected);
    };
    let v = "blk.1.attn_v.weight";
    with(v, &|raw| raw.offset = Some(1 << 40), &[v, "ends outside the file"]);
    with(v, &|raw| raw.offset = Some(u64::MAX - 31), &[v, "ends outside the file"]);
    with(v, &|raw| raw.offset = Some(8), &[v, "no multiple of 32"]);
    with(v, &|raw| raw.shape = vec![1 << 40, 1 << 40], &[v, "ends outside the file"]);
    with(v, &|raw| raw.shape = vec![0, 32], &[v, "no whole blocks"]);
    with(v, &|raw| raw.shape = vec![1, 1, 1, 1, 32], &[v, "has 5 dimensions"]);
    with(v, &|raw| raw.shape = vec![16, 32], &[v, "has shape [16, 32], its metadata calls for [32, 32]"]);
    with(v, &|raw| raw.kind = 20, &[v, "holds IQ4_NL; supported: F32, F16, BF16, Q4_0"]);
    with(v, &|raw| raw.kind = 15, &[v, "holds Q8_K; supported"]);
    with(v, &|raw| raw.kind = 4000, &[v, "holds type 4000"]);
    with(v, &|raw| raw.kind = 12, &[v, "no whole blocks of 256"]);
    let mut made = of_parity("llama2");
    made.tensors.retain(|(name, _)| name != v);
    refused(&made.bytes(), &[v, "is missing from"]);
    let zeros = || plain(&Tensor::zeros(32, DType::F32, &Device::Cpu).unwrap());
    let mut made = of_parity("llama2");
    made.tensors.push(("blk.0.attn_q.bias".into(), zeros()));
    refused(&made.bytes(), &["tensor `blk.0.attn_q.bias`", "is no part of the graph"]);
    let mut made = of_parity("llama2");
    made.tensors.push(("output_norm.weight".into(), zeros()));
    refused(&made.bytes(), &["tensor `output_norm.weight` is there twice"]);
    let mut made = of_parity("llama2");
    made.set("general.alignment", Meta::U32(33));
    refused(&made.bytes(), &["`general.alignment` is 33, expected a power of two"]);
}

#[test]
fn metadata_that_makes_no_model() {
    let with = |key: &str, value: Option<Meta>, expected: &[&str]| {
        let mut made = of_parity("llama2");
        match value {
            Some(value) => made.set(key, value),
            None => made.unset(key),
        };
        refused(&made.bytes(), expected);
    };
    let told = |text: &str| Some(Meta::Text(text.into()));
    with("general.architecture", None, &["`general.architecture` is missing"]);
    with(
        "general.architecture",
        told("gpt-oss"),
        &[
            "architecture `gpt-oss` is not supported: it needs attention sinks, a router and experts, and weights in MXFP4; supported: llama, qwen2, qwen3, gemma3, phi3",
        ],
    );
    with("llama.block_count", None, &["metadata `llama.block_count` is missing, expected a whole number"]);
    with("llama.block_count", told("two"), &["`llama.block_count` is `two`, expected a whole number"]);
    with("llama.block_count", Some(Meta::U32(0)), &["field `num_hidden_layers` is 0"]);
    with("llama.attention.head_count_kv", Some(Meta::U32(3)), &["field `num_key_value_heads` is 3"]);
    with("llama.attention.head_count_kv", Some(Meta::I32s(vec![4, 2])), &["the same number for every layer"]);
    with("llama.attention.layer_norm_rms_epsilon", None, &["layer_norm_rms_epsilon` is missing"]);
    with(
        "llama.rope.dimension_count",
        Some(Meta::U32(4)),
        &["`llama.rope.dimension_count` is 4, expected 8"],
    );
    with("general.type", told("adapter"), &["`general.type` is `adapter`"]);
    with("split.count", Some(Meta::U32(3)), &["llama-gguf-split"]);
    with("llama.expert_count", Some(Meta::U32(8)), &["`llama.expert_count` is 8"]);
    with(
        "tokenizer.ggml.pre",
        told("unheard-of"),
        &["`tokenizer.ggml.pre` is `unheard-of`, expected one of `llama-bpe`"],
    );
    with("tokenizer.ggml.pre", None, &["`tokenizer.ggml.pre` is missing"]);
    with("tokenizer.ggml.model", told("t5"), &["`tokenizer.ggml.model` is `t5`"]);
    with(
        "tokenizer.ggml.tokens",
        Some(Meta::Texts(vec!["a".into()])),
        &["96 texts, as the embedding has rows"],
    );
    with("tokenizer.ggml.merges", Some(Meta::Texts(vec!["ab".into()])), &["texts of two parts"]);
    with("tokenizer.ggml.merges", Some(Meta::Texts(vec!["a b".into()])), &["tokenizer `"]);
    with(
        "tokenizer.ggml.bos_token_id",
        Some(Meta::U32(96)),
        &["`tokenizer.ggml.bos_token_id` is 96, expected an id below 96"],
    );
    let mut made = of_parity("llama2");
    made.tensors.retain(|(name, _)| name != "token_embd.weight");
    refused(&made.bytes(), &["tensor `token_embd.weight` is missing from"]);
    let mut made = of_parity("llama2");
    let long = "x".repeat(100_000);
    vocabulary(&mut made, 96);
    made.set("tokenizer.ggml.model", Meta::Text(long));
    refused(&made.bytes(), &["`tokenizer.ggml.model` is `xxx"]);
}

#[test]
fn names_that_are_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.gguf");
    let message = resolve(missing.to_str().unwrap()).unwrap_err().to_string();
    assert!(message.starts_with(&format!("cannot read `{}`", missing.display())), "{message}");
    let made = of_parity("llama2");
    let path = made.write(dir.path());
    let message = resolve(dir.path().to_str().unwrap()).unwrap_err().to_string();
    assert!(message.contains(&format!("name that file, `--model {}`", path.display())), "{message}");
    assert_eq!(
        raw(&Tensor::zeros((1, 32), DType::F32, &Device::Cpu).unwrap(), GgmlDType::Q8_0, 8).bytes.len(),
        34
    );
}
