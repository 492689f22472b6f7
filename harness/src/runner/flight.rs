//! What is between its prefill and its record.

use std::sync::Arc;

use kvsweep_engine::decode::Decoded;
use kvsweep_engine::prefill::Prefill;
use kvsweep_methods::selection::Selection;
use kvsweep_tasks::Prompt;

use crate::plan::PlannedVariant;
use crate::questions::KeyedQuestion;

/// One example between its prefill and its record. `P` is the back end's own store of the prompt.
pub(crate) struct InFlight<'p, P> {
    /// What is asked.
    pub asked: KeyedQuestion<'p>,
    /// What was read.
    pub prompt: Prompt,
    /// The prompt, read.
    pub prefill: Arc<Prefill<P>>,
    /// What reading took.
    pub prefill_seconds: f64,
    /// Bytes of the prompt: keys, values, observations.
    pub prompt_bytes: u64,
    /// Every variant's choice of what to keep of it.
    pub branches: Vec<Branch<'p>>,
}

/// One variant of one example.
pub(crate) struct Branch<'p> {
    /// The variant.
    pub planned: &'p PlannedVariant,
    /// What it keeps.
    pub selection: Arc<Selection>,
    /// What choosing took.
    pub select_seconds: f64,
    /// Bytes of its cache.
    pub bytes: u64,
}

/// What one branch generated.
pub(crate) struct Answer {
    /// The tokens.
    pub decoded: Decoded,
    /// Its share of the time that its batch took.
    pub decode_seconds: f64,
}

impl<P> InFlight<'_, P> {
    /// Bytes of the prompt and of every branch.
    pub(crate) fn bytes(&self) -> u64 {
        self.prompt_bytes + self.branches.iter().map(|branch| branch.bytes).sum::<u64>()
    }
}
