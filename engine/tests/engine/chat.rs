//! Chat templates render as transformers renders them: `scripts/make_chat_goldens.py`.

use std::{collections::BTreeMap, fs};

use kvsweep_engine::{
    chat::{ChatTemplate, Message},
    files::Blob,
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
        let template = ChatTemplate::load(Some(&Blob::File(path)), None).unwrap().unwrap();
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
    assert_eq!(goldens.cases.len(), 24);
}
