//! A comparison for people.

use super::{CellChange, Change, Comparison, LayerOverlap, Scope};
use crate::render::bytes;
use crate::text::{excerpt, visible};
use crate::text_table::TextTable;

/// Characters of a prediction that are shown.
const SHOWN: usize = 160;

impl Comparison {
    /// Writes the comparison for people.
    pub fn text(&self) -> String {
        let mut out = format!("{}\n\n", visible(&format!("{} against {}", self.head, self.base)));
        for note in &self.notes {
            out.push_str(&format!("{}\n", visible(note)));
        }
        if !self.notes.is_empty() {
            out.push('\n');
        }
        let shown: Vec<&CellChange> = self
            .changes
            .iter()
            .filter(|change| change.scope != Scope::Cell || change.change != Change::Unchanged)
            .collect();
        let rows = shown.iter().map(|change| {
            let end = |value: f64| format!("{:+.2}", 100.0 * value);
            let interval = change.test.estimate.interval;
            vec![
                change.variant.clone(),
                change.column.clone(),
                format!("{:.2}", change.base),
                format!("{:.2}", change.head),
                end(change.test.estimate.mean),
                interval
                    .map_or_else(|| "-".to_owned(), |(low, high)| format!("[{}, {}]", end(low), end(high))),
                format!("{}/{}/{}", change.test.wins, change.test.losses, change.test.ties),
                p_value(change.test.p_holm),
                p_value(change.test.p_sign),
                change.change.to_string(),
            ]
        });
        let head = [
            "variant",
            "column",
            "base",
            "head",
            "difference",
            "95 %",
            "won/lost/same",
            "p (Holm)",
            "p (sign)",
            "verdict",
        ];
        out.push_str(&table(&head, rows.collect()));
        let hidden = self.changes.len() - shown.len();
        out.push_str(&format!(
            "\n{hidden} cells without a significant change are not shown; {} of {} answers differ in text, {} in score\n\n",
            self.changed_texts, self.pairs, self.changed_scores
        ));
        let rate = |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
        let rows = self.costs.iter().map(|cost| {
            vec![
                cost.variant.clone(),
                format!("{:.1}", cost.entries.0),
                format!("{:.1}", cost.entries.1),
                bytes(cost.bytes.0),
                bytes(cost.bytes.1),
                rate(cost.tokens_per_s.0),
                rate(cost.tokens_per_s.1),
            ]
        });
        let head = ["variant", "entries base", "head", "KV held base", "head", "tokens/s base", "head"];
        out.push_str(&table(&head, rows.collect()));
        out.push('\n');
        let moved: Vec<&LayerOverlap> =
            self.overlaps.iter().filter(|overlap| overlap.identical < 1.0).collect();
        if moved.is_empty() {
            out.push_str("every stored selection is the same in every layer\n");
        } else {
            let rows = moved.iter().map(|overlap| {
                vec![
                    overlap.variant.clone(),
                    overlap.layer.to_string(),
                    format!("{:.1} %", 100.0 * overlap.identical),
                    overlap.n.to_string(),
                    overlap.jaccard.map_or_else(|| "-".to_owned(), |jaccard| format!("{jaccard:.4}")),
                    overlap.n_jaccard.to_string(),
                ]
            });
            out.push_str("What is kept has changed:\n\n");
            let head = ["variant", "layer", "same selection", "of", "Jaccard", "of"];
            out.push_str(&table(&head, rows.collect()));
        }
        for flip in &self.flips {
            let answer = |(score, text): &(f64, String)| format!("{score:.2}  {}", excerpt(text, SHOWN));
            out.push_str(&format!(
                "\n{} {} {}\n  answer  {}\n  base    {}\n  head    {}\n",
                visible(&flip.dataset),
                visible(&flip.example),
                visible(&flip.variant),
                excerpt(&flip.answers.join(" | "), SHOWN),
                answer(&flip.base),
                answer(&flip.head)
            ));
        }
        if self.changed_scores > self.flips.len() {
            out.push_str(&format!(
                "\n{} more changed answers are not shown\n",
                self.changed_scores - self.flips.len()
            ));
        }
        let losses = self.losses();
        out.push_str(&match losses.as_slice() {
            [] => format!("\ngate: no significant loss at {}\n", self.alpha),
            losses => {
                let names: Vec<String> = losses
                    .iter()
                    .map(|loss| visible(&format!("{} ({})", loss.variant, loss.column)))
                    .collect();
                format!(
                    "\ngate: {} significant losses at {}: {}\n",
                    losses.len(),
                    self.alpha,
                    names.join(", ")
                )
            }
        });
        out
    }
}

/// Numbers beside the names in the first column.
fn table(titles: &[&str], rows: Vec<Vec<String>>) -> String {
    TextTable::of_rows(titles, &[0], &rows).text()
}

pub(crate) fn p_value(p: f64) -> String {
    if p < 0.0001 { "<0.0001".to_owned() } else { format!("{p:.4}") }
}
