//! Chat templates: Jinja as transformers runs it, sandboxed, with a fixed date so that prompts do not change overnight.

use std::{collections::BTreeMap, path::PathBuf};

use minijinja::{Environment, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{
    error::{EngineError, Result},
    model::parse_json,
    source::Blob,
    tokenizer::token_text,
};

/// Steps after which a template is taken for an endless one. The longest published templates need some ten thousand.
const FUEL: u64 = 10_000_000;

/// One turn of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Message<'a> {
    /// `system`, `user` or `assistant`.
    pub role: &'a str,
    /// Its text.
    pub content: &'a str,
}

/// The chat template of one model.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token` and the like, as templates read them.
    special_tokens: BTreeMap<String, String>,
    path: PathBuf,
}

/// The name of a model's only template.
const DEFAULT: &str = "default";

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

impl ChatTemplate {
    /// Reads the template of a model: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`, a text
    /// or a list of named ones. `None` where there is none.
    ///
    /// # Errors
    /// A template that does not parse.
    pub fn load(tokenizer_config: Option<&Blob>, jinja: Option<&Blob>) -> Result<Option<Self>> {
        let config: BTreeMap<String, Json> = match tokenizer_config {
            Some(blob) => parse_json(&blob.read()?, blob.path())?,
            None => BTreeMap::new(),
        };
        let special_tokens = config
            .iter()
            .filter(|(name, _)| name.ends_with("_token"))
            .filter_map(|(name, value)| Some((name.clone(), token_text(value)?.to_owned())))
            .collect();
        let (templates, blob) = match (jinja, config.get("chat_template"), tokenizer_config) {
            (Some(jinja), _, _) => {
                let text = String::from_utf8(jinja.read()?.into_owned())
                    .map_err(|error| template_error(jinja, error.to_string()))?;
                (vec![Named { name: DEFAULT.into(), template: text }], jinja)
            }
            (None, Some(Json::String(text)), Some(blob)) => {
                (vec![Named { name: DEFAULT.into(), template: text.clone() }], blob)
            }
            (None, Some(list @ Json::Array(_)), Some(blob)) => {
                let list = Vec::<Named>::deserialize(list)
                    .map_err(|error| template_error(blob, error.to_string()))?;
                (list, blob)
            }
            (None, None | Some(Json::Null), _) => return Ok(None),
            (None, Some(other), Some(blob)) => {
                let reason = format!("`{other}` is neither a text nor a list of named texts");
                return Err(template_error(blob, reason));
            }
            (None, Some(_), None) => return Ok(None),
        };
        let mut environment = environment();
        for Named { name, template } in templates {
            // minijinja escapes HTML in templates whose name ends in .html or .json: the names here have no ending.
            environment
                .add_template_owned(name.replace('.', "_"), template)
                .map_err(|error| template_error(blob, describe(&error)))?;
        }
        Ok(Some(Self { environment, special_tokens, path: blob.path().to_path_buf() }))
    }

    /// The conversation as the model reads it, ready to encode without special tokens (the template has written
    /// them). `add_generation_prompt` opens the assistant's turn.
    ///
    /// # Errors
    /// An exception that the template raises, for instance for roles out of turn, or an endless template.
    pub fn render(&self, messages: &[Message<'_>], add_generation_prompt: bool) -> Result<String> {
        let none = Value::from(());
        let context = context! {
            messages,
            add_generation_prompt,
            tools => none,
            documents => none,
            ..Value::from_serialize(&self.special_tokens)
        };
        self.environment
            .get_template(DEFAULT)
            .and_then(|template| template.render(context))
            .map_err(|error| EngineError::ChatTemplate { path: self.path.clone(), reason: describe(&error) })
    }
}

fn template_error(blob: &Blob, reason: String) -> EngineError {
    EngineError::ChatTemplate { path: blob.path().to_path_buf(), reason }
}

/// The error and its line, without the template's source.
fn describe(error: &minijinja::Error) -> String {
    let mut text = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    if let Some(line) = error.line() {
        text.push_str(&format!(" (line {line})"));
    }
    text
}

/// Jinja with the options and functions of transformers `utils/chat_template_utils.py`.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", strftime_now);
    environment
}

/// Formats Friday 26 July 2024, midnight: the day that Llama 3.1's template falls back on.
fn strftime_now(format: &str) -> String {
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('d') => out.push_str("26"),
            Some('b' | 'h') => out.push_str("Jul"),
            Some('B') => out.push_str("July"),
            Some('m') => out.push_str("07"),
            Some('Y') => out.push_str("2024"),
            Some('y') => out.push_str("24"),
            Some('A') => out.push_str("Friday"),
            Some('a') => out.push_str("Fri"),
            Some('j') => out.push_str("208"),
            Some('F') => out.push_str("2024-07-26"),
            Some('H' | 'M' | 'S') => out.push_str("00"),
            Some('T') => out.push_str("00:00:00"),
            // Numbers without their leading zero: the only one that has one is the month.
            Some('-') => match chars.next() {
                Some('m') => out.push('7'),
                Some('d') => out.push_str("26"),
                Some('H' | 'M' | 'S') => out.push('0'),
                Some(other) => out.extend(['%', '-', other]),
                None => out.push_str("%-"),
            },
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}
