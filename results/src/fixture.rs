//! A small run for the tests of this crate.

use std::collections::BTreeMap;
use std::path::Path;

use crate::budget::Budget;
use crate::kept::{KeptPositions, LayerKept, VariantKept};
use crate::manifest::{Manifest, MethodInfo, ModelInfo, ProgramInfo, ProtocolInfo, RunDataset, Shard};
use crate::record::{
    CacheSize, ExampleInfo, ExampleKey, ExampleRecord, Finish, Needle, SCHEMA, SelectionDigest, Timings,
    VariantKey, VariantRecord, VariantTiming,
};
use crate::run::{Run, RunDir};
use crate::table::{Column, Mean, TableLayout, exact_percent};

/// Two methods, two data sets of three examples.
pub(crate) fn manifest() -> Manifest {
    let method = |spec: &str, budgeted| MethodInfo {
        spec: spec.into(),
        params: [("window".to_owned(), "8".to_owned())].into_iter().filter(|_| budgeted).collect(),
        granularity: "kv-head".into(),
        budgeted,
    };
    let dataset = |name: &str| RunDataset {
        name: name.into(),
        sha256: format!("hash of {name}"),
        examples: 3,
        total: 3,
    };
    Manifest {
        schema: SCHEMA,
        program: ProgramInfo { version: "0.1.0".into(), commit: "abc".into() },
        model: ModelInfo {
            name: "tiny".into(),
            weights_sha256: "w".into(),
            tokenizer_sha256: "t".into(),
            files: [("config.json".to_owned(), "c".to_owned())].into(),
            embedded: true,
        },
        suite: "longbench".into(),
        split: "mini".into(),
        protocol: ProtocolInfo { name: "longbench".into(), version: "1".into(), sha256: "p".into() },
        datasets: vec![dataset("qasper"), dataset("trec")],
        methods: vec![method("full", false), method("snapkv", true)],
        budgets: [64, 128].map(Budget::Entries).to_vec(),
        device: "cpu".into(),
        dtype: "f32".into(),
        limit: None,
        shard: None,
        seed: 0,
        settings: Default::default(),
    }
}

/// The record of one example; `scores` by variant in the manifest's order.
pub(crate) fn record(manifest: &Manifest, dataset: &str, row: u64, scores: &[f64]) -> ExampleRecord {
    let layers = [LayerKept::All, LayerKept::Heads(vec![vec![0, 1, 5], vec![2]])];
    let variants = manifest.variants();
    assert_eq!(variants.len(), scores.len());
    let entries = |variant: &VariantKey| match variant.budget {
        None => 500,
        Some(Budget::Entries(entries)) => entries,
        Some(Budget::Share(share)) => (500.0 * share.value()) as u32,
    };
    let variant = |(variant, score): (VariantKey, &f64)| VariantRecord {
        prediction: format!("answer {row} of {} \u{202e} <script>\n", variant.method).into(),
        prediction_sha256: "p".into(),
        new_tokens: 5,
        finish: Finish::Stop,
        metric: "qa_f1".into(),
        score: *score,
        other_scores: BTreeMap::from([("rouge1", 0.5)]).into(),
        kept: CacheSize {
            entries_mean: f64::from(entries(&variant)),
            entries_max: entries(&variant) * 2,
            entries_nominal: f64::from(entries(&variant)),
            bytes: u64::from(entries(&variant)) * 1024,
            last_only: false,
        },
        selection: Some(SelectionDigest::of(&layers)),
        retention: Some(vec![vec![1.0, 0.1], vec![0.0, 1.0 / 3.0]]),
        variant,
    };
    ExampleRecord {
        schema: SCHEMA,
        key: ExampleKey { dataset: dataset.into(), example: format!("{dataset}-{row}") },
        info: ExampleInfo {
            row,
            language: "en".into(),
            length: Some(4321),
            bucket: Some("4-8k".into()),
            context: None,
            answers: vec!["yes".into()],
            all_classes: Vec::new(),
            prompt_sha256: "q".into(),
            prompt_tail: "Answer:".into(),
            prompt_tokens: 500,
            compressed_tokens: None,
            truncated_tokens: 0,
            needle: Some(Needle { length: 512, depth: 11.0, start: Some(50), end: Some(60) }),
        },
        skipped: None,
        timings: Some(Timings {
            prefill_s: 0.25,
            variants: vec![VariantTiming { select_s: 0.001, decode_s: 0.5 }; variants.len()],
        }),
        variants: variants.into_iter().zip(scores).map(variant).collect(),
    }
}

/// Part `index` of `count` of a run.
pub(crate) fn part(whole: &Manifest, index: u32, count: u32) -> Manifest {
    let mut part = whole.clone();
    let shard = Shard { index, count };
    part.shard = Some(shard);
    part.datasets.iter_mut().for_each(|dataset| dataset.examples = shard.rows(dataset.total));
    part
}

pub(crate) fn kept(manifest: &Manifest, shift: u32) -> KeptPositions {
    let layers = |_| vec![LayerKept::All, LayerKept::Heads(vec![vec![0, 1, 5 + shift], vec![2 + shift]])];
    let variants = manifest.variants().into_iter().enumerate();
    KeptPositions {
        variants: variants.map(|(i, v)| VariantKept { variant: v.to_string(), layers: layers(i) }).collect(),
    }
}

/// Writes a run with the given scores for each (data set, row).
pub(crate) fn write_run(path: &Path, manifest: &Manifest, score: impl Fn(&str, u64, usize) -> f64) -> Run {
    let mut run = RunDir::create_or_continue(path, manifest).unwrap();
    let variants = manifest.variants().len();
    for dataset in &manifest.datasets {
        let Shard { index, count } = manifest.shard.unwrap_or(Shard { index: 1, count: 1 });
        for row in (0..dataset.total).filter(|row| row % u64::from(count) == u64::from(index) - 1) {
            let scores: Vec<f64> = (0..variants).map(|v| score(&dataset.name, row, v)).collect();
            run.append(&record(manifest, &dataset.name, row, &scores), Some(&kept(manifest, 0))).unwrap();
        }
    }
    run.records().unwrap()
}

/// Percent with two decimals.
fn rounded(scores: &[f64]) -> f64 {
    (exact_percent(scores) * 100.0).round() / 100.0
}

/// Means of data sets with equal weights.
pub(crate) fn mean(title: &str, datasets: &[&str]) -> Mean {
    Mean {
        title: title.into(),
        parts: datasets.iter().map(|name| ((*name).to_owned(), 1.0 / datasets.len() as f64)).collect(),
        percent: |parts| parts.iter().map(|(weight, percent)| weight * percent).sum(),
    }
}

pub(crate) fn layout() -> TableLayout {
    let column = |dataset: &str| Column {
        title: dataset.into(),
        dataset: dataset.into(),
        bucket: None,
        percent: rounded,
    };
    TableLayout {
        title: "LongBench".into(),
        columns: vec![column("qasper"), column("trec")],
        categories: vec![mean("Single-doc QA", &["qasper"]), mean("Few-shot", &["trec"])],
        average: mean("Average", &["qasper", "trec"]),
        counts_removed: false,
    }
}
