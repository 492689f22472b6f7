//! What stands below a table: what a reader must know, and how the numbers were made.

use crate::table::{ColumnKind, FLOOR, ScoreTable};

/// What the columns behind the scores are.
pub(super) const COLUMNS_BEHIND: &str = "entries, max: KV entries per head and layer really held, mean and largest; \
     allowed: by the budget; share: entries really held, of those compressed; KV held: mean bytes of keys and values";

impl ScoreTable {
    /// The notes, and what the numbers are: the same whatever columns are shown.
    pub(super) fn all_notes(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        let of = |index: usize| -> Vec<usize> {
            let mut n: Vec<usize> =
                self.rows.iter().filter_map(|row| row.cells[index].as_ref()).map(|cell| cell.n).collect();
            n.sort_unstable();
            n.dedup();
            n
        };
        let counts: Vec<(&str, Vec<usize>)> = self
            .columns
            .iter()
            .enumerate()
            .filter(|(_, scope)| scope.kind == ColumnKind::Dataset)
            .map(|(index, scope)| (scope.title.as_str(), of(index)))
            .collect();
        let text = |n: &[usize]| n.iter().map(ToString::to_string).collect::<Vec<_>>().join("/");
        notes.push(match counts.as_slice() {
            [(_, first), rest @ ..] if !rest.is_empty() && rest.iter().all(|(_, n)| n == first) => {
                format!("examples: {} in each data set", text(first))
            }
            counts => {
                let each: Vec<String> =
                    counts.iter().map(|(title, n)| format!("{title} {}", text(n))).collect();
                format!("examples: {}", each.join(", "))
            }
        });
        let shared: Vec<String> = self
            .columns
            .iter()
            .enumerate()
            .filter(|(_, scope)| scope.kind == ColumnKind::Dataset)
            .filter_map(|(index, scope)| {
                let cells = self.rows.iter().filter_map(|row| row.cells[index]);
                let most = cells.max_by_key(|cell| cell.n).filter(|cell| cell.contexts < cell.n)?;
                Some(format!("{} {} examples of {}", scope.title, most.n, most.contexts))
            })
            .collect();
        if !shared.is_empty() {
            notes.push(format!(
                "several examples about one context, resampled together: {}",
                shared.join(", ")
            ));
        }
        notes.extend(self.floor_note());
        notes.push(format!(
            "averages with {:.0} % intervals: bootstrap over contexts, stratified by data set, {} resamples, seed {}",
            100.0 * self.bootstrap.level,
            self.bootstrap.resamples,
            self.bootstrap.seed
        ));
        notes
    }

    /// What the dagger means, where a column has one.
    pub fn floor_note(&self) -> Option<String> {
        let marked: Vec<&str> =
            self.columns.iter().filter(|scope| scope.near_floor).map(|scope| scope.title.as_str()).collect();
        (!marked.is_empty()).then(|| {
            format!(
                "† {}: the full cache's interval reaches down to {FLOOR} or less, so a higher score is no merit of a \
                 method and none is marked best",
                marked.join(", ")
            )
        })
    }
}
