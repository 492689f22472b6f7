//! The way of a sweep, top to bottom: plan -> prefill -> fork -> decode -> score -> record.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use kvsweep_engine::backend::Backend;
use kvsweep_engine::cache::Held;
use kvsweep_engine::decode::{DecodeRule, Decoded, HeadSet, Sequence};
use kvsweep_engine::error::EngineError;
use kvsweep_engine::memory::Planner;
use kvsweep_engine::prefill::{Prefill, PrefillOptions};
use kvsweep_engine::session::Session;
use kvsweep_methods::inputs::Inputs;
use kvsweep_methods::method::{MethodState, StateScope};
use kvsweep_methods::observation::Observation;
use kvsweep_methods::selection::Selection;
use kvsweep_methods::spec::Variant;
use kvsweep_results::{
    CacheSize, ExampleInfo, ExampleRecord, Finish, RunDir, SCHEMA, SelectionDigest, Timings, VariantKey,
    VariantRecord, VariantTiming,
};
use kvsweep_tasks::{ModelFacts, Protocol, Tokenizer};

use crate::cost::human;
use crate::kept::{self, count, layers_kept};
use crate::machine;
use crate::model::TextSide;
use crate::progress::Progress;
use crate::questions::{Dataset, Prompt, Question};

/// Everything a sweep needs, loaded and checked.
pub struct Sweep<'a, B> {
    /// The model, at work.
    pub session: &'a Session<B>,
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
    /// Sequences that decode together at most; one example's variants may be more.
    pub batch: usize,
    /// Bytes that prompts in flight and their variants may take.
    pub memory: u64,
    /// Examples of each data set whose kept positions are stored beside the records.
    pub store_kept: u64,
}

/// How a sweep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every example is recorded.
    Complete,
    /// Ctrl-C: what was in hand is dropped, every record before it is kept.
    Interrupted,
}

/// What became of an example.
enum Scored {
    /// Its record, and its kept positions where they are stored.
    Graded(Box<ExampleRecord>, Option<kvsweep_results::KeptPositions>),
    /// Why the metric has no number for one of its answers.
    Ungradable(String),
}

/// One example between its prefill and its record.
struct InFlight<'a, P> {
    question: &'a Question,
    prompt: Prompt,
    prefill: Arc<Prefill<P>>,
    prefill_seconds: f64,
    selections: Vec<Arc<Selection>>,
    select_seconds: Vec<f64>,
    /// Bytes of the prompt: keys, values, observations.
    prompt_bytes: u64,
    /// Bytes of each variant's cache.
    variant_bytes: Vec<u64>,
}

impl<P> InFlight<'_, P> {
    fn bytes(&self) -> u64 {
        self.prompt_bytes + self.variant_bytes.iter().sum::<u64>()
    }
}

impl<B: Backend> Sweep<'_, B> {
    /// Runs what `run` does not hold yet; one record an example, in the order of the data sets' rows.
    ///
    /// # Errors
    /// The first example that cannot be rendered, computed or written; all records before it are kept. An example that
    /// cannot be graded is recorded as skipped, with the reason, and the sweep goes on.
    pub fn run(&self, run: &mut RunDir, progress: &mut Progress) -> anyhow::Result<Ended> {
        match self.run_all(run, progress) {
            Err(error) if matches!(error.downcast_ref(), Some(EngineError::Interrupted)) => {
                Ok(Ended::Interrupted)
            }
            ended => ended.map(|()| Ended::Complete),
        }
    }

    /// Prompt tokens that the examples which `run` does not hold are expected to have.
    pub fn tokens_ahead(&self, run: &RunDir) -> u64 {
        let questions = self.datasets.iter().flat_map(|dataset| &dataset.questions);
        let missing = questions.filter(|question| !run.finished_keys().contains(&question.key));
        missing.map(|question| question.expected_tokens(self.protocol, self.facts)).sum()
    }

    fn run_all(&self, run: &mut RunDir, progress: &mut Progress) -> anyhow::Result<()> {
        let observations: BTreeSet<Observation> =
            self.variants.iter().flat_map(Variant::observations).collect();
        let mut states = States::new(self)?;
        for dataset in self.datasets {
            states.enter(self, dataset)?;
            let unfinished: Vec<&Question> =
                dataset.questions.iter().filter(|q| !run.finished_keys().contains(&q.key)).collect();
            // Found before the first prefill, so that a row that no answer can be graded against costs none.
            let mut waiting = Vec::with_capacity(unfinished.len());
            for question in unfinished {
                match question.ungradable(self.protocol) {
                    Some(why) => self.skip(question, why, run, progress)?,
                    None => waiting.push(question),
                }
            }
            waiting.reverse();
            let mut rendered = None;
            while rendered.is_some() || !waiting.is_empty() {
                let mut flight: Vec<InFlight<'_, B::Prompt>> = Vec::new();
                while flight.len() * self.variants.len() < self.batch {
                    self.session.cancel.check()?;
                    let of = |question: &Question| format!("example `{}`", question.key.example);
                    let (question, prompt) = match rendered.take() {
                        Some(rendered) => rendered,
                        None => {
                            let Some(question) = waiting.pop() else { break };
                            let prompt = question
                                .prompt(self.protocol, self.facts, &self.text)
                                .with_context(|| of(question))?;
                            (question, prompt)
                        }
                    };
                    let taken = flight.iter().map(InFlight::bytes).sum();
                    if !self.fits(&prompt, &observations, taken) && !flight.is_empty() {
                        rendered = Some((question, prompt));
                        break;
                    }
                    let example = self
                        .prefill_and_fork(question, prompt, &observations, &mut states, progress)
                        .with_context(|| of(question))?;
                    flight.push(example);
                }
                let (decoded, seconds_a_step) = self.decode(&flight, progress)?;
                for (example, decoded) in flight.iter().zip(decoded) {
                    let scored = self
                        .score(example, &decoded, seconds_a_step)
                        .with_context(|| format!("example `{}`", example.question.key.example))?;
                    match scored {
                        Scored::Graded(record, kept) => {
                            run.append(&record, kept.as_ref())?;
                            progress.recorded();
                        }
                        Scored::Ungradable(why) => self.skip(example.question, why, run, progress)?,
                    }
                }
            }
        }
        Ok(())
    }

    fn planner(&self) -> Planner<'_> {
        Planner::new(&self.session.config, self.session.dtype.size_in_bytes())
    }

    /// Whether a prompt can be read and answered beside `taken` bytes.
    fn fits(&self, prompt: &Prompt, observations: &BTreeSet<Observation>, taken: u64) -> bool {
        taken.saturating_add(self.least_bytes(prompt, observations)) <= self.memory
    }

    /// Bytes that a prompt takes while it is read, or while one variant answers, whichever is more.
    fn least_bytes(&self, prompt: &Prompt, observations: &BTreeSet<Observation>) -> u64 {
        let (planner, tokens) = (self.planner(), prompt.ids.len());
        let reading = planner.activation_bytes(tokens, machine::processors());
        let answering = self.variants.iter().map(|variant| {
            let heads = self.session.config.stored_heads(variant.spec().granularity());
            planner.variant_bytes(variant.budget().map_or(0, |b| b.min(tokens)), heads, prompt.stop.max_new)
        });
        planner.prompt_bytes(tokens, observations) + reading.max(answering.max().unwrap_or(0))
    }

    /// Records that an example has no answers, and why.
    fn skip(
        &self,
        question: &Question,
        why: String,
        run: &mut RunDir,
        progress: &mut Progress,
    ) -> anyhow::Result<()> {
        crate::output::note(&format!("skipped: {}", kvsweep_results::visible(&why)));
        let record = ExampleRecord {
            schema: SCHEMA,
            key: question.key.clone(),
            info: info(question, None)?,
            skipped: Some(why),
            variants: Vec::new(),
            timings: None,
        };
        run.append(&record, None)?;
        progress.recorded();
        Ok(())
    }

    /// The shared prefill, and every variant's choice of what to keep of it.
    fn prefill_and_fork<'q>(
        &self,
        question: &'q Question,
        prompt: Prompt,
        observations: &BTreeSet<Observation>,
        states: &mut States,
        progress: &mut Progress,
    ) -> anyhow::Result<InFlight<'q, B::Prompt>> {
        self.session.check_prompt(&prompt.ids, prompt.stop.max_new)?;
        if !self.fits(&prompt, observations, 0) {
            let needed = self.least_bytes(&prompt, observations);
            anyhow::bail!(
                "a prompt of {} tokens with one variant needs {}, and {} may be taken\n\
                 hint: `--memory {:.3}` allows it, if the machine has it",
                prompt.ids.len(),
                human(needed),
                human(self.memory),
                gib_at_least(needed)
            );
        }
        progress.prefilling(&question.key, prompt.ids.len());
        let started = Instant::now();
        let prefill = self.session.prefill(&prompt.ids, observations, PrefillOptions::default())?;
        let prefill_seconds = started.elapsed().as_secs_f64();
        let expected = question.expected_tokens(self.protocol, self.facts);
        progress.prefilled(expected, prompt.ids.len(), prefill_seconds);
        let shape = prefill.shape();
        let mut selections = Vec::with_capacity(self.variants.len());
        let mut select_seconds = Vec::with_capacity(self.variants.len());
        for (variant, state) in self.variants.iter().zip(&mut states.by_variant) {
            self.session.cancel.check()?;
            let started = Instant::now();
            let selection = variant.select(shape, prefill.observations(), self.inputs, state)?;
            selections.push(Arc::new(selection));
            select_seconds.push(started.elapsed().as_secs_f64());
        }
        let planner = self.planner();
        let variant_bytes = selections.iter().map(|selection: &Arc<Selection>| {
            planner.selection_bytes(selection, prompt.ids.len(), prompt.stop.max_new)
        });
        Ok(InFlight {
            prompt_bytes: planner.prompt_bytes(prompt.ids.len(), observations),
            variant_bytes: variant_bytes.collect(),
            question,
            prompt,
            prefill: Arc::new(prefill),
            prefill_seconds,
            selections,
            select_seconds,
        })
    }

    /// All variants of all examples in flight, as many side by side as fit the memory; a variant's answer does not
    /// depend on its company.
    fn decode(
        &self,
        flight: &[InFlight<'_, B::Prompt>],
        progress: &mut Progress,
    ) -> anyhow::Result<(Vec<Vec<Decoded>>, f64)> {
        let sequences: Vec<_> = flight
            .iter()
            .flat_map(|example| {
                example.selections.iter().zip(self.variants).map(|(selection, variant)| Sequence {
                    prefill: Arc::clone(&example.prefill),
                    selection: Arc::clone(selection),
                    follow: Arc::default(),
                    again: variant.interval().map(|_| Arc::new(variant.clone())),
                    rule: decode_rule(&example.prompt),
                    keep_logits: false,
                    masked_heads: self.masked.clone(),
                })
            })
            .collect();
        let sizes: Vec<u64> = flight.iter().flat_map(|example| example.variant_bytes.clone()).collect();
        let prompts: u64 = flight.iter().map(|example| example.prompt_bytes).sum();
        let started = Instant::now();
        let mut decoded = Vec::with_capacity(sequences.len());
        for group in groups(&sizes, self.memory.saturating_sub(prompts)) {
            progress.decoding(group.len());
            decoded.extend(self.session.decode(&sequences[group], &mut |step| progress.step(step))?);
        }
        let seconds = started.elapsed().as_secs_f64();
        let steps = decoded.iter().map(|decoded| decoded.steps).sum();
        let expected =
            |example: &InFlight<'_, B::Prompt>| example.question.expected_tokens(self.protocol, self.facts);
        progress.decoded(flight.iter().map(expected).sum(), steps, seconds);
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
        example: &InFlight<'_, B::Prompt>,
        decoded: &[Decoded],
        seconds_a_step: f64,
    ) -> anyhow::Result<Scored> {
        let InFlight { question, prompt, prefill, .. } = example;
        let mut variants = Vec::with_capacity(decoded.len());
        let mut timings = Vec::with_capacity(decoded.len());
        let parts = self.keys.iter().zip(self.variants).zip(&example.selections).zip(&example.select_seconds);
        for ((((key, variant), selection), select_s), decoded) in parts.zip(decoded) {
            let text = self.text.decode(&decoded.ids, true).map_err(anyhow::Error::msg)?;
            let prediction = self.protocol.finish_prediction(self.facts, &text);
            let grade = match question.grade(self.protocol, &prediction) {
                Ok(grade) => grade,
                Err(error) => return Ok(Scored::Ungradable(format!("{error:#}"))),
            };
            let layers = layers_kept(selection);
            variants.push(VariantRecord {
                variant: key.clone(),
                prediction: prediction.into(),
                prediction_sha256: kept::ids_sha256(&decoded.ids).into(),
                new_tokens: count(decoded.ids.len())?,
                finish: if decoded.stopped_by.is_some() { Finish::Stop } else { Finish::Length },
                metric: grade.metric.into(),
                score: grade.score,
                other_scores: grade.others.into(),
                kept: CacheSize {
                    entries_mean: entries_mean(&decoded.held),
                    entries_max: count(decoded.held.layers.iter().flatten().copied().max().unwrap_or(0))?,
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
            info: info(question, Some(prompt))?,
            skipped: None,
            variants,
            timings: Some(Timings { prefill_s: example.prefill_seconds, variants: timings }),
        };
        Ok(Scored::Graded(Box::new(record), kept))
    }
}

/// Cuts a list of sizes into runs whose sums do not exceed `room`; what is larger than that stands alone.
fn groups(sizes: &[u64], room: u64) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut taken = 0;
    for (index, &size) in sizes.iter().enumerate() {
        taken += size;
        match groups.last_mut() {
            Some(group) if taken <= room => group.end = index + 1,
            _ => {
                groups.push(index..index + 1);
                taken = size;
            }
        }
    }
    groups
}

/// GiB with three decimals that are no less than `bytes`.
fn gib_at_least(bytes: u64) -> f64 {
    (bytes as f64 / f64::from(1 << 30) * 1e3).ceil() / 1e3
}

/// Mean entries per stored head and layer.
fn entries_mean(held: &Held) -> f64 {
    held.entries() as f64 / held.layers.iter().map(Vec::len).sum::<usize>().max(1) as f64
}

/// What a budget allows per head and layer for this prompt; everything where there is no budget.
fn nominal(variant: &Variant, prompt_len: usize) -> f64 {
    variant.budget().unwrap_or(prompt_len).min(prompt_len) as f64
}

/// What the variants of an example share; an example that is skipped has no prompt.
fn info(question: &Question, prompt: Option<&Prompt>) -> anyhow::Result<ExampleInfo> {
    Ok(ExampleInfo {
        row: question.row,
        language: question.language().to_owned(),
        length: question.length(),
        bucket: question.bucket(),
        context: question.context(),
        answers: question.answers(),
        all_classes: question.all_classes().to_vec(),
        prompt_sha256: prompt.map_or_else(String::new, |prompt| kept::ids_sha256(&prompt.ids)),
        prompt_tail: prompt.map_or_else(String::new, |prompt| kept::tail(&prompt.text)),
        prompt_tokens: prompt.map_or(Ok(0), |prompt| count(prompt.ids.len()))?,
        truncated_tokens: prompt.map_or(Ok(0), |prompt| count(prompt.removed_tokens))?,
        needle: prompt.and_then(|prompt| prompt.needle),
    })
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
    fn new(sweep: &Sweep<'_, impl Backend>) -> anyhow::Result<Self> {
        let mut states = Self { by_variant: vec![MethodState::default(); sweep.variants.len()] };
        if let Some(first) = sweep.datasets.first() {
            states.restart(sweep, first, StateScope::Run)?;
        }
        Ok(states)
    }

    fn enter(&mut self, sweep: &Sweep<'_, impl Backend>, dataset: &Dataset) -> anyhow::Result<()> {
        self.restart(sweep, dataset, StateScope::Dataset)
    }

    fn restart(
        &mut self,
        sweep: &Sweep<'_, impl Backend>,
        dataset: &Dataset,
        scope: StateScope,
    ) -> anyhow::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::{gib_at_least, groups};

    #[test]
    fn groups_hold_what_fits_and_everything_once() {
        assert!(groups(&[], 10).is_empty());
        assert_eq!(groups(&[4, 6, 1, 20, 3, 3], 10), [0..2, 2..3, 3..4, 4..6]);
        assert_eq!(groups(&[1, 1, 1], 0), [0..1, 1..2, 2..3]);
        assert_eq!(groups(&[1, 1, 1], u64::MAX), std::slice::from_ref(&(0..3)));
    }

    #[test]
    fn the_memory_that_a_hint_names_is_enough() {
        for bytes in [1, 1 << 20, (1 << 30) + 1, 123_456_789_012] {
            assert!((gib_at_least(bytes) * f64::from(1 << 30)) as u64 >= bytes);
        }
    }
}
