//! The one trait through which prompts see a model's tokenizer and chat template.

use std::error::Error;

/// What a tokenizer or a chat template says when it refuses a text.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct TextError(#[from] Box<dyn Error + Send + Sync>);

impl TextError {
    /// Wraps the error of whatever makes the text.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// Text as one model reads and writes it. Encoding behaves as Hugging Face's fast tokenizers do: special-token strings
/// inside a text become their ids.
pub trait ModelText {
    /// Token ids of `text`; `add_special_tokens` adds what the tokenizer's own template adds (mostly one BOS).
    ///
    /// # Errors
    /// What the tokenizer says.
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError>;

    /// Text of `ids`. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// What the tokenizer says.
    fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, TextError>;

    /// The beginning-of-sequence id, where the model has one.
    fn bos_id(&self) -> Option<u32>;

    /// The tokenizer's own end-of-sequence id (tokenizer_config.json), where it has one.
    fn eos_id(&self) -> Option<u32>;

    /// The id of a token by its exact text, e.g. `<|eot_id|>`.
    fn id_of(&self, token: &str) -> Option<u32>;

    /// Whether the model has a chat template of its own.
    fn has_chat_template(&self) -> bool;

    /// One user turn and the opening of the assistant's turn in the model's own chat template, as text with its special
    /// tokens spelled out.
    ///
    /// # Errors
    /// What the template engine says; a model without a template.
    fn render_user(&self, user: &str) -> Result<String, TextError>;

    /// The same with thinking switched off (`enable_thinking=False`), where the template has such a switch.
    ///
    /// # Errors
    /// As [`ModelText::render_user`].
    fn render_user_without_thinking(&self, user: &str) -> Result<String, TextError> {
        self.render_user(user)
    }
}

/// transformers' `clean_up_tokenization`: the replacements, in its order, that decoding applies when the tokenizer's
/// configuration sets `clean_up_tokenization_spaces`. The Rust tokenizers do not do it.
pub(crate) fn clean_up_spaces(text: &str) -> String {
    [" .", " ?", " !", " ,"]
        .into_iter()
        .fold(text.to_owned(), |text, from| text.replace(from, from.trim_start()))
        .replace(" ' ", "'")
        .replace(" n't", "n't")
        .replace(" 'm", "'m")
        .replace(" 's", "'s")
        .replace(" 've", "'ve")
        .replace(" 're", "'re")
}

#[cfg(test)]
mod tests {
    #[test]
    fn clean_up_is_in_transformers_order() {
        assert_eq!(super::clean_up_spaces("It 's , I do n't ' know ' ."), "It's, I don't'know '.");
        let text = "a , b ? c ! d . e ' f n't 'm 's 've 're";
        assert_eq!(super::clean_up_spaces(text), "a, b? c! d. e'fn't'm's've're");
        assert_eq!(super::clean_up_spaces(" ' s . . "), "'s.. ");
    }
}
