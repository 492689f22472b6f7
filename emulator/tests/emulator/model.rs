//! A whole model on the emulated card: item tables, offsets, tails, padding and merge lists, against the forward pass in
//! f64.

use std::collections::BTreeSet;
use std::path::Path;

use kvsweep_methods::{
    Inputs, MethodError, MethodState,
    observation::{Observation, Observed},
    observe::{HeadsView, LayerTensors, observe_layer},
    registry::METHODS,
    selection::{Granularity, LayerSelection, Selection},
    shape::{CacheShape, Reach},
    spec::MethodSpec,
};
use safetensors::SafeTensors;

use crate::cuda::launcher::{Element, Instance};
use crate::cuda::model::{CudaModel, Dimensions, FAMILIES, LayerWeights, Limits, Weights, check_family};
use crate::cuda::prompt::{CudaPrompt, has_kernel};
use crate::plain::PlainModel;
use crate::support::{Random, TestCard, close, instance, program, wide};

/// Weights as they lie in memory.
struct Stored {
    instance: Instance,
    dimensions: Dimensions,
    /// Of each layer: input norm, qkv, o, post norm, gate and up, down; then bias and norms where there are any.
    layers: Vec<[Vec<u16>; 6]>,
    bias: Option<Vec<u16>>,
    qk_norms: Option<[Vec<u16>; 2]>,
    embedding: Vec<u16>,
    norm: Vec<u16>,
    lm_head: Option<Vec<u16>>,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl Stored {
    fn with<R>(&self, use_weights: impl FnOnce(&Weights<'_>) -> R) -> R {
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|[input_norm, qkv, o, post_norm, gate_up, down]| LayerWeights {
                reach: Reach::All,
                input_norm,
                qkv,
                qkv_bias: self.bias.as_deref(),
                qk_norms: self.qk_norms.as_ref().map(|[q, k]| [q.as_slice(), k.as_slice()]),
                o,
                post_norm,
                gate_up,
                down,
            })
            .collect();
        use_weights(&Weights {
            embedding: &self.embedding,
            layers: &layers,
            norm: &self.norm,
            lm_head: self.lm_head.as_deref(),
            cosines: &self.cosines,
            sines: &self.sines,
        })
    }

    /// On the card, and in f64.
    fn models<'p>(&self, card: TestCard<'p>, limits: Limits) -> (CudaModel<TestCard<'p>>, PlainModel) {
        self.with(|weights| {
            let model = CudaModel::new(card, self.instance, self.dimensions, limits, weights).unwrap();
            (model, PlainModel::new(self.instance, self.dimensions, weights))
        })
    }
}

/// The angles of `positions` positions, of frequencies given in radians per position.
fn angles(positions: usize, frequencies: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let angles = (0..positions).flat_map(|position| frequencies.iter().map(move |f| position as f32 * f));
    angles.map(|angle| (angle.cos(), angle.sin())).unzip()
}

/// The embedded model: eight layers, f16.
fn embedded() -> Stored {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/assets/tiny");
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let halves = |name: &str| -> Vec<u16> {
        let data = tensors.tensor(&format!("model.{name}.weight")).unwrap().data();
        data.as_chunks::<2>().0.iter().map(|&pair| u16::from_le_bytes(pair)).collect()
    };
    let layers = (0..8).map(|layer| {
        let one = |name: &str| halves(&format!("layers.{layer}.{name}"));
        let all = |names: &[&str]| names.iter().flat_map(|name| one(name)).collect();
        [
            one("input_layernorm"),
            all(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
            one("self_attn.o_proj"),
            one("post_attention_layernorm"),
            all(&["mlp.gate_proj", "mlp.up_proj"]),
            one("mlp.down_proj"),
        ]
    });
    // Its `rope_scaling`, which the engine computes in f64: here only to have angles like it.
    let frequencies: Vec<f32> = (0..16).map(|i| 500_000f32.powf(-i as f32 / 16.0)).collect();
    let (cosines, sines) = angles(512, &frequencies);
    let dimensions =
        Dimensions { hidden: 256, intermediate: 512, heads: 8, kv_heads: 2, vocab: 1152, epsilon: 1e-5 };
    Stored {
        instance: instance(Element::F16, 32),
        dimensions,
        layers: layers.collect(),
        bias: None,
        qk_norms: None,
        embedding: halves("embed_tokens"),
        norm: halves("norm"),
        lm_head: None,
        cosines,
        sines,
    }
}

/// Random weights with everything that the embedded model has not: bias, norms of queries and keys, an output layer of
/// its own, a head size that is no power of two.
fn random_model(element: Element, head_dim: usize) -> Stored {
    let mut random = Random::new(77);
    let (hidden, intermediate, heads, kv_heads, vocab) = (72, 104, 6, 2, 90);
    let width = (heads + 2 * kv_heads) * head_dim;
    let mut matrix =
        |rows: usize, columns: usize| random.halves(element, rows * columns, 1.0 / (columns as f32).sqrt());
    let layers = (0..2)
        .map(|_| {
            [
                matrix(hidden, 1),
                matrix(width, hidden),
                matrix(hidden, heads * head_dim),
                matrix(hidden, 1),
                matrix(2 * intermediate, hidden),
                matrix(hidden, intermediate),
            ]
        })
        .collect();
    let (cosines, sines) = angles(300, &random.floats(head_dim / 2, 0.3));
    Stored {
        instance: instance(element, head_dim),
        dimensions: Dimensions { hidden, intermediate, heads, kv_heads, vocab, epsilon: 1e-5 },
        layers,
        bias: Some(random.halves(element, width, 0.3)),
        qk_norms: Some([random.halves(element, head_dim, 1.0), random.halves(element, head_dim, 1.0)]),
        embedding: random.halves(element, vocab * hidden, 1.0),
        norm: random.halves(element, hidden, 1.0),
        lm_head: Some(random.halves(element, vocab * hidden, 0.3)),
        cosines,
        sines,
    }
}

fn prompt(vocab: usize, len: usize) -> Vec<u32> {
    let mut random = Random::new(len as u64);
    (0..len).map(|_| random.below(vocab) as u32).collect()
}

fn values(observed: &Observed) -> Vec<f64> {
    match observed {
        Observed::Rows { values, .. } => values.iter().map(|&x| f64::from(x)).collect(),
        Observed::Moments { mean, variance, dispersion, shift, .. } => {
            let all = mean.iter().chain(variance).map(|&x| f64::from(x));
            all.chain([*dispersion, *shift]).collect()
        }
    }
}

/// How far logits may lie from those of the plain model: a sum in f32 that lies near the middle of two numbers is rounded
/// to the other one.
fn limit(element: Element) -> f64 {
    match element {
        Element::Bf16 => 2e-2,
        Element::F16 => 3e-3,
    }
}

/// What no kernel observes, from the entries on the card.
fn observe_on_the_host(
    card: &mut CudaModel<TestCard<'_>>,
    prompt: &mut CudaPrompt,
    stored: &Stored,
    wanted: &[Observation],
) {
    let wanted: Vec<_> =
        wanted.iter().copied().filter(|&one| !has_kernel(one) && one.reads_entries_only()).collect();
    if wanted.is_empty() {
        return;
    }
    let layers = prompt.shape.layers.clone();
    for (layer, sizes) in layers.iter().enumerate() {
        let entries = card.entries(prompt, layer).unwrap().map(|entries| -> Vec<f32> {
            wide(stored.instance.element, &entries).into_iter().map(|x| x as f32).collect()
        });
        let view = |entries| {
            HeadsView::head_major(entries, [sizes.kv_heads, prompt.shape.len, sizes.head_dim]).unwrap()
        };
        let [k, v] = [view(&entries[0]), view(&entries[1])];
        let none = HeadsView::head_major(&[], [sizes.query_heads, 0, sizes.head_dim]).unwrap();
        let tensors = LayerTensors { values: Some(v), ..LayerTensors::new(none, k) };
        prompt.observations.layers[layer].extend(observe_layer(&wanted, sizes, &tensors).unwrap());
    }
}

/// Decodes selections of one prompt side by side, and each of them alone. The plain model is given the card's tokens;
/// where it prefers another one, the two logits must lie within rounding of a tie. Returns how many such ties there
/// were.
fn decode_like_the_plain_model(
    stored: &Stored,
    card: &mut CudaModel<TestCard<'_>>,
    plain: &PlainModel,
    ids: &[u32],
    wanted: &[Observation],
    steps: usize,
    select: impl FnOnce(&CacheShape, &kvsweep_methods::Observations) -> Vec<Selection>,
) -> usize {
    let limit = limit(stored.instance.element);
    let mut ours = card.read_prompt(ids, wanted).unwrap();
    observe_on_the_host(card, &mut ours, stored, wanted);
    let exact = plain.read_prompt(ids, wanted);
    close("prompt logits", ours.logits.iter().map(|&x| f64::from(x)), &exact.logits, limit).unwrap();
    for (layer, (ours, exact)) in ours.observations.layers.iter().zip(&exact.observations.layers).enumerate()
    {
        assert!(ours.keys().eq(exact.keys()));
        for (observation, exact) in exact {
            let what = format!("{observation:?} of layer {layer}");
            close(&what, values(&ours[observation]), &values(exact), 4.0 * limit).unwrap();
        }
    }
    let selections = select(&ours.shape, &ours.observations);
    let kept: Vec<_> = selections.iter().map(|selection| card.keep(&ours, selection).unwrap()).collect();
    for (kept, selection) in kept.iter().zip(&selections) {
        assert_eq!(kept.bytes, copied_bytes(&ours.shape, selection));
    }
    let mut caches: Vec<_> = selections.iter().map(|selection| plain.keep(&exact, selection)).collect();
    let mut batch = card.batch(&kept.iter().collect::<Vec<_>>(), steps).unwrap();
    let first = (0u32..).zip(&ours.logits).max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(token, _)| token);
    let mut tokens = vec![vec![first; kept.len()]];
    let (mut ties, mut all) = (0, Vec::new());
    for _ in 0..steps {
        let fed = tokens.last().unwrap();
        let next = card.step(&mut batch, fed).unwrap();
        for ((next, cache), &token) in next.iter().zip(&mut caches).zip(fed) {
            let exact = plain.step(cache, token);
            close("logits", next.logits.iter().map(|&x| f64::from(x)), &exact, limit).unwrap();
            assert_eq!(next.not_finite, None);
            let best = exact.iter().copied().fold(f64::MIN, f64::max);
            let chosen = exact[next.token as usize];
            if chosen < best {
                let scale = exact.iter().map(|x| x * x).sum::<f64>().sqrt() / (exact.len() as f64).sqrt();
                assert!(best - chosen < 6.0 * limit * scale, "{best} {chosen} {scale}");
                ties += 1;
            }
        }
        tokens.push(next.iter().map(|next| next.token).collect());
        all.push(next);
    }
    card.release_batch(&batch);
    // Each alone: the same bits.
    for (index, kept) in kept.iter().enumerate().step_by(3) {
        let mut alone = card.batch(&[kept], steps).unwrap();
        for (step, together) in all.iter().enumerate() {
            let next = card.step(&mut alone, &[tokens[step][index]]).unwrap();
            assert!(next[0] == together[index], "sequence {index} depends on its batch");
        }
        card.release_batch(&alone);
    }
    kept.iter().for_each(|kept| card.release_kept(kept));
    card.release_prompt(&ours);
    assert_eq!(card.card().0.counters().bank_conflicts, 0);
    ties
}

/// Keys and values of every kept entry, in two bytes an element. A layer that keeps everything copies nothing.
fn copied_bytes(shape: &CacheShape, selection: &Selection) -> u64 {
    let entries = selection.layers.iter().map(|kept| match kept {
        LayerSelection::Heads(heads) if !kept.keeps_everything(shape.len) => heads.iter().map(Vec::len).sum(),
        _ => 0,
    });
    (entries.sum::<usize>() * shape.layers[0].head_dim * 2 * 2) as u64
}

/// Random positions in every layer and head, some lists empty; everything; both granularities.
fn random_selections(shape: &CacheShape) -> Vec<Selection> {
    let mut random = Random::new(5);
    let mut one = |granularity: Granularity| {
        let mut layer = || {
            if random.below(4) == 0 {
                return LayerSelection::All;
            }
            let heads = (0..granularity.heads(&shape.layers[0])).map(|_| {
                let share = random.below(4);
                (0..shape.len as u32).filter(|_| random.below(4) < share).collect()
            });
            LayerSelection::Heads(heads.collect())
        };
        Selection { granularity, layers: (0..shape.layers.len()).map(|_| layer()).collect() }
    };
    let everything =
        Selection { granularity: Granularity::KvHead, layers: vec![LayerSelection::All; shape.layers.len()] };
    let random = [Granularity::KvHead, Granularity::QueryHead]
        .into_iter()
        .flat_map(|granularity| [(); 2].map(|()| granularity));
    [everything].into_iter().chain(random.map(&mut one)).collect()
}

#[test]
fn families_that_the_kernels_do_not_compute_are_refused_by_name() {
    assert!(FAMILIES.iter().all(|family| check_family(family).is_ok()));
    assert_eq!(
        check_family("gemma3_text").unwrap_err().to_string(),
        "the CUDA kernels do not compute the family `gemma3_text`; they compute llama, mistral, qwen2, qwen3"
    );
}

#[test]
fn models_with_bias_and_norms_decode_like_the_plain_model() {
    let Some(program) = program() else { return };
    for (element, head_dim) in [(Element::Bf16, 80), (Element::F16, 64)] {
        let stored = random_model(element, head_dim);
        // Prompts of several chunks, steps of several passes.
        let limits = Limits { chunk: 32, step_rows: 4, window: 16 };
        let (mut card, plain) = stored.models(TestCard::new(program, 9, None), limits);
        let wanted = [
            Observation::WindowSum { window: 9 },
            Observation::WindowMoments { window: 16 },
            Observation::AccumulatedSum { recent: 5 },
            Observation::KeyNorm,
        ];
        for len in [1, 17, 70] {
            let ids = prompt(stored.dimensions.vocab, len);
            decode_like_the_plain_model(&stored, &mut card, &plain, &ids, &wanted, 3, |shape, _| {
                random_selections(shape)
            });
        }
    }
}

#[test]
fn all_methods_on_the_embedded_model_decode_like_the_plain_model() {
    let Some(program) = program() else { return };
    let stored = embedded();
    let limits = Limits { chunk: 64, step_rows: 16, window: 32 };
    let (mut card, plain) = stored.models(TestCard::new(program, 4, None), limits);
    let (layers, heads) = (stored.layers.len(), stored.dimensions.heads);
    let mut random = Random::new(3);
    let mut scores = |heads: usize| {
        Some((0..layers).map(|_| (0..heads).map(|_| random.below(100) as f64 / 100.0).collect()).collect())
    };
    let inputs = Inputs {
        retrieval: scores(heads),
        reasoning: scores(heads),
        full_heads: scores(stored.dimensions.kv_heads),
        ranking: Some(vec![(0..heads).collect(); layers]),
        layers: Some(vec![1.0 / layers as f64; layers]),
        model: None,
    };
    // LagKV always keeps a part and more: its parts must be shorter than the budget.
    let lag = [("lag".to_owned(), "16".to_owned())];
    let variants: Vec<_> = METHODS
        .iter()
        .map(|entry| (entry.name, if entry.name == "lagkv" { lag.as_slice() } else { &[] }))
        .flat_map(|(name, own)| {
            [64, 80].map(|budget| MethodSpec::parse(name, own, None).unwrap().at(budget).unwrap())
        })
        // Second passes are not written for CUDA, and there is no question here.
        .filter(|variant| {
            !variant.observations().iter().any(|one| one.repeats_the_prompt() || one.reads_the_question())
        })
        .collect();
    let made = |one: &Observation| has_kernel(*one) || one.reads_entries_only();
    let (variants, others): (Vec<_>, Vec<_>) =
        variants.into_iter().partition(|variant| variant.observations().iter().all(made));
    let wanted: BTreeSet<_> = variants.iter().flat_map(|variant| variant.observations()).collect();
    let wanted: Vec<_> = wanted.into_iter().collect();
    let ids = prompt(stored.dimensions.vocab, 130);
    let steps = 4;
    let ties = decode_like_the_plain_model(
        &stored,
        &mut card,
        &plain,
        &ids,
        &wanted,
        steps,
        |shape, observations| {
            let select = |variant: &kvsweep_methods::Variant| {
                variant.select(shape, observations, &inputs, &mut MethodState::default()).unwrap()
            };
            variants.iter().map(select).collect()
        },
    );
    for variant in others {
        let seen = card.read_prompt(&ids, &variant.observations()).unwrap();
        let refused = variant.select(&seen.shape, &seen.observations, &inputs, &mut MethodState::default());
        assert!(matches!(refused, Err(MethodError::NotObserved { .. })), "{}", variant.id());
        card.release_prompt(&seen);
    }
    println!(
        "{} tokens of {} variants, {ties} within rounding of a tie",
        steps * variants.len(),
        variants.len()
    );
}
