//! Chat templates render as transformers renders them: `scripts/make_chat_goldens.py`.

use std::{collections::BTreeMap, fs, path::Path};

use kvsweep_engine::{
    chat::{ChatTemplate, Message},
    files::Blob,
    tokenizer_config::TokenizerConfig,
};
use serde::Deserialize;

use crate::support::fixture;

#[derive(Deserialize)]
struct Goldens {
    special_tokens: BTreeMap<String, String>,
    templates: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    messages: Vec<OwnedMessage>,
    add_generation_prompt: bool,
    rendered: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct OwnedMessage {
    role: String,
    content: String,
}

#[test]
fn renders_like_transformers() {
    let goldens: Goldens = serde_json::from_slice(&fs::read(fixture("chat.json")).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (index, case) in goldens.cases.iter().enumerate() {
        let mut config = serde_json::to_value(&goldens.special_tokens).unwrap();
        config["chat_template"] = goldens.templates[&case.template].clone().into();
        let path = dir.path().join("tokenizer_config.json");
        fs::write(&path, config.to_string()).unwrap();
        let config = TokenizerConfig::read(Some(&Blob::File(path)), None, None).unwrap();
        let template = ChatTemplate::load(&config, None).unwrap().unwrap();
        let messages: Vec<_> =
            case.messages.iter().map(|m| Message { role: &m.role, content: &m.content }).collect();
        let rendered = template.render(&messages, case.add_generation_prompt);
        match (&case.rendered, &case.error) {
            (Some(expected), _) => {
                assert_eq!(&rendered.unwrap(), expected, "case {index}, {}", case.template)
            }
            (None, Some(error)) => {
                let message = rendered.expect_err(&case.template).to_string();
                assert!(message.contains(error.as_str()), "case {index}: {message}");
            }
            (None, None) => panic!("case {index} expects nothing"),
        }
    }
    assert_eq!(goldens.cases.len(), 30);
}

#[derive(Deserialize)]
struct Published {
    special_tokens: BTreeMap<String, String>,
    cases: Vec<PublishedCase>,
}

#[derive(Deserialize)]
struct PublishedCase {
    file: String,
    messages: Vec<OwnedMessage>,
    opens: bool,
    rendered: Option<String>,
}

/// Templates that packages publish, where `scripts/make_template_goldens.py` has put them.
#[test]
fn published_templates_render_like_transformers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/templates");
    let Ok(goldens) = fs::read(root.join("goldens.json")) else {
        println!("skipped: {} not present (scripts/make_template_goldens.py)", root.display());
        return;
    };
    let goldens: Published = serde_json::from_slice(&goldens).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer_config.json");
    fs::write(&path, serde_json::to_vec(&goldens.special_tokens).unwrap()).unwrap();
    let config = TokenizerConfig::read(Some(&Blob::File(path)), None, None).unwrap();
    let mut wrong = Vec::new();
    for case in &goldens.cases {
        let template =
            ChatTemplate::load(&config, Some(&Blob::File(root.join(&case.file)))).unwrap().unwrap();
        let messages: Vec<_> =
            case.messages.iter().map(|m| Message { role: &m.role, content: &m.content }).collect();
        let rendered = template.render(&messages, case.opens).map_err(|error| error.to_string());
        let is_same = match (&rendered, &case.rendered) {
            (Ok(found), Some(expected)) => found == expected,
            (found, expected) => found.is_err() && expected.is_none(),
        };
        if !is_same {
            wrong.push(format!("{}: {rendered:?}\ninstead of {:?}", case.file, case.rendered));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), goldens.cases.len(), wrong.join("\n"));
    assert!(goldens.cases.len() > 100);
}
