//! Models as they are found: each folder of the shared collection over its base, with what transformers 5.2 makes of it.

use std::{collections::BTreeMap, fs, path::Path};

use kvsweep_engine::{Cpu, chat::Message, session::Session, source::from_dir};
use serde::Deserialize;

use crate::{parity::run, support::shared};

#[derive(Deserialize)]
struct Case {
    remove: Vec<String>,
    chat: bool,
    text: String,
    transformers_5_2: Expected,
}

#[derive(Deserialize)]
struct Expected {
    rendered: Option<String>,
    n: Option<usize>,
    #[serde(default)]
    first: Vec<u32>,
    #[serde(default)]
    last: Vec<u32>,
    #[serde(default)]
    new: Vec<u32>,
}

/// The base with a folder's files over it.
fn assemble(found: &Path, name: &str, remove: &[String]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let over = |folder: &Path| {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            // The files there are read-only, and so would be their copies.
            fs::write(dir.path().join(path.file_name().unwrap()), fs::read(&path).unwrap()).unwrap();
        }
    };
    over(&found.join("models/base"));
    for file in remove {
        fs::remove_file(dir.path().join(file)).unwrap();
    }
    over(&found.join("models").join(name));
    dir
}

#[test]
fn every_folder_is_read_as_transformers_reads_it() {
    let Some(found) = shared("found") else { return };
    let cases: BTreeMap<String, Case> =
        serde_json::from_slice(&fs::read(found.join("expected.json")).unwrap()).unwrap();
    let mut compared = 0;
    for (name, case) in &cases {
        let dir = assemble(&found, name, &case.remove);
        let model = Session::<Cpu>::load(&from_dir(dir.path()).unwrap()).unwrap();
        let expected = &case.transformers_5_2;
        let Some(tokens) = expected.n else {
            assert!(model.chat_template.is_none(), "{name}");
            let note = model.no_template.as_ref().unwrap();
            assert!(note.contains("it has a chat_template.json"), "{note}");
            continue;
        };
        let tokenizer = model.tokenizer().unwrap();
        let ids = if case.chat {
            let message = Message { role: "user", content: &case.text };
            let rendered = model.chat_template.as_ref().unwrap().render(&[message], true).unwrap();
            assert_eq!(Some(&rendered), expected.rendered.as_ref(), "{name}");
            tokenizer.encode(&rendered, false).unwrap()
        } else {
            tokenizer.encode(&case.text, true).unwrap()
        };
        assert_eq!(ids.len(), tokens, "{name}");
        assert!(ids.starts_with(&expected.first) && ids.ends_with(&expected.last), "{name}: {ids:?}");
        assert_eq!(run(&model, &ids, expected.new.len()).1, expected.new, "{name}");
        compared += 1;
    }
    assert!(compared >= 12, "{compared}");
}

#[test]
fn what_is_read_differently_elsewhere_is_said() {
    let Some(found) = shared("found") else { return };
    let load = |name: &str| {
        let dir = assemble(&found, name, &[]);
        Session::<Cpu>::load(&from_dir(dir.path()).unwrap()).unwrap()
    };
    let own_head = load("tied-with-own-head");
    assert!(
        own_head.notes[0].contains("transformers 4 would use the embedding for both"),
        "{:?}",
        own_head.notes
    );
    assert!(!own_head.config.tied_embeddings);
    assert!(load("base").notes.is_empty() && load("base-model-names").notes.is_empty());

    let dir = assemble(&found, "nothing over it", &["chat_template.jinja".into()]);
    let penalty = r#"{"eos_token_id": 1, "repetition_penalty": 1.05, "no_repeat_ngram_size": 0}"#;
    fs::write(dir.path().join("generation_config.json"), penalty).unwrap();
    let model = Session::<Cpu>::load(&from_dir(dir.path()).unwrap()).unwrap();
    assert!(
        model.notes[0].contains("asks for repetition_penalty 1.05, which is not applied"),
        "{:?}",
        model.notes
    );
    let note = model.no_template.as_ref().unwrap();
    assert!(note.contains("its tokenizer has `<|im_start|>`") && note.contains("prompts run raw"), "{note}");
    // Files that decide numbers are part of the run's identity.
    assert!(load("special-tokens-map").files_sha256.contains_key("special_tokens_map.json"));
}
