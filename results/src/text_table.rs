//! Rows under a head in columns that line up: every table that is printed as text.

use crate::markup::markdown_text;
use crate::text::{visible, width, wrapped};

/// Blanks between two columns.
const GAP: usize = 2;

/// A title of no more columns is never broken.
const SHORT_TITLE: usize = 6;

/// Which side of its column a cell stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

#[derive(Clone, Debug)]
struct TextColumn {
    side: Side,
    title: String,
    cells: Vec<String>,
}

/// A table of texts, which may be untrusted.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextTable {
    columns: Vec<TextColumn>,
}

impl TextTable {
    /// A table of `rows` with one cell a title; the columns at `left` hold names, all others numbers.
    pub(crate) fn of_rows(titles: &[&str], left: &[usize], rows: &[Vec<String>]) -> Self {
        let mut table = Self::default();
        for (place, title) in titles.iter().enumerate() {
            let side = if left.contains(&place) { Side::Left } else { Side::Right };
            let cells = rows.iter().map(|row| row.get(place).cloned().unwrap_or_default()).collect();
            table.push(title, side, cells);
        }
        table
    }

    /// Adds a column behind the others; it has as many cells as they.
    pub(crate) fn push(&mut self, title: &str, side: Side, cells: Vec<String>) {
        self.columns.push(TextColumn { side, title: title.to_owned(), cells });
    }

    /// All columns side by side, however wide.
    pub(crate) fn text(&self) -> String {
        block(&self.columns.iter().map(|column| Laid::of(column, false)).collect::<Vec<_>>())
    }

    /// Blocks of at most `most` terminal columns, each beginning with the first `names` columns and, where these alone
    /// leave no room, one more. Where one block is not enough, titles are broken at blanks to keep columns narrow.
    pub(crate) fn blocks(&self, names: usize, most: usize) -> Vec<String> {
        if width_of(&self.columns, false) <= most {
            return vec![self.text()];
        }
        let laid: Vec<Laid> = self.columns.iter().map(|column| Laid::of(column, true)).collect();
        let (names, rest) = laid.split_at(names.min(laid.len()));
        let taken = |columns: &[Laid]| columns.iter().map(|column| column.width + GAP).sum::<usize>();
        let mut blocks: Vec<Vec<Laid>> = vec![names.to_vec()];
        for column in rest {
            let last = blocks.last().map_or(0, |block| taken(block));
            // The gap behind the last column is not printed.
            let full = last + column.width > most;
            if full && blocks.last().is_some_and(|block| block.len() > names.len()) {
                blocks.push(names.to_vec());
            }
            blocks.last_mut().into_iter().for_each(|block| block.push(column.clone()));
        }
        blocks.iter().map(|columns| block(columns)).collect()
    }

    /// The width of all columns side by side with titles broken at blanks.
    pub(crate) fn least_width(&self) -> usize {
        width_of(&self.columns, true)
    }

    /// The table in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let line = |cells: Vec<&str>| {
            let cells: Vec<String> = cells.into_iter().map(markdown_text).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let mut out = line(self.columns.iter().map(|column| column.title.as_str()).collect());
        out.push_str(&format!("|{}\n", " --- |".repeat(self.columns.len())));
        for row in 0..self.columns.first().map_or(0, |column| column.cells.len()) {
            out.push_str(&line(self.columns.iter().map(|column| column.cells[row].as_str()).collect()));
        }
        out
    }
}

/// The width of columns side by side.
fn width_of(columns: &[TextColumn], broken: bool) -> usize {
    columns.iter().map(|column| Laid::of(column, broken).width + GAP).sum::<usize>().saturating_sub(GAP)
}

/// A column as it is printed: lines of the title, then cells.
#[derive(Clone, Debug)]
struct Laid {
    side: Side,
    width: usize,
    title: Vec<String>,
    cells: Vec<String>,
}

impl Laid {
    fn of(column: &TextColumn, broken: bool) -> Self {
        let title = visible(&column.title);
        let cells: Vec<String> = column.cells.iter().map(|cell| visible(cell)).collect();
        let widest = |texts: &[String]| texts.iter().map(|text| width(text)).max().unwrap_or(0);
        let title = if broken {
            let longest_word = title.split(' ').map(width).max().unwrap_or(0);
            wrapped(&title, widest(&cells).max(longest_word).max(SHORT_TITLE))
        } else {
            vec![title]
        };
        Self { side: column.side, width: widest(&title).max(widest(&cells)), title, cells }
    }

    fn padded(&self, text: &str) -> String {
        let pad = " ".repeat(self.width - width(text));
        match self.side {
            Side::Left => format!("{text}{pad}"),
            Side::Right => format!("{pad}{text}"),
        }
    }
}

fn block(columns: &[Laid]) -> String {
    let head = columns.iter().map(|column| column.title.len()).max().unwrap_or(0);
    let rows = columns.first().map_or(0, |column| column.cells.len());
    let mut out = String::new();
    for line in 0..head + rows {
        let mut text = String::new();
        for column in columns {
            // Short titles stand at the bottom of the head.
            let cell = match line.checked_sub(head) {
                Some(row) => Some(&column.cells[row]),
                None => (line + column.title.len()).checked_sub(head).and_then(|line| column.title.get(line)),
            };
            text.push_str(&column.padded(cell.map_or("", String::as_str)));
            text.push_str(&" ".repeat(GAP));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TextTable {
        let rows = [["段落", "1.00", "[0.5, 1.5]"], ["b\u{202e}", "100.00", "-"]]
            .map(|row| row.map(str::to_owned).to_vec());
        TextTable::of_rows(&["method", "few-shot QA", "95 %"], &[0], &rows)
    }

    #[test]
    fn columns_line_up_also_under_wide_characters() {
        assert_eq!(
            table().text(),
            "method     few-shot QA        95 %\n段落              1.00  [0.5, 1.5]\nb\\u{202e}       100.00           -\n"
        );
    }

    #[test]
    fn blocks_keep_to_the_width_and_repeat_the_names() {
        assert_eq!(table().least_width(), 9 + 2 + 8 + 2 + 10);
        assert_eq!(table().blocks(1, 31).len(), 1);
        assert_eq!(
            table().blocks(1, 30),
            [
                "           few-shot\nmethod           QA\n段落           1.00\nb\\u{202e}    100.00\n",
                "method           95 %\n段落       [0.5, 1.5]\nb\\u{202e}           -\n"
            ]
        );
        // No room even for one column beside the names: it is printed all the same.
        assert_eq!(table().blocks(1, 5).len(), 2);
    }

    #[test]
    fn markdown_shows_the_texts_as_they_are() {
        let table = TextTable::of_rows(&["a|b"], &[0], &[vec!["<i>".to_owned()]]);
        assert_eq!(table.markdown(), "| a\\|b |\n| --- |\n| &lt;i&gt; |\n");
    }
}
