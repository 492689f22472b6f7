//! Ours beside theirs: every cell of a published table with our score, interval and verdict.

use serde::Serialize;

use crate::Result;
use crate::error::ResultsError;
use crate::merge::Group;
use crate::published::{PaperColumn, PaperRow, PaperTable};
use crate::record::VariantKey;
use crate::render::markdown_text;
use crate::stats::{Bootstrap, Stratum};
use crate::table::{Cell, percent, round2};
use crate::text::visible;

/// A score outside our interval by at most this many points of the printed one is close.
pub const CLOSE_POINTS: f64 = 1.0;

/// How a published number stands to ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Theirs lies inside our interval.
    Reproduced,
    /// Within [`CLOSE_POINTS`] of ours.
    Close,
    /// Neither.
    Off,
    /// It would count as reproduced or close, but the full cache is off or not measured: nothing is claimed.
    Gated,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reproduced => "reproduced",
            Self::Close => "close",
            Self::Off => "off",
            Self::Gated => "gated",
        })
    }
}

/// Judges a printed score against ours.
pub fn verdict(theirs: f64, ours: &Cell) -> Verdict {
    match (ours.low, ours.high) {
        (Some(low), Some(high)) if low <= theirs && theirs <= high => Verdict::Reproduced,
        _ if (theirs - ours.score).abs() <= CLOSE_POINTS => Verdict::Close,
        _ => Verdict::Off,
    }
}

/// Whether the full cache agrees with the paper, so that compressed rows may be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// No full-cache cell is off.
    Open,
    /// A full-cache cell is off.
    Closed,
    /// The paper prints a full-cache row, but ours is not measured.
    NotMeasured,
    /// The paper prints no full-cache row.
    NotPrinted,
}

/// One cell of both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PaperCell {
    /// The method as printed.
    pub printed_method: String,
    /// Ours, with its profile; none where the method cannot be run here.
    pub method: Option<String>,
    /// The budget; none for the full cache.
    pub budget: Option<u32>,
    /// The column.
    pub column: String,
    /// The number as printed; none where the paper prints none.
    pub theirs: Option<String>,
    /// Ours; none where it is not measured.
    pub ours: Option<Cell>,
    /// Ours minus theirs, points.
    pub difference: Option<f64>,
    /// How they stand; none where one of them is missing.
    pub verdict: Option<Verdict>,
}

/// A published table beside ours.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PaperComparison {
    /// The table's id.
    pub id: String,
    /// What it is; says where it is a rehearsal.
    pub title: String,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// Why it is only a rehearsal: another model, protocol or split, not all rows. Empty for a real comparison.
    pub rehearsal: Vec<String>,
    /// Whether compressed rows may be judged.
    pub gate: Gate,
    /// How intervals were made.
    pub bootstrap: Bootstrap,
    /// All cells, row by row.
    pub cells: Vec<PaperCell>,
    /// Sources of the printed numbers.
    pub sources: Vec<String>,
}

impl PaperComparison {
    /// Puts ours beside theirs.
    pub fn new(paper: &PaperTable, group: &Group, bootstrap: &Bootstrap) -> Self {
        let mut rows: Vec<(&PaperRow, Vec<PaperCell>)> = paper
            .rows
            .iter()
            .map(|row| {
                let variant = variant_of(paper, row, group);
                let cells = paper.columns.iter().enumerate().map(|(index, column)| {
                    let theirs = row.cells.get(index).cloned().flatten();
                    let ours = variant.and_then(|variant| measure(group, variant, column, bootstrap));
                    let printed: Option<f64> = theirs.as_deref().and_then(|text| text.parse().ok());
                    let both = printed.zip(ours.as_ref());
                    PaperCell {
                        printed_method: row.method.clone(),
                        method: paper.method(&row.method).map(|method| method.spec.clone()),
                        budget: row.budget,
                        column: column.name.clone(),
                        difference: both.map(|(theirs, ours)| ours.score - theirs),
                        verdict: both.map(|(theirs, ours)| verdict(theirs, ours)),
                        theirs,
                        ours,
                    }
                });
                (row, cells.collect())
            })
            .collect();
        let is_full = |row: &PaperRow| row.budget.is_none();
        let full: Vec<Verdict> = rows
            .iter()
            .filter(|(row, _)| is_full(row))
            .flat_map(|(_, cells)| cells)
            .filter_map(|c| c.verdict)
            .collect();
        let gate = if !paper.rows.iter().any(is_full) {
            Gate::NotPrinted
        } else if full.is_empty() {
            Gate::NotMeasured
        } else if full.contains(&Verdict::Off) {
            Gate::Closed
        } else {
            Gate::Open
        };
        if matches!(gate, Gate::Closed | Gate::NotMeasured) {
            for cell in rows.iter_mut().filter(|(row, _)| !is_full(row)).flat_map(|(_, cells)| cells) {
                cell.verdict = cell.verdict.map(|v| if v == Verdict::Off { v } else { Verdict::Gated });
            }
        }
        let rehearsal = rehearsal(paper, group);
        let mut title = paper.title.clone();
        if !rehearsal.is_empty() {
            title.push_str(&format!(" · rehearsal, not a reproduction ({})", rehearsal.join(", ")));
        }
        let mut sources: Vec<String> = Vec::new();
        for source in paper.rows.iter().flat_map(|row| &row.sources) {
            if !sources.contains(source) {
                sources.push(source.clone());
            }
        }
        Self {
            id: paper.id.clone(),
            title,
            notes: notes(paper, gate, &rehearsal),
            rehearsal,
            gate,
            bootstrap: *bootstrap,
            cells: rows.into_iter().flat_map(|(_, cells)| cells).collect(),
            sources,
        }
    }

    /// Whether any printed number has one of ours beside it.
    pub fn has_common_cells(&self) -> bool {
        self.cells.iter().any(|cell| cell.theirs.is_some() && cell.ours.is_some())
    }

    /// Counts of the verdicts, and of printed cells that we have not measured.
    pub fn counts(&self) -> (Vec<(Verdict, usize)>, usize) {
        let count = |verdict| self.cells.iter().filter(|cell| cell.verdict == Some(verdict)).count();
        let verdicts = [Verdict::Reproduced, Verdict::Close, Verdict::Off, Verdict::Gated];
        let unmeasured =
            self.cells.iter().filter(|cell| cell.theirs.is_some() && cell.ours.is_none()).count();
        (verdicts.map(|verdict| (verdict, count(verdict))).to_vec(), unmeasured)
    }

    /// Writes the cells that both have as text (`markdown` for a Markdown table).
    pub fn render(&self, markdown: bool) -> String {
        let head = ["method", "budget", "column", "paper", "ours", "95 %", "n", "difference", "verdict"];
        let score = |value: f64| format!("{value:.2}");
        let bracket =
            |verdict: String| if self.rehearsal.is_empty() { verdict } else { format!("({verdict})") };
        let mut lines: Vec<[String; 9]> = Vec::new();
        for cell in &self.cells {
            let (Some(theirs), Some(ours)) = (&cell.theirs, &cell.ours) else { continue };
            let interval = ours.low.zip(ours.high).map(|(low, high)| format!("[{low:.1}, {high:.1}]"));
            lines.push([
                cell.printed_method.clone(),
                cell.budget.map_or_else(|| "full".to_owned(), |budget| budget.to_string()),
                cell.column.clone(),
                theirs.clone(),
                score(ours.score),
                interval.unwrap_or_else(|| "-".to_owned()),
                ours.n.to_string(),
                cell.difference.map(|d| format!("{d:+.2}")).unwrap_or_default(),
                cell.verdict.map(|verdict| bracket(verdict.to_string())).unwrap_or_default(),
            ]);
        }
        let (verdicts, unmeasured) = self.counts();
        let counts: Vec<String> =
            verdicts.iter().map(|(verdict, n)| format!("{} {n}", bracket(verdict.to_string()))).collect();
        let summary = format!("{}; printed but not measured here {unmeasured}", counts.join(", "));
        let mut out = String::new();
        let notes = self.notes.iter().chain([&summary]);
        if markdown {
            out.push_str(&format!("**{}**\n\n| {} |\n|", markdown_text(&self.title), head.join(" | ")));
            out.push_str(&" --- |".repeat(head.len()));
            out.push('\n');
            for line in &lines {
                let cells: Vec<String> = line.iter().map(|cell| markdown_text(cell)).collect();
                out.push_str(&format!("| {} |\n", cells.join(" | ")));
            }
            out.push('\n');
            for note in notes {
                out.push_str(&format!("- {}\n", markdown_text(note)));
            }
        } else {
            let title: [String; 9] = head.map(str::to_owned);
            let width = |place: usize| {
                [&title].into_iter().chain(&lines).map(|line| line[place].chars().count()).max().unwrap_or(0)
            };
            let widths: Vec<usize> = (0..head.len()).map(width).collect();
            out.push_str(&format!("{}\n\n", visible(&self.title)));
            for line in [&title].into_iter().chain(&lines) {
                let mut text = String::new();
                for (place, cell) in line.iter().enumerate() {
                    let pad = " ".repeat(widths[place] - cell.chars().count());
                    let left = matches!(place, 0 | 2 | 8);
                    text.push_str(&if left { format!("{cell}{pad}  ") } else { format!("{pad}{cell}  ") });
                }
                out.push_str(text.trim_end());
                out.push('\n');
            }
            out.push('\n');
            for note in notes {
                out.push_str(&format!("{}\n", visible(note)));
            }
        }
        out
    }

    /// Writes everything as versioned JSON.
    ///
    /// # Errors
    /// Never for a comparison made by [`PaperComparison::new`].
    pub fn to_json(&self) -> Result<String> {
        #[derive(Serialize)]
        struct Versioned<'a> {
            format: &'static str,
            version: u32,
            comparison: &'a PaperComparison,
        }
        serde_json::to_string_pretty(&Versioned { format: "kvsweep-paper", version: 1, comparison: self })
            .map_err(|error| ResultsError::Empty(error.to_string()))
    }
}

/// Why the comparison is only a rehearsal: another model, protocol, split, or not all rows.
fn rehearsal(paper: &PaperTable, group: &Group) -> Vec<String> {
    let manifest = &group.manifest;
    let mut why = Vec::new();
    if !paper.has_model(&manifest.model.name) {
        why.push(format!("model {}", manifest.model.name));
    }
    if paper.protocol.as_ref() != Some(&manifest.protocol.name) {
        why.push(format!("protocol {}", manifest.protocol.name));
    }
    if manifest.split != "full" {
        why.push(format!("{} split", manifest.split));
    }
    if let Some(limit) = manifest.limit {
        why.push(if limit == 1 { "first row".to_owned() } else { format!("first {limit} rows") });
    }
    let finished = |name: &str| group.examples.keys().filter(|key| key.dataset == name).count() as u64;
    if group.datasets.iter().any(|dataset| finished(&dataset.name) < dataset.examples) {
        why.push("not finished".to_owned());
    }
    why
}

fn notes(paper: &PaperTable, gate: Gate, rehearsal: &[String]) -> Vec<String> {
    let mut notes: Vec<String> = paper.note.iter().flat_map(|note| note.lines()).map(str::to_owned).collect();
    if !rehearsal.is_empty() {
        notes.push("rehearsal: verdicts stand in brackets and claim nothing about the paper".to_owned());
    }
    notes.push(
        match gate {
            Gate::Open => "full-cache gate: open",
            Gate::Closed => "full-cache gate: closed: a full-cache cell is off, so no compressed cell is called reproduced",
            Gate::NotMeasured => "full-cache gate: closed: our full-cache row is not measured",
            Gate::NotPrinted => "full-cache gate: the paper prints no full-cache row",
        }
        .to_owned(),
    );
    notes.push(format!(
        "reproduced: theirs inside our interval; close: within {CLOSE_POINTS} point; a small n makes a wide interval, which reproduces much and proves little"
    ));
    notes
}

/// The variant of ours that a published row is.
fn variant_of<'a>(paper: &PaperTable, row: &PaperRow, group: &'a Group) -> Option<&'a VariantKey> {
    let method = paper.method(&row.method)?;
    let fits =
        |variant: &&VariantKey| {
            variant.method == method.spec
                && variant.budget == row.budget
                && (paper.granularity.as_ref().is_none_or(|wanted| *wanted == variant.granularity)
                // The full cache is stored once a KV head whatever the methods do.
                || row.budget.is_none())
                && group.methods.iter().any(|info| {
                    info.spec == variant.method
                        && info.granularity == variant.granularity
                        && info.params_id() == variant.params
                        && method.params.iter().chain(&row.params).all(|(key, value)| {
                            info.params.get(key).is_some_and(|own| same_value(own, value))
                        })
                })
        };
    group.variants.iter().find(fits)
}

/// `2` and `2.0` are the same number.
fn same_value(a: &str, b: &str) -> bool {
    a == b || matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(a), Ok(b)) if a == b)
}

/// Our number for a column; none unless all its data sets are measured.
fn measure(group: &Group, variant: &VariantKey, column: &PaperColumn, bootstrap: &Bootstrap) -> Option<Cell> {
    let strata: Option<Vec<(f64, Stratum)>> = column
        .parts
        .iter()
        .map(|(dataset, weight)| {
            let scores = group.scores(variant, dataset, None);
            (!scores.is_empty()).then(|| (*weight, bootstrap.stratum(dataset, &scores)))
        })
        .collect();
    let strata = strata.filter(|strata| !strata.is_empty())?;
    let parts: Vec<(f64, &Stratum)> = strata.iter().map(|(weight, stratum)| (*weight, stratum)).collect();
    let mut cell = percent(&bootstrap.combine_scores(&parts));
    // The papers average what their scripts print: data sets rounded to two decimals.
    cell.score = round2(parts.iter().map(|(weight, stratum)| weight * round2(100.0 * stratum.mean())).sum());
    Some(cell)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::Merged;
    use crate::published;
    use crate::run::tests::{manifest, write_run};

    fn ours(low: f64, score: f64, high: f64) -> Cell {
        Cell { score, low: Some(low), high: Some(high), n: 200 }
    }

    #[test]
    fn verdicts_at_their_borders() {
        assert_eq!(verdict(43.0, &ours(43.0, 45.0, 47.0)), Verdict::Reproduced);
        assert_eq!(verdict(42.9, &ours(43.0, 43.5, 44.0)), Verdict::Close);
        assert_eq!(verdict(42.0, &ours(43.0, 45.0, 47.0)), Verdict::Off);
        let alone = Cell { score: 45.0, low: None, high: None, n: 1 };
        assert_eq!(verdict(46.0, &alone), Verdict::Close);
        assert_eq!(verdict(46.1, &alone), Verdict::Off);
    }

    /// A run of the HeadKV table on two data sets; `full` scores what the paper prints, plus `shift`.
    fn comparison(shift: f64, split: &str) -> PaperComparison {
        let paper = published::find("headkv-llama-3-8b").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut m = manifest();
        m.datasets[1].name = "hotpotqa".into();
        m.methods[1].spec = "snapkv@headkv".into();
        m.budgets = vec![64];
        m.model.name = "meta-llama/Meta-Llama-3-8B-Instruct".into();
        m.protocol.name = "headkv".into();
        m.split = split.into();
        // Theirs: full 32.07 and 43.57. Three examples that spread by two points around it.
        let run = write_run(dir.path(), &m, |dataset, row, variant| {
            let center = match (dataset, variant) {
                ("qasper", 0) => 0.3207 + shift,
                ("hotpotqa", 0) => 0.4357,
                ("qasper", _) => 0.1264,
                _ => 0.9,
            };
            center + (row as f64 - 1.0) / 100.0
        });
        let merged = Merged::of(&[run], false).unwrap();
        PaperComparison::new(paper, &merged.groups[0], &Bootstrap::default())
    }

    fn cell<'a>(all: &'a PaperComparison, method: &str, budget: Option<u32>, column: &str) -> &'a PaperCell {
        all.cells
            .iter()
            .find(|c| c.printed_method == method && c.budget == budget && c.column == column)
            .unwrap()
    }

    #[test]
    fn an_open_gate_lets_compressed_rows_be_judged() {
        let all = comparison(0.0, "full");
        assert_eq!(all.gate, Gate::Open);
        assert!(!all.title.contains("rehearsal"), "{}", all.title);
        let full = cell(&all, "FullKV", None, "qasper");
        assert_eq!((full.theirs.as_deref(), full.verdict), (Some("32.07"), Some(Verdict::Reproduced)));
        assert_eq!(full.difference.map(round2), Some(0.0));
        assert_eq!(cell(&all, "SnapKV", Some(64), "hotpotqa").verdict, Some(Verdict::Off));
        assert_ne!(cell(&all, "SnapKV", Some(64), "qasper").verdict, Some(Verdict::Gated));
        // Not all six data sets are measured: no average is made up.
        assert_eq!(cell(&all, "FullKV", None, "avg6").ours, None);
        assert_eq!(cell(&all, "HeadKV-R", Some(64), "qasper").ours, None);
        let text = all.render(false);
        assert!(text.contains("printed but not measured here"), "{text}");
        assert!(text.contains("SnapKV") && !text.contains("PyramidKV  "), "{text}");
        assert!(all.render(true).contains("| FullKV | full | qasper | 32.07 | 32.07 |"));
        let json: serde_json::Value = serde_json::from_str(&all.to_json().unwrap()).unwrap();
        assert_eq!(
            (json["format"].as_str(), json["comparison"]["gate"].as_str()),
            (Some("kvsweep-paper"), Some("open"))
        );
    }

    #[test]
    fn a_full_cache_that_is_off_closes_the_gate() {
        let all = comparison(0.2, "mini");
        assert_eq!(all.gate, Gate::Closed);
        assert!(all.title.contains("rehearsal, not a reproduction (mini split)"), "{}", all.title);
        assert!(all.render(false).contains("(reproduced)") && !all.render(false).contains("  reproduced\n"));
        assert_eq!(cell(&all, "FullKV", None, "qasper").verdict, Some(Verdict::Off));
        assert_eq!(cell(&all, "FullKV", None, "hotpotqa").verdict, Some(Verdict::Reproduced));
        assert_eq!(cell(&all, "SnapKV", Some(64), "hotpotqa").verdict, Some(Verdict::Off));
        let compressed =
            all.cells.iter().filter(|cell| cell.budget.is_some()).filter_map(|cell| cell.verdict);
        assert!(compressed.into_iter().all(|v| matches!(v, Verdict::Off | Verdict::Gated)));
    }

    #[test]
    fn other_data_sets_stand_in_for_the_papers() {
        let paper = published::find("headkv-llama-3-8b").unwrap();
        let player = |name: &str| match name {
            "narrativeqa" | "qasper" => Some("one".to_owned()),
            "multifieldqa_en" | "hotpotqa" | "2wikimqa" | "musique" => Some("two".to_owned()),
            _ => None,
        };
        let played = paper.played(&player);
        let parts = |name: &str| &played.columns.iter().find(|c| c.name == name).unwrap().parts;
        assert_eq!(parts("qasper"), &[("one".to_owned(), 1.0)]);
        assert_eq!(parts("computation"), &[]);
        let average = parts("avg6");
        assert_eq!((average[0].0.as_str(), average[1].0.as_str(), average.len()), ("one", "two", 2));
        assert!((average[0].1 - 2.0 / 6.0).abs() < 1e-12 && (average[1].1 - 4.0 / 6.0).abs() < 1e-12);
        let note = played.note.unwrap();
        assert!(note.contains("one for narrativeqa, qasper") && note.contains("stand in"), "{note}");
        assert_eq!(paper.played(&|name| Some(name.to_owned())), *paper, "who plays himself changes nothing");

        let mut m = manifest();
        assert!(!paper.is_of(&m));
        m.model.name = "/models/meta-llama-3-8B-instruct".into();
        m.protocol.name = "headkv".into();
        assert!(paper.is_of(&m));
    }

    #[test]
    fn a_row_with_its_own_parameter_is_matched_by_it() {
        assert!(same_value("2", "2.0") && same_value("x", "x") && !same_value("2", "2.1"));
        let paper = published::find("headkv-llama-3-8b").unwrap();
        let row = paper.rows.iter().find(|r| r.method == "HeadKV-R2" && r.budget == Some(64)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (beta, found) in [("1.2", true), ("1.5", false)] {
            let mut m = manifest();
            m.methods[1].spec = "headkv-r2@headkv".into();
            m.methods[1].params.insert("beta".into(), beta.into());
            let run = write_run(&dir.path().join(beta), &m, |_, _, _| 0.5);
            let merged = Merged::of(&[run], false).unwrap();
            assert_eq!(variant_of(paper, row, &merged.groups[0]).is_some(), found, "{beta}");
        }
    }
}
