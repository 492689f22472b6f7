//! Greedy decoding of many sequences in one batch: variants of one prompt, and prompts.
//!
//! The projections run once a step over the whole batch; each sequence attends to its own cache. What a sequence
//! generates does not depend on the others: on the CPU its logits are the same bits alone and in any batch.

use std::sync::Arc;

use kvsweep_methods::selection::Selection;
use rayon::prelude::*;

pub use crate::backend::HeadSet;
use crate::{
    backend::{Backend, Compute, OnLayerRows, StepRow, StepTap},
    cache::{Held, check_selection},
    calibrate::OnRows,
    cancel::Cancel,
    error::Result,
    model::Model,
    prefill::Prefill,
};

/// When a sequence ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecodeRule {
    /// Tokens to generate at most.
    pub max_new: usize,
    /// Tokens that end the answer; they are not part of it.
    pub stop_ids: Vec<u32>,
    /// The first token is the best that is not a stop token.
    pub ban_stops_on_first: bool,
    /// Stop tokens do not stop.
    pub ignore_stops: bool,
}

/// One variant of one prompt.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// The prompt, read.
    pub prefill: Arc<Prefill>,
    /// What the variant keeps of it.
    pub selection: Arc<Selection>,
    /// When to end.
    pub rule: DecodeRule,
    /// Keep the logits of every generated token.
    pub keep_logits: bool,
    /// Heads, as (layer, query head), whose query is zero in every decode step.
    pub masked_heads: Option<Arc<HeadSet>>,
}

impl Sequence {
    /// Whether the two generate the same tokens from the same entries by construction.
    fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.prefill, &other.prefill)
            && self.rule == other.rule
            && self.keep_logits == other.keep_logits
            && self.masked_heads == other.masked_heads
            && (Arc::ptr_eq(&self.selection, &other.selection) || self.same_selection(&other.selection))
    }

    fn same_selection(&self, other: &Selection) -> bool {
        let len = self.prefill.shape().prompt_len;
        self.selection.layers.len() == other.layers.len()
            && self.selection.layers.iter().zip(&other.layers).all(|(a, b)| {
                match (a.keeps_everything(len), b.keeps_everything(len)) {
                    (true, true) => true,
                    (false, false) => self.selection.granularity == other.granularity && a == b,
                    _ => false,
                }
            })
    }
}

/// What a sequence generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// Generated tokens, without the stop token.
    pub ids: Vec<u32>,
    /// The stop token that ended the answer; `None` if it reached `max_new`.
    pub stopped_by: Option<u32>,
    /// Row-major `[steps][vocab]`: the logits that each generated token, the stop token included, was chosen from.
    /// The first row is the prompt's last.
    pub logits: Option<Vec<f32>>,
    /// Tokens chosen, the stop token included.
    pub steps: usize,
    /// What the variant held of its prompt.
    pub held: Held,
}

/// How far a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeProgress {
    /// Steps done.
    pub step: usize,
    /// Sequences still generating.
    pub active: usize,
    /// Tokens generated so far in all sequences, duplicates not counted.
    pub tokens: usize,
}

/// Index of the largest element; the lowest index among equals, and never one of `banned`.
fn argmax(logits: &[f32], banned: &[u32]) -> u32 {
    let mut best = None;
    for (id, &logit) in (0u32..).zip(logits) {
        if best.is_none_or(|(_, top)| logit > top) && !banned.contains(&id) {
            best = Some((id, logit));
        }
    }
    best.map_or(0, |(id, _)| id)
}

/// A sequence at work.
struct Running<'a, C> {
    rule: &'a DecodeRule,
    masked: Option<&'a HeadSet>,
    cache: C,
    /// Where the result goes.
    index: usize,
    result: Decoded,
    next: Option<u32>,
}

impl<'a, C: Send> Running<'a, C> {
    fn new<M: Compute<Cache = C>>(
        model: &M,
        sequence: &'a Sequence,
        index: usize,
        cancel: &Cancel,
    ) -> Result<Self> {
        cancel.check()?;
        check_selection(&sequence.selection, sequence.prefill.shape())?;
        let cache = model.fork(&sequence.prefill, &sequence.selection, sequence.rule.max_new)?;
        let held = model.held(&cache)?;
        let logits = sequence.keep_logits.then(Vec::new);
        Ok(Self {
            rule: &sequence.rule,
            masked: sequence.masked_heads.as_deref(),
            cache,
            index,
            result: Decoded { ids: Vec::new(), stopped_by: None, logits, steps: 0, held },
            next: None,
        })
    }

    /// Chooses the next token.
    fn accept(&mut self, logits: &[f32]) {
        self.next = None;
        if self.result.ids.len() >= self.rule.max_new {
            return;
        }
        let ban = self.rule.ban_stops_on_first && self.result.steps == 0;
        let token = argmax(logits, if ban { &self.rule.stop_ids } else { &[] });
        if let Some(kept) = &mut self.result.logits {
            kept.extend_from_slice(logits);
        }
        self.result.steps += 1;
        if !self.rule.ignore_stops && self.rule.stop_ids.contains(&token) {
            self.result.stopped_by = Some(token);
            return;
        }
        self.result.ids.push(token);
        self.next = (self.result.ids.len() < self.rule.max_new).then_some(token);
    }

    fn row(&mut self) -> Option<StepRow<'_, C>> {
        self.next.map(|token| StepRow { cache: &mut self.cache, token, masked: self.masked })
    }
}

fn decode<M: Compute + Sync>(
    model: &M,
    sequences: &[Sequence],
    progress: &mut dyn FnMut(DecodeProgress),
    cancel: &Cancel,
) -> Result<Vec<Decoded>> {
    // Sequences that are the same by construction are computed once.
    let mut firsts: Vec<usize> = Vec::new();
    let twin: Vec<usize> = (0..sequences.len())
        .map(|i| match firsts.iter().find(|&&first| sequences[first].same(&sequences[i])) {
            Some(&first) => first,
            None => {
                firsts.push(i);
                i
            }
        })
        .collect();
    let mut running = firsts
        .par_iter()
        .map(|&i| Running::new(model, &sequences[i], i, cancel))
        .collect::<Result<Vec<_>>>()?;
    for one in &mut running {
        one.accept(sequences[one.index].prefill.logits());
    }
    let mut results = vec![None; sequences.len()];
    let mut done = DecodeProgress { step: 0, active: 0, tokens: running.len() };
    loop {
        let (active, finished): (Vec<_>, Vec<_>) = running.into_iter().partition(|one| one.next.is_some());
        running = active;
        for one in finished {
            results[one.index] = Some(one.result);
        }
        done.active = running.len();
        progress(done);
        if running.is_empty() {
            break;
        }
        let mut rows: Vec<_> = running.iter_mut().filter_map(Running::row).collect();
        let logits = model.step(&mut rows, None, cancel)?;
        let vocab = logits.len() / running.len();
        running.par_iter_mut().zip(logits.par_chunks_exact(vocab)).for_each(|(one, row)| one.accept(row));
        done.step += 1;
        done.tokens += running.len();
    }
    Ok(twin.into_iter().filter_map(|i| results[i].clone()).collect())
}

/// Decodes one sequence under the eyes of a calibration. `feed` is read first, before the first token is chosen;
/// without it the first token comes from the prefill's logits. `shadow` is a second selection to compare with.
pub(crate) fn decode_tapped<M: Compute>(
    model: &M,
    sequence: &Sequence,
    feed: Option<u32>,
    mut on_rows: Option<OnRows<'_>>,
    mut shadow: Option<(&Selection, &mut [f64])>,
    cancel: &Cancel,
) -> Result<Decoded> {
    let mut one = Running::new(model, sequence, 0, cancel)?;
    let room = sequence.rule.max_new;
    let mut second = match &shadow {
        Some((selection, _)) => {
            check_selection(selection, sequence.prefill.shape())?;
            Some(model.fork(&sequence.prefill, selection, room)?)
        }
        None => None,
    };
    match feed {
        Some(token) => one.next = Some(token),
        None => one.accept(sequence.prefill.logits()),
    }
    for step in 0.. {
        let Some(row) = one.row() else { break };
        let mut rows_of_step;
        let rows = match on_rows.as_mut() {
            Some(on_rows) => {
                rows_of_step = |layer: usize, rows: &[f32]| on_rows(step, layer, rows);
                Some(&mut rows_of_step as OnLayerRows<'_>)
            }
            None => None,
        };
        let pair = second.as_mut().zip(shadow.as_mut()).map(|(cache, (_, errors))| (cache, &mut **errors));
        let mut tap = StepTap { rows, shadow: pair };
        let logits = model.step(&mut [row], Some(&mut tap), cancel)?;
        one.accept(&logits);
    }
    Ok(one.result)
}

impl Model {
    /// Decodes all sequences in one batch, greedily; ties go to the lowest id. The token at step `t` stands at
    /// position `prompt_len + t`, whatever was evicted. Finished sequences leave the batch; sequences that are
    /// equal by construction are computed once.
    ///
    /// `progress` is called before every step.
    ///
    /// # Errors
    /// A prompt and answer that do not fit the model (see [`Model::check_prompt`]), a selection that does not fit its
    /// prompt, a prefill of another device, a failing device, numbers that are not finite, or
    /// [`EngineError::Interrupted`](crate::error::EngineError::Interrupted) where [`Model::cancel`] asks for it.
    pub fn decode(
        &self,
        sequences: &[Sequence],
        progress: &mut dyn FnMut(DecodeProgress),
    ) -> Result<Vec<Decoded>> {
        for sequence in sequences {
            self.config.check_room(sequence.prefill.shape().prompt_len, sequence.rule.max_new)?;
        }
        match &self.backend {
            Backend::Cpu(model) => decode(model, sequences, progress, &self.cancel),
            Backend::Reference(model) => decode(model, sequences, progress, &self.cancel),
        }
    }
}
