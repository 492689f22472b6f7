//! What a sweep will take, on paper: `--dry-run`. Formulas: `engine/src/memory.rs`, docs/performance.md.

use std::fmt;

use kvsweep_engine::memory::{Planner, Work};
use kvsweep_engine::model::config::ModelConfig;
use kvsweep_methods::selection::Granularity;
use kvsweep_methods::spec::Variant;
use serde::Serialize;

/// Operations and bytes of one way to do the work.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// Floating-point operations, a multiply-add counted as two.
    pub flops: f64,
    /// Bytes moved from or to memory.
    pub bytes: f64,
}

impl From<Work> for Cost {
    fn from(work: Work) -> Self {
        Self { flops: work.flops, bytes: work.bytes }
    }
}

/// A sweep's cost.
#[derive(Clone, Debug, Serialize)]
pub struct Load {
    /// Cells: data sets x variants.
    pub cells: usize,
    /// Prompts, each prefilled once.
    pub prompts: usize,
    /// Variants of each prompt.
    pub variants: usize,
    /// Prompt tokens, all prompts.
    pub prompt_tokens: u64,
    /// The longest prompt.
    pub longest_prompt: usize,
    /// New tokens at most, all variants of all prompts.
    pub new_tokens: u64,
    /// One prefill a prompt.
    pub prefill_shared: Cost,
    /// One prefill a prompt and variant, as other harnesses do it.
    pub prefill_unshared: Cost,
    /// All variants of a prompt in one batch.
    pub decode_batched: Cost,
    /// Each variant alone.
    pub decode_alone: Cost,
    /// Bytes of the weights.
    pub weight_bytes: u64,
    /// Most bytes at any moment: weights, keys and values of the longest prompt, its variants' caches, activations.
    pub peak_bytes: u64,
}

impl Load {
    /// Adds up prompts of `(tokens, new tokens)`; `element` bytes a number.
    pub fn of(
        config: &ModelConfig,
        datasets: usize,
        prompts: &[(usize, usize)],
        variants: &[Variant],
        element: usize,
        threads: usize,
    ) -> Self {
        let planner = Planner::new(config, element);
        let heads = |variant: &Variant| match variant.spec().granularity() {
            Granularity::KvHead => config.kv_heads,
            Granularity::QueryHead => config.query_heads,
        };
        let held =
            |variant: &Variant, prompt: usize| variant.budget().map_or(prompt, |budget| budget.min(prompt));
        let (mut prefill, mut batched, mut alone) = (Work::default(), Work::default(), Work::default());
        let mut peak = 0;
        for &(prompt, new) in prompts {
            prefill = prefill + planner.prefill(prompt);
            let sequences: Vec<(usize, usize)> =
                variants.iter().map(|variant| (held(variant, prompt) + new / 2, heads(variant))).collect();
            batched = batched + planner.decode_step(&sequences) * new as f64;
            for sequence in &sequences {
                alone = alone + planner.decode_step(std::slice::from_ref(sequence)) * new as f64;
            }
            let caches: u64 = variants
                .iter()
                .map(|variant| {
                    let entries = if variant.budget().is_some() { held(variant, prompt) } else { 0 };
                    planner.variant_bytes(entries, heads(variant), new)
                })
                .sum();
            peak = peak.max(planner.kv_bytes(prompt) + caches + planner.activation_bytes(prompt, threads));
        }
        Self {
            cells: datasets * variants.len(),
            prompts: prompts.len(),
            variants: variants.len(),
            prompt_tokens: prompts.iter().map(|&(prompt, _)| prompt as u64).sum(),
            longest_prompt: prompts.iter().map(|&(prompt, _)| prompt).max().unwrap_or(0),
            new_tokens: prompts.iter().map(|&(_, new)| new as u64).sum::<u64>() * variants.len() as u64,
            prefill_shared: prefill.into(),
            prefill_unshared: (prefill * variants.len() as f64).into(),
            decode_batched: batched.into(),
            decode_alone: alone.into(),
            weight_bytes: planner.weight_bytes(),
            peak_bytes: planner.weight_bytes() + peak,
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cost =
            |cost: Cost| format!("{:>10.3} TFLOP {:>10.2} GB moved", cost.flops / 1e12, cost.bytes / 1e9);
        writeln!(f, "cells              {:>10}", self.cells)?;
        writeln!(
            f,
            "prompts            {:>10}  ({} variants each, longest {} tokens)",
            self.prompts, self.variants, self.longest_prompt
        )?;
        writeln!(f, "prompt tokens      {:>10}", self.prompt_tokens)?;
        writeln!(f, "new tokens at most {:>10}", self.new_tokens)?;
        writeln!(f, "prefill, shared    {}", cost(self.prefill_shared))?;
        writeln!(f, "prefill, unshared  {}", cost(self.prefill_unshared))?;
        writeln!(f, "decode, batched    {}", cost(self.decode_batched))?;
        writeln!(f, "decode, one by one {}", cost(self.decode_alone))?;
        writeln!(f, "weights            {:>10}", human(self.weight_bytes))?;
        writeln!(f, "peak memory        {:>10}", human(self.peak_bytes))
    }
}

/// Bytes for people.
pub fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return format!("{value:.1} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}
