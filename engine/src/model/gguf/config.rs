//! The configuration that a GGUF's metadata says.

use candle_core::{DType, quantized::GgmlDType};

use super::{
    Header,
    tensors::{LONG_ROPE_DIVISORS, ROPE_DIVISORS, widened},
};
use crate::{
    error::{EngineError, Result},
    model::{
        config::{Family, ModelConfig, Sliding},
        raw::{RawConfig, RawRope, TokenIds},
    },
};

/// Entries that change what llama.cpp computes and that no graph here knows; they follow the architecture's name.
const UNKNOWN: [&str; 9] = [
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.scale",
    "embedding_scale",
    "expert_count",
    "logit_scale",
    "residual_scale",
    "attention.temperature_scale",
    "use_parallel_residual",
];

/// The table whose rows are the tokens.
const EMBEDDING: &str = "token_embd.weight";

/// Layers that a list says something of, at most.
const MOST_LAYERS: usize = 1 << 16;

impl Header<'_> {
    /// Reads the configuration. Sizes are named in messages as `config.json` names them.
    ///
    /// # Errors
    /// An entry that is missing, of another type or impossible; an architecture that is not supported.
    pub(in crate::model) fn model_config(&self, bytes: &[u8]) -> Result<ModelConfig> {
        if self.text("general.type")?.is_some_and(|kind| kind != "model") {
            return Err(self.wrong("general.type", "`model`: merge an adapter into its base model first"));
        }
        if self.unsigned("split.count")?.is_some_and(|parts| parts > 1) {
            return Err(self.wrong("split.count", "1: join the parts with llama.cpp's `llama-gguf-split`"));
        }
        let architecture = self
            .text("general.architecture")?
            .ok_or_else(|| self.wrong("general.architecture", "the name of an architecture"))?;
        let family = Family::of_gguf(architecture, self.path())?;
        let key = |name: &str| format!("{architecture}.{name}");
        if let Some(name) = UNKNOWN.into_iter().find(|name| self.says(&key(name))) {
            return Err(self.wrong(&key(name), "nothing: the graph of this program has no such thing"));
        }
        if self.bool(&key("attention.causal"))? == Some(false) {
            return Err(self.wrong(&key("attention.causal"), "true"));
        }
        let size = |name: &str| -> Result<Option<usize>> {
            Ok(self.unsigned(&key(name))?.map(|size| usize::try_from(size).unwrap_or(usize::MAX)))
        };
        // One number, or one for each layer.
        let per_layer = |name: &str| -> Result<Option<usize>> {
            if !self.is_list(&key(name)) {
                return size(name);
            }
            let numbers = self.numbers(&key(name), MOST_LAYERS)?.unwrap_or_default();
            match numbers.split_first() {
                Some((first, rest)) if rest.iter().all(|number| number == first) && *first >= 0.0 => {
                    Ok(Some(*first as usize))
                }
                _ => Err(self.wrong(&key(name), "the same number for every layer")),
            }
        };
        let needed = |name: &str, found: Option<usize>| {
            found.ok_or_else(|| self.wrong(&key(name), "a whole number")).map(Some)
        };
        let query_heads = needed("attention.head_count", per_layer("attention.head_count")?)?;
        let hidden_size = needed("embedding_length", size("embedding_length")?)?;
        let head_dim = size("attention.key_length")?.or_else(|| whole_part(hidden_size?, query_heads?));
        let rotated = size("rope.dimension_count")?;
        let whole = [
            ("attention.value_length", size("attention.value_length")?),
            ("rope.dimension_count", rotated.filter(|_| !family.spec().rotates_in_part)),
        ];
        for (name, found) in whole {
            if let (Some(found), Some(dim)) = (found, head_dim)
                && found != dim
            {
                return Err(self.wrong(&key(name), format!("{dim}, the size of a head")));
            }
        }
        let table = self.tensor(EMBEDDING).ok_or_else(|| EngineError::MissingTensor {
            path: self.path().to_path_buf(),
            tensor: EMBEDDING.to_owned(),
            hint: "a file of a model has one: fetch or copy it again",
        })?;
        let narrow = ["blk.0.attn_q.weight", "blk.0.attn_qkv.weight"]
            .into_iter()
            .find_map(|name| self.tensor(name))
            .is_some_and(|tensor| matches!(tensor.kind, GgmlDType::F16 | GgmlDType::BF16));
        let id = |name: &str| -> Result<Option<u32>> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            self.unsigned(&key)?
                .map(|id| u32::try_from(id).map_err(|_| self.wrong(&key, "a token id")))
                .transpose()
        };
        // The end of a turn, where it differs from the end of a text, ends an answer as well.
        let ends = [id("eos")?, id("eot")?, id("eom")?];
        let raw = RawConfig {
            model_type: family.spec().model_types.first().map(|&name| name.to_owned()),
            vocab_size: table.shape.first().copied(),
            hidden_size,
            intermediate_size: needed("feed_forward_length", per_layer("feed_forward_length")?)?,
            num_hidden_layers: needed("block_count", size("block_count")?)?,
            num_attention_heads: query_heads,
            num_key_value_heads: Some(per_layer("attention.head_count_kv")?),
            head_dim,
            max_position_embeddings: needed("context_length", size("context_length")?)?,
            rms_norm_eps: Some(
                self.float(&key("attention.layer_norm_rms_epsilon"))?
                    .ok_or_else(|| self.wrong(&key("attention.layer_norm_rms_epsilon"), "a number"))?,
            ),
            rope_theta: self.float(&key("rope.freq_base"))?,
            rope_scaling: self.rope(architecture, rotated.or(head_dim), bytes)?,
            original_max_position_embeddings: size("rope.scaling.original_context_length")?,
            rope_local_base_freq: self.float(&key("rope.freq_base_swa"))?,
            partial_rotary_factor: rotated.zip(head_dim).map(|(rotated, dim)| rotated as f64 / dim as f64),
            sliding_window_pattern: size("attention.sliding_window_pattern")?,
            // No entry says it: llama.cpp knows the largest Gemma 3 by its layers.
            query_pre_attn_scalar: match size("block_count")? {
                Some(62) => hidden_size.zip(query_heads).and_then(|(width, heads)| whole_part(width, heads)),
                _ => head_dim,
            }
            .map(|scalar| scalar as f64),
            dtype: narrow.then(|| "float16".to_owned()),
            tie_word_embeddings: Some(self.tensor("output.weight").is_none()),
            sliding_window: size("attention.sliding_window")?.filter(|&window| window > 0).map(Some),
            bos_token_id: id("bos")?.map(|id| TokenIds(vec![id])),
            eos_token_id: Some(TokenIds(ends.into_iter().flatten().collect())),
            ..RawConfig::default()
        };
        let window = raw.sliding_window.flatten();
        let mut config = ModelConfig::from_raw(raw, self.path())?;
        // Not every family's configuration of the hub knows a window of all layers.
        if let (None, Some(window)) =
            (&config.sliding, window.filter(|&window| window < config.max_positions))
        {
            config.sliding =
                Some(Sliding { window, layers: vec![true; config.layers.min(MOST_LAYERS)], rope: None });
        }
        Ok(config)
    }

    /// One number for each pair that is rotated, of a tensor.
    fn divisors(&self, name: &str, rotated: Option<usize>, bytes: &[u8]) -> Result<Option<Vec<f32>>> {
        let Some(info) = self.tensor(name) else { return Ok(None) };
        if Some(2 * info.shape.iter().product::<usize>()) != rotated {
            return Err(self.wrong(name, "a divisor for each pair of a head"));
        }
        let tensor = widened(&bytes[info.place.clone()], info.kind, &info.shape)?;
        Ok(Some(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?))
    }

    fn rope(&self, architecture: &str, rotated: Option<usize>, bytes: &[u8]) -> Result<Option<RawRope>> {
        let key = |name: &str| format!("{architecture}.rope.{name}");
        let original = self.unsigned(&key("scaling.original_context_length"))?;
        let original = original.map(|len| usize::try_from(len).unwrap_or(usize::MAX));
        let [long, short] = LONG_ROPE_DIVISORS;
        if let Some(long) = self.divisors(long, rotated, bytes)? {
            return Ok(Some(RawRope {
                rope_type: Some("longrope".to_owned()),
                long_factor: Some(long),
                short_factor: self.divisors(short, rotated, bytes)?,
                original_max_position_embeddings: original,
                attention_factor: self.float(&key("scaling.attn_factor"))?,
                ..RawRope::default()
            }));
        }
        let factor = match self.float(&key("scaling.factor"))? {
            // What it was called before.
            None => self.float(&key("scale_linear"))?,
            factor => factor,
        };
        let kind = match self.text(&key("scaling.type"))? {
            Some("none") => None,
            // llama.cpp's default where there is a factor.
            None => factor.filter(|&factor| factor != 0.0 && factor != 1.0).map(|_| "linear"),
            kind => kind,
        };
        let divisors = self.divisors(ROPE_DIVISORS, rotated, bytes)?;
        let Some(kind) = kind else {
            return Ok(divisors.map(|by| RawRope { divisors: Some(by), ..RawRope::default() }));
        };
        if divisors.is_some() {
            return Err(self.wrong(&key("scaling.type"), format!("none, as there is `{ROPE_DIVISORS}`")));
        }
        Ok(Some(RawRope {
            rope_type: Some(kind.to_owned()),
            factor,
            original_max_position_embeddings: original,
            attention_factor: attention_factor(self.float(&key("scaling.attn_factor"))?, factor),
            beta_fast: self.float(&key("scaling.yarn_beta_fast"))?,
            beta_slow: self.float(&key("scaling.yarn_beta_slow"))?,
            ..RawRope::default()
        }))
    }
}

/// Factor of a YaRN's cosines and sines; llama.cpp multiplies what it is asked for with what the paper says.
fn attention_factor(asked: Option<f64>, factor: Option<f64>) -> Option<f64> {
    let asked = asked.filter(|&asked| asked != 1.0)?;
    Some(asked * (1.0 + 0.1 * factor?.max(1.0).ln()))
}

/// `whole / parts`, where it is a whole number.
fn whole_part(whole: usize, parts: usize) -> Option<usize> {
    whole.is_multiple_of(parts).then(|| whole.checked_div(parts))?
}
