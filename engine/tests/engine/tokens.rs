//! The Llama 3 and Mistral tokenizers give the ids of the original Python tokenizers on real texts.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
};

use kvsweep_engine::{files::Blob, tokenizer::Tokenizer, tokenizer_config::TokenizerConfig};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::shared;

#[derive(Deserialize)]
struct Golden {
    file: String,
    line: usize,
    field: String,
    n_tokens: usize,
    first: Vec<u32>,
    last: Vec<u32>,
    sha256_of_space_joined_ids: String,
}

/// Compares with the ids of the Python tokenizer on real texts; returns how many.
pub(crate) fn goldens(model: &str, tokenizer: &Tokenizer) -> usize {
    let Some(data) = shared("data") else { return 0 };
    let mut checked = 0;
    for line in
        fs::read_to_string(data.join("models").join(model).join("golden_tokens.jsonl")).unwrap().lines()
    {
        let golden: Golden = serde_json::from_str(line).unwrap();
        let rows = BufReader::new(File::open(data.join(&golden.file)).unwrap());
        let row: Value = serde_json::from_str(&rows.lines().nth(golden.line).unwrap().unwrap()).unwrap();
        let ids = tokenizer.encode(row[&golden.field].as_str().unwrap(), false).unwrap();
        let place = format!("{model}, {} line {}", golden.file, golden.line);
        assert_eq!(ids.len(), golden.n_tokens, "{place}");
        assert!(ids.starts_with(&golden.first) && ids.ends_with(&golden.last), "{place}");
        let joined = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
        let hash = format!("{:x}", Sha256::digest(joined));
        assert_eq!(hash, golden.sha256_of_space_joined_ids, "{place}");
        checked += 1;
    }
    checked
}

fn check(model: &str) {
    let Some(data) = shared("data") else { return };
    let file = Blob::File(data.join("models").join(model).join("tokenizer.json"));
    let tokenizer = Tokenizer::load(&file, &TokenizerConfig::default(), None).unwrap();
    assert_eq!(goldens(model, &tokenizer), 42);
}

#[test]
fn llama3() {
    check("llama3");
}

#[test]
fn mistral_v1() {
    check("mistral_v1");
}

#[test]
fn mistral_v3() {
    check("mistral_v3");
}
