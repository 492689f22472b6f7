//! Greedy decoding of many sequences in one batch: variants of one prompt, and prompts.
//!
//! The projections run once a step over the whole batch; each sequence attends to its own cache. What a sequence
//! generates does not depend on the others: on the CPU its logits are the same bits alone and in any batch.

use std::sync::Arc;

use kvsweep_methods::{
    selection::Selection,
    shape::{CacheShape, LayerShape, Reach},
    spec::Variant,
};
use rayon::prelude::*;

pub use crate::backend::HeadSet;
use crate::{
    backend::{Backend, Extend, OnLayerRows, Tap},
    cache::{Held, check_selection},
    cancel::Cancel,
    error::{EngineError, Result},
    prefill::Prefill,
};

/// Tokens that one call reads at most while sequences still read what follows their prompts: it bounds the memory that
/// they take together.
const CHUNK: usize = 512;

/// Sees the attention of one decode step in one layer: (step, layer, rows), where `rows` is
/// `[query_heads][entries]` over the prompt and every token read so far, the current one included.
pub type OnRows<'a> = &'a mut dyn FnMut(usize, usize, &[f32]);

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

/// One variant of one prompt. `P` is the back end's own store of the prompt.
#[derive(Debug)]
pub struct Sequence<P> {
    /// The prompt, read.
    pub prefill: Arc<Prefill<P>>,
    /// What the variant keeps of it.
    pub selection: Arc<Selection>,
    /// Tokens read after the cut and before the answer: what the methods could not see. They stand at the positions
    /// behind the prompt.
    pub follow: Arc<[u32]>,
    /// Whether what is kept gets contiguous positions, and what is read next those behind it.
    pub renumbered: bool,
    /// What evicts again while the answer grows, if its [`Variant::interval`] says so.
    pub again: Option<Arc<Variant>>,
    /// When to end.
    pub rule: DecodeRule,
    /// Keep the logits of every generated token.
    pub keep_logits: bool,
    /// Heads, as (layer, query head), whose query is zero in every decode step.
    pub masked_heads: Option<Arc<HeadSet>>,
}

impl<P> Clone for Sequence<P> {
    fn clone(&self) -> Self {
        Self {
            prefill: Arc::clone(&self.prefill),
            selection: Arc::clone(&self.selection),
            follow: Arc::clone(&self.follow),
            renumbered: self.renumbered,
            again: self.again.clone(),
            rule: self.rule.clone(),
            keep_logits: self.keep_logits,
            masked_heads: self.masked_heads.clone(),
        }
    }
}

impl<P> Sequence<P> {
    /// Whether the two generate the same tokens from the same entries by construction.
    fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.prefill, &other.prefill)
            && self.follow == other.follow
            && self.renumbered == other.renumbered
            && self.evicts_again().map(Variant::id) == other.evicts_again().map(Variant::id)
            && self.rule == other.rule
            && self.keep_logits == other.keep_logits
            && self.masked_heads == other.masked_heads
            && (Arc::ptr_eq(&self.selection, &other.selection) || self.same_selection(&other.selection))
    }

    /// The variant, where it acts while the answer grows.
    fn evicts_again(&self) -> Option<&Variant> {
        self.again.as_deref().filter(|variant| variant.interval().is_some())
    }

    fn same_selection(&self, other: &Selection) -> bool {
        let len = self.prefill.shape().len;
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
    /// The first row is that of the last token before the answer.
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
    /// What evicts again, and after how many tokens of the answer.
    again: Option<(&'a Variant, usize)>,
    cache: C,
    /// Sizes of the model's layers.
    layers: Arc<[LayerShape]>,
    /// Where the result goes.
    index: usize,
    result: Decoded,
    /// Tokens to read next; the answer goes on behind the last of them.
    unread: Vec<u32>,
    /// Tokens of the answer that were read since the last cut.
    grown: usize,
}

impl<'a, C: Send> Running<'a, C> {
    fn new<B: Backend<Cache = C>>(
        backend: &B,
        sequence: &'a Sequence<B::Prompt>,
        index: usize,
        cancel: &Cancel,
    ) -> Result<Self> {
        cancel.check()?;
        let Sequence { prefill, selection, follow, rule, .. } = sequence;
        check_selection(selection, prefill.shape())?;
        let again = sequence.evicts_again().and_then(|variant| Some((variant, variant.interval()?)));
        let (prompt, new) = (prefill.shape().len + follow.len(), rule.max_new);
        let reach = |layer: &usize| prefill.shape().layers[*layer].reach;
        if let (Some(_), Some(Reach::Window(window))) =
            (again, prefill.shape().contested().first().map(reach))
            && prompt + new > window
        {
            return Err(EngineError::IntervalBeyondWindow { prompt, new, window });
        }
        let windows = prefill.shape().layers.iter().any(|layer| layer.reach != Reach::All);
        if sequence.renumbered && windows {
            return Err(EngineError::RenumberedWindows);
        }
        let room = again.map_or(rule.max_new, |(_, interval)| interval.min(rule.max_new));
        let votes = again.map_or(0, |(variant, _)| variant.votes());
        let mut cache = backend.fork(&prefill.prompt, selection, follow.len() + room, votes)?;
        if sequence.renumbered {
            backend.renumber(&mut cache, selection)?;
        }
        let held = backend.held(&cache);
        let logits = sequence.keep_logits.then(Vec::new);
        let mut one = Self {
            rule,
            masked: sequence.masked_heads.as_deref(),
            again,
            cache,
            layers: Arc::clone(&prefill.shape().layers),
            index,
            result: Decoded { ids: Vec::new(), stopped_by: None, logits, steps: 0, held },
            unread: follow.to_vec(),
            grown: 0,
        };
        if follow.is_empty() {
            one.accept(prefill.logits());
        }
        Ok(one)
    }

    /// Chooses the next token.
    fn accept(&mut self, logits: &[f32]) {
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
        if self.result.ids.len() < self.rule.max_new {
            self.unread.push(token);
        }
    }

    /// Its next tokens, `most` at most, which it must have.
    fn next(&mut self, most: usize) -> Extend<'_, C> {
        let count = most.min(self.unread.len());
        Extend { cache: &mut self.cache, tokens: &self.unread[..count], masked: self.masked }
    }

    /// Takes the logits behind the tokens that [`Running::next`] gave, and evicts where it is time.
    fn read<B: Backend<Cache = C>>(&mut self, backend: &B, most: usize, logits: &[f32]) -> Result<()> {
        if !self.result.ids.is_empty() {
            self.grown += 1;
        }
        self.unread.drain(..most.min(self.unread.len()));
        if self.unread.is_empty() {
            self.accept(logits);
        }
        let due = |&(_, interval): &(&Variant, usize)| self.grown >= interval && !self.unread.is_empty();
        if let Some((variant, _)) = self.again.filter(due) {
            let (observations, len) = backend.observe(&self.cache, &variant.observations())?;
            let shape = CacheShape { layers: Arc::clone(&self.layers), len };
            let selection = variant.select_again(&shape, &observations)?;
            check_selection(&selection, &shape)?;
            backend.evict(&mut self.cache, &selection)?;
            self.grown = 0;
        }
        Ok(())
    }
}

/// See [`Session::decode`](crate::session::Session::decode).
pub(crate) fn decode<B: Backend>(
    backend: &B,
    sequences: &[Sequence<B::Prompt>],
    progress: &mut dyn FnMut(DecodeProgress),
    cancel: &Cancel,
) -> Result<Vec<Decoded>> {
    // Sequences that are the same by construction are computed once.
    let mut firsts: Vec<usize> = Vec::new();
    let computed: Vec<usize> = (0..sequences.len())
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
        .map(|&i| Running::new(backend, &sequences[i], i, cancel))
        .collect::<Result<Vec<_>>>()?;
    let mut results = vec![None; sequences.len()];
    let mut done = DecodeProgress { step: 0, active: 0, tokens: running.len() };
    loop {
        let (active, finished): (Vec<_>, Vec<_>) =
            running.into_iter().partition(|one| !one.unread.is_empty());
        running = active;
        for one in finished {
            results[one.index] = Some(one.result);
        }
        done.active = running.len();
        progress(done);
        if running.is_empty() {
            break;
        }
        let most = (CHUNK / running.len()).max(1);
        let mut rows: Vec<_> = running.iter_mut().map(|one| one.next(most)).collect();
        let logits = backend.extend(&mut rows, None, cancel)?;
        let vocab = logits.len() / running.len();
        let rows = running.par_iter_mut().zip(logits.par_chunks_exact(vocab));
        rows.try_for_each(|(one, row)| one.read(backend, most, row))?;
        done.step += 1;
        done.tokens += running.len();
    }
    Ok(computed.into_iter().filter_map(|i| results[i].clone()).collect())
}

/// Decodes one sequence under the eyes of a calibration; what follows its prompt is one token at most. `shadow` is a
/// second selection to compare with.
pub(crate) fn decode_tapped<B: Backend>(
    backend: &B,
    sequence: &Sequence<B::Prompt>,
    mut on_rows: Option<OnRows<'_>>,
    mut shadow: Option<(&Selection, &mut [f64])>,
    cancel: &Cancel,
) -> Result<Decoded> {
    let mut one = Running::new(backend, sequence, 0, cancel)?;
    let mut second = match &shadow {
        Some((selection, _)) => {
            check_selection(selection, sequence.prefill.shape())?;
            let room = sequence.follow.len() + sequence.rule.max_new;
            Some(backend.fork(&sequence.prefill.prompt, selection, room, 0)?)
        }
        None => None,
    };
    for step in 0.. {
        if one.unread.is_empty() {
            break;
        }
        let mut rows_of_step;
        let rows = match on_rows.as_mut() {
            Some(on_rows) => {
                rows_of_step = |layer: usize, rows: &[f32]| on_rows(step, layer, rows);
                Some(&mut rows_of_step as OnLayerRows<'_>)
            }
            None => None,
        };
        let pair = second.as_mut().zip(shadow.as_mut()).map(|(cache, (_, errors))| (cache, &mut **errors));
        let mut tap = Tap { rows, shadow: pair };
        let logits = backend.extend(&mut [one.next(1)], Some(&mut tap), cancel)?;
        one.read(backend, 1, &logits)?;
    }
    Ok(one.result)
}
