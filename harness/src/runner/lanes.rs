//! The variants of a sweep, each with what it remembers from one prompt to the next.

use kvsweep_methods::method::{MethodState, StateScope};
use kvsweep_tasks::Renderer;

use crate::plan::{Plan, PlannedVariant};
use crate::questions::DatasetPart;

/// A variant and its state. The state starts from the first prompt of the whole data set or run, as its scope says, so
/// that shards and continued runs agree with an undisturbed one.
pub(super) struct Lane<'p> {
    /// The variant.
    pub planned: &'p PlannedVariant,
    /// What it remembers.
    pub state: MethodState,
    /// Whether a person was told that a prompt leaves it no room.
    pub told: bool,
}

/// The lanes at the start of a run.
///
/// # Errors
/// The run's first prompt cannot be built.
pub(super) fn of<'p>(plan: &'p Plan, renderer: &Renderer<'_>) -> anyhow::Result<Vec<Lane<'p>>> {
    let lane = |planned| Lane { planned, state: MethodState::default(), told: false };
    let mut lanes: Vec<_> = plan.variants.iter().map(lane).collect();
    if let Some(first) = plan.datasets.first() {
        restart(&mut lanes, first, StateScope::Run, plan, renderer)?;
    }
    Ok(lanes)
}

/// Restarts the states of one scope from a data set's first prompt.
///
/// # Errors
/// That prompt cannot be built.
pub(super) fn restart(
    lanes: &mut [Lane<'_>],
    dataset: &DatasetPart,
    scope: StateScope,
    plan: &Plan,
    renderer: &Renderer<'_>,
) -> anyhow::Result<()> {
    let mut restarted =
        lanes.iter_mut().filter(|lane| lane.planned.variant.spec().state_scope() == scope).peekable();
    if restarted.peek().is_none() {
        return Ok(());
    }
    let tokens = plan.compressed_tokens(&dataset.first.prompt(renderer)?, renderer.text)?;
    restarted.for_each(|lane| lane.state = MethodState::after(tokens));
    Ok(())
}
