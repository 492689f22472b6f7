//! A score table as text, Markdown, CSV, LaTeX or JSON, a file each.
//!
//! Markdown and LaTeX mark the best compressed score of each column among the rows of one budget in bold and the
//! second underlined; ties share the mark. The JSON is versioned and described in `docs/results.md`.

mod csv;
mod latex;
mod markdown;
mod notes;
mod text;

use crate::budget::{Budget, Share};
use crate::error::ResultsError;
use crate::json::versioned;
use crate::table::{Cell, CellScope, ColumnKind, ScoreRow, ScoreTable};

/// A column's title, and what it says of a row's budget, if anything.
pub type BudgetColumn = (&'static str, fn(Option<Budget>) -> Option<String>);

/// A form a table can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// All columns side by side, however wide.
    Text,
    /// What a person asks first, in lines of at most so many terminal columns; says which data sets it leaves out.
    Terminal(usize),
    /// Markdown.
    Markdown,
    /// Comma-separated, one line a row, unrounded.
    Csv,
    /// LaTeX with booktabs.
    Latex,
    /// Versioned JSON.
    Json,
}

impl CellScope {
    /// The title, with a dagger where the full cache is near the floor.
    pub fn heading(&self) -> String {
        if self.near_floor { format!("{} †", self.title) } else { self.title.clone() }
    }
}

impl ScoreTable {
    /// Writes the table.
    ///
    /// # Errors
    /// A row that CSV or JSON cannot hold.
    pub fn render(&self, format: Format) -> crate::Result<String> {
        match format {
            Format::Text => Ok(self.whole_text()),
            Format::Terminal(width) => Ok(self.fitted_text(width)),
            Format::Markdown => Ok(self.markdown()),
            Format::Csv => self
                .csv()
                .map_err(|error| ResultsError::Empty(format!("the table cannot be written: {error}"))),
            Format::Latex => Ok(self.latex()),
            Format::Json => Ok(versioned("kvsweep-table", 1, "table", self)? + "\n"),
        }
    }

    fn several_groups(&self) -> bool {
        self.rows.iter().any(|row| !row.group.is_empty())
    }

    /// Titles of the columns that name a row, and of those behind the scores.
    fn frame(&self) -> (Vec<&'static str>, [&'static str; 7]) {
        let mut head = vec!["method"];
        head.extend(self.budget_columns().into_iter().map(|(title, _)| title));
        if self.several_groups() {
            head.insert(0, "model");
        }
        (head, ["entries", "max", "allowed", "share", "KV held", "stored per", "n"])
    }

    /// What says how much a row may keep: entries under `budget`, shares under `kept`, beside what is `removed` where the
    /// protocol counts that.
    pub fn budget_columns(&self) -> Vec<BudgetColumn> {
        let budgets = || self.rows.iter().filter_map(|row| row.budget);
        let shares = budgets().any(|budget| budget.share().is_some());
        let entries = budgets().any(|budget| budget.share().is_none());
        let mut columns: Vec<BudgetColumn> = Vec::new();
        if entries || !shares {
            columns.push(("budget", |budget| budget.filter(|b| b.share().is_none()).map(|b| b.to_string())));
        }
        if shares {
            columns.push(("kept", |budget| budget?.share().map(|share| share.to_string())));
        }
        if shares && self.counts_removed {
            columns.push(("removed", |budget| budget?.share().map(Share::removed)));
        }
        columns
    }

    fn row_head(&self, row: &ScoreRow) -> Vec<String> {
        let mut head = vec![row.method.clone()];
        head.extend(
            self.budget_columns()
                .into_iter()
                .map(|(_, cell)| cell(row.budget).unwrap_or_else(|| "-".to_owned())),
        );
        if self.several_groups() {
            head.insert(0, row.group.clone());
        }
        head
    }

    fn row_tail(row: &ScoreRow) -> [String; 7] {
        [
            format!("{:.1}", row.entries_mean),
            row.entries_max.to_string(),
            format!("{:.1}", row.entries_nominal),
            share(row),
            bytes(row.bytes),
            row.granularity.clone(),
            row.n.to_string(),
        ]
    }

    /// For every row and column: 1 for the best, 2 for the second among the compressed rows of the same model and
    /// budget, compared as printed. No column near the floor has a best.
    pub fn ranks(&self) -> Vec<Vec<Option<u8>>> {
        let printed = |cell: &Option<Cell>| cell.map(|cell| (cell.score * 100.0).round() as i64);
        let rank = |row: &ScoreRow, index: usize| {
            let competes = row.budget.is_some() && !self.columns[index].near_floor;
            let own = printed(&row.cells[index]).filter(|_| competes)?;
            let mut others: Vec<i64> = self
                .rows
                .iter()
                .filter(|other| other.budget == row.budget && other.group == row.group)
                .filter_map(|other| printed(&other.cells[index]))
                .collect();
            if others.len() < 2 {
                return None;
            }
            others.sort_unstable_by(|a, b| b.cmp(a));
            others.dedup();
            match others.iter().position(|other| *other == own) {
                Some(0) => Some(1),
                Some(1) => Some(2),
                _ => None,
            }
        };
        self.rows.iter().map(|row| (0..self.columns.len()).map(|index| rank(row, index)).collect()).collect()
    }
}

/// What a row really holds, as percent.
fn share(row: &ScoreRow) -> String {
    format!("{:.1} %", 100.0 * row.share_held)
}

fn text_cell(cell: Option<&Cell>, kind: ColumnKind) -> String {
    let Some(cell) = cell else { return "-".to_owned() };
    let score = format!("{:.2}", cell.score);
    match (kind, cell.low, cell.high) {
        (ColumnKind::Category | ColumnKind::Average, Some(low), Some(high)) => {
            format!("{score} [{low:.1}, {high:.1}]")
        }
        _ => score,
    }
}

/// Bytes for people, in binary units.
pub(crate) fn bytes(bytes: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::fixture::{layout, manifest, mean, record, write_run};
    use crate::merge::Merged;
    use crate::run::{Run, RunDir};
    use crate::stats::Bootstrap;
    use crate::table::{Column, Mean, TableLayout};

    /// Three methods: full, snapkv and h2o, with known scores.
    pub(super) fn table() -> ScoreTable {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = manifest();
        let mut third = manifest.methods[1].clone();
        third.spec = "h2o".into();
        manifest.methods.push(third);
        // Variants: full, snapkv@64, snapkv@128, h2o@64, h2o@128.
        let scores = [[1.0, 1.0, 0.5], [0.5, 0.0, 0.5], [1.0, 0.5, 0.5], [0.0, 0.0, 0.5], [1.0, 0.5, 0.5]];
        let run = write_run(dir.path(), &manifest, |dataset, row, variant| {
            scores[variant][row as usize] * if dataset == "trec" { 0.5 } else { 1.0 }
        });
        let merged = Merged::of(&[run], false).unwrap();
        ScoreTable::new(&merged, &layout(), &Bootstrap::default()).unwrap()
    }

    #[test]
    fn the_numbers_are_the_official_ones() {
        let table = table();
        let scores =
            |row: usize| -> Vec<f64> { table.rows[row].cells.iter().map(|c| c.unwrap().score).collect() };
        // qasper (1 + 1 + 0.5) / 3, rounded; trec half of it; then two one-column categories; then the mean.
        let full = [83.33, 41.67, 250.0 / 3.0, 125.0 / 3.0, 62.5];
        for (got, want) in scores(0).iter().zip(full) {
            assert!((got - want).abs() < 1e-9, "{got} {want}");
        }
        assert_eq!(table.rows[0].n, 6);
        assert_eq!(table.rows[1].entries_mean, 64.0);
        assert_eq!(table.rows[1].bytes, 65536.0);
        let average = table.rows[0].cells[4].unwrap();
        assert!(average.low.unwrap() < 62.5 && average.high.unwrap() > 62.5 && average.n == 6);
    }

    #[test]
    fn a_mean_is_over_what_its_caller_says_or_is_called_otherwise() {
        let dir = tempfile::tempdir().unwrap();
        let mut m = manifest();
        let mut third = m.datasets[0].clone();
        third.name = "dureader".into();
        m.datasets.push(third);
        // Means: qasper 1/3, dureader 2/3, trec 1.
        let run = write_run(dir.path(), &m, |dataset, row, _| match dataset {
            "trec" => 1.0,
            "qasper" => f64::from(u8::from(row == 0)),
            _ => f64::from(u8::from(row != 0)),
        });
        let merged = Merged::of(&[run], false).unwrap();
        let mut layout = layout();
        let mut column = layout.columns[0].clone();
        (column.title, column.dataset) = ("dureader".into(), "dureader".into());
        layout.columns.insert(1, column);
        layout.categories.push(mean("Single-doc QA (zh)", &["dureader"]));
        let last = |layout: &TableLayout| {
            let table = ScoreTable::new(&merged, layout, &Bootstrap::default()).unwrap();
            let cell = table.rows[0].cells.last().unwrap().unwrap();
            (table.columns.last().unwrap().title.clone(), cell, table.notes.join("; "))
        };
        // A column that the average leaves out is shown and does not count.
        let (title, cell, notes) = last(&layout);
        assert_eq!((title.as_str(), cell.n, notes.as_str()), ("Average", 6, ""));
        assert!((cell.score - 200.0 / 3.0).abs() < 1e-9);
        // One that it needs and has not makes another number, under another name.
        layout.average = mean("Average", &["qasper", "trec", "lcc"]);
        let (title, cell, notes) = last(&layout);
        assert_eq!((title.as_str(), cell.n), ("Mean of 3", 9));
        assert!((cell.score - 200.0 / 3.0).abs() < 1e-9);
        assert_eq!(notes, "no average: it is over 3 columns and these are missing: lcc");
        // The caller's rounding is the one that is printed.
        layout.average = Mean { percent: |_| 12.345, ..mean("Average", &["qasper"]) };
        assert_eq!(last(&layout).1.score, 12.345);
        layout.categories[0] = mean("Single-doc QA", &["qasper", "multifieldqa_en"]);
        let table = ScoreTable::new(&merged, &layout, &Bootstrap::default()).unwrap();
        assert!(table.columns.iter().any(|column| column.title == "Single-doc QA (1 of 2)"));
    }

    #[test]
    fn nobody_wins_where_the_full_cache_is_near_the_floor() {
        let dir = tempfile::tempdir().unwrap();
        let mut m = manifest();
        m.datasets.iter_mut().for_each(|dataset| (dataset.examples, dataset.total) = (40, 40));
        let mut third = m.methods[1].clone();
        third.spec = "h2o".into();
        m.methods.push(third);
        // The full cache finds 1 of 40 in trec; the compressed ones 4 and 8 of 40, and three quarters of qasper.
        let run = write_run(dir.path(), &m, |dataset, row, variant| {
            let right = if dataset == "qasper" { 30 } else { [1, 4, 4, 8, 8][variant] };
            f64::from(u8::from(row < right))
        });
        let merged = Merged::of(&[run], false).unwrap();
        let table = ScoreTable::new(&merged, &layout(), &Bootstrap::default()).unwrap();
        let marked: Vec<&str> =
            table.columns.iter().filter(|c| c.near_floor).map(|c| c.title.as_str()).collect();
        assert_eq!(marked, ["trec", "Few-shot"]);
        let markdown = table.render(Format::Markdown).unwrap();
        assert!(
            markdown.contains("| qasper | trec † |") && markdown.contains("- † trec, Few-shot: the full")
        );
        assert!(markdown.contains("**75.00**") && !markdown.contains("**20.00"), "{markdown}");
    }

    #[test]
    fn text_is_aligned() {
        let table = table();
        let wide = table.render(Format::Text).unwrap();
        assert!(
            wide.starts_with(
                "LongBench · embedded model tiny · longbench v1 · cpu f32 · mini split · a check of the pipeline"
            ),
            "{wide}"
        );
        let lines: Vec<&str> = wide.lines().collect();
        assert!(lines[2].starts_with("method  budget  qasper   trec"), "{wide}");
        assert!(lines[3].starts_with("full         -   83.33  41.67"), "{wide}");
        assert!(lines[4].contains("64.0 KiB"), "{wide}");
        assert!(wide.contains("examples: 3 in each data set"), "{wide}");
    }

    #[test]
    fn shares_stand_under_kept_and_beside_what_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut m = manifest();
        m.budgets = ["0.125", "0.5"].map(|text| text.parse().unwrap()).to_vec();
        let run = write_run(&dir.path().join("shares"), &m, |_, row, v| (row + v as u64) as f64 / 9.0);
        let of = |runs: &[Run], counts_removed| {
            let layout = TableLayout { counts_removed, ..layout() };
            ScoreTable::new(&Merged::of(runs, false).unwrap(), &layout, &Bootstrap::default()).unwrap()
        };
        let head = |table: &ScoreTable| {
            let line = table.render(Format::Text).unwrap().lines().nth(2).unwrap().to_owned();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let shares = of(std::slice::from_ref(&run), false);
        assert_eq!(head(&shares)[..3], ["method", "kept", "qasper"]);
        let text = shares.render(Format::Text).unwrap();
        let row = text.lines().find(|line| line.contains("0.125")).unwrap();
        // The fixture holds 62 of the 500 entries of every prompt.
        assert!(row.starts_with("snapkv  0.125") && row.contains("12.4 %"), "{text}");
        let kvpress = of(std::slice::from_ref(&run), true);
        assert_eq!(head(&kvpress)[..4], ["method", "kept", "removed", "qasper"]);
        let text = kvpress.render(Format::Terminal(80)).unwrap();
        assert!(text.lines().any(|line| line.starts_with("snapkv  0.125    0.875")), "{text}");
        let json: serde_json::Value = serde_json::from_str(&kvpress.render(Format::Json).unwrap()).unwrap();
        assert_eq!(
            (&json["table"]["rows"][1]["budget"], &json["table"]["counts_removed"]),
            (&0.125.into(), &true.into())
        );
        assert_eq!(json["table"]["rows"][1]["share_held"], 62.0 / 500.0);

        // Beside budgets in entries: a column each.
        let entries =
            write_run(&dir.path().join("entries"), &manifest(), |_, row, v| (row + v as u64) as f64 / 9.0);
        let both = of(&[run, entries], false);
        assert_eq!(head(&both)[..4], ["method", "budget", "kept", "qasper"]);
        assert_eq!(both.rows.iter().filter(|row| row.method == "snapkv").count(), 4);
    }

    #[test]
    fn a_table_says_where_a_share_left_a_window_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let mut m = manifest();
        m.budgets = vec!["0.05".parse().unwrap()];
        let mut run = RunDir::create_or_continue(dir.path(), &m).unwrap();
        for row in 0..3 {
            let mut record = record(&m, "qasper", row, &[1.0, 0.5]);
            record.variants[1].kept.last_only = row > 0;
            run.append(&record, None).unwrap();
        }
        let merged = Merged::of(&[run.records().unwrap()], false).unwrap();
        let table = ScoreTable::new(&merged, &layout(), &Bootstrap::default()).unwrap();
        let note = "no room for the method's window in its share of a short prompt, the last entries kept: snapkv@0.05 2 of 3";
        assert!(table.notes.contains(&note.to_owned()), "{:?}", table.notes);
    }

    #[test]
    fn best_is_bold_and_second_underlined_inside_a_budget() {
        let markdown = table().render(Format::Markdown).unwrap();
        let line = |start: &str| markdown.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
        assert!(line("| snapkv | 64 ").contains("**33.33**"), "{markdown}");
        assert!(line("| h2o | 64 ").contains("<u>16.67</u>"), "{markdown}");
        // A tie: both are best.
        assert!(line("| snapkv | 128 ").contains("**66.67**") && line("| h2o | 128 ").contains("**66.67**"));
        assert!(!line("| full ").contains("**"), "the full cache does not compete");
        let latex = table().render(Format::Latex).unwrap();
        assert!(latex.contains("\\textbf{33.33}") && latex.contains("\\underline{16.67}"), "{latex}");
        assert!(latex.contains("\\toprule") && latex.contains("\\midrule") && latex.contains("\\bottomrule"));
    }

    #[test]
    fn csv_and_json_can_be_read_back() {
        let table = table();
        let text = table.render(Format::Csv).unwrap();
        let mut reader = ::csv::Reader::from_reader(text.as_bytes());
        let column = reader.headers().unwrap().iter().position(|title| title == "qasper").unwrap();
        let rows: Vec<::csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!((rows.len(), &rows[0][column]), (5, "83.33"));
        let json: serde_json::Value = serde_json::from_str(&table.render(Format::Json).unwrap()).unwrap();
        assert_eq!(json["format"], "kvsweep-table");
        assert_eq!(json["version"], 1);
        assert_eq!(json["table"]["rows"][0]["cells"][0]["score"], 83.33);
        assert_eq!(json["table"]["columns"][4]["kind"], "average");
        assert_eq!(json["table"]["bootstrap"]["seed"], Bootstrap::default().seed);
    }

    #[test]
    fn a_row_that_cannot_be_written_is_an_error_and_not_left_out() {
        let mut table = table();
        table.rows[1].cells.pop();
        let error = table.render(Format::Csv).unwrap_err().to_string();
        assert!(error.contains("cannot be written") && error.contains("fields"), "{error}");
    }

    #[test]
    fn hostile_names_stay_text() {
        let mut table = table();
        table.rows[1].method = "a|b\u{202e}<script>_$\\input{x}\n\u{1b}[2J".into();
        let markdown = table.render(Format::Markdown).unwrap();
        assert!(markdown.contains("a\\|b\\\\u{202e}&lt;script&gt;"), "{markdown}");
        let latex = table.render(Format::Latex).unwrap();
        assert!(
            latex.contains("\\textless{}script") && latex.contains("\\textbackslash{}input\\{x\\}"),
            "{latex}"
        );
        for format in
            [Format::Text, Format::Terminal(80), Format::Markdown, Format::Csv, Format::Latex, Format::Json]
        {
            let text = table.render(format).unwrap();
            assert!(!text.contains('\u{1b}'), "{format:?}");
            assert!(format == Format::Json || !text.contains('\u{202e}'), "{format:?}");
        }
    }

    #[test]
    fn notes_tell_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = manifest();
        manifest.limit = Some(3);
        let mut run = write_run(dir.path(), &manifest, |_, _, _| 0.5);
        run.examples.pop();
        run.examples.iter_mut().for_each(|record| record.info.truncated_tokens = 7);
        let merged = Merged::of(std::slice::from_ref(&run), false).unwrap();
        let mut layout = layout();
        layout.columns.push(Column { dataset: "absent".into(), ..layout.columns[0].clone() });
        layout.average.parts.push(("absent".into(), 0.0));
        let table = ScoreTable::new(&merged, &layout, &Bootstrap::default()).unwrap();
        let part = "LongBench · partial: first 3 rows of each data set; not finished: trec 2 of 3 · ";
        assert!(table.title.starts_with(part), "{}", table.title);
        let notes = table.notes.join("\n");
        assert!(notes.contains("truncated prompts: qasper 3 of 3, trec 2 of 2"), "{notes}");
        assert!(notes.contains("these are missing: absent"), "{notes}");
        let mut skipping = run.clone();
        let last = skipping.examples.last_mut().unwrap();
        (last.skipped, last.timings) = (Some("no class of it".into()), None);
        last.variants.clear();
        let merged = Merged::of(&[skipping], false).unwrap();
        let table = ScoreTable::new(&merged, &layout, &Bootstrap::default()).unwrap();
        let notes = table.notes.join("\n");
        assert!(
            notes.contains("skipped, cannot be graded: trec 1 of 3 (`trec-1`: no class of it)"),
            "{notes}"
        );
        assert!(table.title.contains("not finished: trec 2 of 3"), "{}", table.title);
        layout.columns.retain(|column| column.dataset == "absent");
        assert!(ScoreTable::new(&merged, &layout, &Bootstrap::default()).is_err());
    }

    #[test]
    fn questions_about_one_document_count_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut m = manifest();
        m.datasets.iter_mut().for_each(|dataset| (dataset.examples, dataset.total) = (8, 8));
        let mut run = write_run(dir.path(), &m, |_, row, _| row as f64 / 8.0);
        // Eight questions about one document; eight about two.
        for record in &mut run.examples {
            let half = if record.key.dataset == "trec" { record.info.row % 2 } else { 0 };
            record.info.context = Some(format!("document {half} of {}", record.key.dataset));
        }
        let merged = Merged::of(&[run], false).unwrap();
        let table = ScoreTable::new(&merged, &layout(), &Bootstrap::default()).unwrap();
        let cell = |index: usize| table.rows[0].cells[index].unwrap();
        assert_eq!((cell(0).n, cell(0).contexts, cell(0).low), (8, 1, None));
        assert_eq!((cell(1).n, cell(1).contexts), (8, 2));
        let text = table.render(Format::Text).unwrap();
        assert!(text.contains("qasper 8 examples of 1, trec 8 examples of 2\n"), "{text}");
    }

    #[test]
    fn a_part_says_so_on_top() {
        let dir = tempfile::tempdir().unwrap();
        let shard = |index: u32| {
            let mut part = manifest();
            part.shard = Some(crate::manifest::Shard { index, count: 4 });
            part.datasets.iter_mut().for_each(|dataset| (dataset.examples, dataset.total) = (1, 4));
            let mut run = RunDir::create_or_continue(&dir.path().join(index.to_string()), &part).unwrap();
            for dataset in ["qasper", "trec"] {
                run.append(&record(&part, dataset, u64::from(index), &[0.5; 3]), None).unwrap();
            }
            run.records().unwrap()
        };
        let table = |runs: &[crate::run::Run]| {
            let merged = Merged::of(runs, false).unwrap();
            ScoreTable::new(&merged, &layout(), &Bootstrap::default()).unwrap()
        };
        let shards = [shard(1), shard(2), shard(4), shard(3)];
        let three = table(&shards[..3]);
        let part = "parts 1, 2, 4 of 4; part 3 missing: 2 examples";
        assert_eq!(three.part, [part]);
        for format in [Format::Text, Format::Terminal(200), Format::Markdown, Format::Latex, Format::Json] {
            let text = three.render(format).unwrap();
            assert!(text.contains(part), "{format:?}: {text}");
        }
        assert_eq!(table(&shards).part, [""; 0]);

        // A method that was run on fewer rows than the others.
        let whole = write_run(&dir.path().join("whole"), &manifest(), |_, _, _| 0.5);
        let mut few = manifest();
        few.limit = Some(1);
        few.methods[1].spec = "h2o".into();
        few.datasets.iter_mut().for_each(|dataset| (dataset.examples, dataset.total) = (1, 1));
        let few = write_run(&dir.path().join("few"), &few, |_, _, _| 0.5);
        let expected = [
            "first row of each data set",
            "rows of 1 to 3 examples in qasper",
            "rows of 1 to 3 examples in trec",
        ];
        assert_eq!(table(&[whole.clone(), few.clone()]).part, expected);
        assert_eq!(table(&[few, whole]).part, expected);
    }
}
