//! What selection costs: observing and choosing on a prompt of 2,048 tokens of a small model, and choosing on
//! 32 layers x 32 heads x 32,768 positions of synthetic scores, the size of an 8B model.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot set up has nothing to measure")]

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use kvsweep_methods::inputs::Inputs;
use kvsweep_methods::method::MethodState;
use kvsweep_methods::observation::{Observation, Observations, Observed};
use kvsweep_methods::observe::{HeadsView, LayerTensors, Rotary, Turns, observe_layer};
use kvsweep_methods::registry;
use kvsweep_methods::shape::{CacheShape, LayerShape, Reach};
use kvsweep_methods::spec::{MethodSpec, Variant};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(0.0..1.0)).collect()
}

fn inputs(layers: usize, query_heads: usize, kv_heads: usize) -> Inputs {
    let scores: Vec<Vec<f64>> =
        (0..layers).map(|l| (0..query_heads).map(|h| ((l * 7 + h * 3) % 11) as f64).collect()).collect();
    Inputs {
        full_heads: Some(vec![vec![0.5; kv_heads]; layers]),
        retrieval: Some(scores.clone()),
        reasoning: Some(scores),
        ranking: Some(vec![(0..query_heads).collect(); layers]),
        layers: Some(vec![1.0 / layers as f64; layers]),
        model: None,
    }
}

fn variant(name: &str) -> Variant {
    MethodSpec::parse(name, &[], None).and_then(|spec| spec.at(512)).unwrap()
}

/// Rotations as a model without scaling has them.
fn rotary(wanted: &[Observation], prompt_len: usize, head_dim: usize) -> Option<Rotary> {
    Rotary::of(wanted, prompt_len, |positions| {
        let angle = |position: usize, pair: usize| {
            position as f32 * 10_000f32.powf(-2.0 * pair as f32 / head_dim as f32)
        };
        let angles: Vec<f32> =
            positions.flat_map(|position| (0..head_dim / 2).map(move |pair| angle(position, pair))).collect();
        let of = |turn: fn(f32) -> f32| angles.iter().copied().map(turn).collect();
        Turns { cos: of(f32::cos), sin: of(f32::sin) }
    })
}

/// One prompt of the embedded model's shape: what a prefill pays for each observation, and each variant for
/// choosing.
fn small(c: &mut Criterion) {
    let layer = LayerShape { query_heads: 8, kv_heads: 2, head_dim: 32, reach: Reach::All };
    let (layers, prompt_len) = (8, 2048);
    let shape = CacheShape::uniform(layers, layer, prompt_len);
    let q = random(layer.query_heads * prompt_len * layer.head_dim, 1);
    let k = random(layer.kv_heads * prompt_len * layer.head_dim, 2);
    let output = random(256 * layer.query_heads * layer.head_dim, 3);
    let queries = HeadsView::token_major(&q, [layer.query_heads, prompt_len, layer.head_dim]).unwrap();
    let keys = HeadsView::token_major(&k, [layer.kv_heads, prompt_len, layer.head_dim]).unwrap();
    let observe = |wanted: &[Observation]| Observations {
        layers: (0..layers)
            .map(|_| {
                let rotary = rotary(wanted, prompt_len, layer.head_dim);
                let (output, rotary) = (Some(output.as_slice()), rotary.as_ref());
                let tensors = LayerTensors { queries, keys, values: Some(keys), output, rotary };
                observe_layer(wanted, &layer, &tensors).unwrap()
            })
            .collect(),
    };
    let mut group = c.benchmark_group("2048x8x8");
    for (name, wanted) in [
        ("window 8", vec![Observation::WindowSum { window: 8 }]),
        ("window 32", vec![Observation::WindowSum { window: 32 }]),
        (
            "windows 8 and 32, moments 32",
            vec![
                Observation::WindowSum { window: 8 },
                Observation::WindowSum { window: 32 },
                Observation::WindowMoments { window: 32 },
            ],
        ),
        ("accumulated", vec![Observation::AccumulatedSum { recent: 8 }]),
        ("largest of window 32", vec![Observation::WindowMax { window: 32, kernel: 5 }]),
        ("expected attention", vec![Observation::ExpectedAttention { sinks: 4, future: 512 }]),
    ] {
        group.bench_function(format!("observe {name}"), |b| b.iter(|| black_box(observe(&wanted))));
    }
    let inputs = inputs(layers, layer.query_heads, layer.kv_heads);
    for entry in registry::METHODS {
        let variant = variant(entry.name);
        let wanted = variant.observations();
        // Of a second pass, or of a question.
        if wanted.iter().any(|one| one.repeats_the_prompt() || one.reads_the_question()) {
            continue;
        }
        let observations = observe(&wanted);
        group.bench_function(format!("select {}", variant.id()), |b| {
            b.iter(|| variant.select(&shape, &observations, &inputs, &mut MethodState::default()).unwrap());
        });
    }
    group.finish();
}

/// Choosing at the width of an 8B model and a long prompt.
fn large(c: &mut Criterion) {
    let layer = LayerShape { query_heads: 32, kv_heads: 32, head_dim: 128, reach: Reach::All };
    let shape = CacheShape::uniform(32, layer, 32_768);
    let mut group = c.benchmark_group("32768x32x32");
    group.sample_size(10);
    for name in ["snapkv", "pyramidkv", "adakv", "h2o"] {
        let variant = variant(name);
        let observed: BTreeMap<_, _> = variant
            .observations()
            .into_iter()
            .map(|observation| {
                let (Observation::WindowSum { window: cut } | Observation::AccumulatedSum { recent: cut }) =
                    observation
                else {
                    unreachable!("these methods read sums")
                };
                let columns = shape.len - cut;
                let values = random(layer.query_heads * columns, 3);
                (observation, Observed::Rows { rows: layer.query_heads, columns, values })
            })
            .collect();
        let observations = Observations { layers: vec![observed; shape.layers.len()] };
        group.bench_function(format!("select {}", variant.id()), |b| {
            b.iter(|| {
                variant
                    .select(&shape, &observations, &Inputs::default(), &mut MethodState::default())
                    .unwrap()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, small, large);
criterion_main!(benches);
