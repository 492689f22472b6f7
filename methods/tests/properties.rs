//! Properties that every method keeps for every shape: what it hands out is a selection, the recent tokens are
//! in it, it costs what the budget says, and it does not depend on the prompts before it.

#![expect(clippy::unwrap_used, reason = "a test's set-up may fail loudly")]

use kvsweep_methods::budget::Budget;
use kvsweep_methods::error::MethodError;
use kvsweep_methods::inputs::Inputs;
use kvsweep_methods::listing;
use kvsweep_methods::method::{MethodState, StateScope};
use kvsweep_methods::observation::{Observations, Observed};
use kvsweep_methods::observe::{HeadsView, LayerTensors, Rotary, Turns, observe_layer};
use kvsweep_methods::selection::{LayerSelection, Selection};
use kvsweep_methods::shape::{CacheShape, LayerShape, Reach};
use kvsweep_methods::spec::{MethodSpec, Variant};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Every method, every profile, both granularities.
fn specs() -> Vec<MethodSpec> {
    let mut specs = Vec::new();
    for method in listing::methods() {
        let names = std::iter::once(method.name.to_owned())
            .chain(method.profiles.into_iter().map(|profile| profile.name));
        for name in names {
            for &granularity in method.granularities {
                specs.push(MethodSpec::parse(&name, &[], Some(granularity)).unwrap());
            }
        }
    }
    specs
}

/// Methods whose budget is exact in every head.
fn is_exact(spec: &MethodSpec) -> bool {
    matches!(spec.entry().name, "streamingllm" | "snapkv" | "h2o" | "random" | "knorm" | "tova")
}

fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Coarse values: ties happen.
    (0..n).map(|_| f32::from(rng.random_range(-8i8..=8)) / 4.0).collect()
}

fn inputs(shape: &CacheShape, seed: u64) -> Inputs {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut scores = || -> Vec<Vec<f64>> {
        let mut row =
            |layer: &LayerShape| (0..layer.query_heads).map(|_| rng.random_range(0.0..1.0)).collect();
        shape.layers.iter().map(&mut row).collect()
    };
    Inputs {
        retrieval: Some(scores()),
        reasoning: Some(scores()),
        ranking: Some(shape.layers.iter().map(|layer| (0..layer.query_heads).rev().collect()).collect()),
        full_heads: Some(
            shape
                .layers
                .iter()
                .map(|layer| (0..layer.kv_heads).map(|head| head as f64 / 4.0).collect())
                .collect(),
        ),
        layers: Some(vec![1.0 / shape.layers.len() as f64; shape.layers.len()]),
        model: None,
    }
}

/// One prompt as a variant sees it.
struct Prompt {
    shape: CacheShape,
    observations: Observations,
    inputs: Inputs,
}

impl Prompt {
    fn new(shape: CacheShape, variant: &Variant, seed: u64) -> Self {
        let (again, wanted): (Vec<_>, Vec<_>) = variant
            .observations()
            .into_iter()
            .partition(|one| one.repeats_the_prompt() || one.reads_the_question());
        let layers = (0..)
            .zip(&*shape.layers)
            .map(|(layer, sizes)| {
                let LayerShape { query_heads, kv_heads, head_dim, .. } = *sizes;
                let q = random(query_heads * shape.len * head_dim, seed + 2 * layer);
                let k = random(kv_heads * shape.len * head_dim, seed + 2 * layer + 1);
                let q = HeadsView::head_major(&q, [query_heads, shape.len, head_dim]).unwrap();
                let k = HeadsView::head_major(&k, [kv_heads, shape.len, head_dim]).unwrap();
                let v = random(kv_heads * shape.len * head_dim, seed + 1000 + layer);
                let v = HeadsView::head_major(&v, [kv_heads, shape.len, head_dim]).unwrap();
                let output = random(5 * query_heads * head_dim, seed + 2000 + layer);
                let rotary = Rotary::of(&wanted, shape.len, |positions| {
                    let angles: Vec<f32> =
                        positions.flat_map(|position| vec![position as f32; head_dim / 2]).collect();
                    let of = |turn: fn(f32) -> f32| angles.iter().copied().map(turn).collect();
                    Turns { cos: of(f32::cos), sin: of(f32::sin) }
                });
                let tensors = LayerTensors {
                    queries: q,
                    keys: k,
                    values: Some(v),
                    output: Some(&output),
                    rotary: rotary.as_ref(),
                };
                let mut seen = observe_layer(&wanted, sizes, &tensors).unwrap();
                for &one in &again {
                    let question = if one.reads_the_question() { 5.min(shape.len) } else { 0 };
                    let (rows, columns) = (one.values(sizes, shape.len) / shape.len, shape.len - question);
                    let values = random(rows * columns, seed + 3000 + layer);
                    seen.insert(one, Observed::Rows { rows, columns, values });
                }
                seen
            })
            .collect();
        // Calibrated inputs belong to the model, not to the prompt.
        Self { observations: Observations { layers }, inputs: inputs(&shape, 7), shape }
    }

    fn select(&self, variant: &Variant, state: &mut MethodState) -> Result<Selection, MethodError> {
        variant.select(&self.shape, &self.observations, &self.inputs, state)
    }
}

fn check_selection(variant: &Variant, prompt: &Prompt, selection: &Selection) {
    let shape = &prompt.shape;
    let id = variant.id();
    // A share without room for the window keeps what of it the share allows.
    let room = variant.room(shape.len).is_ok();
    let recent = if room { variant.spec().recent().min(shape.len) } else { variant.entries(shape.len) };
    assert_eq!(selection.layers.len(), shape.layers.len(), "{id}");
    for (layer, sizes) in selection.layers.iter().zip(&*shape.layers) {
        let LayerSelection::Heads(heads) = layer else { continue };
        assert_eq!(heads.len(), selection.granularity.heads(sizes), "{id}");
        for kept in heads {
            assert!(kept.windows(2).all(|pair| pair[0] < pair[1]), "{id}: sorted and unique: {kept:?}");
            assert!(kept.iter().all(|&i| (i as usize) < shape.len), "{id}: in range: {kept:?}");
            let window = (shape.len - recent) as u32..shape.len as u32;
            assert!(window.eq(kept[kept.len() - recent..].iter().copied()), "{id}: window kept: {kept:?}");
        }
    }
    if variant.budget().is_some() && (is_exact(variant.spec()) || !room) {
        let nominal = variant.entries(shape.len);
        let exact = selection.layers.iter().all(|layer| match layer {
            LayerSelection::All => shape.len == nominal,
            LayerSelection::Heads(heads) => heads.iter().all(|kept| kept.len() == nominal),
        });
        assert!(exact, "{id} of {} tokens", shape.len);
    }
}

/// Entries of the first head of each layer.
fn first_heads(selection: &Selection, len: usize) -> Vec<usize> {
    let first = |layer: &LayerSelection| match layer {
        LayerSelection::All => len,
        LayerSelection::Heads(heads) => heads[0].len(),
    };
    selection.layers.iter().map(first).collect()
}

fn layer(query_heads: usize, kv_heads: usize, head_dim: usize) -> LayerShape {
    LayerShape { query_heads, kv_heads, head_dim, reach: Reach::All }
}

/// PyramidKV's flooring can keep a prompt just above the budget whole; that is reported as the error it is.
fn may_keep_all(variant: &Variant) -> bool {
    let params = variant.spec().resolved().params;
    params.contains_key("beta") && params.contains_key("capacity")
        || params.get("pyramid_beta").is_some_and(|beta| !beta.is_null())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, rng_seed: RngSeed::Fixed(4), ..ProptestConfig::default() })]

    #[test]
    fn selections_are_sound_and_independent_of_order(
        layers in 1usize..4,
        kv_heads in 1usize..4,
        group in 1usize..4,
        half_dim in 1usize..4,
        lens in [1usize..160, 1usize..160],
        budget in 33usize..90,
        share in 1u32..=100,
        seed in any::<u32>(),
    ) {
        let share = Budget::Share(format!("{}", f64::from(share) / 100.0).parse().unwrap());
        for (spec, budget) in specs().into_iter().flat_map(|spec| [(spec.clone(), Budget::Entries(budget)), (spec, share)]) {
            let Ok(variant) = spec.within(budget) else { continue };
            // Layers differ: every second one has a KV head more, and larger groups.
            let sizes = |i| layer((kv_heads + i % 2) * (group + i % 2), kv_heads + i % 2, 2 * half_dim);
            let shape = |len| CacheShape { layers: (0..layers).map(sizes).collect(), len };
            let prompts = [0, 1].map(|i| Prompt::new(shape(lens[i]), &variant, u64::from(seed) + 100 * i as u64));
            let alone: Vec<_> = prompts.iter().map(|prompt| prompt.select(&variant, &mut MethodState::default())).collect();
            for (prompt, selection) in prompts.iter().zip(&alone) {
                match selection {
                    Ok(selection) => check_selection(&variant, prompt, selection),
                    Err(MethodError::NothingEvicted { .. }) => assert!(may_keep_all(&variant), "{}", variant.id()),
                    Err(error) => panic!("{}: {error}", variant.id()),
                }
            }
            let mut state = MethodState::default();
            let second_first = prompts[1].select(&variant, &mut state);
            let then_first = prompts[0].select(&variant, &mut state);
            let text = |selection: &Result<Selection, MethodError>| format!("{selection:?}");
            assert_eq!(text(&second_first), text(&alone[1]), "{}", variant.id());
            if spec.state_scope() == StateScope::Prompt {
                assert_eq!(text(&then_first), text(&alone[0]), "{} leaks state", variant.id());
                assert_eq!(state, MethodState::default());
            } else {
                assert_eq!(state, MethodState::after(lens[1]));
                let resumed = prompts[0].select(&variant, &mut MethodState::after(lens[1]));
                assert_eq!(text(&then_first), text(&resumed), "{}", variant.id());
            }
        }
    }
}

/// The frozen profiles must depend on the first prompt: otherwise the test above proves nothing about them.
#[test]
fn a_frozen_pyramid_depends_on_the_first_prompt() {
    let variant = MethodSpec::parse("pyramidkv@compresskv", &[], None).unwrap().at(40).unwrap();
    let shape = CacheShape::uniform(4, layer(4, 2, 4), 150);
    let prompt = Prompt::new(shape, &variant, 1);
    let after_long = prompt.select(&variant, &mut MethodState::after(1000)).unwrap();
    let after_short = prompt.select(&variant, &mut MethodState::after(45)).unwrap();
    assert_ne!(after_long, after_short);
    assert_eq!(first_heads(&after_long, 150)[0], 71);
}

/// A pyramid overspends by its flooring.
#[test]
fn a_pyramid_overspends_by_its_flooring() {
    let variant = MethodSpec::parse("pyramidkv", &[], None).unwrap().at(64).unwrap();
    let shape = CacheShape::uniform(32, layer(2, 1, 2), 300);
    let prompt = Prompt::new(shape, &variant, 3);
    let selection = prompt.select(&variant, &mut MethodState::default()).unwrap();
    let held: usize = first_heads(&selection, 300).iter().sum();
    let overspend = held as f64 / (32.0 * 64.0) - 1.0;
    assert!((overspend - 0.117).abs() < 0.0005, "{overspend}");
}
