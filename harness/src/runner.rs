//! The way of a sweep, top to bottom: plan -> prefill -> fork -> decode -> score -> record.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use kvsweep_engine::cache::Held;
use kvsweep_engine::decode::{DecodeRule, Decoded, HeadSet, Sequence};
use kvsweep_engine::model::Model;
use kvsweep_engine::prefill::{Prefill, PrefillOptions};
use kvsweep_methods::inputs::Inputs;
use kvsweep_methods::method::{MethodState, StateScope};
use kvsweep_methods::observation::Observation;
use kvsweep_methods::selection::Selection;
use kvsweep_methods::spec::Variant;
use kvsweep_results::{
    ExampleInfo, ExampleRecord, Finish, Kept, RunDir, SCHEMA, SelectionDigest, Timings, VariantKey,
    VariantRecord, VariantTiming,
};
use kvsweep_tasks::{ModelFacts, Protocol, Tokenizer};

use crate::interrupt;
use crate::kept::{self, layers_kept};
use crate::model::TextSide;
use crate::progress::Progress;
use crate::questions::{Dataset, Prompt, Question};

/// Everything a sweep needs, loaded and checked.
pub struct Sweep<'a> {
    /// The model.
    pub model: &'a Model,
    /// Its text side.
    pub text: TextSide<'a>,
    /// Facts that prompts depend on.
    pub facts: &'a ModelFacts,
    /// The protocol.
    pub protocol: &'a Protocol,
    /// The data sets.
    pub datasets: &'a [Dataset],
    /// The variants, in the manifest's order.
    pub variants: &'a [Variant],
    /// The same as keys of records.
    pub keys: &'a [VariantKey],
    /// Calibrated inputs of this model.
    pub inputs: &'a Inputs,
    /// Masked heads, for the ablation.
    pub masked: Option<Arc<HeadSet>>,
    /// Sequences that decode together at most; one example's variants always do.
    pub batch: usize,
    /// Bytes that prompts in flight may take.
    pub memory: u64,
    /// Examples of each data set whose kept positions are stored beside the records.
    pub store_kept: u64,
}

/// How a sweep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every example is recorded.
    Complete,
    /// Ctrl-C: what was in hand is recorded, the rest is not.
    Interrupted,
}

/// One example between its prefill and its record.
struct InFlight<'a> {
    question: &'a Question,
    prompt: Prompt,
    prefill: Arc<Prefill>,
    prefill_seconds: f64,
    selections: Vec<Arc<Selection>>,
    select_seconds: Vec<f64>,
}

impl Sweep<'_> {
    /// Runs what `run` does not hold yet; one record an example, in the order of the data sets' rows.
    ///
    /// # Errors
    /// The first example that cannot be rendered, computed, graded or written; all records before it are kept.
    pub fn run(&self, run: &mut RunDir, progress: &mut Progress) -> anyhow::Result<Ended> {
        let observations: BTreeSet<Observation> =
            self.variants.iter().flat_map(Variant::observations).collect();
        let mut states = States::new(self)?;
        for dataset in self.datasets {
            states.enter(self, dataset)?;
            let mut waiting = dataset
                .questions
                .iter()
                .filter(|q| !run.finished_keys().contains(&q.key))
                .collect::<Vec<_>>();
            waiting.reverse();
            while !waiting.is_empty() {
                let mut flight = Vec::new();
                let mut bytes = 0;
                while flight.len() * self.variants.len() < self.batch && bytes < self.memory {
                    let Some(question) = waiting.pop() else { break };
                    let example = self
                        .prefill_and_fork(question, &observations, &mut states, progress)
                        .with_context(|| format!("example `{}`", question.key.example))?;
                    bytes += self.held_bytes(&example);
                    flight.push(example);
                }
                let (decoded, seconds_a_step) = self.decode(&flight, progress)?;
                for (example, decoded) in flight.iter().zip(decoded) {
                    let (record, kept) = self
                        .score(example, &decoded, seconds_a_step)
                        .with_context(|| format!("example `{}`", example.question.key.example))?;
                    run.append(&record, kept.as_ref())?;
                    progress.recorded();
                }
                if interrupt::requested() {
                    return Ok(Ended::Interrupted);
                }
            }
        }
        Ok(Ended::Complete)
    }

    /// The shared prefill, and every variant's choice of what to keep of it.
    fn prefill_and_fork<'q>(
        &self,
        question: &'q Question,
        observations: &BTreeSet<Observation>,
        states: &mut States,
        progress: &mut Progress,
    ) -> anyhow::Result<InFlight<'q>> {
        let prompt = question.prompt(self.protocol, self.facts, &self.text)?;
        progress.prefilling(&question.key, prompt.ids.len());
        let started = Instant::now();
        let prefill = self.model.prefill(&prompt.ids, observations, PrefillOptions::default())?;
        let prefill_seconds = started.elapsed().as_secs_f64();
        progress.prefilled(prompt.ids.len(), prefill_seconds);
        let shape = prefill.shape();
        let mut selections = Vec::with_capacity(self.variants.len());
        let mut select_seconds = Vec::with_capacity(self.variants.len());
        for (variant, state) in self.variants.iter().zip(&mut states.by_variant) {
            let started = Instant::now();
            let selection = variant.select(shape, prefill.observations(), self.inputs, state)?;
            selections.push(Arc::new(selection));
            select_seconds.push(started.elapsed().as_secs_f64());
        }
        Ok(InFlight {
            question,
            prompt,
            prefill: Arc::new(prefill),
            prefill_seconds,
            selections,
            select_seconds,
        })
    }

    /// All variants of all examples in flight, side by side.
    fn decode(
        &self,
        flight: &[InFlight<'_>],
        progress: &mut Progress,
    ) -> anyhow::Result<(Vec<Vec<Decoded>>, f64)> {
        let sequences: Vec<Sequence> = flight
            .iter()
            .flat_map(|example| {
                example.selections.iter().map(|selection| Sequence {
                    prefill: Arc::clone(&example.prefill),
                    selection: Arc::clone(selection),
                    rule: decode_rule(&example.prompt),
                    keep_logits: false,
                    masked_heads: self.masked.clone(),
                })
            })
            .collect();
        progress.decoding(sequences.len());
        let started = Instant::now();
        let mut decoded = self.model.decode(&sequences, &mut |step| {
            progress.step(step);
            ControlFlow::Continue(())
        })?;
        let seconds = started.elapsed().as_secs_f64();
        let steps = decoded.iter().map(|decoded| decoded.steps).sum();
        progress.decoded(steps, seconds);
        let seconds_a_step = seconds / steps.max(1) as f64;
        let mut examples = Vec::with_capacity(flight.len());
        while !decoded.is_empty() {
            let rest = decoded.split_off(self.variants.len().min(decoded.len()));
            examples.push(std::mem::replace(&mut decoded, rest));
        }
        Ok((examples, seconds_a_step))
    }

    /// Grades every variant's answer and puts the example into one record.
    fn score(
        &self,
        example: &InFlight<'_>,
        decoded: &[Decoded],
        seconds_a_step: f64,
    ) -> anyhow::Result<(ExampleRecord, Option<kvsweep_results::KeptPositions>)> {
        let InFlight { question, prompt, prefill, .. } = example;
        let mut variants = Vec::with_capacity(decoded.len());
        let mut timings = Vec::with_capacity(decoded.len());
        let parts = self.keys.iter().zip(self.variants).zip(&example.selections).zip(&example.select_seconds);
        for ((((key, variant), selection), select_s), decoded) in parts.zip(decoded) {
            let text = self.text.decode(&decoded.ids, true).map_err(anyhow::Error::msg)?;
            let prediction = self.protocol.finish_prediction(self.facts, &text);
            let grade = question.grade(self.protocol, &prediction)?;
            let layers = layers_kept(selection);
            variants.push(VariantRecord {
                variant: key.clone(),
                prediction,
                prediction_sha256: kept::ids_sha256(&decoded.ids),
                new_tokens: count(decoded.ids.len()),
                finish: if decoded.stopped_by.is_some() { Finish::Stop } else { Finish::Length },
                metric: grade.metric,
                score: grade.score,
                other_scores: grade.others,
                kept: Kept {
                    entries_mean: entries_mean(&decoded.held),
                    entries_max: count(decoded.held.layers.iter().flatten().copied().max().unwrap_or(0)),
                    entries_nominal: nominal(variant, prompt.ids.len()),
                    bytes: decoded.held.bytes,
                },
                selection: Some(SelectionDigest::of(&layers)),
                retention: prompt.needle.and_then(|needle| kept::retention(&layers, prefill.shape(), needle)),
            });
            timings
                .push(VariantTiming { select_s: *select_s, decode_s: decoded.steps as f64 * seconds_a_step });
        }
        let kept = (question.row < self.store_kept).then(|| kept::positions(self.keys, &example.selections));
        let record = ExampleRecord {
            schema: SCHEMA,
            key: question.key.clone(),
            info: ExampleInfo {
                row: question.row,
                language: question.language().to_owned(),
                length: question.length(),
                bucket: question.bucket(),
                context: question.context(),
                answers: question.answers(),
                all_classes: question.all_classes().to_vec(),
                prompt_sha256: kept::ids_sha256(&prompt.ids),
                prompt_tail: kept::tail(&prompt.text),
                prompt_tokens: count(prompt.ids.len()),
                truncated_tokens: count(prompt.removed_tokens),
                needle: prompt.needle,
            },
            variants,
            timings: Some(Timings { prefill_s: example.prefill_seconds, variants: timings }),
        };
        Ok((record, kept))
    }

    /// Keys and values of the prompt, and what its variants gather of them, in bytes.
    fn held_bytes(&self, example: &InFlight<'_>) -> u64 {
        let shape = example.prefill.shape();
        let entry = 2 * shape.head_dim as u64 * self.model.dtype.size_in_bytes() as u64;
        let prompt = (shape.layers * shape.kv_heads * shape.prompt_len) as u64;
        let kept: u64 = example.selections.iter().map(|selection| kept::entries(selection)).sum();
        (prompt + kept) * entry
    }
}

/// Mean entries per stored head and layer.
fn entries_mean(held: &Held) -> f64 {
    held.entries() as f64 / held.layers.iter().map(Vec::len).sum::<usize>().max(1) as f64
}

/// What a budget allows per head and layer for this prompt; everything where there is no budget.
fn nominal(variant: &Variant, prompt_len: usize) -> f64 {
    variant.budget().unwrap_or(prompt_len).min(prompt_len) as f64
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn decode_rule(prompt: &Prompt) -> DecodeRule {
    DecodeRule {
        max_new: prompt.stop.max_new,
        stop_ids: prompt.stop.stop_ids.clone(),
        ban_stops_on_first: prompt.stop.ban_stop_on_first,
        ignore_stops: false,
    }
}

/// What stateful profiles remember: one state a variant, restarted as its scope says. It starts from the first
/// prompt of the whole data set or run, so that shards and continued runs agree with an undisturbed one.
struct States {
    by_variant: Vec<MethodState>,
}

impl States {
    fn new(sweep: &Sweep<'_>) -> anyhow::Result<Self> {
        let mut states = Self { by_variant: vec![MethodState::default(); sweep.variants.len()] };
        if let Some(first) = sweep.datasets.first() {
            states.restart(sweep, first, StateScope::Run)?;
        }
        Ok(states)
    }

    fn enter(&mut self, sweep: &Sweep<'_>, dataset: &Dataset) -> anyhow::Result<()> {
        self.restart(sweep, dataset, StateScope::Dataset)
    }

    fn restart(&mut self, sweep: &Sweep<'_>, dataset: &Dataset, scope: StateScope) -> anyhow::Result<()> {
        let scopes = sweep.variants.iter().map(|variant| variant.spec().state_scope());
        if !scopes.clone().any(|s| s == scope) {
            return Ok(());
        }
        let prompt = dataset.first.prompt(sweep.protocol, sweep.facts, &sweep.text)?;
        for (state, s) in self.by_variant.iter_mut().zip(scopes) {
            if s == scope {
                *state = MethodState::after(prompt.ids.len());
            }
        }
        Ok(())
    }
}
