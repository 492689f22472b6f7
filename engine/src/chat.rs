//! Chat templates: Jinja as transformers runs it, sandboxed and bounded, with a fixed date so that prompts do not
//! change overnight.

use std::{collections::BTreeMap, path::PathBuf};

use minijinja::{Environment, ErrorKind, Value, context};
use serde::Serialize;
use serde_json::Value as Json;

use crate::{
    error::{EngineError, Result},
    files::Blob,
    jinja,
    tokenizer_config::TokenizerConfig,
};

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
    /// The template, or why there is no usable one.
    source: Result<String, String>,
    /// `bos_token` and the like, as templates read them.
    special_tokens: BTreeMap<String, String>,
    path: PathBuf,
}

/// The name of a model's template among several.
const DEFAULT: &str = "default";

impl ChatTemplate {
    /// Reads the template of a model: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`, a text
    /// or several named ones (a list, an object), of which `default`. `None` where there is none. A template that does
    /// not parse is an error of [`ChatTemplate::render`] only: the model is still good for prompts that need none.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn load(config: &TokenizerConfig, jinja: Option<&Blob>) -> Result<Option<Self>> {
        let special_tokens = config.named().into_iter().map(|(name, token)| (name, token.content)).collect();
        let (text, path) = match (jinja, config.field("chat_template")) {
            (Some(jinja), _) => {
                let text = String::from_utf8(jinja.read()?.into_owned()).map_err(|error| error.to_string());
                (text, jinja.path())
            }
            (None, None | Some(Json::Null)) => return Ok(None),
            (None, Some(told)) => (default_of(told), config.path()),
        };
        Ok(Some(Self::new(text, special_tokens, path.to_path_buf())))
    }

    /// A template of the text that `path` says, or why there is none.
    pub(crate) fn new(
        source: Result<String, String>,
        special_tokens: BTreeMap<String, String>,
        path: PathBuf,
    ) -> Self {
        // Jinja reads every line end as `\n`.
        let lines = |text: String| text.replace("\r\n", "\n").replace('\r', "\n");
        let checked = |text: String| jinja::check(&text).map(|()| text).map_err(|error| describe(&error));
        Self { source: source.map(lines).and_then(checked), special_tokens, path }
    }

    /// The conversation as the model reads it, ready to encode without special tokens (the template has written
    /// them). `add_generation_prompt` opens the assistant's turn.
    ///
    /// # Errors
    /// A template that does not parse, an exception that it raises, for instance for roles out of turn, or one that
    /// takes too many steps or makes too much text.
    pub fn render(&self, messages: &[Message<'_>], add_generation_prompt: bool) -> Result<String> {
        self.render_with(messages, add_generation_prompt, Value::UNDEFINED)
    }

    /// The same with `enable_thinking=False`: templates without that switch do not see it.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_without_thinking(
        &self,
        messages: &[Message<'_>],
        add_generation_prompt: bool,
    ) -> Result<String> {
        self.render_with(messages, add_generation_prompt, Value::from(false))
    }

    fn render_with(
        &self,
        messages: &[Message<'_>],
        add_generation_prompt: bool,
        enable_thinking: Value,
    ) -> Result<String> {
        let fail = |reason| EngineError::ChatTemplate { path: self.path.clone(), reason };
        let source = self.source.as_ref().map_err(|reason| fail(reason.clone()))?;
        let none = Value::from(());
        let context = context! {
            messages,
            add_generation_prompt,
            enable_thinking,
            tools => none,
            documents => none,
            ..Value::from_serialize(&self.special_tokens)
        };
        jinja::render(source, context, add_functions).map_err(|error| fail(describe(&error)))
    }
}

/// The template of a text, or the one named `default` of a list or an object.
fn default_of(told: &Json) -> Result<String, String> {
    let text = |value: &Json| value.as_str().map(str::to_owned);
    let named: Option<BTreeMap<String, String>> = match told {
        Json::String(text) => return Ok(text.clone()),
        Json::Array(list) => {
            list.iter().map(|one| Some((text(one.get("name")?)?, text(one.get("template")?)?))).collect()
        }
        Json::Object(object) => object.iter().map(|(name, one)| Some((name.clone(), text(one)?))).collect(),
        _ => None,
    };
    let Some(mut named) = named else {
        return Err(format!("`{told}` is neither a text nor several named texts"));
    };
    named.remove(DEFAULT).ok_or_else(|| {
        let names: Vec<_> = named.keys().map(|name| format!("`{name}`")).collect();
        format!("no template is named `{DEFAULT}`; there are: {}", names.join(", "))
    })
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

/// The functions of transformers `utils/chat_template_utils.py`.
fn add_functions(environment: &mut Environment<'_>) {
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", strftime_now);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn load(config: &Json, jinja: Option<&'static str>) -> ChatTemplate {
        let blob = |name: &str, bytes: Vec<u8>| Blob::Embedded { path: name.into(), bytes: bytes.leak() };
        let config = blob("m/tokenizer_config.json", config.to_string().into_bytes());
        let jinja = jinja.map(|text| blob("m/chat_template.jinja", text.as_bytes().to_vec()));
        let config = TokenizerConfig::read(Some(&config), None, None).unwrap();
        ChatTemplate::load(&config, jinja.as_ref()).unwrap().unwrap()
    }

    fn render(template: &ChatTemplate) -> Result<String> {
        template.render(&[Message { role: "user", content: "<hi> & bye" }], true)
    }

    #[test]
    fn finds_the_template_wherever_it_is() {
        let body = "{{ bos_token }}{{ messages[0].content }}";
        let config =
            serde_json::json!({"bos_token": {"content": "<s>", "lstrip": false}, "chat_template": body});
        assert_eq!(render(&load(&config, None)).unwrap(), "<s><hi> & bye");
        let named = |name| {
            serde_json::json!({"chat_template": [{"name": "tool_use", "template": "{{"},
                                                                {"name": name, "template": "named"}]})
        };
        assert_eq!(render(&load(&named("default"), None)).unwrap(), "named");
        assert_eq!(render(&load(&config, Some("file"))).unwrap(), "file");
        let message = render(&load(&named("rag"), None)).unwrap_err().to_string();
        assert!(
            message.ends_with("no template is named `default`; there are: `rag`, `tool_use`"),
            "{message}"
        );

        let object = |name: &str| serde_json::json!({"chat_template": {"tool_use": "{{", name: "object"}});
        assert_eq!(render(&load(&object("default"), None)).unwrap(), "object");
        assert!(render(&load(&object("rag"), None)).unwrap_err().to_string().contains("named `default`"));

        let none = Blob::Embedded { path: "c".into(), bytes: br#"{"chat_template": null}"# };
        let none = TokenizerConfig::read(Some(&none), None, None).unwrap();
        assert!(ChatTemplate::load(&none, None).unwrap().is_none());
        assert!(ChatTemplate::load(&TokenizerConfig::default(), None).unwrap().is_none());
    }

    #[test]
    fn every_line_end_is_a_newline() {
        let lines =
            "{% for m in messages %}\r\n[{{ m.role }}]\r\n{{ 'a\r\nb' }}{{ m.content }}\r{% endfor %}\r\n";
        assert_eq!(render(&load(&serde_json::json!({}), Some(lines))).unwrap(), "[user]\na\nb<hi> & bye\n");
    }

    #[test]
    fn a_bad_template_is_an_error_when_it_is_used() {
        let broken = |text: &str, expected: &str| {
            let template = load(&serde_json::json!({ "chat_template": text }), None);
            let message = render(&template).unwrap_err().to_string();
            let start = "chat template of `m/tokenizer_config.json`: ";
            assert!(message.starts_with(start) && message.contains(expected), "{message}");
        };
        broken("a\n{% if %}", "(line 2)");
        broken("{{ raise_exception('no system role') }}", "no system role");
        broken("{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}", "fuel");
        let number = load(&serde_json::json!({"chat_template": 7}), None);
        assert!(render(&number).unwrap_err().to_string().contains("`7` is neither a text nor several named"));
    }

    #[test]
    fn the_date_is_fixed() {
        assert_eq!(
            strftime_now("%d %b %Y, %A %-d %B %y %F %H:%M %-m%% %Q %"),
            "26 Jul 2024, Friday 26 July 24 2024-07-26 00:00 7% %Q %"
        );
    }
}
