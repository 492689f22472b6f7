//! Holds the prompts of the program itself, with the engine's tokenizer and chat templates, to the file that the tasks
//! pin theirs to. What the hub's folders of these models say is written out here; only the tokenizers are large.

use std::collections::BTreeMap;
use std::path::Path;

use kvsweep_engine::model::Card;
use kvsweep_engine::source;
use kvsweep_tasks::{Example, ModelText, QuestionView, Suite, datasets, find_dataset, protocol, read_rows};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::kept;
use crate::model::{TextSide, facts};

/// What the hub's folder of a model says.
struct Hub {
    /// The folder of its tokenizer in the shared data.
    folder: &'static str,
    id: &'static str,
    positions: usize,
    eos_ids: &'static [u32],
    bos: &'static str,
    eos: &'static str,
    clean_up_tokenization_spaces: bool,
    chat_template: &'static str,
}

const MODELS: [Hub; 3] = [
    Hub {
        folder: "llama3",
        id: "meta-llama/Llama-3.1-8B-Instruct",
        positions: 131_072,
        eos_ids: &[128_001, 128_008, 128_009],
        bos: "<|begin_of_text|>",
        eos: "<|eot_id|>",
        clean_up_tokenization_spaces: true,
        chat_template: "<|begin_of_text|><|start_header_id|>user<|end_header_id|>{{ '\n\n' }}{{ messages[0].content }}\
                        <|eot_id|><|start_header_id|>assistant<|end_header_id|>{{ '\n\n' }}",
    },
    mistral("mistral_v1", "mistralai/Mistral-7B-Instruct-v0.2"),
    mistral("mistral_v3", "mistralai/Mistral-7B-Instruct-v0.3"),
];

const fn mistral(folder: &'static str, id: &'static str) -> Hub {
    Hub {
        folder,
        id,
        positions: 32_768,
        eos_ids: &[2],
        bos: "<s>",
        eos: "</s>",
        clean_up_tokenization_spaces: false,
        chat_template: "<s>[INST] {{ messages[0].content }} [/INST]",
    }
}

fn sha(bytes: impl AsRef<[u8]>) -> String {
    kept::hex(&Sha256::digest(bytes)[..8])
}

#[test]
fn prompts_of_every_protocol_and_data_set_are_those_pinned() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let shared = root.join("../shared/data");
    if !shared.is_dir() {
        assert!(std::env::var_os("CI").is_none(), "{} is missing", shared.display());
        println!("skipped: {} is not present", shared.display());
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let mut found = BTreeMap::new();
    for hub in MODELS {
        let Hub { folder, id, positions, .. } = hub;
        let dir = cache.path().join(format!("models--{}/snapshots/0", id.replace('/', "--")));
        std::fs::create_dir_all(&dir).unwrap();
        let put = |name: &str, json: serde_json::Value| {
            std::fs::write(dir.join(name), json.to_string()).unwrap();
        };
        put(
            "config.json",
            serde_json::json!({
                "model_type": "llama", "vocab_size": 128_256, "hidden_size": 64, "intermediate_size": 128,
                "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": positions,
            }),
        );
        put("generation_config.json", serde_json::json!({ "eos_token_id": hub.eos_ids }));
        put(
            "tokenizer_config.json",
            serde_json::json!({
                "bos_token": hub.bos, "eos_token": hub.eos, "chat_template": hub.chat_template,
                "clean_up_tokenization_spaces": hub.clean_up_tokenization_spaces,
            }),
        );
        std::fs::copy(shared.join("models").join(folder).join("tokenizer.json"), dir.join("tokenizer.json"))
            .unwrap();
        let card = Card::load(&source::resolve_card(dir.to_str().unwrap()).unwrap()).unwrap();
        let mut facts = facts(&card);
        assert_eq!((facts.name.as_str(), facts.clean_up_spaces), (id, hub.clean_up_tokenization_spaces));
        // As where they were pinned: short contexts and an odd limit, so that every protocol truncates.
        facts.max_prompt = Some(1501);
        let text = TextSide::new(&card).unwrap();
        for info in datasets::all() {
            let rows = if info.suite == Suite::LooGle { "loogle" } else { "longbench_samples" };
            let Ok(path) = find_dataset(&shared.join(rows), info.name) else { continue };
            let mut example = read_rows(&path, info.name).unwrap().examples.remove(0);
            example.context = example.context.chars().take(12_000).collect::<String>().into();
            for protocol in protocol::all() {
                let rendered = protocol.render(&example, info, &facts, &text).unwrap();
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
                if protocol.name == protocol::DEFAULT {
                    // Ours keeps the text: it is what its ids stand for, nothing cleaned.
                    let cut = rendered.ids.len().div_ceil(2);
                    let decode = |ids: &[u32]| text.decode(ids, false).unwrap();
                    let whole = decode(&rendered.ids[..cut]) + &decode(&rendered.ids[cut..]);
                    assert!(rendered.truncated.is_none() || rendered.text == whole, "{folder} {}", info.name);
                }
            }
        }
    }
    let pinned = std::fs::read_to_string(root.join("tasks/tests/fixtures/prompts.json")).unwrap();
    let pinned: BTreeMap<String, String> = serde_json::from_str(&pinned).unwrap();
    for (key, line) in &found {
        assert_eq!(pinned.get(key), Some(line), "{key}");
    }
    assert_eq!(pinned.len(), found.len());
}

/// A row, and the ids that kvpress's pipeline makes of it.
#[derive(Deserialize)]
struct Pipeline {
    context: String,
    question: String,
    answer_prefix: String,
    max_context_length: Option<usize>,
    unseen: Ids,
    seen: Ids,
}

#[derive(Deserialize)]
struct Ids {
    context: Vec<u32>,
    question: Vec<u32>,
}

/// Where CI fetches real models to; naming it makes a missing one a failure.
const REAL_MODELS: &str = "KVSWEEP_REAL_MODELS";

#[test]
fn protocol_kvpress_gives_the_ids_of_kvpress_itself() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = std::env::var_os(REAL_MODELS).map(std::path::PathBuf::from);
    let folder = named.clone().unwrap_or_else(|| root.join("../target/models"));
    let path = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    if !path.is_file() {
        assert!(named.is_none(), "{} is missing", path.display());
        println!("skipped: {} is not present (scripts/real_models.sh)", path.display());
        return;
    }
    let card = Card::load(&source::resolve_card(path.to_str().unwrap()).unwrap()).unwrap();
    let text = TextSide::new(&card).unwrap();
    let (kvpress, info) =
        (protocol::by_name("kvpress").unwrap(), datasets::by_name("niah_single_1").unwrap());
    let rows = std::fs::read_to_string(root.join("tests/data/kvpress-prompts.json")).unwrap();
    for row in serde_json::from_str::<Vec<Pipeline>>(&rows).unwrap() {
        let facts = kvsweep_tasks::ModelFacts { max_prompt: row.max_context_length, ..facts(&card) };
        let example = Example {
            key: "row".into(),
            dataset: info.name.into(),
            input: row.question,
            answer_prefix: row.answer_prefix,
            context: row.context.into(),
            answers: vec!["7419302".into()],
            all_classes: Vec::new(),
            length: 0,
            language: "en".into(),
        };
        for (view, ids) in [(QuestionView::Unseen, row.unseen), (QuestionView::Seen, row.seen)] {
            let prompt = kvpress.render_as(&example, info, &facts, &text, view).unwrap();
            let context = prompt.context_tokens(&text).unwrap().unwrap();
            assert_eq!(prompt.ids[..context], ids.context, "{view:?}");
            assert_eq!(prompt.ids[context..], ids.question, "{view:?}");
        }
    }
}
