//! A table in Markdown.

use super::notes::COLUMNS_BEHIND;
use super::text_cell;
use crate::markup::markdown_text;
use crate::table::{CellScope, ScoreTable};

impl ScoreTable {
    pub(super) fn markdown(&self) -> String {
        let (head, tail) = self.frame();
        let titles: Vec<String> = head
            .iter()
            .map(|title| (*title).to_owned())
            .chain(self.columns.iter().map(CellScope::heading))
            .chain(tail.iter().map(|title| (*title).to_owned()))
            .map(|title| markdown_text(&title))
            .collect();
        let mut out = format!("**{}**\n\n| {} |\n|", markdown_text(&self.title), titles.join(" | "));
        for index in 0..titles.len() {
            out.push_str(if index + 1 < head.len() { " --- |" } else { " ---: |" });
        }
        out.push('\n');
        let ranks = self.ranks();
        for (row, ranks) in self.rows.iter().zip(&ranks) {
            let mut cells: Vec<String> = self.row_head(row).iter().map(|cell| markdown_text(cell)).collect();
            for ((cell, scope), rank) in row.cells.iter().zip(&self.columns).zip(ranks) {
                let text = text_cell(cell.as_ref(), scope.kind);
                cells.push(match rank {
                    Some(1) => format!("**{text}**"),
                    Some(2) => format!("<u>{text}</u>"),
                    _ => text,
                });
            }
            cells.extend(Self::row_tail(row).iter().map(|cell| markdown_text(cell)));
            out.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
        out.push('\n');
        for note in self.all_notes().iter().map(String::as_str).chain([COLUMNS_BEHIND]) {
            out.push_str(&format!("- {}\n", markdown_text(note)));
        }
        out
    }
}
