//! Where the shared test data is, if it is here, and a tokenizer to read it with.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};

use kvsweep_tasks::{ModelText, TextError};

/// The shared folder, or `None` after saying that the test is skipped. With `CI` set it must be there.
pub(crate) fn shared() -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared"));
    if path.join("data").is_dir() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing", path.display());
    println!("skipped: ../shared not present");
    None
}

/// A tokenizer.json with the facts of its model, and its chat template.
pub(crate) struct HubText {
    folder: &'static str,
    inner: Arc<tokenizers::Tokenizer>,
    bos: &'static str,
    eos: &'static str,
}

impl HubText {
    pub(crate) fn load(folder: &'static str) -> Option<Self> {
        let path = shared()?.join("data/models").join(folder).join("tokenizer.json");
        let (bos, eos) = match folder {
            "llama3" => ("<|begin_of_text|>", "<|eot_id|>"),
            _ => ("<s>", "</s>"),
        };
        // Loading takes seconds: once a test run.
        static LOADED: LazyLock<Mutex<HashMap<&'static str, Arc<tokenizers::Tokenizer>>>> =
            LazyLock::new(Mutex::default);
        let mut loaded = LOADED.lock().unwrap();
        let read = || Arc::new(tokenizers::Tokenizer::from_file(path).unwrap());
        Some(Self { folder, inner: loaded.entry(folder).or_insert_with(read).clone(), bos, eos })
    }
}

impl ModelText for HubText {
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
        Ok(self.inner.encode_fast(text, add_special_tokens)?.get_ids().to_vec())
    }
    fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TextError> {
        Ok(self.inner.decode(ids, skip_special_tokens)?)
    }
    fn bos_id(&self) -> Option<u32> {
        self.inner.token_to_id(self.bos)
    }
    fn eos_id(&self) -> Option<u32> {
        self.inner.token_to_id(self.eos)
    }
    fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
    fn has_chat_template(&self) -> bool {
        true
    }
    /// The user turn of a model's own template, as the hub's files of these models spell it.
    fn render_user(&self, user: &str) -> Result<String, TextError> {
        Ok(match self.folder {
            "llama3" => format!(
                "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{user}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
            ),
            _ => format!("<s>[INST] {user} [/INST]"),
        })
    }
}
