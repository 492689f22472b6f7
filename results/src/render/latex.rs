//! A table in LaTeX, for booktabs.

use super::notes::COLUMNS_BEHIND;
use super::text_cell;
use crate::markup::latex_text;
use crate::table::{CellScope, ScoreTable};
use crate::text::visible;

impl ScoreTable {
    pub(super) fn latex(&self) -> String {
        let (head, tail) = self.frame();
        let titles: Vec<String> = head
            .iter()
            .map(|title| (*title).to_owned())
            .chain(self.columns.iter().map(CellScope::heading))
            .chain(tail.iter().map(|title| (*title).to_owned()))
            .map(|title| latex_text(&title))
            .collect();
        let align = format!("{}{}", "l".repeat(head.len()), "r".repeat(titles.len() - head.len()));
        let mut out = String::from("% needs \\usepackage{booktabs}\n");
        for note in self.all_notes().iter().map(String::as_str).chain([COLUMNS_BEHIND]) {
            // A comment ends at the line's end, and visible() leaves no line ends.
            out.push_str(&format!("% {}\n", visible(note)));
        }
        out.push_str(&format!(
            "\\begin{{table}}\n\\caption{{{}}}\n\\begin{{tabular}}{{{align}}}\n\\toprule\n{} \\\\\n\\midrule\n",
            latex_text(&self.title),
            titles.join(" & ")
        ));
        let ranks = self.ranks();
        for (row, ranks) in self.rows.iter().zip(&ranks) {
            let mut cells: Vec<String> = self.row_head(row).iter().map(|cell| latex_text(cell)).collect();
            for ((cell, scope), rank) in row.cells.iter().zip(&self.columns).zip(ranks) {
                let text = latex_text(&text_cell(cell.as_ref(), scope.kind));
                cells.push(match rank {
                    Some(1) => format!("\\textbf{{{text}}}"),
                    Some(2) => format!("\\underline{{{text}}}"),
                    _ => text,
                });
            }
            cells.extend(Self::row_tail(row).iter().map(|cell| latex_text(cell)));
            out.push_str(&format!("{} \\\\\n", cells.join(" & ")));
        }
        out.push_str("\\bottomrule\n\\end{tabular}\n\\end{table}\n");
        out
    }
}
