//! Ours beside theirs: every cell of a published table with our score, interval and verdict.
//!
//! A verdict needs evidence: the paper's model and protocol, all of the paper's rows, an interval narrow enough to
//! contradict, and, for a compressed cell, a full cache that agrees in the same column. Whatever lacks one of these has
//! no verdict and says what it lacks.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Result;
use crate::error::ResultsError;
use crate::manifest::{MASK_HEADS, MODEL_SHAPE, WITHOUT_CONTEXT};
use crate::merge::Group;
use crate::published::{PaperColumn, PaperRow, PaperTable};
use crate::record::VariantKey;
use crate::render::markdown_text;
use crate::stats::{Bootstrap, Stratum};
use crate::table::{Cell, exact_percent, group_part, percent};
use crate::text::visible;

/// A score outside our interval by at most this many points of the printed one is close.
pub const CLOSE_POINTS: f64 = 1.0;

/// An interval wider than this many points contradicts too little to reproduce anything. The widest that 200 rows of a
/// metric between 0 and 1 can give is 14; 2 rows give 84 and more.
pub const WIDEST: f64 = 15.0;

/// What the caller knows of the runs behind a published table.
pub struct Original<'a> {
    /// The shape of the table's model, spelled as manifests record it ([`MODEL_SHAPE`]); none where it is not known.
    pub shape: Option<String>,
    /// Examples behind the paper's number of a data set; none where it is not known.
    pub examples: &'a dyn Fn(&str) -> Option<u64>,
    /// The number that is printed, from (weight, percent before rounding) of each data set.
    pub mean: fn(&[(f64, f64)]) -> f64,
}

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
    /// It would count as reproduced or close, but the full cache does not agree in this column: nothing is claimed.
    Gated,
    /// What was measured can bear no verdict.
    Unproven,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reproduced => "reproduced",
            Self::Close => "close",
            Self::Off => "off",
            Self::Gated => "gated",
            Self::Unproven => "unproven",
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

/// Whether the full cache agrees with the paper in a column, so that compressed cells there may be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// The full cache is reproduced or close.
    Open,
    /// The full cache is off.
    Closed,
    /// The paper prints a full-cache number, but ours is not measured or bears no verdict.
    Unproven,
    /// The paper prints no full-cache number here.
    NotPrinted,
}

/// The gate of one column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColumnGate {
    /// The column.
    pub column: String,
    /// Its gate.
    pub gate: Gate,
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
    /// What is lacking where the verdict is `gated` or `unproven`.
    pub why: Option<String>,
}

/// A published table beside ours.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PaperComparison {
    /// The table's id.
    pub id: String,
    /// What it is; says where it is a rehearsal or a part.
    pub title: String,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// Why it is only a rehearsal: another model, protocol or split, masked heads, no context. Empty for a real
    /// comparison.
    pub rehearsal: Vec<String>,
    /// Whether compressed cells may be judged, by column.
    pub gates: Vec<ColumnGate>,
    /// How intervals were made.
    pub bootstrap: Bootstrap,
    /// All cells, row by row.
    pub cells: Vec<PaperCell>,
    /// Sources of the printed numbers.
    pub sources: Vec<String>,
}

impl PaperComparison {
    /// Puts ours beside theirs.
    pub fn new(paper: &PaperTable, group: &Group, original: &Original<'_>, bootstrap: &Bootstrap) -> Self {
        let rehearsal = rehearsal(paper, group, original);
        let cell = |row: &PaperRow, index: usize, column: &PaperColumn| {
            let theirs = row.cells.get(index).cloned().flatten();
            let measured = variant_of(paper, row, group)
                .and_then(|variant| measure(group, variant, column, original, bootstrap));
            let printed: Option<f64> = theirs.as_deref().and_then(|text| text.parse().ok());
            let both = printed.zip(measured.as_ref().map(|measured| &measured.cell));
            let why = measured.as_ref().filter(|_| both.is_some()).and_then(|measured| {
                if rehearsal.is_empty() { measured.lacks() } else { Some("rehearsal".to_owned()) }
            });
            PaperCell {
                printed_method: row.method.clone(),
                method: paper.method(&row.method).map(|method| method.spec.clone()),
                budget: row.budget,
                column: column.name.clone(),
                difference: both.map(|(theirs, ours)| ours.score - theirs),
                verdict: both.map(
                    |(theirs, ours)| {
                        if why.is_some() { Verdict::Unproven } else { verdict(theirs, ours) }
                    },
                ),
                why,
                theirs,
                ours: measured.map(|measured| measured.cell),
            }
        };
        let mut cells: Vec<PaperCell> = paper
            .rows
            .iter()
            .flat_map(|row| paper.columns.iter().enumerate().map(move |(index, column)| (row, index, column)))
            .map(|(row, index, column)| cell(row, index, column))
            .collect();
        let gates: Vec<ColumnGate> = paper
            .columns
            .iter()
            .map(|column| ColumnGate { column: column.name.clone(), gate: gate(&column.name, &cells) })
            .collect();
        for cell in cells.iter_mut().filter(|cell| cell.budget.is_some()) {
            let why = match gates.iter().find(|gate| gate.column == cell.column).map(|gate| gate.gate) {
                Some(Gate::Closed) => "the full cache is off here",
                Some(Gate::Unproven) => "the full cache has no verdict here",
                _ => continue,
            };
            if matches!(cell.verdict, Some(Verdict::Reproduced | Verdict::Close)) {
                cell.verdict = Some(Verdict::Gated);
                cell.why = Some(why.to_owned());
            }
        }
        let mut title = paper.title.clone();
        if !rehearsal.is_empty() {
            title.push_str(&format!(" · rehearsal, not a reproduction ({})", rehearsal.join(", ")));
        }
        let part = group_part(group);
        if !part.is_empty() {
            title.push_str(&format!(" · partial: {}", part.join("; ")));
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
            notes: notes(paper, &gates, &cells),
            rehearsal,
            gates,
            bootstrap: *bootstrap,
            cells,
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
        let verdicts = [Verdict::Reproduced, Verdict::Close, Verdict::Off, Verdict::Gated, Verdict::Unproven];
        let unmeasured =
            self.cells.iter().filter(|cell| cell.theirs.is_some() && cell.ours.is_none()).count();
        (verdicts.map(|verdict| (verdict, count(verdict))).to_vec(), unmeasured)
    }

    /// Writes the cells that both have as text (`markdown` for a Markdown table).
    pub fn render(&self, markdown: bool) -> String {
        let head = ["method", "budget", "column", "paper", "ours", "95 %", "n", "difference", "verdict"];
        let score = |value: f64| format!("{value:.2}");
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
                cell.outcome(),
            ]);
        }
        let (verdicts, unmeasured) = self.counts();
        let counts: Vec<String> = verdicts.iter().map(|(verdict, n)| format!("{verdict} {n}")).collect();
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
        serde_json::to_string_pretty(&Versioned { format: "kvsweep-paper", version: 2, comparison: self })
            .map_err(|error| ResultsError::Empty(error.to_string()))
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

/// The gate of a column: what its full-cache cells say.
fn gate(column: &str, cells: &[PaperCell]) -> Gate {
    let full = || {
        cells.iter().filter(|cell| cell.column == column && cell.budget.is_none() && cell.theirs.is_some())
    };
    let agrees = |cell: &PaperCell| matches!(cell.verdict, Some(Verdict::Reproduced | Verdict::Close));
    if full().next().is_none() {
        Gate::NotPrinted
    } else if full().any(|cell| cell.verdict == Some(Verdict::Off)) {
        Gate::Closed
    } else if full().all(agrees) {
        Gate::Open
    } else {
        Gate::Unproven
    }
}

/// Why the comparison is only a rehearsal: another model, protocol or split, masked heads, no context.
fn rehearsal(paper: &PaperTable, group: &Group, original: &Original<'_>) -> Vec<String> {
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
    for (setting, what) in [(MASK_HEADS, "masked heads"), (WITHOUT_CONTEXT, "context removed")] {
        if group.manifests.iter().any(|manifest| manifest.settings.contains_key(setting)) {
            why.push(what.to_owned());
        }
    }
    why
}

fn notes(paper: &PaperTable, gates: &[ColumnGate], cells: &[PaperCell]) -> Vec<String> {
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

/// Our number for a column.
struct Measured {
    cell: Cell,
    /// By data set: examples measured, and examples of the paper where known.
    examples: BTreeMap<String, (u64, Option<u64>)>,
}

impl Measured {
    /// What keeps it from bearing a verdict, if anything.
    fn lacks(&self) -> Option<String> {
        let incomplete: Vec<String> = self
            .examples
            .iter()
            .filter_map(|(dataset, (have, want))| match want {
                Some(want) if have == want => None,
                Some(want) => Some(format!("{dataset} {have} of {want} examples")),
                None => Some(format!("{dataset} {have} examples of an unknown number")),
            })
            .collect();
        match (incomplete.as_slice(), self.cell.low.zip(self.cell.high)) {
            ([], Some((low, high))) if high - low <= WIDEST => None,
            ([], Some((low, high))) => Some(format!("interval {:.0} points wide", high - low)),
            ([], None) => Some("no interval".to_owned()),
            ([first], _) => Some(first.clone()),
            ([first, rest @ ..], _) => Some(format!("{first}, and {} more data sets in part", rest.len())),
        }
    }
}

/// Our number for a column; none unless all its data sets are measured.
fn measure(
    group: &Group,
    variant: &VariantKey,
    column: &PaperColumn,
    original: &Original<'_>,
    bootstrap: &Bootstrap,
) -> Option<Measured> {
    let mut strata: Vec<(f64, Stratum)> = Vec::new();
    let mut percents: Vec<(f64, f64)> = Vec::new();
    let mut examples = BTreeMap::new();
    for (dataset, weight) in &column.parts {
        let samples = group.samples(variant, dataset, None);
        let scores: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
        if scores.is_empty() {
            return None;
        }
        strata.push((*weight, bootstrap.stratum(dataset, &samples)));
        percents.push((*weight, exact_percent(&scores)));
        examples.insert(dataset.clone(), (scores.len() as u64, (original.examples)(dataset)));
    }
    let parts: Vec<(f64, &Stratum)> = strata.iter().map(|(weight, stratum)| (*weight, stratum)).collect();
    let cell = percent(&bootstrap.combine_scores(&parts), (original.mean)(&percents));
    (!parts.is_empty()).then_some(Measured { cell, examples })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Manifest, Shard};
    use crate::merge::Merged;
    use crate::published;
    use crate::run::Run;
    use crate::run::tests::{manifest, write_run};

    fn ours(low: f64, score: f64, high: f64) -> Cell {
        Cell { score, low: Some(low), high: Some(high), n: 200, contexts: 200 }
    }

    #[test]
    fn verdicts_at_their_borders() {
        assert_eq!(verdict(43.0, &ours(43.0, 45.0, 47.0)), Verdict::Reproduced);
        assert_eq!(verdict(42.9, &ours(43.0, 43.5, 44.0)), Verdict::Close);
        assert_eq!(verdict(42.0, &ours(43.0, 45.0, 47.0)), Verdict::Off);
        let alone = Cell { score: 45.0, low: None, high: None, n: 1, contexts: 1 };
        assert_eq!(verdict(46.0, &alone), Verdict::Close);
        assert_eq!(verdict(46.1, &alone), Verdict::Off);
    }

    const SHAPE: &str = "the shape of Llama-3-8B";

    /// What the caller would know: 60 rows of each data set.
    fn original() -> Original<'static> {
        Original {
            shape: Some(SHAPE.to_owned()),
            examples: &|_| Some(60),
            mean: |parts| {
                (parts.iter().map(|(weight, percent)| weight * percent).sum::<f64>() * 100.0).round() / 100.0
            },
        }
    }

    /// The manifest of a run of the HeadKV table on two data sets.
    fn headkv() -> Manifest {
        let mut m = manifest();
        m.datasets[1].name = "hotpotqa".into();
        m.datasets.iter_mut().for_each(|dataset| (dataset.examples, dataset.total) = (60, 60));
        m.methods[1].spec = "snapkv@headkv".into();
        m.budgets = vec![64];
        m.model.name = "meta-llama/Meta-Llama-3-8B-Instruct".into();
        m.settings.insert(MODEL_SHAPE.into(), SHAPE.into());
        m.protocol.name = "headkv".into();
        m.split = "full".into();
        m
    }

    /// Scores around what the paper prints (full 32.07 and 43.57, SnapKV at 64 12.80 and 37.02), but for `shift` in the
    /// full cache's qasper.
    fn score(shift: f64) -> impl Fn(&str, u64, usize) -> f64 {
        move |dataset, row, variant| {
            let center = match (dataset, variant) {
                ("qasper", 0) => 0.3207 + shift,
                ("hotpotqa", 0) => 0.4357,
                ("qasper", _) => 0.128,
                _ => 0.9,
            };
            center + (row % 3) as f64 / 100.0 - 0.01
        }
    }

    fn beside(runs: &[Run]) -> PaperComparison {
        let merged = Merged::of(runs, false).unwrap();
        let paper = published::find("headkv-llama-3-8b").unwrap();
        PaperComparison::new(paper, &merged.groups[0], &original(), &Bootstrap::default())
    }

    fn comparison(shift: f64, edit: impl Fn(&mut Manifest)) -> PaperComparison {
        let dir = tempfile::tempdir().unwrap();
        let mut m = headkv();
        edit(&mut m);
        beside(&[write_run(dir.path(), &m, score(shift))])
    }

    fn verdicts(all: &PaperComparison) -> Vec<Verdict> {
        all.cells.iter().filter_map(|cell| cell.verdict).collect()
    }

    fn cell<'a>(all: &'a PaperComparison, method: &str, budget: Option<u32>, column: &str) -> &'a PaperCell {
        all.cells
            .iter()
            .find(|c| c.printed_method == method && c.budget == budget && c.column == column)
            .unwrap()
    }

    #[test]
    fn an_open_gate_lets_compressed_rows_be_judged() {
        let all = comparison(0.0, |_| {});
        assert_eq!(all.title, "HeadKV Tables 4, 6 and 2, LongBench and LooGLE, Llama-3-8B-Instruct");
        let full = cell(&all, "FullKV", None, "qasper");
        assert_eq!((full.theirs.as_deref(), full.verdict), (Some("32.07"), Some(Verdict::Reproduced)));
        assert!(full.difference.is_some_and(|difference| difference.abs() < 1e-9));
        assert_eq!(cell(&all, "SnapKV", Some(64), "hotpotqa").verdict, Some(Verdict::Off));
        assert_eq!(cell(&all, "SnapKV", Some(64), "qasper").why, None);
        // Not all six data sets are measured: no average is made up.
        assert_eq!(cell(&all, "FullKV", None, "avg6").ours, None);
        assert_eq!(cell(&all, "HeadKV-R", Some(64), "qasper").ours, None);
        let text = all.render(false);
        assert!(text.contains("printed but not measured here"), "{text}");
        assert!(text.contains("full-cache gate: open for qasper, hotpotqa\n"), "{text}");
        assert!(text.contains("SnapKV") && !text.contains("PyramidKV  "), "{text}");
        assert!(all.render(true).contains("| FullKV | full | qasper | 32.07 | 32.07 |"));
        let json: serde_json::Value = serde_json::from_str(&all.to_json().unwrap()).unwrap();
        assert_eq!((json["format"].as_str(), json["version"].as_u64()), (Some("kvsweep-paper"), Some(2)));
        assert!(json["comparison"]["gates"].as_array().unwrap().iter().any(|gate| gate["gate"] == "open"));
    }

    #[test]
    fn a_full_cache_that_is_off_closes_the_gate_of_its_column_only() {
        let all = comparison(0.2, |_| {});
        let gate = |column: &str| all.gates.iter().find(|gate| gate.column == column).unwrap().gate;
        assert_eq!(
            (gate("qasper"), gate("hotpotqa"), gate("musique")),
            (Gate::Closed, Gate::Open, Gate::Unproven)
        );
        assert_eq!(cell(&all, "FullKV", None, "qasper").verdict, Some(Verdict::Off));
        assert_eq!(cell(&all, "FullKV", None, "hotpotqa").verdict, Some(Verdict::Reproduced));
        assert_eq!(cell(&all, "SnapKV", Some(64), "hotpotqa").verdict, Some(Verdict::Off));
        assert_eq!(cell(&all, "SnapKV", Some(64), "qasper").outcome(), "gated: the full cache is off here");
    }

    #[test]
    fn another_model_protocol_or_setting_is_a_rehearsal_without_verdicts() {
        type Edit = fn(&mut Manifest);
        let edits: [(&str, Edit); 7] = [
            ("mini split", |m| m.split = "mini".into()),
            ("protocol kvsweep-1", |m| m.protocol.name = "kvsweep-1".into()),
            ("model tiny", |m| m.model.name = "tiny".into()),
            // Any weights in a folder of the right name.
            ("is of another shape: 2 layers", |m| {
                m.settings.insert(MODEL_SHAPE.into(), "2 layers".into());
            }),
            ("the model's shape was not recorded", |m| drop(m.settings.remove(MODEL_SHAPE))),
            ("masked heads", |m| drop(m.settings.insert(MASK_HEADS.into(), "random:8".into()))),
            ("context removed", |m| drop(m.settings.insert(WITHOUT_CONTEXT.into(), "true".into()))),
        ];
        for (why, edit) in edits {
            let all = comparison(0.0, edit);
            assert!(
                all.title.contains("rehearsal, not a reproduction") && all.title.contains(why),
                "{}",
                all.title
            );
            assert!(verdicts(&all).iter().all(|verdict| *verdict == Verdict::Unproven), "{why}");
            let text = all.render(false);
            assert!(!text.contains(" reproduced\n") && text.contains("unproven: rehearsal"), "{text}");
        }
    }

    #[test]
    fn a_part_of_the_rows_bears_no_verdict() {
        let limited = comparison(0.0, |m| {
            m.limit = Some(2);
            m.datasets.iter_mut().for_each(|dataset| (dataset.examples, dataset.total) = (2, 2));
        });
        assert!(limited.title.ends_with(" · partial: first 2 rows of each data set"), "{}", limited.title);
        assert!(verdicts(&limited).iter().all(|verdict| *verdict == Verdict::Unproven));
        assert!(
            limited.render(false).contains("unproven: qasper 2 of 60 examples"),
            "{}",
            limited.render(false)
        );

        // One of four shards; a run that was broken off.
        let dir = tempfile::tempdir().unwrap();
        let mut shard = headkv();
        shard.shard = Some(Shard { index: 1, count: 4 });
        shard.datasets.iter_mut().for_each(|dataset| (dataset.examples, dataset.total) = (15, 60));
        let shard = beside(&[write_run(&dir.path().join("shard"), &shard, score(0.0))]);
        assert!(
            shard.title.ends_with(" · partial: part 1 of 4; parts 2, 3, 4 missing: 90 examples"),
            "{}",
            shard.title
        );
        assert!(verdicts(&shard).iter().all(|verdict| *verdict == Verdict::Unproven));
        let mut broken = write_run(&dir.path().join("broken"), &headkv(), score(0.0));
        broken.examples.retain(|example| example.key.dataset != "qasper" || example.info.row > 0);
        let broken = beside(&[broken]);
        assert_eq!(cell(&broken, "FullKV", None, "qasper").verdict, Some(Verdict::Unproven));
        assert_eq!(cell(&broken, "FullKV", None, "hotpotqa").verdict, Some(Verdict::Reproduced));

        // A whole full cache merged with few rows of a compressed variant, in either order.
        let mut full = headkv();
        full.methods.truncate(1);
        let full = write_run(&dir.path().join("full"), &full, score(0.0));
        let mut few = headkv();
        few.methods.remove(0);
        few.limit = Some(1);
        few.datasets.iter_mut().for_each(|dataset| (dataset.examples, dataset.total) = (1, 1));
        let few = write_run(&dir.path().join("few"), &few, |dataset, row, _| score(0.0)(dataset, row, 1));
        for runs in [[full.clone(), few.clone()], [few, full.clone()]] {
            let all = beside(&runs);
            assert!(all.title.contains("partial: first row of each data set"), "{}", all.title);
            assert_eq!(cell(&all, "FullKV", None, "qasper").verdict, Some(Verdict::Reproduced));
            let snapkv = cell(&all, "SnapKV", Some(64), "qasper");
            assert_eq!(snapkv.outcome(), "unproven: qasper 1 of 60 examples");
        }

        // The full cache of one data set does not open the gate of another.
        let mut one = headkv();
        one.methods.truncate(1);
        one.datasets.truncate(1);
        let one = write_run(&dir.path().join("one"), &one, score(0.0));
        let mut compressed = headkv();
        compressed.methods.remove(0);
        let at = |name: &str, row: u64, _| if name == "hotpotqa" { 0.3702 } else { 0.1 } + (row % 3) as f64 / 1000.0;
        let compressed = write_run(&dir.path().join("compressed"), &compressed, at);
        let all = beside(&[one, compressed]);
        let hotpotqa = cell(&all, "SnapKV", Some(64), "hotpotqa");
        assert_eq!(hotpotqa.outcome(), "gated: the full cache has no verdict here", "{hotpotqa:?}");
    }

    #[test]
    fn a_wide_interval_bears_no_verdict() {
        let dir = tempfile::tempdir().unwrap();
        // Right or wrong on 60 rows: about 24 points.
        let run = write_run(dir.path(), &headkv(), |_, row, _| (row % 2) as f64);
        let all = beside(&[run]);
        let why = cell(&all, "FullKV", None, "qasper").why.clone().unwrap();
        assert!(why.starts_with("interval 2") && why.ends_with(" points wide"), "{why}");
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
