//! Pins prompts: hashes of the rendered text and the token ids of one real row per data set and protocol.
//!
//! `tests/fixtures/prompts.json` holds hashes and counts only. `KVSWEEP_UPDATE=1` writes it anew. The harness holds its own
//! tokenizer and chat template to the same file (`harness/src/pinned_prompts.rs`).

use std::collections::BTreeMap;
use std::path::Path;

use kvsweep_tasks::{ModelFacts, ModelText, Suite, datasets, find_dataset, protocol, read_rows};
use sha2::{Digest, Sha256};

use crate::shared::{HubText, shared};

/// Tokenizer folder, the model name protocols match, its positions, its generation_config end ids.
const MODELS: [(&str, &str, usize, &[u32]); 3] = [
    ("llama3", "meta-llama/Llama-3.1-8B-Instruct", 131_072, &[128_001, 128_008, 128_009]),
    ("mistral_v1", "mistralai/Mistral-7B-Instruct-v0.2", 32_768, &[2]),
    ("mistral_v3", "mistralai/Mistral-7B-Instruct-v0.3", 32_768, &[2]),
];

fn sha(bytes: impl AsRef<[u8]>) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn prompts_of_every_protocol_and_data_set_are_pinned() {
    let Some(shared) = shared() else { return };
    let rows: Vec<_> = datasets::all()
        .iter()
        .filter_map(|info| {
            let folder = if info.suite == Suite::LooGle { "loogle" } else { "longbench_samples" };
            let path = find_dataset(&shared.join("data").join(folder), info.name).ok()?;
            Some((info, read_rows(&path, info.name).unwrap().examples.remove(0)))
        })
        .collect();
    assert!(rows.len() >= 42, "{} data sets with rows", rows.len());
    let mut found = BTreeMap::new();
    for (folder, name, max_positions, eos_ids) in MODELS {
        let Some(text) = HubText::load(folder) else { return };
        let model = ModelFacts {
            name: name.into(),
            max_positions,
            eos_ids: eos_ids.to_vec(),
            // As the hub's tokenizer_config.json of these models says.
            clean_up_spaces: folder == "llama3",
            ..ModelFacts::default()
        };
        // Shortened contexts and an odd limit: every protocol truncates in its own way, and the test stays quick.
        for (info, example) in &rows {
            let mut example = example.clone();
            example.context = example.context.chars().take(12_000).collect::<String>().into();
            for protocol in protocol::all() {
                let model = ModelFacts { max_prompt: Some(1501), ..model.clone() };
                let rendered = protocol.render(&example, info, &model, &text).unwrap();
                let bos_count = rendered.ids.iter().take_while(|id| Some(**id) == text.bos_id()).count();
                let ids: Vec<String> = rendered.ids.iter().map(u32::to_string).collect();
                let line = format!(
                    "tokens {} of {}, bos {}, text {}, ids {}",
                    rendered.ids.len(),
                    rendered.untruncated_tokens,
                    bos_count,
                    sha(&rendered.text),
                    sha(ids.join(" "))
                );
                found.insert(format!("{folder} / {} / {}", protocol.name, info.name), line);
                let limit = protocol.limit(&model, rendered.stop.max_new).0;
                assert_eq!(rendered.truncated.is_some(), rendered.untruncated_tokens > limit);
                if protocol.name == "kvsweep-1" {
                    assert_eq!(bos_count, 1, "{folder} {}", info.name);
                    assert_eq!(rendered.ids.first().copied(), text.bos_id());
                }
            }
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/prompts.json");
    if std::env::var_os("KVSWEEP_UPDATE").is_some() {
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, serde_json::to_string_pretty(&found).unwrap() + "\n").unwrap();
    }
    let pinned: BTreeMap<String, String> =
        serde_json::from_str(&fs_err::read_to_string(&path).unwrap()).unwrap();
    for (key, line) in &found {
        assert_eq!(pinned.get(key), Some(line), "{key}");
    }
    assert_eq!(pinned.len(), found.len());
}

#[test]
fn every_sample_file_is_read_whole() {
    let Some(shared) = shared() else { return };
    let mut rows = 0;
    for folder in ["longbench", "longbench_samples", "longbench_samples/reconstructed"] {
        for entry in fs_err::read_dir(shared.join("data").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if path.extension().is_some_and(|e| e == "jsonl") {
                rows += read_rows(&path, &name).unwrap_or_else(|e| panic!("{e}")).examples.len();
            }
        }
    }
    assert_eq!(rows, 180 + 233 + 130 + 72);
}
