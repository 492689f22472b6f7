//! One device at work: it turns questions into scored examples.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use kvsweep_engine::backend::Backend;
use kvsweep_engine::decode::{Decoded, Sequence};
use kvsweep_engine::memory::Planner;
use kvsweep_engine::prefill::{Prefill, PrefillOptions};
use kvsweep_engine::session::Session;
use kvsweep_methods::method::StateScope;
use kvsweep_methods::selection::Selection;
use kvsweep_methods::spec::Variant;
use kvsweep_results::ExampleKey;
use kvsweep_tasks::{ModelText, Prompt};

use super::flight::{Answer, Branch, InFlight};
use super::lanes::{self, Lane};
use super::record;
use super::writer::Scored;
use crate::cost::human;
use crate::footprint::Footprint;
use crate::model::TextSide;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::questions::{DatasetPart, KeyedQuestion};
use crate::remaining::{Efforts, Remaining};
use crate::repeat::RepeatWords;
use crate::stop::decode_rule;
use crate::survey::{PromptLength, Survey, named};
use crate::{machine, output};

/// What a worker may take at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Sequences that decode together at most; one example's variants may be more.
    pub batch: usize,
    /// Bytes that prompts in flight and their variants may take.
    pub memory: u64,
    /// Examples of each data set whose kept positions are stored beside the records.
    pub store_kept: u64,
}

/// A model on its device, and the plan that it works on.
pub(crate) struct Worker<'p, B: Backend> {
    plan: &'p Plan,
    session: &'p Session<B>,
    text: TextSide<'p>,
    limits: Limits,
    planner: Planner<'p>,
    footprint: Footprint<'p>,
    /// The words that ask for a prompt again, where a method wants that.
    repeat: Option<RepeatWords>,
    lanes: Vec<Lane<'p>>,
    /// Whether a first example is under way.
    took_off: bool,
    /// The question that did not fit beside those before it, with its prompt.
    held_back: Option<(KeyedQuestion<'p>, Prompt)>,
    /// The context read last, where other questions about it may follow.
    last: Option<Context<B::Prompt>>,
}

/// A context that was read, and what every lane keeps of it.
struct Context<P> {
    prefill: Arc<Prefill<P>>,
    selections: Vec<Arc<Selection>>,
}

impl<'p, B: Backend> Worker<'p, B> {
    /// A worker at the start of a run.
    ///
    /// # Errors
    /// A model without a tokenizer, a first prompt that cannot be built.
    pub(crate) fn new(plan: &'p Plan, session: &'p Session<B>, limits: Limits) -> anyhow::Result<Self> {
        let text = TextSide::new(session)?;
        let planner = Planner::new(&session.config, session.dtype.size_in_bytes());
        let lanes = lanes::of(plan, &plan.renderer(&text))?;
        let observations = plan.observations();
        let repeats = observations.iter().any(|one| one.repeats_the_prompt());
        Ok(Self {
            repeat: repeats.then(|| RepeatWords::new(&text)).transpose()?,
            plan,
            session,
            text,
            limits,
            planner,
            footprint: Footprint::new(&session.config, planner, observations, machine::processors()),
            lanes,
            took_off: false,
            held_back: None,
            last: None,
        })
    }

    /// What the examples take that are not `finished`, each of which is found to fit the model and the memory.
    ///
    /// # Errors
    /// An example whose prompt cannot be made, read or held.
    pub(crate) fn survey(&self, finished: &BTreeSet<ExampleKey>) -> anyhow::Result<Survey> {
        let check = |prompt: &Prompt| {
            self.session.cancel.check()?;
            self.plan.question_tokens(prompt, &self.text)?;
            self.session.check_prompt(&prompt.ids, prompt.stop.max_new)?;
            if let Some(words) = &self.repeat {
                let compressed = &prompt.ids[..self.plan.compressed_tokens(prompt, &self.text)?];
                let request = words.request(compressed);
                self.session.check_repeat(compressed, self.footprint.observations(), Some(&request))?;
            }
            Ok(())
        };
        let survey = self.plan.surveyor(self.text).survey(&self.plan.datasets, finished, &check)?;
        let needed = |(_, sizes): &&(ExampleKey, PromptLength)| self.least_bytes(sizes.tokens(), sizes.new);
        if let Some(largest) = survey.prompts.iter().max_by_key(needed)
            && needed(&largest) > self.limits.memory
        {
            let (needed, tokens) = (needed(&largest), largest.1.tokens());
            anyhow::bail!(
                "{}: a prompt of {tokens} tokens with one variant needs {}, and {} may be taken\n\
                 hint: `--memory {:.3}` allows it, if the machine has it",
                named(&largest.0),
                human(needed),
                human(self.limits.memory),
                gib_at_least(needed)
            );
        }
        Ok(survey)
    }

    /// What the work that was surveyed amounts to.
    pub(crate) fn remaining(&self, survey: &Survey) -> Remaining<'p> {
        let variants = self.plan.variants.iter().map(|planned| &planned.variant);
        Remaining::new(Efforts::new(self.planner, variants, self.examples_at_once()), survey)
    }

    /// Examples whose variants fill a batch.
    fn examples_at_once(&self) -> usize {
        self.limits.batch.div_ceil(self.lanes.len().max(1))
    }

    /// A data set begins.
    ///
    /// # Errors
    /// Its first prompt cannot be built.
    pub(crate) fn enter(&mut self, dataset: &DatasetPart) -> anyhow::Result<()> {
        self.last = None;
        let renderer = self.plan.renderer(&self.text);
        lanes::restart(&mut self.lanes, dataset, StateScope::Dataset, self.plan, &renderer)
    }

    /// Reads the prompts of the questions that come next, as many as may be in flight at once: none when all are read.
    ///
    /// # Errors
    /// An example that cannot be rendered, read or held.
    pub(crate) fn prefill(
        &mut self,
        waiting: &mut impl Iterator<Item = KeyedQuestion<'p>>,
        progress: &mut Progress<'_>,
    ) -> anyhow::Result<Vec<InFlight<'p, B::Prompt>>> {
        let mut flight: Vec<InFlight<'p, B::Prompt>> = Vec::new();
        // The first one alone: how long its answers take is known before other prompts are read.
        let most = if std::mem::replace(&mut self.took_off, true) { self.examples_at_once() } else { 1 };
        while flight.len() < most {
            let (asked, prompt) = match self.held_back.take() {
                Some(held_back) => held_back,
                None => {
                    let Some(asked) = waiting.next() else { break };
                    self.session.cancel.check()?;
                    let renderer = self.plan.renderer(&self.text);
                    let prompt = asked.question.prompt(&renderer).with_context(|| named(&asked.key))?;
                    (asked, prompt)
                }
            };
            let taken = flight.iter().map(InFlight::bytes).sum();
            if !self.fits(&prompt, taken) && !flight.is_empty() {
                self.held_back = Some((asked, prompt));
                break;
            }
            let name = named(&asked.key);
            flight.push(self.fork(asked, prompt, progress).context(name)?);
        }
        Ok(flight)
    }

    /// Whether a prompt can be read and answered beside `taken` bytes.
    fn fits(&self, prompt: &Prompt, taken: u64) -> bool {
        let needed = self.least_bytes(prompt.ids.len(), prompt.stop.max_new);
        taken.saturating_add(needed) <= self.limits.memory
    }

    fn least_bytes(&self, tokens: usize, new_tokens: usize) -> u64 {
        let variants = self.lanes.iter().map(|lane| &lane.planned.variant);
        self.footprint.one_by_one(variants, tokens, new_tokens)
    }

    /// The shared prefill, and every variant's choice of what to keep of it.
    fn fork(
        &mut self,
        asked: KeyedQuestion<'p>,
        prompt: Prompt,
        progress: &mut Progress<'_>,
    ) -> anyhow::Result<InFlight<'p, B::Prompt>> {
        let (tokens, new_tokens) = (prompt.ids.len(), prompt.stop.max_new);
        let (compressed, follow) = prompt.ids.split_at(self.plan.compressed_tokens(&prompt, &self.text)?);
        progress.prefilling(&asked.key, tokens);
        let started = Instant::now();
        let known = self.last.take().filter(|context| context.prefill.ids() == compressed);
        let prefill = match &known {
            Some(context) => Arc::clone(&context.prefill),
            None => {
                let wanted = self.footprint.observations();
                let repeat = self.repeat.as_ref().map(|words| words.request(compressed));
                let question = self.plan.question_tokens(&prompt, &self.text)?;
                let options =
                    PrefillOptions { repeat: repeat.as_ref(), question, ..PrefillOptions::default() };
                Arc::new(self.session.prefill(compressed, wanted, options)?)
            }
        };
        let prefill_seconds = started.elapsed().as_secs_f64();
        progress.prefilled(&asked.key, tokens, prefill_seconds);
        let seen = prefill.shape().seen().len();
        let mut branches = Vec::with_capacity(self.lanes.len());
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            self.session.cancel.check()?;
            let (planned, state) = (lane.planned, &mut lane.state);
            if let Err(needs) = planned.variant.room(seen)
                && !std::mem::replace(&mut lane.told, true)
            {
                output::note(&without_room(&planned.variant, seen, &needs));
            }
            let started = Instant::now();
            let selection = match &known {
                Some(context) => Arc::clone(&context.selections[index]),
                None => {
                    let (shape, seen) = (prefill.shape(), prefill.observations());
                    Arc::new(planned.variant.select(shape, seen, &self.plan.inputs, state)?)
                }
            };
            branches.push(Branch {
                planned,
                select_seconds: started.elapsed().as_secs_f64(),
                bytes: self.footprint.selected(&selection, compressed.len(), follow.len() + new_tokens),
                selection,
            });
        }
        if !follow.is_empty() && asked.ask.questions.len() > 1 {
            let selections = branches.iter().map(|branch| Arc::clone(&branch.selection)).collect();
            self.last = Some(Context { prefill: Arc::clone(&prefill), selections });
        }
        Ok(InFlight {
            asked,
            prefill,
            prefill_seconds,
            branches,
            prompt_bytes: self.footprint.prompt(tokens),
            follow: follow.into(),
            prompt,
        })
    }

    /// All branches of all examples in flight, as many side by side as fit the memory; a branch's answer does not depend
    /// on its company. The answers of each example, in the order of its branches.
    ///
    /// # Errors
    /// A failing device.
    pub(crate) fn decode(
        &self,
        flight: &[InFlight<'_, B::Prompt>],
        progress: &mut Progress<'_>,
    ) -> anyhow::Result<Vec<Vec<Answer>>> {
        let mut sequences = Vec::new();
        let mut sizes = Vec::new();
        for example in flight {
            for branch in &example.branches {
                sequences.push(Sequence {
                    prefill: Arc::clone(&example.prefill),
                    selection: Arc::clone(&branch.selection),
                    follow: Arc::clone(&example.follow),
                    renumbered: branch.planned.variant.renumbers(),
                    again: again(&branch.planned.variant, example.prefill.shape().seen().len()),
                    rule: decode_rule(&example.prompt.stop),
                    keep_logits: false,
                    masked_heads: self.plan.masked.clone(),
                });
                sizes.push(branch.bytes);
            }
        }
        let prompts: u64 = flight.iter().map(|example| example.prompt_bytes).sum();
        let keys = || flight.iter().map(|example| &example.asked.key);
        progress.decoding(keys());
        let started = Instant::now();
        let mut decoded = Vec::with_capacity(sequences.len());
        for group in groups(&sizes, self.limits.memory.saturating_sub(prompts)) {
            progress.decoding_group(group.len());
            decoded.extend(self.session.decode(&sequences[group], &mut |step| progress.step(step))?);
        }
        let seconds = started.elapsed().as_secs_f64();
        let steps = decoded.iter().map(|decoded| decoded.steps).sum();
        let mean = |of_example: &[Decoded]| {
            of_example.iter().map(|one| one.steps as f64).sum::<f64>() / of_example.len().max(1) as f64
        };
        let means = decoded.chunks(self.lanes.len().max(1)).map(mean);
        progress.decoded(keys().zip(means), steps, seconds);
        let a_step = seconds / steps.max(1) as f64;
        let mut answers = decoded
            .into_iter()
            .map(|decoded| Answer { decode_seconds: decoded.steps as f64 * a_step, decoded });
        Ok(flight.iter().map(|example| answers.by_ref().take(example.branches.len()).collect()).collect())
    }

    /// Grades every branch's answer and puts the example into one record.
    ///
    /// # Errors
    /// The tokenizer refuses an answer.
    pub(crate) fn score(
        &self,
        flown: &InFlight<'_, B::Prompt>,
        answers: &[Answer],
    ) -> anyhow::Result<Scored> {
        let scored = || -> anyhow::Result<Scored> {
            let mut graded = Vec::with_capacity(answers.len());
            for (branch, answer) in flown.branches.iter().zip(answers) {
                let text = self.text.decode(&answer.decoded.ids, true)?;
                let prediction = self.plan.protocol.finish_prediction(&self.plan.facts, &text);
                match flown.asked.question.grade(self.plan.protocol, &prediction) {
                    Ok(grade) => graded.push(record::Graded { branch, answer, prediction, grade }),
                    Err(why) => return record::skipped(&flown.asked, why.to_string()),
                }
            }
            record::graded(flown, graded, self.limits.store_kept)
        };
        scored().with_context(|| named(&flown.asked.key))
    }
}

/// What evicts again while an answer grows, if the variant does.
pub(crate) fn again(variant: &Variant, entries: usize) -> Option<Arc<Variant>> {
    variant.interval().map(|_| Arc::new(variant.of_prompt(entries)))
}

/// What a person is told where a share leaves a method no room.
pub(crate) fn without_room(variant: &Variant, compressed: usize, needs: &str) -> String {
    format!(
        "`{}` keeps the last {} of {compressed} entries: {needs}",
        variant.id(),
        variant.entries(compressed)
    )
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
