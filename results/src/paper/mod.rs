//! Ours beside theirs: every cell of a published table with our score, interval and verdict.
//!
//! A verdict needs evidence: the paper's model and protocol, all of the paper's rows, an interval narrow enough to
//! contradict, and, for a compressed cell, a full cache that agrees in the same column. Whatever lacks one of these has
//! no verdict and says what it lacks.

mod measure;
mod notes;
mod text;
mod verdict;

use serde::Serialize;

use measure::{measure, variant_of};
use notes::{notes, rehearsal};
pub use verdict::{ColumnGate, Gate, Verdict};
use verdict::{gate, verdict};

use crate::Result;
use crate::budget::Budget;
use crate::json::versioned;
use crate::merge::Group;
use crate::published::{PaperColumn, PaperRow, PaperTable};
use crate::stats::Bootstrap;
use crate::table::{Cell, group_part};

/// What the caller knows of the runs behind a published table.
pub struct Original<'a> {
    /// The shape of the table's model, spelled as manifests record it ([`crate::MODEL_SHAPE`]); none where it is not known.
    pub shape: Option<String>,
    /// Examples behind the paper's number of a data set; none where it is not known.
    pub examples: &'a dyn Fn(&str) -> Option<u64>,
    /// The number that is printed, from (weight, percent before rounding) of each data set.
    pub mean: fn(&[(f64, f64)]) -> f64,
}

/// One cell of both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PaperCell {
    /// The method as printed.
    pub printed_method: String,
    /// Ours, with its profile; none where the method cannot be run here.
    pub method: Option<String>,
    /// The budget; none for the full cache.
    pub budget: Option<Budget>,
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

    /// Writes everything as versioned JSON.
    ///
    /// # Errors
    /// Never for a comparison made by [`PaperComparison::new`].
    pub fn to_json(&self) -> Result<String> {
        versioned("kvsweep-paper", 2, "comparison", self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{manifest, write_run};
    use crate::manifest::{MASK_HEADS, MODEL_SHAPE, Manifest, Shard, WITHOUT_CONTEXT};
    use crate::merge::Merged;
    use crate::published;
    use crate::run::Run;

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
        m.budgets = vec![Budget::Entries(64)];
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

    fn cell<'a>(
        all: &'a PaperComparison,
        method: &str,
        budget: Option<Budget>,
        column: &str,
    ) -> &'a PaperCell {
        all.cells
            .iter()
            .find(|c| c.printed_method == method && c.budget == budget && c.column == column)
            .unwrap()
    }

    #[test]
    fn a_run_by_shares_stands_beside_a_table_by_shares() {
        let dir = tempfile::tempdir().unwrap();
        let paper = published::find("kvpress-ruler-4k-qwen3-8b").unwrap();
        let mut m = manifest();
        m.datasets = paper
            .datasets()
            .into_iter()
            .map(|name| crate::RunDataset { name, sha256: "d".into(), examples: 60, total: 60 })
            .collect();
        m.methods[1].spec = "knorm@kvpress".into();
        m.budgets = ["0.25", "0.5"].map(|text| text.parse().unwrap()).to_vec();
        (m.model.name, m.protocol.name, m.split) = ("Qwen/Qwen3-8B".into(), "kvpress".into(), "full".into());
        m.settings.insert(MODEL_SHAPE.into(), SHAPE.into());
        let compare = |m: &Manifest, name: &str| {
            let run = write_run(&dir.path().join(name), m, |_, row, _| 0.33 + (row % 3) as f64 / 100.0);
            let merged = Merged::of(&[run], false).unwrap();
            PaperComparison::new(paper, &merged.groups[0], &original(), &Bootstrap::default())
        };
        let seen = compare(&m, "seen");
        assert_eq!(seen.rehearsal, ["question seen"]);
        m.settings.insert(crate::QUESTION.into(), crate::UNSEEN.into());
        let unseen = compare(&m, "unseen");
        assert_eq!(unseen.rehearsal, [""; 0]);
        let kept = |text: &str| Some(text.parse::<Budget>().unwrap());
        let cell = |text| cell(&unseen, "Knorm", kept(text), "ruler13");
        assert!(cell("0.25").ours.is_some_and(|ours| (ours.score - 34.0).abs() < 0.01));
        assert_eq!(cell("0.25").theirs.as_deref(), Some("32.6"));
        assert_eq!(cell("0.75").ours, None, "not run");
        let text = unseen.text();
        assert!(text.contains("method  kept") && text.contains("Knorm   0.25"), "{text}");
    }

    #[test]
    fn an_open_gate_lets_compressed_rows_be_judged() {
        let all = comparison(0.0, |_| {});
        assert_eq!(all.title, "HeadKV Tables 4, 6 and 2, LongBench and LooGLE, Llama-3-8B-Instruct");
        let full = cell(&all, "FullKV", None, "qasper");
        assert_eq!((full.theirs.as_deref(), full.verdict), (Some("32.07"), Some(Verdict::Reproduced)));
        assert!(full.difference.is_some_and(|difference| difference.abs() < 1e-9));
        assert_eq!(cell(&all, "SnapKV", Some(Budget::Entries(64)), "hotpotqa").verdict, Some(Verdict::Off));
        assert_eq!(cell(&all, "SnapKV", Some(Budget::Entries(64)), "qasper").why, None);
        // Not all six data sets are measured: no average is made up.
        assert_eq!(cell(&all, "FullKV", None, "avg6").ours, None);
        assert_eq!(cell(&all, "HeadKV-R", Some(Budget::Entries(64)), "qasper").ours, None);
        let text = all.text();
        assert!(text.contains("printed but not measured here"), "{text}");
        assert!(text.contains("full-cache gate: open for qasper, hotpotqa\n"), "{text}");
        assert!(text.contains("SnapKV") && !text.contains("PyramidKV  "), "{text}");
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
        assert_eq!(cell(&all, "SnapKV", Some(Budget::Entries(64)), "hotpotqa").verdict, Some(Verdict::Off));
        assert_eq!(
            cell(&all, "SnapKV", Some(Budget::Entries(64)), "qasper").outcome(),
            "gated: the full cache is off here"
        );
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
            let text = all.text();
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
        assert!(limited.text().contains("unproven: qasper 2 of 60 examples"), "{}", limited.text());

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
            let snapkv = cell(&all, "SnapKV", Some(Budget::Entries(64)), "qasper");
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
        let hotpotqa = cell(&all, "SnapKV", Some(Budget::Entries(64)), "hotpotqa");
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
        let stand_in = |name: &str| match name {
            "narrativeqa" | "qasper" => Some("one".to_owned()),
            "multifieldqa_en" | "hotpotqa" | "2wikimqa" | "musique" => Some("two".to_owned()),
            _ => None,
        };
        let rehearsed = paper.with_stand_ins(&stand_in);
        let parts = |name: &str| &rehearsed.columns.iter().find(|c| c.name == name).unwrap().parts;
        assert_eq!(parts("qasper"), &[("one".to_owned(), 1.0)]);
        assert_eq!(parts("computation"), &[]);
        let average = parts("avg6");
        assert_eq!((average[0].0.as_str(), average[1].0.as_str(), average.len()), ("one", "two", 2));
        assert!((average[0].1 - 2.0 / 6.0).abs() < 1e-12 && (average[1].1 - 4.0 / 6.0).abs() < 1e-12);
        let note = rehearsed.note.unwrap();
        assert!(note.contains("one for narrativeqa, qasper") && note.contains("stand in"), "{note}");
        assert_eq!(
            paper.with_stand_ins(&|name| Some(name.to_owned())),
            *paper,
            "each for itself changes nothing"
        );

        let mut m = manifest();
        assert!(!paper.is_of(&m));
        m.model.name = "/models/meta-llama-3-8B-instruct".into();
        m.protocol.name = "headkv".into();
        assert!(paper.is_of(&m));
    }

    #[test]
    fn a_row_with_its_own_parameter_is_matched_by_it() {
        let paper = published::find("headkv-llama-3-8b").unwrap();
        let row = paper
            .rows
            .iter()
            .find(|r| r.method == "HeadKV-R2" && r.budget == Some(Budget::Entries(64)))
            .unwrap();
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
