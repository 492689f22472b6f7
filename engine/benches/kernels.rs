//! Criterion benches of what a sweep does over and over: prefill, fork, and decode steps alone and in a batch, on a
//! model of random weights (6.5 M parameters).

#![expect(clippy::expect_used, reason = "a bench has nobody to report to")]

use std::{collections::BTreeSet, hint::black_box, sync::Arc};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use kvsweep_engine::{
    Cpu, CpuPrompt,
    decode::{DecodeRule, Sequence},
    model::random::{llama_config, random_weights},
    prefill::{Prefill, PrefillOptions},
    session::Session,
};
use kvsweep_methods::{Granularity, LayerSelection, Selection};

fn model() -> Session<Cpu> {
    let config = llama_config([2048, 256, 768, 8, 8, 2]);
    let weights = random_weights(&config, 1).expect("weights");
    Session::<Cpu>::from_weights("random", config, &weights).expect("model")
}

fn read(model: &Session<Cpu>, tokens: u32) -> Prefill<CpuPrompt> {
    let ids: Vec<u32> = (0..tokens).map(|i| (i * 7919) % 2048).collect();
    model.prefill(&ids, &BTreeSet::new(), PrefillOptions::default()).expect("prefill")
}

fn prefill(criterion: &mut Criterion) {
    let model = model();
    let mut group = criterion.benchmark_group("prefill");
    group.sample_size(10);
    for tokens in [256, 1024, 2048, 4096] {
        group.throughput(Throughput::Elements(u64::from(tokens)));
        group.bench_function(BenchmarkId::from_parameter(tokens), |bench| {
            bench.iter(|| read(black_box(&model), tokens));
        });
    }
}

/// A variant that keeps every `every`-th position and generates `max_new` tokens.
fn variant(
    prefill: &Arc<Prefill<CpuPrompt>>,
    every: usize,
    granularity: Granularity,
    max_new: usize,
) -> Sequence<CpuPrompt> {
    let shape = prefill.shape();
    let kept: Vec<u32> = (0..shape.len as u32).step_by(every).collect();
    let heads = LayerSelection::Heads(vec![kept; granularity.heads(&shape.layers[0])]);
    Sequence {
        prefill: Arc::clone(prefill),
        selection: Arc::new(Selection { granularity, layers: vec![heads; shape.layers.len()] }),
        follow: Arc::default(),
        renumbered: false,
        again: None,
        rule: DecodeRule { max_new, ignore_stops: true, ..DecodeRule::default() },
        keep_logits: false,
        masked_heads: None,
    }
}

fn decode(criterion: &mut Criterion) {
    let model = model();
    let prefill = Arc::new(read(&model, 2048));
    let mut run = |name: &str, sequences: &[Sequence<CpuPrompt>]| {
        let mut group = criterion.benchmark_group("decode");
        group.sample_size(10);
        let tokens = sequences.iter().map(|one| one.rule.max_new as u64 - 1).sum();
        group.throughput(Throughput::Elements(tokens));
        group.bench_function(name, |bench| {
            bench.iter(|| model.decode(black_box(sequences), &mut |_| ()));
        });
    };
    run("full", &[variant(&prefill, 1, Granularity::KvHead, 17)]);
    run("a sixteenth", &[variant(&prefill, 16, Granularity::KvHead, 17)]);
    run("a sixteenth, per query head", &[variant(&prefill, 16, Granularity::QueryHead, 17)]);
    let batch: Vec<_> = (2..34).map(|every| variant(&prefill, every, Granularity::KvHead, 17)).collect();
    run("32 variants", &batch);
    let forks: Vec<_> = (2..34).map(|every| variant(&prefill, every, Granularity::KvHead, 2)).collect();
    run("32 forks and one step", &forks);
}

criterion_group!(benches, prefill, decode);
criterion_main!(benches);
