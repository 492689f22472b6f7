//! Ours beside theirs for people.

use super::{PaperCell, PaperComparison};
use crate::text::visible;
use crate::text_table::TextTable;

impl PaperComparison {
    /// Writes the cells that both have, and what there is to know.
    pub fn text(&self) -> String {
        let shares = self.cells.iter().any(|cell| cell.budget.is_some_and(|budget| budget.share().is_some()));
        let budget = if shares { "kept" } else { "budget" };
        let titles = ["method", budget, "column", "paper", "ours", "95 %", "n", "difference", "verdict"];
        let row = |cell: &PaperCell| {
            let (theirs, ours) = (cell.theirs.as_ref()?, cell.ours.as_ref()?);
            let interval = ours.low.zip(ours.high).map(|(low, high)| format!("[{low:.1}, {high:.1}]"));
            Some(vec![
                cell.printed_method.clone(),
                cell.budget.map_or_else(|| "full".to_owned(), |budget| budget.to_string()),
                cell.column.clone(),
                theirs.clone(),
                format!("{:.2}", ours.score),
                interval.unwrap_or_else(|| "-".to_owned()),
                ours.n.to_string(),
                cell.difference.map(|d| format!("{d:+.2}")).unwrap_or_default(),
                cell.outcome(),
            ])
        };
        let rows: Vec<Vec<String>> = self.cells.iter().filter_map(row).collect();
        let (verdicts, unmeasured) = self.counts();
        let counts: Vec<String> = verdicts.iter().map(|(verdict, n)| format!("{verdict} {n}")).collect();
        let summary = format!("{}; printed but not measured here {unmeasured}", counts.join(", "));
        let table = TextTable::of_rows(&titles, &[0, 2, 8], &rows);
        let mut out = format!("{}\n\n{}\n", visible(&self.title), table.text());
        for note in self.notes.iter().chain([&summary]) {
            out.push_str(&format!("{}\n", visible(note)));
        }
        out
    }
}

impl PaperCell {
    /// The verdict, with what it lacks; empty where there is none.
    pub fn outcome(&self) -> String {
        match (self.verdict, &self.why) {
            (Some(verdict), Some(why)) => format!("{verdict}: {why}"),
            (Some(verdict), None) => verdict.to_string(),
            (None, _) => String::new(),
        }
    }
}
