//! What a prefill and a decode step cost on paper: operations, bytes moved, bytes held. Formulas for any
//! configuration; docs/performance.md states them.

use std::collections::BTreeSet;

use kvsweep_methods::{
    observation::Observation,
    selection::{LayerSelection, Selection},
    shape::{LayerShape, Reach},
};

use crate::{cpu::attention::KEY_PANEL, model::config::ModelConfig};

/// About how many tokens ask for a part of a prompt.
const REQUEST: usize = 32;

/// Operations and memory traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Floating-point operations, a multiply-add counted as two.
    pub flops: f64,
    /// Bytes that must come from or go to memory: weights, keys and values; activations are left out.
    pub bytes: f64,
}

impl std::ops::Add for Work {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

impl std::ops::Mul<f64> for Work {
    type Output = Self;
    fn mul(self, times: f64) -> Self {
        Self { flops: self.flops * times, bytes: self.bytes * times }
    }
}

impl std::iter::Sum for Work {
    fn sum<I: Iterator<Item = Self>>(works: I) -> Self {
        works.fold(Self::default(), |a, b| a + b)
    }
}

/// What a run will cost a model.
#[derive(Clone, Copy, Debug)]
pub struct Planner<'a> {
    config: &'a ModelConfig,
    /// Bytes of a weight.
    weight: usize,
    /// Bytes of a number of a key or value.
    element: usize,
}

impl<'a> Planner<'a> {
    /// Plans for a model whose weights, keys and values take `element` bytes a number.
    #[must_use]
    pub fn new(config: &'a ModelConfig, element: usize) -> Self {
        Self { config, weight: element, element }
    }

    /// Plans for the CPU: weights as they are stored, keys and values in f32.
    #[must_use]
    pub fn on_cpu(config: &'a ModelConfig) -> Self {
        Self { config, weight: config.weight_bytes, element: size_of::<f32>() }
    }

    /// Weights of the projections in all layers: what every token is multiplied with, the output layer aside.
    #[must_use]
    pub(crate) fn projection_weights(&self) -> u64 {
        let c = self.config;
        let attention = product([2 * (c.query_heads + c.kv_heads), c.head_dim, c.hidden_size]);
        let mlp = product([3, c.hidden_size, c.intermediate_size]);
        attention.saturating_add(mlp).saturating_mul(c.layers as u64)
    }

    fn vocabulary_weights(&self) -> u64 {
        product([self.config.vocab_size, self.config.hidden_size])
    }

    /// Weights of the model: projections, embedding, and the output layer where it is not the embedding; norms and
    /// biases left out.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let tables = if self.config.tied_embeddings { 1 } else { 2 };
        self.projection_weights().saturating_add(self.vocabulary_weights().saturating_mul(tables))
    }

    /// Bytes of the loaded weights: projections, embedding and output layer, norms left out.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        self.parameters().saturating_mul(self.weight as u64)
    }

    /// Bytes of the key and value of one entry in one head.
    #[must_use]
    pub(crate) fn entry_bytes(&self) -> u64 {
        product([2, self.config.head_dim, self.element])
    }

    /// Bytes of the keys and values of `tokens` tokens in all layers and KV heads: a prompt in flight, or the tail
    /// that a variant's answer grows.
    #[must_use]
    pub fn kv_bytes(&self, tokens: usize) -> u64 {
        product([self.config.layers, self.config.kv_heads, tokens]).saturating_mul(self.entry_bytes())
    }

    /// Bytes of the keys and values that a prompt's cache holds: a layer that looks through a window holds no more than
    /// that.
    #[must_use]
    pub fn cache_bytes(&self, tokens: usize) -> u64 {
        let (windowed, window) = self.windowed();
        let seen = LayerShape { reach: window, ..self.config.layer_shape(0) }.seen(tokens).len();
        let entries =
            product([self.config.layers - windowed, tokens]).saturating_add(product([windowed, seen]));
        entries.saturating_mul(self.config.kv_heads as u64).saturating_mul(self.entry_bytes())
    }

    /// Layers that look through a window, and the window.
    fn windowed(&self) -> (usize, Reach) {
        match &self.config.sliding {
            None => (0, Reach::All),
            Some(sliding) => {
                let slide = sliding.layers.iter().filter(|&&slides| slides).count();
                (slide.min(self.config.layers), Reach::Window(sliding.window))
            }
        }
    }

    /// Layers whose entries a variant copies: those that methods choose from.
    fn contested_layers(&self) -> usize {
        match self.windowed().0 {
            windowed if windowed < self.config.layers => self.config.layers - windowed,
            _ => self.config.layers,
        }
    }

    /// Bytes of a prompt in flight at most: keys, values, last logits, and what was observed for the methods.
    #[must_use]
    pub fn prompt_bytes(&self, tokens: usize, observed: &BTreeSet<Observation>) -> u64 {
        let shape = self.config.layer_shape(0);
        let values = observed.iter().map(|one| one.values(&shape, tokens)).fold(0, usize::saturating_add);
        let floats = product([self.contested_layers(), values]).saturating_add(self.config.vocab_size as u64);
        self.cache_bytes(padded(tokens)).saturating_add(floats.saturating_mul(size_of::<f32>() as u64))
    }

    /// Bytes of one variant at most: `entries` kept per head on average over `heads` stored heads of every layer (0 if
    /// it keeps everything and reads the shared prompt), and room for `new` tokens. Heads of unlike length may take
    /// more: see [`Planner::selection_bytes`].
    #[must_use]
    pub fn variant_bytes(&self, entries: usize, heads: usize, new: usize) -> u64 {
        let kept =
            product([self.contested_layers(), heads, padded(entries)]).saturating_mul(self.entry_bytes());
        kept.saturating_add(self.kv_bytes(padded(new)))
    }

    /// Bytes of one variant at most, of its selection: every head as long as the longest of its layer, as candle's
    /// path pads them; layers that are kept whole are shared.
    #[must_use]
    pub fn selection_bytes(&self, selection: &Selection, prompt: usize, new: usize) -> u64 {
        let entries = |layer: &LayerSelection| match layer {
            LayerSelection::Heads(heads) if !layer.keeps_everything(prompt) => {
                heads.len() * padded(heads.iter().map(Vec::len).max().unwrap_or(0))
            }
            _ => 0,
        };
        let entries: usize = selection.layers.iter().map(entries).sum();
        (entries as u64).saturating_mul(self.entry_bytes()).saturating_add(self.kv_bytes(padded(new)))
    }

    /// Bytes of activations while a prompt is read: residual stream, queries, plain keys and plain values, if they are
    /// observed, of one layer, the position tables, and the scratch of `threads` blocks and observed heads. Always f32.
    #[must_use]
    pub fn activation_bytes(&self, prompt: usize, threads: usize, observed: &BTreeSet<Observation>) -> u64 {
        let c = self.config;
        // The output projection reads values where they are stored.
        let plain = |one: &Observation| one.reads_values() && *one != Observation::OutputNorm;
        let expected = |one: &Observation| matches!(one, Observation::ExpectedAttention { .. });
        let heads = if observed.iter().any(expected) { threads } else { 0 };
        let of_heads = product([heads, c.head_dim, prompt.saturating_add(c.head_dim.saturating_mul(4))]);
        let (query, kv) = (product([c.query_heads, c.head_dim]), product([c.kv_heads, c.head_dim]));
        let sum = |parts: &[u64]| parts.iter().copied().fold(0, u64::saturating_add);
        let values = if observed.iter().any(plain) { kv } else { 0 };
        let row = sum(&[c.hidden_size as u64, query, kv, values, c.head_dim as u64]);
        let wide = sum(&[query, kv, kv]).max(2 * c.intermediate_size as u64);
        let scratch = sum(&[c.hidden_size as u64, wide, query, query]);
        let rows = row.saturating_mul(prompt as u64);
        let scratch = scratch.saturating_mul(product([threads, crate::cpu::prefill::BLOCK]));
        // A layer that looks through a window is cut to it once it is read, and the next one is there by then.
        let whole = if self.windowed().0 > 0 { product([2, 2, kv as usize, prompt]) } else { 0 };
        sum(&[rows, scratch, whole, of_heads]).saturating_mul(size_of::<f32>() as u64)
    }

    /// Bytes of a second pass over a prompt: keys and values of the tokens that are read behind it, their activations,
    /// and the attention of `threads` blocks of rows. None where nothing is observed so.
    #[must_use]
    pub fn replay_bytes(&self, prompt: usize, observed: &BTreeSet<Observation>, threads: usize) -> u64 {
        let longest = observed.iter().filter_map(|&one| replays(one, prompt).max()).max();
        let Some(tokens) = longest else { return 0 };
        let c = self.config;
        let wide = product([2, c.hidden_size.max(c.intermediate_size).max(c.query_heads * c.head_dim)]);
        let rows = wide.saturating_mul(tokens.min(crate::cpu::replay::CHUNK) as u64);
        let weights = product([threads, crate::cpu::replay::ROW_BLOCK, 2, padded(tokens)]);
        let scratch = rows.saturating_add(weights).saturating_mul(size_of::<f32>() as u64);
        self.kv_bytes(padded(tokens))
            .saturating_add(self.activation_bytes(tokens, threads, &BTreeSet::new()))
            .saturating_add(scratch)
    }

    /// A second pass over a prompt, part by part: each token is multiplied with the weights, attends to the whole prompt
    /// and the tokens before it, and is scored against its part and them. Nothing for what a prefill shows.
    #[must_use]
    pub fn replay(&self, prompt: usize, observation: Observation) -> Work {
        replays(observation, prompt)
            .map(|tokens| {
                let own = tokens as f64 * (tokens as f64 + 1.0) / 2.0;
                let (seen, part) = (tokens as f64 * prompt as f64, tokens as f64 * tokens as f64);
                Work {
                    // Scores are half of what attention computes.
                    flops: 2.0 * self.projection_weights() as f64 * tokens as f64
                        + self.pair_flops() * (seen + own + (part + own) / 2.0),
                    bytes: self.step_weight_bytes() + self.kv_bytes(prompt) as f64,
                }
            })
            .sum()
    }

    /// Reading a prompt with causal attention: `2 * weights * tokens` for the projections,
    /// `4 * layers * query heads * head_dim` for each pair of a position and one before or at it (inside the window, where a
    /// layer has one), the output layer once. The weights are read once, keys and values written once and read once.
    #[must_use]
    pub fn prefill(&self, prompt: usize) -> Work {
        let before = |prompt: usize| prompt as f64 * (prompt as f64 + 1.0) / 2.0;
        let windowed = match self.windowed() {
            (layers, Reach::Window(window)) if window < prompt => {
                layers as f64 / self.config.layers as f64 * before(prompt - window)
            }
            _ => 0.0,
        };
        Work {
            flops: 2.0 * self.projection_weights() as f64 * prompt as f64
                + self.pair_flops() * (before(prompt) - windowed)
                + 2.0 * self.vocabulary_weights() as f64,
            bytes: self.step_weight_bytes() + 2.0 * self.kv_bytes(prompt) as f64,
        }
    }

    /// One decode step of a batch. Each sequence is (entries that a query head attends to on average, heads a layer
    /// that store entries: KV heads or query heads). The weights are read once.
    #[must_use]
    pub fn decode_step(&self, sequences: &[(usize, usize)]) -> Work {
        let every_token = 2.0 * (self.projection_weights() as f64 + self.vocabulary_weights() as f64);
        sequences.iter().fold(
            Work { flops: 0.0, bytes: self.step_weight_bytes() },
            |sum, &(entries, stored)| {
                let cache = product([self.config.layers, stored, entries]) as f64 * self.entry_bytes() as f64;
                sum + Work { flops: every_token + self.pair_flops() * entries as f64, bytes: cache }
            },
        )
    }

    /// Operations of one query position against one key position, in all layers and query heads.
    #[must_use]
    pub fn pair_flops(&self) -> f64 {
        product([4, self.config.layers, self.config.query_heads, self.config.head_dim]) as f64
    }

    /// Bytes of the weights that one pass reads: everything but the embedding.
    fn step_weight_bytes(&self) -> f64 {
        (self.projection_weights() as f64 + self.vocabulary_weights() as f64) * self.weight as f64
    }
}

/// Tokens that are read for each part of a prompt that an observation has repeated, the request included.
fn replays(observation: Observation, prompt: usize) -> impl Iterator<Item = usize> {
    let chunk = match observation {
        Observation::Reconstruction { chunk, .. } => chunk.max(1),
        _ => usize::MAX,
    };
    let parts = if observation.repeats_the_prompt() { prompt.div_ceil(chunk) } else { 0 };
    (0..parts).map(move |part| chunk.min(prompt - part * chunk) + REQUEST)
}

/// The product, or the largest number where no machine has so much.
fn product<const N: usize>(factors: [usize; N]) -> u64 {
    factors.iter().fold(1, |product, &factor| product.saturating_mul(factor as u64))
}

/// Entries as they are stored: in whole panels of keys.
fn padded(entries: usize) -> usize {
    entries.next_multiple_of(KEY_PANEL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::random::llama_config;

    #[test]
    fn formulas_match_llama_3_8b() {
        // 8.03 billion parameters: 6.98 in the projections, twice 0.525 in embedding and output layer.
        let config = llama_config([128_256, 4096, 14_336, 32, 32, 8]);
        let planner = Planner::new(&config, 2);
        assert_eq!(planner.projection_weights(), 6_979_321_856);
        assert_eq!(planner.weight_bytes(), 2 * 8_029_995_008);
        // 128 KiB a token in f16.
        assert_eq!(planner.kv_bytes(1), 131_072);
        let prefill = planner.prefill(8192);
        let expected = 2.0 * 6_979_321_856.0 * 8192.0 + 4.0 * 32.0 * 4096.0 * (8192.0 * 8193.0 / 2.0);
        assert!((prefill.flops / expected - 1.0).abs() < 1e-4);
        // The batch reads the weights once.
        let (one, two) = (planner.decode_step(&[(128, 8)]), planner.decode_step(&[(128, 8), (128, 8)]));
        assert_eq!(two.flops, 2.0 * one.flops);
        assert_eq!(two.bytes - one.bytes, planner.kv_bytes(128) as f64);
    }

    #[test]
    fn sizes_beyond_any_machine_stay_the_largest() {
        let config = llama_config([1 << 30; 6]);
        let planner = Planner::new(&config, 4);
        assert_eq!((planner.weight_bytes(), planner.parameters()), (u64::MAX, u64::MAX));
        assert_eq!((planner.kv_bytes(1 << 30), planner.variant_bytes(1, 1 << 30, 1)), (u64::MAX, u64::MAX));
        assert_eq!(planner.activation_bytes(1 << 40, 64, &BTreeSet::new()), u64::MAX);
        assert!(planner.prefill(1 << 30).flops > 1e19);
    }

    #[test]
    fn a_second_pass_is_about_a_prefill() {
        let config = llama_config([128_256, 4096, 14_336, 32, 32, 8]);
        let planner = Planner::new(&config, 2);
        let again = Observation::Reconstruction { sinks: None, chunk: 2000 };
        let (first, second) = (planner.prefill(8000), planner.replay(8000, again));
        // Projections and twice the pairs of a position and one before it, and what is scored again.
        assert!((1.0..1.4).contains(&(second.flops / first.flops)), "{}", second.flops / first.flops);
        assert_eq!(planner.replay(8000, Observation::KeyNorm), Work::default());
        let none = planner.replay_bytes(8000, &BTreeSet::from([Observation::KeyNorm]), 2);
        let bytes = planner.replay_bytes(8000, &BTreeSet::from([again, Observation::KeyNorm]), 2);
        assert_eq!(none, 0);
        assert!(
            bytes > planner.kv_bytes(2000) + planner.activation_bytes(2000, 2, &BTreeSet::new()),
            "{bytes}"
        );
    }

    /// What is planned covers what tests measure of a prompt and its variants, tails and observations included.
    #[test]
    fn plans_count_tails_and_observations() {
        let config = llama_config([150, 64, 96, 3, 8, 2]);
        let planner = Planner::new(&config, 4);
        let (entry, heads) = (2 * config.head_dim as u64 * 4, (config.layers * config.kv_heads) as u64);
        let window = Observation::WindowSum { window: 8 };
        let plain = planner.prompt_bytes(100, &BTreeSet::new());
        assert_eq!(plain, heads * 128 * entry + 150 * 4);
        let observed = planner.prompt_bytes(100, &BTreeSet::from([window, Observation::KeyNorm]));
        assert_eq!(observed - plain, (3 * (8 * 92 + 2 * 100) * 4) as u64);
        let of_values = BTreeSet::from([
            Observation::WindowMax { window: 8, kernel: 5 },
            Observation::ValueNorm,
            Observation::OutputNorm,
            Observation::ExpectedAttention { sinks: 4, future: 512 },
        ]);
        let observed = planner.prompt_bytes(100, &of_values);
        assert_eq!(observed - plain, (3 * (8 * 92 + 2 * 100 + 8 * 100 + 2 * 100) * 4) as u64);
        // Beside a prompt of 100 tokens that two threads read: its values, then its queries before RoPE and their moments.
        let reading = |observed: BTreeSet<Observation>| planner.activation_bytes(100, 2, &observed);
        let plain = reading(BTreeSet::from([window]));
        assert_eq!(reading(BTreeSet::from([Observation::OutputNorm])), plain);
        assert_eq!(reading(of_values) - plain, ((2 * 8 * 100 + 2 * 8 * (100 + 4 * 8)) * 4) as u64);
        assert_eq!(planner.variant_bytes(0, 2, 40), heads * 64 * entry, "the tail alone");
        let ragged = Selection {
            granularity: kvsweep_methods::selection::Granularity::KvHead,
            layers: vec![
                LayerSelection::Heads(vec![vec![1], (0..33).collect()]),
                LayerSelection::All,
                LayerSelection::Heads(vec![vec![0], vec![0]]),
            ],
        };
        let tail = heads * 64 * entry;
        assert_eq!(planner.selection_bytes(&ragged, 100, 40), (2 * 64 + 2 * 32) * entry + tail);
    }
}
