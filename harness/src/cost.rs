//! What a sweep will take, on paper: `--dry-run`. Formulas: `engine/src/memory.rs`, docs/performance.md.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::AddAssign;

use kvsweep_engine::memory::{Planner, Work};
use kvsweep_engine::model::config::ModelConfig;
use kvsweep_methods::observation::Observation;
use kvsweep_methods::spec::Variant;
use serde::Serialize;

use crate::footprint::Footprint;
use crate::lengths::Lengths;
use crate::survey::PromptLength;

/// A device by its data sheet.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Gpu {
    /// What to call it.
    pub name: &'static str,
    /// What weights, keys and values are held and computed in.
    pub dtype: &'static str,
    /// Bytes of a number of that type.
    pub element: usize,
    /// Dense matrix operations in that type.
    pub flops_per_second: f64,
    /// Memory bandwidth.
    pub bytes_per_second: f64,
    /// Memory.
    pub memory_bytes: u64,
}

/// The device whose times are stated.
pub(crate) const H200: Gpu = Gpu {
    name: "H200-class GPU",
    dtype: "bf16",
    element: 2,
    flops_per_second: 989e12,
    bytes_per_second: 4.8e12,
    memory_bytes: 141_000_000_000,
};

/// Operations, bytes and time of one way to do the work.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Cost {
    /// Floating-point operations, a multiply-add counted as two.
    pub flops: f64,
    /// Bytes moved from or to the GPU's memory.
    pub bytes: f64,
    /// A lower bound: pass by pass, the longer of computing and moving at the data sheet's rates.
    pub seconds: f64,
}

impl Cost {
    /// `times` passes, each of this work.
    fn of(pass: Work, times: f64) -> Self {
        let seconds = (pass.flops / H200.flops_per_second).max(pass.bytes / H200.bytes_per_second);
        Self { flops: pass.flops * times, bytes: pass.bytes * times, seconds: seconds * times }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.flops += other.flops;
        self.bytes += other.bytes;
        self.seconds += other.seconds;
    }
}

impl std::ops::Add for Cost {
    type Output = Self;
    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

/// Memory held at most: weights, the longest prompt with its variants' caches, and what computing takes.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Memory {
    /// Where: device and type.
    pub place: String,
    /// Bytes of the weights.
    pub weight_bytes: u64,
    /// Bytes of everything.
    pub peak_bytes: u64,
}

/// A sweep's cost; several sweeps add up.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Load {
    /// The model.
    pub model: String,
    /// Its parameters, norms and biases left out.
    pub parameters: u64,
    /// Cells: data sets x variants.
    pub cells: usize,
    /// Prompts.
    pub prompts: usize,
    /// Prefills: one a prompt, or where its question is unseen, one for all that follow each other about one context.
    pub prefills: usize,
    /// Prefills of as many passes as there are methods and budgets, as other harnesses do it.
    pub prefills_unshared: usize,
    /// Answers: one a prompt and variant.
    pub answers: usize,
    /// Prompt tokens, all prompts.
    pub prompt_tokens: u64,
    /// The longest prompt.
    pub longest_prompt: usize,
    /// New tokens at most, all answers.
    pub new_tokens: u64,
    /// The device of the costs.
    pub gpu: Gpu,
    /// The prefills.
    pub prefill_shared: Cost,
    /// The prefills of as many passes as there are methods and budgets.
    pub prefill_unshared: Cost,
    /// All variants of a prompt in one batch, which reads a question that stayed unseen and decodes the answers.
    pub decode_batched: Cost,
    /// Each variant alone.
    pub decode_alone: Cost,
    /// Memory on that device, activations left out.
    pub gpu_memory: Memory,
    /// Memory where the options say the sweep would run.
    pub memory: Memory,
    /// What was assumed.
    pub assumed: Vec<String>,
}

/// Where the options say that a sweep would run.
pub(crate) struct Target {
    /// Device and type, for people.
    pub name: String,
    /// Bytes of a number there; `None`: the CPU.
    pub element: Option<usize>,
    /// Threads that compute.
    pub threads: usize,
}

impl Load {
    /// Adds up a sweep's prompts.
    pub(crate) fn of(
        model: &str,
        config: &ModelConfig,
        lengths: Lengths,
        variants: &[Variant],
        target: &Target,
    ) -> Self {
        let there = Planner::new(config, H200.element);
        let here =
            target.element.map_or_else(|| Planner::on_cpu(config), |element| Planner::new(config, element));
        let heads = |variant: &Variant| config.stored_heads(variant.spec().granularity());
        let observations: BTreeSet<_> = variants.iter().flat_map(Variant::observations).collect();
        let repeats = |one: &Observation| one.repeats_the_prompt();
        let repeated: BTreeSet<_> = observations.iter().copied().filter(repeats).collect();
        let on_gpu = Footprint::new(config, there, observations.clone(), 0);
        let on_target = Footprint::new(config, here, observations, target.threads);
        let prompts = &lengths.prompts;
        let prefills = prompts.iter().filter(|prompt| !prompt.read_before).count();
        let mut load = Self {
            model: model.to_owned(),
            parameters: Planner::new(config, 1).parameters(),
            cells: lengths.datasets * variants.len(),
            prompts: prompts.len(),
            answers: prompts.len() * variants.len(),
            prefills,
            prefills_unshared: prefills * variants.len(),
            prompt_tokens: prompts.iter().map(|prompt| prompt.tokens() as u64).sum(),
            longest_prompt: prompts.iter().map(|prompt| prompt.tokens()).max().unwrap_or(0),
            new_tokens: prompts.iter().map(|prompt| prompt.new as u64).sum::<u64>() * variants.len() as u64,
            gpu: H200,
            prefill_shared: Cost::default(),
            prefill_unshared: Cost::default(),
            decode_batched: Cost::default(),
            decode_alone: Cost::default(),
            gpu_memory: Memory {
                place: format!("{}, {}", H200.name, H200.dtype),
                weight_bytes: there.weight_bytes(),
                peak_bytes: 0,
            },
            memory: Memory { place: target.name.clone(), weight_bytes: here.weight_bytes(), peak_bytes: 0 },
            assumed: lengths.assumed,
        };
        load.assumed.extend(variants.iter().filter_map(|variant| without_room(variant, prompts)));
        if !repeated.is_empty() {
            load.assumed.push("prompts are read again where a method has the model repeat them".to_owned());
        }
        for &PromptLength { compressed, follow, new, read_before } in prompts {
            if !read_before {
                let prefill = there.prefill(compressed);
                load.prefill_shared += Cost::of(prefill, 1.0);
                load.prefill_unshared += Cost::of(prefill, variants.len() as f64);
                for &one in &repeated {
                    let wants =
                        variants.iter().filter(|variant| variant.observations().contains(&one)).count();
                    let again = there.replay(compressed, one);
                    load.prefill_shared += Cost::of(again, 1.0);
                    load.prefill_unshared += Cost::of(again, wants as f64);
                }
            }
            let sequences: Vec<(usize, usize)> = variants
                .iter()
                .map(|variant| (variant.entries(compressed) + follow + new / 2, heads(variant)))
                .collect();
            let answer = |sequences: &[(usize, usize)]| {
                let step = there.decode_step(sequences);
                let question = Work { flops: step.flops * follow as f64, ..step };
                Cost::of(question, f64::from(u8::from(follow > 0))) + Cost::of(step, new as f64)
            };
            load.decode_batched += answer(&sequences);
            for sequence in &sequences {
                load.decode_alone += answer(std::slice::from_ref(sequence));
            }
            let (prompt, new) = (compressed, follow + new);
            let peak = |memory: &mut Memory, bytes: u64| {
                memory.peak_bytes = memory.peak_bytes.max(memory.weight_bytes + bytes);
            };
            peak(&mut load.gpu_memory, on_gpu.side_by_side(variants, prompt, new));
            let reading = on_target.reading(prompt);
            peak(&mut load.memory, on_target.side_by_side(variants, prompt, new) + reading);
        }
        load
    }

    /// Adds another sweep of the same model.
    pub(crate) fn add(&mut self, other: Self) {
        self.cells += other.cells;
        self.prompts += other.prompts;
        self.prefills += other.prefills;
        self.prefills_unshared += other.prefills_unshared;
        self.answers += other.answers;
        self.prompt_tokens += other.prompt_tokens;
        self.longest_prompt = self.longest_prompt.max(other.longest_prompt);
        self.new_tokens += other.new_tokens;
        self.prefill_shared += other.prefill_shared;
        self.prefill_unshared += other.prefill_unshared;
        self.decode_batched += other.decode_batched;
        self.decode_alone += other.decode_alone;
        self.gpu_memory.peak_bytes = self.gpu_memory.peak_bytes.max(other.gpu_memory.peak_bytes);
        self.memory.peak_bytes = self.memory.peak_bytes.max(other.memory.peak_bytes);
        for assumed in other.assumed {
            if !self.assumed.contains(&assumed) {
                self.assumed.push(assumed);
            }
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gpu = &self.gpu;
        writeln!(f, "model              {}, {:.1} M parameters", self.model, self.parameters as f64 / 1e6)?;
        writeln!(f, "cells              {:>12}", self.cells)?;
        writeln!(f, "prompts            {:>12}  longest {} tokens", self.prompts, self.longest_prompt)?;
        writeln!(
            f,
            "prefills           {:>12}  {} with a pass for each method and budget",
            self.prefills, self.prefills_unshared
        )?;
        writeln!(f, "answers            {:>12}", self.answers)?;
        writeln!(f, "prompt tokens      {:>12}", self.prompt_tokens)?;
        writeln!(f, "new tokens at most {:>12}", self.new_tokens)?;
        writeln!(
            f,
            "\non one {} ({:.0} TFLOP/s dense {}, {:.1} TB/s, {:.0} GB)",
            gpu.name,
            gpu.flops_per_second / 1e12,
            gpu.dtype,
            gpu.bytes_per_second / 1e12,
            gpu.memory_bytes as f64 / 1e9
        )?;
        writeln!(f, "{:18} {:>14} {:>14} {:>16}", "", "operations", "bytes moved", "time at least")?;
        let mut row = |name: &str, cost: Cost| {
            let (operations, bytes) = (scaled(cost.flops, "FLOP"), scaled(cost.bytes, "B"));
            writeln!(f, "{name:18} {operations:>14} {bytes:>14} {:>16}", duration(cost.seconds))
        };
        let shared = self.prefill_shared + self.decode_batched;
        let unshared = self.prefill_unshared + self.decode_alone;
        row("prefill, shared", self.prefill_shared)?;
        row("prefill, unshared", self.prefill_unshared)?;
        row("decode, batched", self.decode_batched)?;
        row("decode, one by one", self.decode_alone)?;
        row("all, shared", shared)?;
        row("all, unshared", unshared)?;
        writeln!(f, "sharing saves a factor of {:.1} in time", unshared.seconds / shared.seconds)?;
        writeln!(f, "\n{:28} {:>14} {:>14}", "memory", "weights", "at most")?;
        for (memory, note) in [(&self.gpu_memory, ", activations left out"), (&self.memory, "")] {
            let (weights, peak) = (human(memory.weight_bytes), human(memory.peak_bytes));
            writeln!(f, "{:28} {weights:>14} {peak:>14}{note}", memory.place)?;
        }
        if self.gpu_memory.peak_bytes > gpu.memory_bytes {
            writeln!(f, "more than one {} holds: the times are for its rates alone", gpu.name)?;
        }
        writeln!(f, "\nassumed: every answer of full length")?;
        self.assumed.iter().try_for_each(|assumed| writeln!(f, "assumed: {assumed}"))
    }
}

/// What is to be said of a variant whose share of some prompts leaves its method no room.
fn without_room(variant: &Variant, prompts: &[PromptLength]) -> Option<String> {
    let mut short = prompts.iter().filter_map(|prompt| variant.room(prompt.compressed).err());
    let needs = short.next()?;
    let (count, of) = (1 + short.count(), prompts.len());
    Some(format!("`{}` keeps the last entries of {count} of {of} prompts: {needs}", variant.id()))
}

/// A number with three digits or more and a decimal prefix.
fn scaled(mut value: f64, unit: &str) -> String {
    for prefix in ["", "k", "M", "G", "T", "P"] {
        if value < 1e4 {
            return format!("{value:.1} {prefix}{unit}");
        }
        value /= 1e3;
    }
    format!("{value:.1} E{unit}")
}

/// Seconds for people.
fn duration(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds:.1} s"),
        ..7200.0 => format!("{:.1} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

/// Bytes for people.
pub(crate) fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return format!("{value:.1} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}
