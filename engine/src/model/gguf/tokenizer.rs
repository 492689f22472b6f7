//! The tokenizer and the chat template that a GGUF's metadata says: vocabulary and merges are there, the rest of the
//! pipeline goes by a name.

use std::collections::HashMap;

use serde_json::{Value, json};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer as Inner, models::bpe::BPE,
};

use super::Header;
use crate::{
    chat::ChatTemplate,
    error::{EngineError, Result},
    files::sha256_hex,
    tokenizer::{SpecialIds, Tokenizer},
};

/// Tokens of a vocabulary at most, and half of its merges; the largest published ones have 262,144.
const MOST_TOKENS: usize = 1 << 20;

/// Bytes of a token of a SentencePiece vocabulary at most: each is looked at from every cut.
const LONGEST_PIECE: usize = 256;

/// What llama.cpp calls a token's type.
const NORMAL: f64 = 1.0;
const CONTROL: f64 = 3.0;
const USER_DEFINED: f64 = 4.0;
const UNUSED: f64 = 5.0;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How texts are cut before merging, by llama.cpp's name for it.
struct PreTokenizer {
    names: &'static [&'static str],
    /// Each digit is cut off first.
    digits: bool,
    pattern: &'static str,
    /// A piece that is a token is not merged anew.
    ignore_merges: bool,
    /// The family's tokenizer composes characters.
    nfc: bool,
    /// Whether a text begins with BOS, where the file does not say.
    add_bos: bool,
}

/// The pre-tokenizers of the models whose graphs are computed here, each as its `tokenizer.json` on the hub has it.
static PRE_TOKENIZERS: [PreTokenizer; 5] = [
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3"],
        digits: false,
        pattern: LLAMA3,
        ignore_merges: true,
        nfc: false,
        add_bos: true,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        digits: false,
        pattern: QWEN2,
        ignore_merges: false,
        nfc: true,
        add_bos: false,
    },
    PreTokenizer {
        names: &["smollm"],
        digits: true,
        pattern: GPT2,
        ignore_merges: false,
        nfc: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["gpt-2"],
        digits: false,
        pattern: GPT2,
        ignore_merges: false,
        nfc: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["tekken"],
        digits: false,
        pattern: TEKKEN,
        ignore_merges: true,
        nfc: false,
        add_bos: true,
    },
];

/// Vocabulary of a file.
struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    /// llama.cpp's type of each.
    types: Vec<f64>,
}

impl Header<'_> {
    /// Rebuilds the tokenizer; `None` where the file has none.
    ///
    /// # Errors
    /// A vocabulary that contradicts itself or the embedding's `vocab_size`, or of a kind that is not known here.
    pub(in crate::model) fn tokenizer(&self, vocab_size: usize) -> Result<Option<Tokenizer>> {
        let Some(model) = self.text("tokenizer.ggml.model")? else { return Ok(None) };
        let vocabulary = self.vocabulary(vocab_size)?;
        let fail = |error: tokenizers::Error| EngineError::Tokenizer {
            path: self.path().to_path_buf(),
            reason: error.to_string(),
        };
        let (mut inner, add_bos) = match model {
            "gpt2" => self.byte_level(&vocabulary)?,
            "llama" => self.sentence_piece(&vocabulary)?,
            _ => return Err(self.wrong("tokenizer.ggml.model", "`gpt2` or `llama`")),
        };
        let bos_id = self.token_id("bos", &vocabulary)?;
        let eos_id = self.token_id("eos", &vocabulary)?;
        let said = |name: &str, default| Ok::<_, EngineError>(self.bool(name)?.unwrap_or(default));
        let before = bos_id.filter(|_| add_bos);
        let before = if said("tokenizer.ggml.add_bos_token", add_bos)? { before.or(bos_id) } else { None };
        let after = if said("tokenizer.ggml.add_eos_token", false)? { eos_id } else { None };
        inner.with_post_processor(Some(
            pipeline::<PostProcessorWrapper>(template(before, after, &vocabulary)).map_err(fail)?,
        ));
        let added = vocabulary.tokens.iter().zip(&vocabulary.types);
        let added = added
            .filter(|(_, kind)| [CONTROL, USER_DEFINED].contains(*kind))
            .map(|(text, &kind)| AddedToken::from((*text).to_owned(), kind == CONTROL).normalized(false));
        inner.add_tokens(added.collect::<Vec<_>>()).map_err(fail)?;
        let ids = SpecialIds { bos: bos_id, eos: eos_id };
        Ok(Some(Tokenizer::new(inner, ids, self.path().to_path_buf(), sha256_hex(self.bytes))))
    }

    fn vocabulary(&self, vocab_size: usize) -> Result<Vocabulary<'_>> {
        let key = "tokenizer.ggml.tokens";
        let tokens = self.texts(key, MOST_TOKENS)?.ok_or_else(|| self.wrong(key, "a list of texts"))?;
        if tokens.len() != vocab_size {
            return Err(self.wrong(key, format!("{vocab_size} texts, as the embedding has rows")));
        }
        let key = "tokenizer.ggml.token_type";
        let types = self.numbers(key, tokens.len())?.unwrap_or_else(|| vec![NORMAL; tokens.len()]);
        if types.len() != tokens.len() {
            return Err(self.wrong(key, format!("{} numbers, one a token", tokens.len())));
        }
        Ok(Vocabulary { tokens, types })
    }

    fn token_id(&self, name: &str, vocabulary: &Vocabulary<'_>) -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(id) = self.unsigned(&key)? else { return Ok(None) };
        match u32::try_from(id).ok().filter(|&id| (id as usize) < vocabulary.tokens.len()) {
            Some(id) => Ok(Some(id)),
            None => Err(self.wrong(&key, format!("an id below {}", vocabulary.tokens.len()))),
        }
    }

    /// The byte-level BPE of Llama 3, Qwen and SmolLM, and whether its texts begin with BOS by default.
    fn byte_level(&self, vocabulary: &Vocabulary<'_>) -> Result<(Inner, bool)> {
        let key = "tokenizer.ggml.pre";
        let name = self.text(key)?.unwrap_or_default();
        let pre = PRE_TOKENIZERS.iter().find(|pre| pre.names.contains(&name)).ok_or_else(|| {
            let known: Vec<_> =
                PRE_TOKENIZERS.iter().flat_map(|pre| pre.names).map(|name| format!("`{name}`")).collect();
            self.wrong(key, format!("one of {}", known.join(", ")))
        })?;
        let key = "tokenizer.ggml.merges";
        let merges = self.texts(key, 2 * MOST_TOKENS)?.ok_or_else(|| self.wrong(key, "a list of texts"))?;
        let merges = merges
            .iter()
            .map(|merge| merge.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned())))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| self.wrong(key, "texts of two parts with a space between them"))?;
        let unknown = self.token_id("unknown", vocabulary)?;
        let split = json!({"type": "Split", "pattern": {"Regex": pre.pattern}, "behavior": "Isolated", "invert": false});
        let bytes =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let digits = pre.digits.then(|| json!({"type": "Digits", "individual_digits": true}));
        let steps: Vec<Value> = digits.into_iter().chain([split, bytes.clone()]).collect();
        let assemble = || -> Result<Inner, tokenizers::Error> {
            let mut model =
                BPE::builder().vocab_and_merges(ids(vocabulary), merges).ignore_merges(pre.ignore_merges);
            // Some vocabularies lack the rarest bytes.
            if let Some(id) = unknown {
                model = model.unk_token(vocabulary.tokens[id as usize].to_owned()).fuse_unk(true);
            }
            let mut inner = Inner::new(model.build()?);
            inner.with_normalizer(
                pre.nfc.then(|| pipeline::<NormalizerWrapper>(json!({"type": "NFC"}))).transpose()?,
            )?;
            inner.with_pre_tokenizer(Some(pipeline::<PreTokenizerWrapper>(
                json!({"type": "Sequence", "pretokenizers": steps}),
            )?));
            inner.with_decoder(Some(pipeline::<DecoderWrapper>(bytes)?));
            Ok(inner)
        };
        let inner = assemble().map_err(|error| self.refused(&error))?;
        Ok((inner, pre.add_bos))
    }

    /// The SentencePiece BPE of Llama 2 and Mistral; its merges are in the order of the tokens' scores.
    fn sentence_piece(&self, vocabulary: &Vocabulary<'_>) -> Result<(Inner, bool)> {
        let key = "tokenizer.ggml.scores";
        let scores = self.numbers(key, vocabulary.tokens.len())?.unwrap_or_default();
        if scores.len() != vocabulary.tokens.len() {
            return Err(self.wrong(key, format!("{} numbers, one a token", vocabulary.tokens.len())));
        }
        if let Some(long) = vocabulary.tokens.iter().find(|text| text.len() > LONGEST_PIECE) {
            let expected = format!("texts of at most {LONGEST_PIECE} bytes, not `{long:.50}…`");
            return Err(self.wrong("tokenizer.ggml.tokens", expected));
        }
        let unknown = self.token_id("unknown", vocabulary)?;
        let prefix = self.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let prepend = prefix.then(|| json!({"type": "Prepend", "prepend": "\u{2581}"}));
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
        let strip = prefix.then(|| json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        let decode = [
            json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        let normalizers: Vec<_> = prepend.into_iter().chain([replace]).collect();
        let decoders: Vec<_> = decode.into_iter().chain(strip).collect();
        let assemble = || -> Result<Inner, tokenizers::Error> {
            let mut model = BPE::builder()
                .vocab_and_merges(ids(vocabulary), merges_of(vocabulary, &scores))
                .fuse_unk(true)
                .byte_fallback(true);
            if let Some(id) = unknown {
                model = model.unk_token(vocabulary.tokens[id as usize].to_owned());
            }
            let mut inner = Inner::new(model.build()?);
            inner.with_normalizer(Some(pipeline::<NormalizerWrapper>(
                json!({"type": "Sequence", "normalizers": normalizers}),
            )?))?;
            inner.with_decoder(Some(pipeline::<DecoderWrapper>(
                json!({"type": "Sequence", "decoders": decoders}),
            )?));
            Ok(inner)
        };
        let inner = assemble().map_err(|error| self.refused(&error))?;
        Ok((inner, true))
    }

    fn refused(&self, error: &tokenizers::Error) -> EngineError {
        EngineError::Tokenizer { path: self.path().to_path_buf(), reason: error.to_string() }
    }

    /// The chat template, where there is one, with the texts of the special tokens.
    pub(in crate::model) fn chat_template(&self, vocab_size: usize) -> Result<Option<ChatTemplate>> {
        let Some(source) = self.text("tokenizer.chat_template")? else { return Ok(None) };
        let vocabulary = self.vocabulary(vocab_size)?;
        let mut special = std::collections::BTreeMap::new();
        for (name, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
            if let Some(id) = self.token_id(key, &vocabulary)? {
                special.insert(format!("{name}_token"), vocabulary.tokens[id as usize].to_owned());
            }
        }
        Ok(Some(ChatTemplate::new(Ok(source.to_owned()), special, self.path().to_path_buf())))
    }
}

/// A step of the pipeline, as `tokenizer.json` writes it.
fn pipeline<T: serde::de::DeserializeOwned>(step: Value) -> Result<T, tokenizers::Error> {
    Ok(serde_json::from_value(step)?)
}

/// The ids of the tokens. Padding of the embedding's rows is no token.
fn ids(vocabulary: &Vocabulary<'_>) -> tokenizers::models::bpe::Vocab {
    let numbered = (0_u32..).zip(&vocabulary.tokens).zip(&vocabulary.types);
    numbered.filter(|(_, kind)| **kind != UNUSED).map(|((id, text), _)| ((*text).to_owned(), id)).collect()
}

/// The merges of a SentencePiece BPE: every way to cut a token into two, the tokens of the highest scores first, of one
/// token's those with the longest left part (`SentencePieceExtractor` of transformers).
fn merges_of(vocabulary: &Vocabulary<'_>, scores: &[f64]) -> Vec<(String, String)> {
    let id_of: HashMap<&str, usize> =
        vocabulary.tokens.iter().enumerate().map(|(id, text)| (*text, id)).collect();
    let mut merges = Vec::new();
    for (id, text) in vocabulary.tokens.iter().enumerate().filter(|(id, _)| vocabulary.types[*id] == NORMAL) {
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let mut parts: Vec<_> =
            cuts.filter(|(left, right)| id_of.contains_key(left) && id_of.contains_key(right)).collect();
        parts.sort_unstable_by_key(|(left, right)| (id_of[left], id_of[right]));
        merges.extend(parts.into_iter().map(|parts| (scores[id], parts)));
    }
    let lengths = |(left, right): (&str, &str)| (left.chars().count(), right.chars().count());
    merges.sort_by(|(a, first), (b, second)| b.total_cmp(a).then(lengths(*second).cmp(&lengths(*first))));
    merges.into_iter().map(|(_, (left, right))| (left.to_owned(), right.to_owned())).collect()
}

/// A post-processor that puts tokens before and after a text.
fn template(before: Option<u32>, after: Option<u32>, vocabulary: &Vocabulary<'_>) -> Value {
    let text = |id: u32| vocabulary.tokens[id as usize];
    let part = |id: u32, kind: u32| json!({"SpecialToken": {"id": text(id), "type_id": kind}});
    let around = |name: &str, kind: u32| -> Vec<Value> {
        let middle = json!({"Sequence": {"id": name, "type_id": kind}});
        before
            .map(|id| part(id, kind))
            .into_iter()
            .chain([middle])
            .chain(after.map(|id| part(id, kind)))
            .collect()
    };
    let special: serde_json::Map<String, Value> = before
        .into_iter()
        .chain(after)
        .map(|id| (text(id).to_owned(), json!({"id": text(id), "ids": [id], "tokens": [text(id)]})))
        .collect();
    let pair: Vec<Value> = around("A", 0).into_iter().chain(around("B", 1)).collect();
    json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": special})
}
