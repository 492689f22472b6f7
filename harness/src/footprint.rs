//! The memory that prompts and their variants take, for planning on paper and for admitting them to a device.

use std::collections::BTreeSet;

use kvsweep_engine::memory::Planner;
use kvsweep_engine::model::config::ModelConfig;
use kvsweep_methods::observation::Observation;
use kvsweep_methods::selection::Selection;
use kvsweep_methods::spec::Variant;

/// Bytes by the sizes of a model.
pub(crate) struct Footprint<'a> {
    config: &'a ModelConfig,
    planner: Planner<'a>,
    observations: BTreeSet<Observation>,
    threads: usize,
}

impl<'a> Footprint<'a> {
    /// Of a model planned by `planner`, whose prompts are read by `threads` threads and observed.
    pub(crate) fn new(
        config: &'a ModelConfig,
        planner: Planner<'a>,
        observations: BTreeSet<Observation>,
        threads: usize,
    ) -> Self {
        Self { config, planner, observations, threads }
    }

    /// What prompts are observed for.
    pub(crate) fn observations(&self) -> &BTreeSet<Observation> {
        &self.observations
    }

    /// A prompt in flight: keys, values, observations.
    pub(crate) fn prompt(&self, tokens: usize) -> u64 {
        self.planner.prompt_bytes(tokens, &self.observations)
    }

    /// What reading a prompt takes beside it, once and again.
    pub(crate) fn reading(&self, tokens: usize) -> u64 {
        let again = self.planner.replay_bytes(tokens, &self.observations, self.threads);
        self.planner.activation_bytes(tokens, self.threads, &self.observations).max(again)
    }

    /// A variant of a prompt with its answer, by its budget. One without a budget reads the shared prompt.
    pub(crate) fn variant(&self, variant: &Variant, tokens: usize, new_tokens: usize) -> u64 {
        let entries = variant.budget().map_or(0, |budget| budget.of(tokens).min(tokens));
        let heads = self.config.stored_heads(variant.spec().granularity());
        self.planner.variant_bytes(entries, heads, new_tokens)
    }

    /// A variant of a prompt with its answer, by what it selected.
    pub(crate) fn selected(&self, selection: &Selection, tokens: usize, new_tokens: usize) -> u64 {
        self.planner.selection_bytes(selection, tokens, new_tokens)
    }

    /// The least in which a prompt can be answered: it is read, and then one variant after the other answers.
    pub(crate) fn one_by_one<'v>(
        &self,
        variants: impl IntoIterator<Item = &'v Variant>,
        tokens: usize,
        new_tokens: usize,
    ) -> u64 {
        let largest = variants.into_iter().map(|variant| self.variant(variant, tokens, new_tokens)).max();
        self.prompt(tokens) + self.reading(tokens).max(largest.unwrap_or(0))
    }

    /// A prompt with the caches of all its variants.
    pub(crate) fn side_by_side<'v>(
        &self,
        variants: impl IntoIterator<Item = &'v Variant>,
        tokens: usize,
        new_tokens: usize,
    ) -> u64 {
        let caches = variants.into_iter().map(|variant| self.variant(variant, tokens, new_tokens));
        self.prompt(tokens) + caches.sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use kvsweep_engine::model::known;
    use kvsweep_methods::selection::{Granularity, LayerSelection};
    use kvsweep_methods::spec::MethodSpec;

    use super::*;

    /// What is planned by a budget is what is counted by a selection of that size, and a prompt that is admitted alone
    /// never takes more than all its variants side by side while it is read.
    #[test]
    fn plans_by_budget_and_by_selection_agree() {
        let config = known::config("meta-llama/Llama-3.1-8B-Instruct").unwrap().unwrap();
        let footprint = Footprint::new(&config, Planner::new(&config, 2), BTreeSet::new(), 4);
        let at = |name: &str, budget| MethodSpec::parse(name, &[], None).unwrap().at(budget).unwrap();
        let (full, snapkv) = (at("full", 0), at("snapkv", 128));
        let heads = |entries: u32| LayerSelection::Heads(vec![(0..entries).collect(); config.kv_heads]);
        let selection =
            |layer| Selection { granularity: Granularity::KvHead, layers: vec![layer; config.layers] };
        let (tokens, new_tokens) = (8000, 512);
        let by_selection = |layer| footprint.selected(&selection(layer), tokens, new_tokens);
        assert_eq!(footprint.variant(&snapkv, tokens, new_tokens), by_selection(heads(128)));
        assert_eq!(footprint.variant(&full, tokens, new_tokens), by_selection(LayerSelection::All));
        assert_eq!(
            footprint.variant(&snapkv, 100, new_tokens),
            footprint.variant(&at("snapkv", 100), 100, new_tokens)
        );
        let variants = [full, snapkv];
        let least = footprint.one_by_one(&variants, tokens, new_tokens);
        let (prompt, reading) = (footprint.prompt(tokens), footprint.reading(tokens));
        assert_eq!(least, prompt + reading.max(footprint.variant(&variants[1], tokens, new_tokens)));
        assert!(least <= footprint.side_by_side(&variants, tokens, new_tokens) + reading);
        assert_eq!(footprint.side_by_side(&variants[..0], tokens, new_tokens), prompt);
    }
}
