//! A table in columns that line up: whole, or as much of it as fits a terminal.

use super::notes::COLUMNS_BEHIND;
use super::{bytes, share, text_cell};
use crate::table::{Cell, ColumnKind, ScoreRow, ScoreTable};
use crate::text::{excerpt, paragraph, visible};
use crate::text_table::{Side, TextTable};

/// What the columns behind the scores are where the table is to fit a terminal.
const COLUMNS_BEHIND_FITTED: &str =
    "share: KV entries really held, of those compressed; KV held: mean bytes of keys and values";

/// No terminal is so narrow that a method's name is cut to less.
const SHORTEST_NAME: usize = 16;

impl ScoreTable {
    /// All columns side by side.
    pub(super) fn whole_text(&self) -> String {
        let (names, behind) = self.frame();
        let mut table = TextTable::default();
        for (place, title) in names.iter().enumerate() {
            // Names to the left, numbers to the right.
            let numbers = self.budget_columns().len();
            let side = if place + numbers < names.len() { Side::Left } else { Side::Right };
            table.push(
                title,
                side,
                self.rows.iter().map(|row| self.row_head(row).swap_remove(place)).collect(),
            );
        }
        self.push_scores(&mut table, |_| true, text_cell);
        for (place, title) in behind.iter().enumerate() {
            let cells = self.rows.iter().map(|row| Self::row_tail(row)[place].clone()).collect();
            table.push(title, Side::Right, cells);
        }
        let mut out = format!("{}\n\n{}\n", visible(&self.title), table.text());
        for note in self.all_notes().iter().map(String::as_str).chain([COLUMNS_BEHIND]) {
            out.push_str(&format!("{}\n", visible(note)));
        }
        out
    }

    /// Lines of at most `most` terminal columns: categories without intervals, the average, what is held, and as many data
    /// sets as fit beside them. What does not fit into one line stands in blocks below each other.
    pub(super) fn fitted_text(&self, most: usize) -> String {
        let models = self.models();
        let datasets: Vec<&str> = (self.columns.iter())
            .filter(|scope| scope.kind == ColumnKind::Dataset)
            .map(|scope| scope.title.as_str())
            .collect();
        let tables = (0..=datasets.len()).rev().map(|shown| (shown, self.fitted(shown, &models, most)));
        let (shown, table) = tables
            .into_iter()
            .find(|(shown, table)| *shown == 0 || table.least_width() <= most)
            .unwrap_or_default();
        let names = usize::from(!models.is_empty()) + 1 + self.budget_columns().len();
        let mut out = paragraph(&self.title, most);
        for (place, model) in models.iter().enumerate() {
            out.push_str(&paragraph(&format!("model {}: {model}", place + 1), most));
        }
        out.push_str(&format!("\n{}\n", table.blocks(names, most).join("\n")));
        if shown < datasets.len() {
            let hidden = datasets[shown..].join(", ");
            out.push_str(&paragraph(&format!("--wide also shows {hidden}"), most));
        }
        for note in self.all_notes().iter().map(String::as_str).chain([COLUMNS_BEHIND_FITTED]) {
            out.push_str(&paragraph(note, most));
        }
        out
    }

    /// The labels of several groups, in the order of the rows; empty for a single one.
    fn models(&self) -> Vec<&str> {
        let mut models: Vec<&str> = Vec::new();
        for row in self.rows.iter().filter(|row| !row.group.is_empty()) {
            if !models.contains(&row.group.as_str()) {
                models.push(&row.group);
            }
        }
        models
    }

    /// The columns for a terminal, with the first `datasets` data sets; models by their numbers.
    fn fitted(&self, datasets: usize, models: &[&str], most: usize) -> TextTable {
        let mut table = TextTable::default();
        let push = |table: &mut TextTable, title: &str, side, cell: &dyn Fn(&ScoreRow) -> String| {
            table.push(title, side, self.rows.iter().map(cell).collect());
        };
        if !models.is_empty() {
            let number = |row: &ScoreRow| {
                models.iter().position(|model| *model == row.group).map_or(0, |place| place + 1)
            };
            push(&mut table, "model", Side::Left, &|row| number(row).to_string());
        }
        let longest = SHORTEST_NAME.max(most / 3);
        push(&mut table, "method", Side::Left, &|row| shortened(&row.method, longest));
        for (title, cell) in self.budget_columns() {
            push(&mut table, title, Side::Right, &|row| cell(row.budget).unwrap_or_else(|| "-".to_owned()));
        }
        let beyond = self
            .columns
            .iter()
            .enumerate()
            .filter(|(_, scope)| scope.kind == ColumnKind::Dataset)
            .nth(datasets);
        let beyond = beyond.map_or(usize::MAX, |(index, _)| index);
        let is_shown = |index: usize| self.columns[index].kind != ColumnKind::Dataset || index < beyond;
        self.push_scores(&mut table, is_shown, |cell, kind| {
            text_cell(cell, if kind == ColumnKind::Category { ColumnKind::Dataset } else { kind })
        });
        push(&mut table, "share", Side::Right, &share);
        push(&mut table, "KV held", Side::Right, &|row| bytes(row.bytes));
        table
    }

    fn push_scores(
        &self,
        table: &mut TextTable,
        is_shown: impl Fn(usize) -> bool,
        text: impl Fn(Option<&Cell>, ColumnKind) -> String,
    ) {
        for (index, scope) in self.columns.iter().enumerate().filter(|(index, _)| is_shown(*index)) {
            let cells = self.rows.iter().map(|row| text(row.cells[index].as_ref(), scope.kind)).collect();
            table.push(&scope.heading(), Side::Right, cells);
        }
    }
}

/// The beginning of a name, at most `longest` characters.
fn shortened(name: &str, longest: usize) -> String {
    if name.chars().count() > longest { excerpt(name, longest - 1) } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::tests::table;
    use super::*;
    use crate::text::width;

    /// The table with as many data sets, of an average of three categories.
    fn longbench() -> ScoreTable {
        let mut table = table();
        let score = table.columns[0].clone();
        for name in ["2wikimqa", "passage_retrieval_en", "multi_news"] {
            table.columns.insert(0, crate::CellScope { title: name.into(), ..score.clone() });
            table.rows.iter_mut().for_each(|row| row.cells.insert(0, row.cells[0]));
        }
        table
    }

    fn lines_within(text: &str, most: usize) {
        let wide: Vec<&str> = text.lines().filter(|line| width(line) > most).collect();
        assert_eq!(wide, [""; 0], "of {most}: {text}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_means_are_never_left_out() {
        let mut table = longbench();
        for row in 0..2 {
            table.rows[row].method =
                "a method with the longest name that anybody ever gave to a method".into();
        }
        for most in [60, 80, 100, 120, 200] {
            let text = table.fitted_text(most);
            lines_within(&text, most);
            for title in ["Single-doc", "Few-shot", "Average", "share", "KV held", "62.50 ["] {
                assert!(text.contains(title), "{most}: {title}: {text}");
            }
            assert!(!text.contains("stored per"), "{text}");
        }
    }

    #[test]
    fn data_sets_are_shown_where_there_is_room_and_named_where_not() {
        let table = longbench();
        let narrow = table.fitted_text(80);
        assert!(narrow.contains("--wide also shows "), "{narrow}");
        let hidden = narrow.split("--wide also shows ").nth(1).unwrap().lines().next().unwrap();
        assert!(hidden.ends_with("qasper, trec"), "{narrow}");
        let wide = table.fitted_text(160);
        assert!(!wide.contains("--wide") && wide.contains("passage_retrieval_en"), "{wide}");
        assert_eq!(wide.matches("method").count(), 1, "one block: {wide}");
        assert!(wide.contains("100.0 %"), "the share that the full cache holds: {wide}");
    }

    #[test]
    fn several_models_go_by_numbers() {
        let mut table = longbench();
        let label = "embedded model tiny · kvsweep-1 v1 · cpu f32 · a setting of many words and no end";
        table
            .rows
            .iter_mut()
            .enumerate()
            .for_each(|(place, row)| row.group = format!("{label}{}", place % 2));
        let text = table.fitted_text(80);
        lines_within(&text, 80);
        assert!(text.contains("\nmodel 1: embedded model tiny") && text.contains("\nmodel 2: "), "{text}");
        assert!(text.lines().any(|line| line.starts_with("2      snapkv")), "{text}");
    }
}
