//! How a model is asked to repeat what it read (KVzip): the words of `snu-mllab/KVzip` and kvpress, inside the model's
//! chat template where the prompt stands in it.

use kvsweep_engine::reconstruct::RepeatRequest;
use kvsweep_tasks::{ModelText, TextError};

/// Asks for a prompt from its beginning.
const WHOLE: &str = "\n\nRepeat the previous context exactly.";

/// Asks for a later part, which the end of the part before it follows.
const PART: &str = "\n\nRepeat the part of the previous context exactly, starting with";

/// Ends a request outside of a chat template.
const PLAIN_TAIL: &str = "\n";

/// Stands for a prompt while the template around it is looked at.
const STAND_IN: &str = "context\n#######";

/// The words, in a model's tokens.
pub(crate) struct RepeatWords {
    whole: Vec<u32>,
    part: Vec<u32>,
    plain_tail: Vec<u32>,
    /// What the chat template puts before and behind a prompt.
    template: Option<[Vec<u32>; 2]>,
    bos: Option<u32>,
}

impl RepeatWords {
    /// The words for a model.
    ///
    /// # Errors
    /// What the tokenizer or the chat template says.
    pub(crate) fn new(text: &dyn ModelText) -> Result<Self, TextError> {
        let rendered = text.has_chat_template().then(|| text.render_user(STAND_IN)).transpose()?;
        let around = rendered.as_deref().and_then(|rendered| rendered.split_once(STAND_IN));
        let encode = |words: &str| text.encode(words, false);
        Ok(Self {
            whole: encode(WHOLE)?,
            part: encode(PART)?,
            plain_tail: encode(PLAIN_TAIL)?,
            template: around
                .map(|(head, tail)| Ok::<_, TextError>([encode(head)?, encode(tail)?]))
                .transpose()?,
            bos: text.bos_id(),
        })
    }

    /// What repeats a prompt. Its head is that of the template if the prompt begins so, else its BOS.
    pub(crate) fn request(&self, ids: &[u32]) -> RepeatRequest {
        let bos = ids.iter().take_while(|id| Some(**id) == self.bos).count();
        let in_template = self.template.as_ref().and_then(|[head, tail]| {
            let own_bos = head.iter().take_while(|id| Some(**id) == self.bos).count();
            let extra = bos.saturating_sub(own_bos);
            let same = head.iter().zip(&ids[extra..]).take_while(|(a, b)| a == b).count();
            // The head's last token may have become one with the first of the prompt.
            (same > 0 && same + 1 >= head.len()).then_some((extra + same, tail))
        });
        let (head, tail) = in_template.unwrap_or((bos, &self.plain_tail));
        RepeatRequest { head, whole: self.whole.clone(), part: self.part.clone(), tail: tail.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One id a character; `^` is BOS.
    struct Letters {
        template: bool,
    }

    impl ModelText for Letters {
        fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TextError> {
            Ok(add_special_tokens.then_some('^').into_iter().chain(text.chars()).map(u32::from).collect())
        }
        fn decode(&self, ids: &[u32], _skip_special_tokens: bool) -> Result<String, TextError> {
            Ok(ids.iter().filter_map(|&id| char::from_u32(id)).collect())
        }
        fn bos_id(&self) -> Option<u32> {
            Some(u32::from('^'))
        }
        fn eos_id(&self) -> Option<u32> {
            None
        }
        fn id_of(&self, _token: &str) -> Option<u32> {
            None
        }
        fn has_chat_template(&self) -> bool {
            self.template
        }
        fn render_user(&self, user: &str) -> Result<String, TextError> {
            Ok(format!("^user: {user}\nbot:"))
        }
    }

    #[test]
    fn a_request_stands_in_the_template_that_the_prompt_stands_in() {
        let request = |template: bool, prompt: &str| {
            let text = Letters { template };
            let ids = text.encode(prompt, false).unwrap();
            let request = RepeatWords::new(&text).unwrap().request(&ids);
            assert_eq!(text.decode(&request.whole, false).unwrap(), WHOLE);
            assert_eq!(text.decode(&request.part, false).unwrap(), PART);
            (request.head, text.decode(&request.tail, false).unwrap())
        };
        let of = |head: usize, tail: &str| (head, tail.to_owned());
        assert_eq!(request(true, "^user: once upon"), of(7, "\nbot:"));
        assert_eq!(request(true, "^^user: once upon"), of(8, "\nbot:"), "a tokenizer that adds another BOS");
        assert_eq!(request(true, "^user:_once"), of(6, "\nbot:"), "the head's last token merged");
        assert_eq!(request(true, "^once upon"), of(1, "\n"), "raw, though there is a template");
        assert_eq!(request(true, ""), of(0, "\n"));
        assert_eq!(request(false, "^once upon"), of(1, "\n"));
        assert_eq!(request(false, "once upon"), of(0, "\n"));
    }
}
