//! When an answer ends: one rule for every command.

use kvsweep_engine::decode::DecodeRule;
use kvsweep_tasks::protocol;
use kvsweep_tasks::{ModelFacts, ModelText, StopRule};

/// A prompt's rule, for decoding.
pub(crate) fn decode_rule(stop: &StopRule) -> DecodeRule {
    DecodeRule {
        max_new: stop.max_new,
        stop_ids: stop.stop_ids.clone(),
        ban_stops_on_first: stop.ban_stop_on_first,
        ignore_stops: false,
    }
}

/// The rule of an answer to a prompt of no data set: where `run` stops under its default protocol.
///
/// # Errors
/// What the tokenizer says.
pub(crate) fn of_a_turn(
    max_new: usize,
    model: &ModelFacts,
    text: &dyn ModelText,
) -> anyhow::Result<DecodeRule> {
    let protocol = protocol::by_name(protocol::DEFAULT)?;
    Ok(decode_rule(&StopRule { max_new, ..protocol.turn_stop_rule(model, text)? }))
}
