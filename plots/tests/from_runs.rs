//! From a real run directory to pictures and the page.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use kvsweep_plots::curve::XAxis;
use kvsweep_plots::report::{Emphasis, Options, from_runs, render};
use kvsweep_plots::sweep::{self, Columns};
use kvsweep_results::baseline::{History, HistoryPoint};
use kvsweep_results::paper::{PaperCell, PaperComparison, Verdict};
use kvsweep_results::{
    Bootstrap, Budget, CacheSize, Cell, Column, ExampleInfo, ExampleKey, ExampleRecord, Finish,
    KeptPositions, LayerKept, Manifest, Mean, Merged, MethodInfo, MetricScores, ModelInfo, Needle,
    ProgramInfo, ProtocolInfo, Run, RunDataset, RunDir, SCHEMA, ScoreTable, SelectionDigest, TableLayout,
    VariantKept, VariantRecord,
};
use std::path::{Path, PathBuf};

const LAYERS: usize = 4;
const HEADS: usize = 2;
const PROMPT: u32 = 1200;

fn manifest() -> Manifest {
    let method = |spec: &str, budgeted| MethodInfo {
        spec: spec.into(),
        params: [("window".to_owned(), "8".to_owned())].into(),
        granularity: if spec == "headkv" { "query-head" } else { "kv-head" }.into(),
        budgeted,
    };
    let dataset = |name: &str, examples| RunDataset {
        name: name.into(),
        sha256: "ab".repeat(32),
        examples,
        total: examples,
    };
    Manifest {
        schema: SCHEMA,
        program: ProgramInfo { version: "0.1.0".into(), commit: "0123456789ab".into() },
        model: ModelInfo {
            name: "tiny".into(),
            weights_sha256: "cd".repeat(32),
            tokenizer_sha256: "ef".repeat(32),
            files: [("config.json".to_owned(), "12".repeat(32))].into(),
            embedded: true,
        },
        suite: "longbench".into(),
        split: "mini".into(),
        protocol: ProtocolInfo {
            name: "longbench-official".into(),
            version: "1".into(),
            sha256: "34".repeat(32),
        },
        datasets: vec![dataset("qasper", 6), dataset("trec", 6), dataset("needle", 12)],
        methods: vec![
            method("full", false),
            method("snapkv", true),
            method("pyramidkv", true),
            method("headkv", true),
        ],
        budgets: [64, 128].map(Budget::Entries).to_vec(),
        device: "cpu".into(),
        dtype: "f32".into(),
        limit: None,
        shard: None,
        seed: 0,
        settings: Default::default(),
    }
}

/// What a variant keeps: the window, and more in early layers where the method is a pyramid.
fn layers(method: &str, budget: Option<Budget>) -> Vec<LayerKept> {
    let Some(Budget::Entries(budget)) = budget else { return vec![LayerKept::All; LAYERS] };
    (0..LAYERS as u32)
        .map(|layer| {
            let size = if method == "pyramidkv" { budget + 24 - 16 * layer } else { budget };
            let head = |head: u32| (PROMPT - size + head..PROMPT).collect();
            LayerKept::Heads((0..HEADS as u32).map(head).collect())
        })
        .collect()
}

fn write_run(path: &Path) -> Run {
    write(path, &manifest())
}

fn write(path: &Path, manifest: &Manifest) -> Run {
    let mut run = RunDir::create_or_continue(path, manifest).unwrap();
    for dataset in &manifest.datasets {
        for row in 0..dataset.examples {
            let is_needle = dataset.name == "needle";
            let needle = is_needle.then(|| Needle {
                length: 512 * (1 + row as u32 % 3),
                depth: (row / 3) as f64 * 100.0 / 3.0,
                start: Some(50),
                end: Some(60),
            });
            let mut kept = KeptPositions::default();
            let variants = manifest.variants().into_iter().map(|variant| {
                let layers = layers(&variant.method, variant.budget);
                kept.variants.push(VariantKept { variant: variant.to_string(), layers: layers.clone() });
                let size = variant.budget.map_or(PROMPT, |budget| budget.value() as u32);
                VariantRecord {
                    prediction: format!("answer {row} by {} <script>alert(1)</script>", variant.method)
                        .into(),
                    prediction_sha256: "p".into(),
                    new_tokens: 5,
                    finish: Finish::Stop,
                    metric: "qa_f1".into(),
                    score: f64::from(size.min(200)) / 400.0 + (row % 3) as f64 / 6.0,
                    other_scores: MetricScores::default(),
                    kept: CacheSize {
                        entries_mean: f64::from(size),
                        entries_max: size,
                        entries_nominal: f64::from(size),
                        bytes: u64::from(size) * if variant.granularity == "kv-head" { 1024 } else { 2048 },
                        last_only: false,
                    },
                    selection: Some(SelectionDigest::of(&layers)),
                    retention: is_needle.then(|| vec![vec![row as f32 / 12.0; HEADS]; LAYERS]),
                    variant,
                }
            });
            let record = ExampleRecord {
                schema: SCHEMA,
                key: ExampleKey { dataset: dataset.name.clone(), example: format!("{}-{row}", dataset.name) },
                variants: variants.collect(),
                info: ExampleInfo {
                    row,
                    language: "en".into(),
                    length: None,
                    bucket: None,
                    context: None,
                    answers: vec!["yes".into()],
                    all_classes: Vec::new(),
                    prompt_sha256: "q".into(),
                    prompt_tail: "… Answer:".into(),
                    prompt_tokens: PROMPT,
                    compressed_tokens: None,
                    truncated_tokens: 96,
                    needle,
                },
                skipped: None,
                timings: None,
            };
            run.append(&record, Some(&kept)).unwrap();
        }
    }
    run.records().unwrap()
}

fn table(merged: &Merged) -> ScoreTable {
    let column = |dataset: &str| Column {
        title: dataset.into(),
        dataset: dataset.into(),
        bucket: None,
        percent: |scores| 100.0 * scores.iter().sum::<f64>() / scores.len() as f64,
    };
    let mean = |title: &str, parts: &[&str]| Mean {
        title: title.into(),
        parts: parts.iter().map(|part| ((*part).to_owned(), 1.0 / parts.len() as f64)).collect(),
        percent: |parts| parts.iter().map(|(weight, percent)| weight * percent).sum(),
    };
    let layout = TableLayout {
        title: "LongBench".into(),
        columns: vec![column("qasper"), column("trec")],
        categories: vec![mean("Single-document QA", &["qasper"]), mean("Few-shot", &["trec"])],
        average: mean("Average", &["qasper", "trec"]),
        counts_removed: false,
    };
    ScoreTable::new(merged, &layout, &Bootstrap { resamples: 200, ..Bootstrap::default() }).unwrap()
}

#[test]
fn records_become_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let run = write_run(&folder.path().join("run"));
    let merged = Merged::of(&[run], false).unwrap();
    let group = &merged.groups[0];
    let variant =
        |title: &str| group.variants.iter().find(|v| sweep::variant_title(group, v) == title).unwrap();

    let map = sweep::needle_map(group, variant("snapkv, budget 64")).unwrap();
    assert_eq!((map.lengths.as_slice(), map.values.len()), ([512, 1024, 1536].as_slice(), 4));
    let expected = [16.0, 16.0 + 100.0 / 6.0, 16.0 + 100.0 / 3.0];
    assert!(
        map.values.iter().all(|row| row.iter().zip(expected).all(|(v, e)| (v.unwrap() - e).abs() < 1e-9))
    );

    let grid = sweep::needle_grid(group).unwrap();
    assert_eq!(grid.columns, ["budget 64", "budget 128"]);
    let shape: Vec<_> = grid.rows.iter().map(|r| (r.label.as_str(), r.maps.len())).collect();
    assert_eq!(shape, [("full", 1), ("snapkv", 2), ("pyramidkv", 2), ("headkv", 2)]);

    let retention = sweep::retention(group, variant("snapkv, budget 64")).unwrap();
    // Depth 0 holds rows 0 to 2, whose retention is row / 12; of their scores .16, .33, .49 none is right.
    assert!((retention.kept[0][0][0].unwrap() - 1.0 / 12.0).abs() < 1e-6);
    assert_eq!(retention.right[0], Some(0.0));
    let full = sweep::retention(group, variant("full")).unwrap();
    assert_eq!(full.right[0], Some(1.0));

    let capacity = sweep::capacity_map(group, variant("pyramidkv, budget 128")).unwrap();
    assert_eq!(capacity.values[0], [152.0, 151.0]);
    assert_eq!(capacity.values[3], [104.0, 103.0]);
    let layers = sweep::layer_capacities(group).unwrap();
    assert_eq!(layers.panels.len(), 2);
    assert_eq!(layers.panels[1].lines[1].points[3].y, 103.5);

    let table = table(&merged);
    let curves = sweep::score_curves(&table, Columns::Average, XAxis::Bytes).unwrap();
    let headkv = curves.panels[0].lines.iter().find(|l| l.label == "headkv").unwrap();
    let snapkv = curves.panels[0].lines.iter().find(|l| l.label == "snapkv").unwrap();
    assert_eq!(headkv.points[0].x, 2.0 * snapkv.points[0].x, "bytes per query head show");
    assert!(curves.panels[0].lines[0].reference);
    assert_eq!(sweep::score_curves(&table, Columns::Datasets, XAxis::Budget).unwrap().panels.len(), 2);
}

/// Two suites of one model, at other budgets: what the page says of each is its own.
#[test]
fn a_page_of_two_suites_says_of_each_what_is_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (mut rows, mut needles) = (manifest(), manifest());
    rows.datasets.truncate(1);
    needles.datasets.drain(..2);
    needles.suite = "needle".into();
    needles.budgets.truncate(1);
    needles.limit = Some(1);
    let runs = [write(&folder.path().join("rows"), &rows), write(&folder.path().join("needles"), &needles)];
    let merged = Merged::of(&runs, false).unwrap();
    let [group] = &merged.groups[..] else { panic!("{} groups", merged.groups.len()) };
    let grid = sweep::needle_grid(group).unwrap();
    assert_eq!(grid.columns, ["budget 64"], "128 is the other suite's");
    let data = from_runs(
        &merged,
        Options {
            title: String::new(),
            generator: String::new(),
            tables: &[],
            papers: &[],
            oddities: &|_| Vec::new(),
            tokens: &|_, _| None,
        },
    )
    .unwrap();
    let notes: Vec<&str> = data.summary.iter().map(|fact| fact.note.as_str()).collect();
    assert_eq!(notes, ["2 data sets", "4 to 7 variants of a prefill"]);
}

#[test]
fn a_run_becomes_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let run = write_run(&path);
    // One damaged file of kept positions: a notice, not a failure.
    let kept = files(&path)
        .into_iter()
        .find(|p| std::fs::read_to_string(p).is_ok_and(|t| t.starts_with("kvsweep-kept")));
    std::fs::write(kept.unwrap(), "nonsense").unwrap();
    let merged = Merged::of(&[run], false).unwrap();
    let tables = [table(&merged)];
    let cell = |theirs: &str, verdict, ours: Option<f64>| PaperCell {
        printed_method: "SnapKV".into(),
        method: Some("snapkv".into()),
        budget: Some(Budget::Entries(128)),
        column: "Qasper".into(),
        theirs: Some(theirs.into()),
        ours: ours.map(|score| Cell {
            score,
            low: Some(score - 2.0),
            high: Some(score + 2.0),
            n: 200,
            contexts: 200,
        }),
        difference: Some(1.5),
        verdict: Some(verdict),
        why: None,
    };
    let papers = [PaperComparison {
        id: "snapkv-1".into(),
        title: "SnapKV, table 1".into(),
        notes: vec!["the gate is open".into()],
        rehearsal: Vec::new(),
        gates: Vec::new(),
        bootstrap: Bootstrap::default(),
        cells: vec![cell("31.0", Verdict::Reproduced, Some(32.5)), cell("9.9", Verdict::Off, None)],
        sources: vec!["arXiv 2404.14469".into()],
    }];
    let options = || Options {
        title: "A mini sweep".into(),
        generator: "kvsweep 0.1.0".into(),
        tables: &tables,
        papers: &papers,
        oddities: &|name| vec![format!("{name} truncates in the middle")],
        tokens: &|key, _| {
            key.example.ends_with("-0").then(|| (0..PROMPT).map(|p| format!("t{p} ")).collect())
        },
    };
    let data = from_runs(&merged, options()).unwrap();
    let groups: Vec<&str> = data.figures.iter().map(|g| g.title.as_str()).collect();
    assert_eq!(groups, ["Curves", "Needle", "Retention", "Capacity"]);
    assert_eq!(
        data.variants,
        [
            "full",
            "snapkv · 64",
            "snapkv · 128",
            "pyramidkv · 64",
            "pyramidkv · 128",
            "headkv · 64",
            "headkv · 128"
        ]
    );
    assert!(data.notices.iter().any(|n| n.contains("kept positions not shown")));
    assert_eq!(data.examples.len(), 24);
    let shown = data.examples.iter().find(|e| e.tokens.is_some() && e.results[1].kept.is_some()).unwrap();
    let tokens = shown.tokens.as_ref().unwrap();
    assert_eq!((tokens.pieces.len(), tokens.head, tokens.gap), (1024, 256, 176));
    assert_eq!(tokens.pieces[256], "t432 ");
    assert_eq!((shown.name.as_str(), shown.key.as_str()), ("row 0", "qasper-0"));
    let kept = shown.results[1].kept.as_ref().unwrap();
    assert!(kept.starts_with('0') && kept.ends_with('9') && kept.matches('9').count() == 63);
    assert_eq!(shown.results[0].strip.as_ref().unwrap(), &"9".repeat(64));
    assert_eq!(data.tables[0].title, "LongBench");
    let row = data.tables[0].rows.iter().find(|r| r[0].text == "snapkv").unwrap();
    assert_eq!((row[1].text.as_str(), row[4].text.as_str()), ("64", "64 KiB"));
    assert!(row.last().unwrap().mark == Emphasis::Best && row.last().unwrap().note.contains(" to "));

    let paper = &data.papers[0];
    assert_eq!((paper.rows.len(), paper.columns.len()), (1, 3), "only cells that both have");
    let texts: Vec<&str> = paper.rows[0].iter().map(|c| c.text.as_str()).collect();
    assert_eq!(texts, ["SnapKV", "128", "32.50"]);
    let cell = &paper.rows[0][2];
    assert_eq!(cell.note, "paper 31.0, +1.50\n30.5 to 34.5, n 200\nreproduced");
    assert!(cell.mark == Emphasis::Reproduced && paper.notes[1].contains("1 printed cells are not"));
    assert!(paper.notes[0].contains("● reproduced"));
    let mut rehearsal = papers[0].clone();
    rehearsal.rehearsal.push("mini split".into());
    for cell in &mut rehearsal.cells {
        (cell.verdict, cell.why) = (Some(Verdict::Unproven), Some("rehearsal".into()));
    }
    let rehearsal = kvsweep_plots::report::paper(&rehearsal);
    let shown = &rehearsal.rows[0][2];
    assert!(shown.mark == Emphasis::None && shown.note.ends_with("\nunproven: rehearsal"), "{}", shown.note);

    let page = render(&data).unwrap();
    assert_eq!(page, render(&from_runs(&merged, options()).unwrap()).unwrap(), "the same bytes");
    assert!(page.len() < 5_000_000 && page.contains("longbench-official truncates in the middle"));
    assert!(!page.contains("<script>alert"));
    if let Some(folder) = std::env::var_os("KVSWEEP_GALLERY") {
        std::fs::write(PathBuf::from(folder).join("from-runs.html"), page).unwrap();
    }
}

#[test]
fn a_history_rings_only_losses_that_leave_the_interval() {
    let folder = tempfile::tempdir().unwrap();
    let run = write_run(&folder.path().join("run"));
    let whole = table(&Merged::of(&[run], false).unwrap());
    let point = |commit: &str, loss: f64| {
        let mut table = whole.clone();
        for cell in
            table.rows.iter_mut().filter(|r| r.method == "snapkv").flat_map(|r| r.cells.iter_mut().flatten())
        {
            *cell = Cell {
                score: cell.score - loss,
                low: Some(cell.score - loss - 1.0),
                high: Some(cell.score - loss + 1.0),
                ..*cell
            };
        }
        HistoryPoint { commit: commit.repeat(40), date: "2026-01-01".into(), subject: "s".into(), table }
    };
    let points = vec![point("a", 0.0), point("b", 1.5), point("c", 9.0), point("d", 9.0)];
    let history = sweep::history(&History { configuration: "c".into(), points });
    let titles: Vec<&str> = history.panels.iter().map(|p| p.title.as_str()).collect();
    assert_eq!(titles, ["Budget 64", "Budget 128"]);
    let names: Vec<&str> = history.panels[0].lines.iter().map(|l| l.0.as_str()).collect();
    assert_eq!(names, ["full", "snapkv", "pyramidkv", "headkv"]);
    let losses: Vec<bool> = history.panels[0].lines[1].1.iter().map(|m| m.unwrap().loss).collect();
    assert_eq!(losses, [false, false, true, false]);
    assert!(kvsweep_plots::history::draw(&history).is_ok());
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.flat_map(|p| if p.is_dir() { files(&p) } else { vec![p] }).collect();
    files.sort();
    files
}
