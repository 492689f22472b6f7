//! Seeded tensors and shapes for this crate's tests.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::context::MethodState;
use crate::error::MethodError;
use crate::inputs::Inputs;
use crate::observation::{Observations, Observed};
use crate::observe::{HeadsView, LayerTensors, Rotary, Turns, observe_layer};
use crate::selection::{LayerSelection, Selection};
use crate::shape::{CacheShape, LayerShape, Reach};
use crate::spec::{MethodSpec, Variant};

/// `n` values uniform in `-scale..scale`.
pub(crate) fn random(n: usize, seed: u64, scale: f32) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-scale..scale)).collect()
}

/// A shape in one line.
pub(crate) fn shape(
    layers: usize,
    query_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    prompt_len: usize,
) -> CacheShape {
    CacheShape::uniform(layers, layer_shape(query_heads, kv_heads, head_dim), prompt_len)
}

/// A layer that looks at everything.
pub(crate) fn layer_shape(query_heads: usize, kv_heads: usize, head_dim: usize) -> LayerShape {
    LayerShape { query_heads, kv_heads, head_dim, reach: Reach::All }
}

/// A variant by name, with `key=value` overrides.
pub(crate) fn variant(name: &str, overrides: &[&str], budget: usize) -> Variant {
    let pairs: Vec<_> = overrides.iter().filter_map(|pair| pair.split_once('=')).collect();
    let pairs: Vec<_> = pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    MethodSpec::parse(name, &pairs, None).unwrap().at(budget).unwrap()
}

/// What a variant sees of a prompt with seeded random queries and keys.
pub(crate) fn observe(variant: &Variant, shape: &CacheShape, seed: u64) -> Observations {
    let prompt_len = shape.len;
    let layer = |(layer, shape): (u64, &LayerShape)| {
        let LayerShape { query_heads, kv_heads, head_dim, .. } = *shape;
        let q = random(query_heads * prompt_len * head_dim, seed + 2 * layer, 2.0);
        let k = random(kv_heads * prompt_len * head_dim, seed + 2 * layer + 1, 2.0);
        let q = HeadsView::head_major(&q, [query_heads, prompt_len, head_dim]).unwrap();
        let k = HeadsView::head_major(&k, [kv_heads, prompt_len, head_dim]).unwrap();
        let v = random(kv_heads * prompt_len * head_dim, seed + 1000 + layer, 2.0);
        let v = HeadsView::head_major(&v, [kv_heads, prompt_len, head_dim]).unwrap();
        let output = random(3 * query_heads * head_dim, seed + 2000 + layer, 1.0);
        let (again, wanted): (Vec<_>, Vec<_>) =
            variant.observations().into_iter().partition(|one| one.repeats_the_prompt());
        let rotary = Rotary::of(&wanted, prompt_len, |positions| turns(positions, head_dim));
        let rotary = rotary.as_ref();
        let tensors = LayerTensors { queries: q, keys: k, values: Some(v), output: Some(&output), rotary };
        let mut seen = observe_layer(&wanted, shape, &tensors).unwrap();
        for one in again {
            let columns = shape.seen(prompt_len).len();
            let values = random(kv_heads * columns, seed + 3000 + layer, 1.0);
            seen.insert(one, Observed::Rows { rows: kv_heads, columns, values });
        }
        seen
    };
    Observations { layers: (0..).zip(&*shape.layers).map(layer).collect() }
}

/// Rotations of some positions, as a model without scaling has them.
pub(crate) fn turns(positions: std::ops::Range<usize>, head_dim: usize) -> Turns {
    let half = head_dim / 2;
    let angles: Vec<f32> = positions
        .flat_map(|position| {
            (0..half).map(move |pair| position as f32 * 100f32.powf(-(pair as f32) / half as f32))
        })
        .collect();
    Turns { cos: angles.iter().map(|x| x.cos()).collect(), sin: angles.iter().map(|x| x.sin()).collect() }
}

/// Applies a variant to such a prompt.
pub(crate) fn select(
    variant: &Variant,
    shape: &CacheShape,
    inputs: &Inputs,
) -> Result<Selection, MethodError> {
    variant.select(shape, &observe(variant, shape, 11), inputs, &mut MethodState::default())
}

/// Entries of every head of every layer; an uncut layer counts once.
pub(crate) fn counts(selection: &Selection, prompt_len: usize) -> Vec<Vec<usize>> {
    let layer = |layer: &LayerSelection| match layer {
        LayerSelection::All => vec![prompt_len],
        LayerSelection::Heads(heads) => heads.iter().map(Vec::len).collect(),
    };
    selection.layers.iter().map(layer).collect()
}
