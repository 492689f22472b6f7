//! What a reader of a comparison with a paper must know: why it is only a rehearsal, which columns are judged.

use super::verdict::{CLOSE_POINTS, ColumnGate, Gate, WIDEST};
use super::{Original, PaperCell};
use crate::manifest::{MASK_HEADS, MODEL_SHAPE, QUESTION, WITHOUT_CONTEXT};
use crate::merge::Group;
use crate::published::PaperTable;

/// Why the comparison is only a rehearsal: another model, protocol or split, masked heads, no context.
pub(super) fn rehearsal(paper: &PaperTable, group: &Group, original: &Original<'_>) -> Vec<String> {
    let manifest = &group.manifest;
    let mut why = Vec::new();
    if !paper.has_model(&manifest.model.name) {
        why.push(format!("model {}", manifest.model.name));
    } else {
        match (&original.shape, manifest.settings.get(MODEL_SHAPE)) {
            (None, _) => why.push("the shape of the paper's model is not known here".to_owned()),
            (_, None) => why.push("the model's shape was not recorded".to_owned()),
            (Some(theirs), Some(ours)) if theirs != ours => {
                why.push(format!("model {} is of another shape: {ours}", manifest.model.name));
            }
            _ => {}
        }
    }
    if paper.protocol.as_ref() != Some(&manifest.protocol.name) {
        why.push(format!("protocol {}", manifest.protocol.name));
    }
    if manifest.split != "full" {
        why.push(format!("{} split", manifest.split));
    }
    let is_set = |setting| group.manifests.iter().any(|manifest| manifest.settings.contains_key(setting));
    for (setting, what) in [(MASK_HEADS, "masked heads"), (WITHOUT_CONTEXT, "context removed")] {
        if is_set(setting) {
            why.push(what.to_owned());
        }
    }
    match (paper.question_is_unseen, is_set(QUESTION)) {
        (false, true) => why.push("question unseen".to_owned()),
        (true, false) => why.push("question seen".to_owned()),
        _ => {}
    }
    why
}

pub(super) fn notes(paper: &PaperTable, gates: &[ColumnGate], cells: &[PaperCell]) -> Vec<String> {
    let mut notes: Vec<String> = paper.note.iter().flat_map(|note| note.lines()).map(str::to_owned).collect();
    // Columns without a measured cell have nothing to gate.
    let measured = |gate: &&ColumnGate| cells.iter().any(|c| c.column == gate.column && c.verdict.is_some());
    let named: Vec<String> = [
        (Gate::Open, "open for"),
        (Gate::Closed, "closed, the full cache is off, for"),
        (Gate::Unproven, "closed, the full cache has no verdict, for"),
        (Gate::NotPrinted, "no full-cache number is printed for"),
    ]
    .into_iter()
    .filter_map(|(kind, what)| {
        let columns: Vec<&str> = gates
            .iter()
            .filter(measured)
            .filter(|gate| gate.gate == kind)
            .map(|gate| gate.column.as_str())
            .collect();
        (!columns.is_empty()).then(|| format!("{what} {}", columns.join(", ")))
    })
    .collect();
    if !named.is_empty() {
        notes.push(format!("full-cache gate: {}", named.join("; ")));
    }
    notes.push(format!(
        "reproduced: theirs inside our interval; close: within {CLOSE_POINTS} point; unproven: not the paper's model, \
         protocol and rows, or an interval wider than {WIDEST} points"
    ));
    notes
}
