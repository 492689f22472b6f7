//! The kernels against candle's operations, and against themselves in other batches and on other threads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use candle_core::{DType, Device, Tensor};
use kvsweep_methods::{
    observation::{Observation, Observed, UNJUDGED},
    selection::{Granularity, LayerSelection, Selection},
    shape::{LayerShape, Reach},
    spec::{MethodSpec, Variant},
    {Inputs, MethodState},
};
use rand::{Rng, SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;

use crate::{
    backend::{Backend, Extend, Tap},
    cancel::Cancel,
    candle::Candle,
    cpu::Cpu,
    decode::{DecodeProgress, DecodeRule, Decoded, Sequence},
    error::{EngineError, Stage},
    model::{
        config::{Activation, ModelConfig, Sliding},
        random::{llama_config, random_weights},
        rope::Rope,
        weights::ModelWeights,
    },
    prefill::{Prefill, PrefillOptions},
    reconstruct::RepeatRequest,
    session::Session,
};

const VOCAB: usize = 150;

fn configs() -> Vec<ModelConfig> {
    let plain = llama_config([VOCAB, 64, 96, 3, 8, 2]);
    let narrow = ModelConfig { tied_embeddings: true, ..llama_config([VOCAB, 40, 50, 2, 5, 5]) };
    let qwen =
        ModelConfig { qkv_bias: true, qk_norm: true, head_dim: 48, ..llama_config([VOCAB, 32, 40, 2, 4, 1]) };
    let windows = ModelConfig { sliding: Some(slides(37, &[true; 3])), ..plain.clone() };
    let gemma = ModelConfig {
        qk_norm: true,
        activation: Activation::GeluTanh,
        is_gemma: true,
        head_dim: 24,
        sliding: Some(Sliding {
            rope: Some(Rope { theta: 100.0, scaling: None, rotated: None }),
            ..slides(20, &[true, true, false, true])
        }),
        ..llama_config([VOCAB, 32, 40, 4, 4, 2])
    };
    vec![plain, narrow, qwen, windows, gemma]
}

/// Whether methods choose from a layer.
fn is_contested(config: &ModelConfig, layer: usize) -> bool {
    config.cache_shape(1).contested().contains(&layer)
}

fn slides(window: usize, layers: &[bool]) -> Sliding {
    Sliding { window, layers: layers.to_vec(), rope: None }
}

fn model(config: &ModelConfig) -> Session<Cpu> {
    Session::<Cpu>::from_weights("random", config.clone(), &random_weights(config, 3).unwrap()).unwrap()
}

fn on_candle(config: &ModelConfig, weights: &ModelWeights, dtype: DType) -> Session<Candle> {
    Session::<Candle>::from_weights("random", config.clone(), weights, &Device::Cpu, dtype).unwrap()
}

fn reference(config: &ModelConfig) -> Session<Candle> {
    on_candle(config, &random_weights(config, 3).unwrap(), DType::F32)
}

fn prompt(len: usize, seed: u64) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(0..VOCAB as u32)).collect()
}

fn read<B: Backend>(model: &Session<B>, ids: &[u32]) -> Arc<Prefill<B::Prompt>> {
    Arc::new(model.prefill(ids, &BTreeSet::new(), PrefillOptions::default()).unwrap())
}

/// Keeps `kept` random positions and the last two, a different number in every layer and head.
fn random_selection<P>(prefill: &Prefill<P>, granularity: Granularity, kept: usize, seed: u64) -> Selection {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let shape = prefill.shape();
    let mut head = |first: usize| {
        let past = (shape.len - first).saturating_sub(2);
        let count = rng.random_range(0..=kept.min(past));
        let mut positions: Vec<_> =
            index::sample(&mut rng, past, count).into_iter().map(|i| (first + i) as u32).collect();
        positions.extend((first + past) as u32..shape.len as u32);
        positions.sort_unstable();
        positions
    };
    let layer = |sizes: &LayerShape| {
        let first = sizes.seen(shape.len).start;
        LayerSelection::Heads((0..granularity.heads(sizes)).map(|_| head(first)).collect())
    };
    Selection { granularity, layers: shape.layers.iter().map(layer).collect() }
}

fn everything(layers: usize) -> Selection {
    Selection { granularity: Granularity::KvHead, layers: vec![LayerSelection::All; layers] }
}

fn sequence<P>(prefill: &Arc<Prefill<P>>, selection: Selection, max_new: usize) -> Sequence<P> {
    Sequence {
        prefill: Arc::clone(prefill),
        selection: Arc::new(selection),
        follow: Arc::default(),
        renumbered: false,
        again: None,
        rule: DecodeRule { max_new, ..DecodeRule::default() },
        keep_logits: true,
        masked_heads: None,
    }
}

fn decode<B: Backend>(model: &Session<B>, sequences: &[Sequence<B::Prompt>]) -> Vec<Decoded> {
    model.decode(sequences, &mut |_| ()).unwrap()
}

#[track_caller]
fn assert_close(ours: &[f32], theirs: &[f32], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let worst = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f32::max);
    assert!(worst < 5e-5, "{what}: off by {worst}");
}

fn values(observed: &Observed) -> Vec<f32> {
    match observed {
        Observed::Rows { values, .. } => values.clone(),
        Observed::Moments { mean, variance, dispersion, shift, .. } => {
            [&mean[..], variance, &[*dispersion as f32, *shift as f32]].concat()
        }
    }
}

#[test]
fn kernels_agree_with_candle_in_prefill() {
    let summed = BTreeSet::from([
        Observation::AccumulatedSum { recent: 4 },
        Observation::AccumulatedSum { recent: 70 },
    ]);
    let mut wanted = BTreeSet::from([
        Observation::WindowSum { window: 8 },
        Observation::WindowSum { window: 300 },
        Observation::WindowMoments { window: 32 },
        Observation::QuestionSum { window: Some(9) },
        Observation::KeyNorm,
        Observation::KeySimilarity,
        Observation::LagRank { sinks: 3, lag: 20 },
        Observation::WindowMax { window: 8, kernel: 5 },
        Observation::WindowMax { window: 300, kernel: 1 },
        Observation::ValueNorm,
        Observation::OutputNorm,
        Observation::ExpectedAttention { sinks: 4, future: 512 },
        Observation::ExpectedAttention { sinks: 0, future: 1 },
    ]);
    wanted.extend(&summed);
    let options = PrefillOptions { keep_all_logits: true, ..PrefillOptions::default() };
    for config in configs() {
        let (ours, theirs) = (model(&config), reference(&config));
        for len in [1, 2, 17, 64, 65, 300, 700] {
            let ids = prompt(len, len as u64);
            let a = ours.prefill(&ids, &wanted, options).unwrap();
            let b = theirs.prefill(&ids, &wanted, options).unwrap();
            let what = format!("{:?}, {len} tokens", config.family);
            assert_close(a.all_logits().unwrap(), b.all_logits().unwrap(), &what);
            assert_close(a.logits(), &a.all_logits().unwrap()[(len - 1) * VOCAB..], &what);
            for (a, b) in a.observations().layers.iter().zip(&b.observations().layers) {
                for (key, a) in a {
                    assert_close(&values(a), &values(&b[key]), &format!("{what}, {key:?}"));
                }
            }
            // The last layer's shortcut leaves the bits of logits and observations alone.
            let short = ours.prefill(&ids, &summed, PrefillOptions::default()).unwrap();
            assert_eq!(short.logits(), a.logits(), "{what}");
            let observed = short.observations().layers.iter().zip(&a.observations().layers);
            for (layer, (short, a)) in observed.enumerate() {
                let expected =
                    if is_contested(&config, layer) { [summed.len(), wanted.len()] } else { [0, 0] };
                assert_eq!([short.len(), a.len()], expected, "{what}");
                for (key, short) in short {
                    assert_eq!(short, &a[key], "{what}, {key:?}");
                }
            }
            assert_eq!(read(&ours, &ids).logits(), a.logits(), "{what}");
        }
    }
}

#[test]
fn kernels_agree_with_candle_in_decode() {
    /// Variants of one prompt; the last two read tokens before they answer.
    fn run<B: Backend>(model: &Session<B>) -> Vec<Decoded> {
        let prefill = read(model, &prompt(90, 5));
        let mut sequences = vec![sequence(&prefill, everything(model.config.layers), 6)];
        for granularity in [Granularity::KvHead, Granularity::QueryHead] {
            sequences.push(sequence(&prefill, random_selection(&prefill, granularity, 40, 9), 6));
        }
        let masked = Some(Arc::new(BTreeSet::from([(0, 1), (1, 0), (1, 3)])));
        sequences.push(Sequence { masked_heads: masked, ..sequences[1].clone() });
        for i in [1, 3] {
            sequences.push(Sequence { follow: prompt(11, 7).into(), ..sequences[i].clone() });
        }
        decode(model, &sequences)
    }
    for config in configs() {
        for (a, b) in run(&model(&config)).iter().zip(&run(&reference(&config))) {
            assert_eq!(a.ids, b.ids);
            assert_close(a.logits.as_ref().unwrap(), b.logits.as_ref().unwrap(), "decode");
            assert_eq!(a.held.layers, b.held.layers);
        }
    }
}

#[test]
fn decoding_the_whole_cache_continues_the_prompt() {
    let config = &configs()[0];
    let model = model(config);
    let ids = prompt(70, 6);
    let prefill = read(&model, &ids);
    let decoded = &decode(&model, &[sequence(&prefill, everything(config.layers), 5)])[0];
    let longer = [ids.clone(), decoded.ids.clone()].concat();
    let options = PrefillOptions { keep_all_logits: true, ..PrefillOptions::default() };
    let all = model.prefill(&longer, &BTreeSet::new(), options).unwrap();
    let rows = &all.all_logits().unwrap()[(ids.len() - 1) * VOCAB..][..5 * VOCAB];
    assert_close(decoded.logits.as_ref().unwrap(), rows, "decode against prefill");
}

#[test]
fn a_sequence_does_not_depend_on_its_batch() {
    let config = &configs()[0];
    let model = model(config);
    let mut sequences = Vec::new();
    for p in 0..14 {
        let prefill = read(&model, &prompt(20 + 23 * p, p as u64));
        for v in 0..37 {
            let granularity = [Granularity::KvHead, Granularity::QueryHead][v % 2];
            let selection = match v {
                0 => everything(config.layers),
                _ => random_selection(&prefill, granularity, 4 * v, (100 * p + v) as u64),
            };
            let rule = DecodeRule {
                max_new: 3 + (p + v) % 5,
                stop_ids: vec![(p * 11) as u32, (v * 4) as u32],
                ban_stops_on_first: true,
                ..DecodeRule::default()
            };
            sequences.push(Sequence { rule, ..sequence(&prefill, selection, 0) });
        }
    }
    assert!(sequences.len() >= 500);
    let bits = |decoded: &Decoded| {
        let logits: Vec<u32> = decoded.logits.iter().flatten().map(|x| x.to_bits()).collect();
        (decoded.ids.clone(), decoded.stopped_by, logits)
    };
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let together = pool(2).install(|| decode(&model, &sequences));
    assert!(together.iter().any(|one| one.stopped_by.is_some()));
    let on_one_thread = pool(1).install(|| decode(&model, &sequences));
    for (i, one) in sequences.iter().enumerate() {
        let expected = bits(&together[i]);
        assert_eq!(bits(&on_one_thread[i]), expected, "sequence {i} on one thread");
        let alone = decode(&model, std::slice::from_ref(one));
        assert_eq!(bits(&alone[0]), expected, "sequence {i} alone");
        let pair = decode(&model, &[sequences[(i * 7 + 3) % sequences.len()].clone(), one.clone()]);
        assert_eq!(bits(&pair[1]), expected, "sequence {i} in a pair");
    }
}

/// What follows a prompt is read at its true positions, in any pieces: on a full cache it is the longer prompt, and the
/// bits are those of its tokens read one at a time.
#[test]
fn what_follows_a_prompt_is_read_at_its_positions() {
    let config = &configs()[0];
    let model = model(config);
    let (ids, follow) = (prompt(70, 6), prompt(600, 9));
    let prefill = read(&model, &ids);
    let one =
        |selection: Selection| Sequence { follow: follow.clone().into(), ..sequence(&prefill, selection, 3) };
    let whole = &decode(&model, &[one(everything(config.layers))])[0];
    let longer = read(&model, &[ids.clone(), follow.clone()].concat());
    assert_close(&whole.logits.as_ref().unwrap()[..VOCAB], longer.logits(), "read on against prefill");
    assert_eq!(whole.ids, decode(&model, &[sequence(&longer, everything(config.layers), 3)])[0].ids);

    // Alone a sequence reads all it can in a call, among 520 one token.
    let short: Arc<[u32]> = follow[..40].into();
    let one = |granularity, seed| Sequence {
        follow: short.clone(),
        ..sequence(&prefill, random_selection(&prefill, granularity, 30, seed), 3)
    };
    let alone = &decode(&model, &[one(Granularity::KvHead, 1)])[0];
    let company = (2..521).map(|seed| one(Granularity::QueryHead, seed));
    let together: Vec<_> = [one(Granularity::KvHead, 1)].into_iter().chain(company).collect();
    assert_eq!(&decode(&model, &together)[0], alone);
}

/// A method that evicts again after every four tokens of the answer.
fn again(name: &str, granularity: Granularity, budget: usize) -> Variant {
    let interval = [("interval".to_owned(), "4".to_owned())];
    MethodSpec::parse(name, &interval, Some(granularity)).unwrap().at(budget).unwrap()
}

/// What a cache shows of its entries is what the longer prompt shows of its tokens.
#[test]
fn a_cache_is_observed_as_the_longer_prompt() {
    fn run<B: Backend>(model: &Session<B>) {
        let ids = prompt(60, 6);
        let wanted = [
            Observation::WindowSum { window: 8 },
            Observation::WindowMoments { window: 5 },
            Observation::KeyNorm,
            Observation::KeySimilarity,
            Observation::LagRank { sinks: 3, lag: 20 },
            Observation::WindowMax { window: 7, kernel: 3 },
            Observation::ValueNorm,
        ];
        let shorter = read(model, &ids[..48]);
        let longer = model.prefill(&ids, &wanted.into(), PrefillOptions::default()).unwrap();
        let mut cache = model.backend.fork(&shorter.prompt, &everything(3), 12, 8).unwrap();
        for tokens in ids[48..].chunks(5) {
            let mut row = [Extend { cache: &mut cache, tokens, masked: None }];
            model.backend.extend(&mut row, None, &Cancel::default()).unwrap();
        }
        let (seen, len) = model.backend.observe(&cache, &wanted).unwrap();
        assert_eq!((len, seen.layers.len()), (60, 3));
        for (ours, theirs) in seen.layers.iter().zip(&longer.observations().layers) {
            for one in wanted {
                assert_close(&values(&ours[&one]), &values(&theirs[&one]), &format!("{one:?}"));
            }
        }
        let nine = [Observation::WindowSum { window: 9 }];
        assert!(model.backend.observe(&cache, &nine).is_err(), "eight are remembered");
        for of_a_prompt in [Observation::OutputNorm, Observation::ExpectedAttention { sinks: 4, future: 8 }] {
            assert!(model.backend.observe(&cache, &[of_a_prompt]).is_err(), "{of_a_prompt:?}");
        }
    }
    let config = &configs()[0];
    run(&model(config));
    run(&reference(config));
}

/// An eviction keeps entries of the prompt and of the answer, at their positions: the bits are those of a cache that
/// was cut so from the longer prompt.
#[test]
fn an_eviction_is_a_cut_of_the_longer_prompt() {
    fn run<B: Backend>(model: &Session<B>) {
        let ids = prompt(60, 6);
        let [shorter, longer] = [48, 60].map(|len| read(model, &ids[..len]));
        for granularity in [Granularity::KvHead, Granularity::QueryHead] {
            // Every second entry of what a first cut and the twelve tokens behind it leave.
            let first = random_selection(&shorter, granularity, 30, 3);
            let LayerSelection::Heads(heads) = &first.layers[0] else { panic!() };
            let first = Selection { granularity, layers: vec![LayerSelection::Heads(heads.clone()); 3] };
            let mut cache = model.backend.fork(&shorter.prompt, &first, 12, 0).unwrap();
            let mut row = [Extend { cache: &mut cache, tokens: &ids[48..], masked: None }];
            model.backend.extend(&mut row, None, &Cancel::default()).unwrap();
            let second = |kept: &Vec<u32>| (0..kept.len() as u32 + 12).step_by(2).collect();
            let second = LayerSelection::Heads(heads.iter().map(second).collect());
            let second = Selection { granularity, layers: vec![second; 3] };
            model.backend.evict(&mut cache, &second).unwrap();
            let positions = |kept: &Vec<u32>| kept.iter().copied().chain(48..60).step_by(2).collect();
            let both = LayerSelection::Heads(heads.iter().map(positions).collect());
            let both = Selection { granularity, layers: vec![both; 3] };
            let whole = model.backend.fork(&longer.prompt, &both, 0, 0).unwrap();
            assert_eq!(model.backend.held(&cache), model.backend.held(&whole));
        }
        // What is read behind a full cache sees all of the prompt.
        let mut cache = model.backend.fork(&shorter.prompt, &everything(3), 12, 0).unwrap();
        let mut row = [Extend { cache: &mut cache, tokens: &ids[48..], masked: None }];
        model.backend.extend(&mut row, None, &Cancel::default()).unwrap();
        let kept = LayerSelection::Heads(vec![(20..60).collect(); model.config.kv_heads]);
        let selection = Selection { granularity: Granularity::KvHead, layers: vec![kept; 3] };
        model.backend.evict(&mut cache, &selection).unwrap();
        let mut whole = model.backend.fork(&longer.prompt, &selection, 12, 0).unwrap();
        let logits = [&mut cache, &mut whole].map(|cache| {
            let mut row = [Extend { cache, tokens: &[7, 8, 9], masked: None }];
            model.backend.extend(&mut row, None, &Cancel::default()).unwrap()
        });
        assert_close(&logits[0], &logits[1], "an eviction");
    }
    let config = &configs()[0];
    run(&model(config));
    run(&reference(config));
}

/// The buffers behind a cut have room for an interval, and no more: a token too many would not fit.
#[test]
fn a_cache_that_evicts_again_holds_a_budget_and_an_interval() {
    /// Answers, each before that of a cache that only grows.
    fn run<B: Backend>(model: &Session<B>) -> Vec<Vec<u32>> {
        let mut variants = Vec::new();
        for (name, granularities) in [
            ("streamingllm", &[Granularity::KvHead, Granularity::QueryHead][..]),
            ("snapkv[window=4+kernel=3]", &[Granularity::KvHead, Granularity::QueryHead]),
            ("tova", &[Granularity::KvHead]),
            ("knorm", &[Granularity::KvHead]),
            ("keydiff", &[Granularity::KvHead]),
        ] {
            for &granularity in granularities {
                // A prompt within the budget is shared until the answer outgrows it.
                variants.extend([60, 12].map(|budget| Arc::new(again(name, granularity, budget))));
            }
        }
        let wanted = variants.iter().flat_map(|variant| variant.observations()).collect();
        let prefill = Arc::new(model.prefill(&prompt(50, 6), &wanted, PrefillOptions::default()).unwrap());
        let mut sequences = Vec::new();
        for variant in variants {
            let (inputs, mut state) = (Inputs::default(), MethodState::default());
            let selection = variant.select(prefill.shape(), prefill.observations(), &inputs, &mut state);
            let once = sequence(&prefill, selection.unwrap(), 30);
            sequences.extend([Sequence { again: Some(variant), ..once.clone() }, once]);
        }
        let together = decode(model, &sequences);
        for (one, decoded) in sequences.iter().zip(&together) {
            assert_eq!(decode(model, std::slice::from_ref(one))[0].ids, decoded.ids);
        }
        together.into_iter().map(|decoded| decoded.ids).collect()
    }
    let config = &configs()[0];
    let ours = run(&model(config));
    assert_eq!(ours, run(&reference(config)));
    assert!(ours.chunks(2).all(|pair| pair[0][..4] == pair[1][..4]));
    assert!(ours.chunks(2).filter(|pair| pair[0] != pair[1]).count() > 7, "what was evicted was not missed");
}

#[test]
fn weights_in_two_bytes_give_the_bits_of_their_widened_numbers() {
    for config in configs() {
        for dtype in [DType::F16, DType::BF16] {
            let weights = random_weights(&config, 3).unwrap();
            let stored = ModelWeights::collect(&weights, &config, &Device::Cpu, dtype).unwrap();
            let wide = ModelWeights::collect(&stored, &config, &Device::Cpu, DType::F32).unwrap();
            let [stored, wide] = [stored, wide].map(|weights| {
                let model = Session::<Cpu>::from_weights("random", config.clone(), &weights).unwrap();
                let prefill = read(&model, &prompt(150, 4));
                let sequences: Vec<_> = (0..9)
                    .map(|seed| random_selection(&prefill, Granularity::KvHead, 20, seed))
                    .map(|selection| sequence(&prefill, selection, 5))
                    .collect();
                (prefill.logits().to_vec(), decode(&model, &sequences), decode(&model, &sequences[..1]))
            });
            assert!(stored == wide, "{dtype:?}");
        }
    }
}

#[test]
fn prefill_does_not_depend_on_threads() {
    let config = &configs()[0];
    let model = model(config);
    let wanted =
        BTreeSet::from([Observation::WindowSum { window: 8 }, Observation::AccumulatedSum { recent: 8 }]);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| model.prefill(&prompt(500, 1), &wanted, PrefillOptions::default()).unwrap())
    };
    let (one, three) = (run(1), run(3));
    assert_eq!(one.logits(), three.logits());
    assert_eq!(one.observations().layers, three.observations().layers);
}

#[test]
fn equal_sequences_are_computed_once() {
    let config = &configs()[0];
    let model = model(config);
    let prefill = read(&model, &prompt(40, 2));
    let all: Vec<u32> = (0..40).collect();
    let listed = Selection {
        granularity: Granularity::QueryHead,
        layers: vec![LayerSelection::Heads(vec![all; config.query_heads]); config.layers],
    };
    let batch = [sequence(&prefill, everything(config.layers), 4), sequence(&prefill, listed, 4)];
    let mut most = 0;
    let decoded = model
        .decode(&batch, &mut |progress: DecodeProgress| {
            most = most.max(progress.active);
        })
        .unwrap();
    assert_eq!(most, 1);
    assert_eq!(decoded[0], decoded[1]);
}

#[test]
fn stop_rules_hold() {
    let config = &configs()[0];
    let model = model(config);
    let prefill = read(&model, &prompt(30, 4));
    let run = |rule: DecodeRule| {
        let one = Sequence { rule, ..sequence(&prefill, everything(config.layers), 0) };
        decode(&model, &[one]).remove(0)
    };
    let free = run(DecodeRule { max_new: 6, ..DecodeRule::default() });
    let stop = free.ids[0];
    let stopped = run(DecodeRule { max_new: 6, stop_ids: vec![stop], ..DecodeRule::default() });
    assert_eq!((stopped.ids.len(), stopped.stopped_by, stopped.steps), (0, Some(stop), 1));
    let ignoring =
        DecodeRule { max_new: 6, stop_ids: vec![stop], ignore_stops: true, ..DecodeRule::default() };
    assert_eq!(run(ignoring).ids, free.ids);
    let banned = run(DecodeRule {
        ban_stops_on_first: true,
        max_new: 6,
        stop_ids: vec![stop],
        ..DecodeRule::default()
    });
    assert!(!banned.ids.contains(&stop) && !banned.ids.is_empty());
    assert_eq!(run(DecodeRule::default()).steps, 0);
}

#[test]
fn a_selection_that_does_not_fit_is_refused() {
    let config = &configs()[0];
    let model = model(config);
    let prefill = read(&model, &prompt(10, 4));
    let heads = |positions: Vec<u32>| LayerSelection::Heads(vec![positions; config.kv_heads]);
    let refused = |layers: Vec<LayerSelection>| {
        let selection = Selection { granularity: Granularity::KvHead, layers };
        let error = model.decode(&[sequence(&prefill, selection, 2)], &mut |_| ());
        error.unwrap_err().to_string()
    };
    assert!(
        refused(vec![heads(vec![0, 10]); 3])
            .contains("layer 0, head 0 do not ascend below the prompt length 10")
    );
    assert!(refused(vec![heads(vec![3, 3]); 3]).contains("do not ascend"));
    assert!(refused(vec![LayerSelection::All; 2]).contains("2 layers, the prompt has 3"));
    assert!(refused(vec![LayerSelection::Heads(vec![]); 3]).contains("0 heads in layer 0, expected 2"));
}

#[test]
fn an_interruption_ends_the_decoding() {
    fn run<B: Backend>(model: &Session<B>) {
        let prefill = read(model, &prompt(10, 4));
        let mut calls = 0;
        let result = model.decode(&[sequence(&prefill, everything(3), 9)], &mut |_| {
            calls += 1;
            if calls == 3 {
                model.cancel.request();
            }
        });
        assert!(matches!(result, Err(EngineError::Interrupted)));
        assert_eq!(calls, 3);
    }
    let config = &configs()[0];
    run(&model(config));
    run(&reference(config));
}

#[test]
fn a_prefill_ends_between_the_blocks_of_a_layer() {
    fn runs<B: Backend>(mut model: Session<B>, looks: usize) -> bool {
        model.cancel = Cancel::after(looks);
        let wanted = BTreeSet::from([Observation::AccumulatedSum { recent: 4 }]);
        let result = model.prefill(&prompt(700, 4), &wanted, PrefillOptions::default());
        assert!(matches!(result, Ok(_) | Err(EngineError::Interrupted)));
        result.is_ok()
    }
    let config = &configs()[0];
    let blocks = 700_usize.div_ceil(crate::cpu::prefill::BLOCK);
    // Every block of every layer is a chance to stop: projections, then each layer's attention.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let least = pool.install(|| (0..).find(|&looks| runs(model(config), looks))).unwrap();
    assert!(least > (config.layers + 1) * blocks, "{least} looks");
    // Candle's path goes by blocks of 256 queries, to observe and to attend.
    let least = (0..).find(|&looks| runs(reference(config), looks)).unwrap();
    assert_eq!(least, config.layers * 2 * 3);
}

fn repeat_request() -> RepeatRequest {
    RepeatRequest { head: 3, whole: prompt(5, 90), part: prompt(4, 91), tail: prompt(2, 92) }
}

/// Largest attention that entries get while a prompt is repeated, read from the rows that a tap sees: softmax over fewer
/// entries is the same weights over a smaller sum.
fn by_rows(
    model: &Session<Cpu>,
    ids: &[u32],
    sinks: usize,
    parts: &[(usize, usize, Vec<u32>)],
) -> Vec<Vec<f32>> {
    let config = &model.config;
    let (group, len) = (config.query_heads / config.kv_heads, ids.len());
    let prefill = read(model, ids);
    let mut most = vec![vec![0f32; config.kv_heads * len]; config.layers];
    for (start, end, tokens) in parts {
        let selection = everything(config.layers);
        let mut cache = model.backend.fork(&prefill.prompt, &selection, tokens.len(), 0).unwrap();
        for (read, token) in tokens.iter().enumerate() {
            let mut look = |layer: usize, rows: &[f32]| {
                let entries = len + read + 1;
                for (head, row) in rows.chunks_exact(entries).enumerate() {
                    let sum: f32 =
                        row[..sinks.min(*start)].iter().chain(&row[*start..*end]).chain(&row[len..]).sum();
                    for position in *start..*end {
                        let most = &mut most[layer][head / group * len + position];
                        *most = most.max(row[position] / sum);
                    }
                }
            };
            let mut tap = Tap { rows: Some(&mut look), shadow: None };
            let mut rows = [Extend { cache: &mut cache, tokens: std::slice::from_ref(token), masked: None }];
            model.backend.extend(&mut rows, Some(&mut tap), &Cancel::default()).unwrap();
        }
    }
    most.iter_mut().flat_map(|most| most.chunks_mut(len)).for_each(|row| row[..sinks].fill(UNJUDGED));
    most
}

#[test]
fn a_second_pass_sees_what_repeating_looks_at() {
    let request = repeat_request();
    let options = PrefillOptions { repeat: Some(&request), ..PrefillOptions::default() };
    let seen = |layers: &[BTreeMap<Observation, Observed>], one| -> Vec<Vec<f32>> {
        layers.iter().map(|layer| layer.get(&one).map(values).unwrap_or_default()).collect()
    };
    for config in configs() {
        let (ours, theirs) = (model(&config), reference(&config));
        let ids = prompt(90, 7);
        let (shape, contested) = (config.cache_shape(90), config.cache_shape(90).contested());
        if shape.seen().start > 0 {
            let wanted = BTreeSet::from([Observation::Reconstruction { sinks: None, chunk: 40 }]);
            let error = ours.prefill(&ids, &wanted, options).unwrap_err();
            assert!(matches!(error, EngineError::RepeatBeyondWindow { prompt: 90, .. }), "{error}");
            continue;
        }
        let tokens =
            |request: &[u32], hint: &[u32], part: &[u32]| [request, hint, &prompt(2, 92), part].concat();
        let parts = [
            (3, 43, tokens(&request.whole, &[], &ids[3..43])),
            (43, 83, tokens(&request.part, &ids[35..43], &ids[43..83])),
            (83, 90, tokens(&request.part, &ids[75..83], &ids[83..90])),
        ];
        for sinks in [None, Some(0), Some(1), Some(7)] {
            let one = Observation::Reconstruction { sinks, chunk: 40 };
            let wanted = BTreeSet::from([one, Observation::KeyNorm]);
            let a = ours.prefill(&ids, &wanted, options).unwrap();
            let expected = by_rows(&ours, &ids, sinks.unwrap_or(3), &parts);
            let all = seen(&a.observations().layers, one);
            for (layer, (a, b)) in all.iter().zip(&expected).enumerate() {
                let b = if contested.contains(&layer) { b.as_slice() } else { &[] };
                assert_close(a, b, &format!("{:?}, {sinks:?} sinks", config.family));
            }
            let without = ours.prefill(&ids, &BTreeSet::from([Observation::KeyNorm]), options).unwrap();
            assert_eq!(a.logits(), without.logits(), "nothing else changes");
        }
        // Longer than what either back end reads at once.
        let ids = prompt(900, 8);
        let one = Observation::Reconstruction { sinks: Some(4), chunk: 600 };
        let a = ours.prefill(&ids, &BTreeSet::from([one]), options).unwrap();
        let b = theirs.prefill(&ids, &BTreeSet::from([one]), options).unwrap();
        let (a, b) = (seen(&a.observations().layers, one), seen(&b.observations().layers, one));
        for (a, b) in a.iter().zip(&b) {
            assert_close(a, b, "long parts");
            assert!(
                a.chunks(900)
                    .all(|row| row[..4].iter().all(|&x| x == UNJUDGED) && row[4..].iter().all(|&x| x > 0.0))
            );
        }
    }
}

#[test]
fn a_second_pass_does_not_depend_on_threads() {
    let model = model(&configs()[0]);
    let request = repeat_request();
    let wanted = BTreeSet::from([Observation::Reconstruction { sinks: None, chunk: 300 }]);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let options = PrefillOptions { repeat: Some(&request), ..PrefillOptions::default() };
        pool.install(|| model.prefill(&prompt(500, 1), &wanted, options).unwrap())
            .observations()
            .layers
            .clone()
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn a_second_pass_needs_a_request_and_room_and_can_be_stopped() {
    fn run<B: Backend>(
        model: &Session<B>,
        len: usize,
        request: Option<&RepeatRequest>,
    ) -> Result<(), EngineError> {
        let wanted = BTreeSet::from([Observation::Reconstruction { sinks: None, chunk: 40 }]);
        let options = PrefillOptions { repeat: request, ..PrefillOptions::default() };
        model.prefill(&prompt(len, 4), &wanted, options).map(|_| ())
    }
    let request = repeat_request();
    let config = ModelConfig { max_positions: 154, ..configs()[0].clone() };
    let tight = model(&config);
    assert!(matches!(run(&tight, 100, None), Err(EngineError::NoRepeatRequest)));
    // Behind 100 tokens: 4 and 8 that ask for the second part, 2 that end the request, and 40.
    assert!(run(&tight, 100, Some(&request)).is_ok());
    let error = run(&tight, 101, Some(&request)).unwrap_err().to_string();
    assert!(
        error.contains("101 tokens") && error.contains("up to 54 tokens") && error.contains("154"),
        "{error}"
    );

    fn looks<B: Backend>(session: impl Fn() -> Session<B>, request: &RepeatRequest) -> usize {
        let stops = |looks: &usize| {
            let mut session = session();
            session.cancel = Cancel::after(*looks);
            let result = run(&session, 100, Some(request));
            assert!(matches!(result, Ok(()) | Err(EngineError::Interrupted)));
            result.is_ok()
        };
        (0..).find(stops).unwrap()
    }
    let plain = &configs()[0];
    // Three parts of three layers each.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert!(pool.install(|| looks(|| model(plain), &request)) > 3 * 3 + 3 * 2);
    assert_eq!(looks(|| reference(plain), &request), 3 + 3 * 3 * 2);
}

/// A cache whose kept keys close ranks is that of a prompt which never had the others, where nothing before them changed
/// their numbers: in the first layer. Behind it, both back ends agree.
#[test]
fn renumbered_entries_stand_at_their_new_positions() {
    fn run<B: Backend>(model: &Session<B>, ids: &[u32], kept: &[u32]) -> (Vec<f32>, Vec<Decoded>) {
        let config = &model.config;
        let prefill = read(model, ids);
        let heads = vec![kept.to_vec(); config.kv_heads];
        let selection = Selection {
            granularity: Granularity::KvHead,
            layers: vec![LayerSelection::Heads(heads); config.layers],
        };
        let mut cache = model.backend.fork(&prefill.prompt, &selection, 1, 0).unwrap();
        model.backend.renumber(&mut cache, &selection).unwrap();
        assert_eq!(model.backend.held(&cache).layers, vec![vec![kept.len(); config.kv_heads]; config.layers]);
        let mut first = Vec::new();
        let mut look = |layer: usize, rows: &[f32]| {
            if layer == 0 {
                first = rows.to_vec();
            }
        };
        let mut tap = Tap { rows: Some(&mut look), shadow: None };
        let mut rows = [Extend { cache: &mut cache, tokens: &[7], masked: None }];
        model.backend.extend(&mut rows, Some(&mut tap), &Cancel::default()).unwrap();
        let one = Sequence { renumbered: true, ..sequence(&prefill, selection, 4) };
        let plain = Sequence { renumbered: false, ..one.clone() };
        (first, decode(model, &[one, plain]))
    }
    for config in configs() {
        let (ours, theirs) = (model(&config), reference(&config));
        let ids = prompt(40, 5);
        let kept: Vec<u32> = vec![0, 3, 4, 17, 30, 38, 39];
        let (rows, answers) = run(&ours, &ids, &kept);
        let (other_rows, other_answers) = run(&theirs, &ids, &kept);
        // The same tokens as a prompt of their own: in the first layer keys depend on token and position alone.
        let short: Vec<u32> = kept.iter().map(|&position| ids[position as usize]).collect();
        let all: Vec<u32> = (0..short.len() as u32).collect();
        let (expected, _) = run(&ours, &short, &all);
        assert_close(&rows, &expected, "attention of the first layer");
        assert_close(&other_rows, &expected, "the same by candle");
        for (a, b) in answers.iter().zip(&other_answers) {
            assert_close(a.logits.as_ref().unwrap(), b.logits.as_ref().unwrap(), "answers");
        }
        assert_ne!(answers[0].logits, answers[1].logits, "two sequences, not one computed once");
    }
}

#[test]
fn what_reads_the_question_is_told_how_long_it_is() {
    let model = model(&configs()[0]);
    let asked = [None, Some(9)].map(|window| Observation::QuestionSum { window });
    let prefill = |wanted: &[Observation], question| {
        let options = PrefillOptions { question, ..PrefillOptions::default() };
        model.prefill(&prompt(60, 2), &wanted.iter().copied().collect(), options)
    };
    assert!(matches!(prefill(&asked[..1], None), Err(EngineError::NoQuestion)));
    let given = prefill(&asked[1..], None).unwrap();
    for wanted in [&asked[..1], &asked] {
        let seen = prefill(wanted, Some(9)).unwrap();
        for (seen, given) in seen.observations().layers.iter().zip(&given.observations().layers) {
            assert_eq!(seen.len(), wanted.len());
            assert!(wanted.iter().all(|one| seen[one] == given[&asked[1]]));
            let Observed::Rows { columns, .. } = &seen[&asked[0]] else { panic!() };
            assert_eq!(*columns, 51);
        }
    }
}

/// Both heads of every layer differ by much: what is padded to the longest, and what to whole panels, shows.
#[test]
fn held_bytes_are_those_of_the_buffers() {
    /// Bytes of a ragged selection, and of one that reads the shared prompt.
    fn held<B: Backend>(model: &Session<B>) -> [usize; 2] {
        let prefill = read(model, &prompt(120, 4));
        let layers = model.config.layers;
        let heads = LayerSelection::Heads(vec![vec![7], (0..100).collect()]);
        let ragged = Selection { granularity: Granularity::KvHead, layers: vec![heads; layers] };
        let decoded = decode(model, &[ragged, everything(layers)].map(|one| sequence(&prefill, one, 1)));
        assert_eq!(decoded[0].held.layers, vec![vec![1, 100]; layers]);
        [0, 1].map(|i| decoded[i].held.bytes as usize / layers)
    }
    let config = &configs()[0];
    let (heads, dim) = (config.kv_heads, config.head_dim);
    // Keys in panels of 32 entries, values as they are.
    assert_eq!(held(&model(config)), [((32 + 1) + (128 + 100)) * dim * 4, heads * (128 + 120) * dim * 4]);
    // Two heads of 100 keys and values each.
    assert_eq!(held(&reference(config)), [2 * 2 * 100 * dim * 4, heads * 2 * 120 * dim * 4]);
}

#[test]
fn numbers_that_are_not_finite_are_told_with_layer_and_position() {
    let config = &llama_config([VOCAB, 64, 96, 3, 8, 2]);
    /// What `broken` says of a prompt, or of an answer to a prompt that `whole` has read: so the answer is the first to
    /// meet the bad weights.
    fn place<B: Backend>(broken: &Session<B>, whole: &Session<B>, decoding: bool) -> (Stage, usize) {
        let ids: Vec<u32> = (0..100).map(|i| i % 7).collect();
        let reader = if decoding { whole } else { broken };
        let prefill = reader.prefill(&ids, &BTreeSet::new(), PrefillOptions::default());
        let answer = prefill.and_then(|prefill| {
            broken.decode(&[sequence(&Arc::new(prefill), everything(3), 4)], &mut |_| ())
        });
        match answer {
            Err(EngineError::NotFinite { stage, position, .. }) => (stage, position),
            other => panic!("{other:?}"),
        }
    }
    let told = |damage: &dyn Fn(&mut ModelWeights), decoding: bool| {
        let mut weights = random_weights(config, 3).unwrap();
        damage(&mut weights);
        let broken = Session::<Cpu>::from_weights("broken", config.clone(), &weights).unwrap();
        [
            place(&broken, &model(config), decoding),
            place(&on_candle(config, &weights, DType::F32), &reference(config), decoding),
        ]
    };
    let set = |tensor: &mut Tensor, at: usize, value: f32| {
        let shape = tensor.shape().clone();
        let mut values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values[at] = value;
        *tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    };
    for value in [f32::NAN, f32::INFINITY] {
        for decoding in [false, true] {
            let at = |position: usize| if decoding { 100 } else { position };
            // One bad weight of a query projection: softmax kernels swallow the NaN.
            let [ours, theirs] = told(&|weights| set(&mut weights.layers[1].q.weight, 5, value), decoding);
            assert_eq!(ours, (Stage::Layer(1), at(0)));
            // On candle's path it shows in the keys of the layer behind.
            assert_eq!(theirs, (Stage::Layer(2), at(0)));
            let [ours, theirs] = told(&|weights| set(&mut weights.layers[1].k.weight, 5, value), decoding);
            assert_eq!((ours, theirs), ((Stage::Layer(1), at(0)), (Stage::Layer(1), at(0))));
            let [ours, theirs] = told(&|weights| set(&mut weights.layers[1].down.weight, 5, value), decoding);
            assert_eq!((ours, theirs), ((Stage::Layer(1), at(0)), (Stage::Layer(2), at(0))));
            let output = told(&|weights| set(weights.lm_head.as_mut().unwrap(), 5, value), decoding);
            assert_eq!(output, [(Stage::Output, if decoding { 100 } else { 99 }); 2]);
        }
        // The embedding of one token: its first position, 6 in the prompt.
        let embedding = told(&|weights| set(&mut weights.embedding, 6 * config.hidden_size, value), false);
        assert_eq!(embedding, [(Stage::Layer(0), 6); 2]);
    }
    // Finite weights whose activations overflow.
    let large = |weights: &mut ModelWeights| {
        weights.layers[2].down.weight = (&weights.layers[2].down.weight * 1e30).unwrap();
        weights.layers[2].up.weight = (&weights.layers[2].up.weight * 1e30).unwrap();
    };
    let [ours, theirs] = told(&large, false);
    // Behind the last layer only the last position is computed.
    assert_eq!((ours.0, theirs.0), (Stage::Layer(2), Stage::Output));
    assert_eq!((ours.1, theirs.1), (99, 99));
}

/// Activations that f32 holds and f16 does not.
#[test]
fn an_overflow_in_f16_is_told() {
    let config = &configs()[0];
    let mut weights = random_weights(config, 3).unwrap();
    weights.layers[0].o.weight = (&weights.layers[0].o.weight * 1e5).unwrap();
    let run = |dtype| {
        let model = on_candle(config, &weights, dtype);
        model.prefill(&prompt(20, 4), &BTreeSet::new(), PrefillOptions::default())
    };
    assert!(run(DType::F32).is_ok());
    let error = run(DType::F16).unwrap_err().to_string();
    assert!(error.contains("at position") && error.contains("`--dtype f32`"), "{error}");
}

#[test]
fn an_answer_beyond_the_positions_is_refused() {
    let config = ModelConfig { max_positions: 22, ..configs().remove(0) };
    let model = model(&config);
    let prefill = read(&model, &prompt(20, 4));
    let run = |max_new| model.decode(&[sequence(&prefill, everything(config.layers), max_new)], &mut |_| ());
    assert!(run(2).is_ok());
    let error = run(3).unwrap_err().to_string();
    let expected = "20 prompt tokens and 3 new ones need more than the 22 positions";
    assert!(error.contains(expected), "{error}");
}

/// A layer that looks through a window computes what a whole prompt of that length would show it, and holds no more.
#[test]
fn a_windowed_layer_sees_and_holds_its_window() {
    fn check<B: Backend>(model: impl Fn(&ModelConfig) -> Session<B>) {
        // One layer: what lies before its window is nowhere.
        let one = llama_config([VOCAB, 64, 96, 1, 8, 2]);
        let windowed = ModelConfig { sliding: Some(slides(37, &[true])), ..one.clone() };
        let (all, windowed) = (model(&one), model(&windowed));
        let ids = prompt(150, 4);
        let long = read(&windowed, &ids);
        let of = |ids: &[u32]| read(&all, ids).logits().to_vec();
        assert_close(long.logits(), &of(&ids[150 - 37..]), "prefill");
        assert!(long.logits().iter().zip(of(&ids)).any(|(a, b)| (a - b).abs() > 0.1), "the window shows");
        let new = decode(&windowed, &[sequence(&long, everything(1), 60)]).remove(0);
        assert_eq!(new.held.layers, [[36, 36]], "what the next token looks at");
        let mut text = [&ids[..], &new.ids].concat();
        text.truncate(150 + 59);
        for (step, logits) in new.logits.unwrap().chunks(VOCAB).enumerate() {
            assert_close(logits, &of(&text[150 + step - 37..150 + step]), &format!("step {step}"));
        }
        // Kept entries leave the window one by one.
        let kept = vec![vec![114, 120, 130, 131], vec![149]];
        let kept = Selection { granularity: Granularity::KvHead, layers: vec![LayerSelection::Heads(kept)] };
        let part = decode(&windowed, &[sequence(&long, kept, 60)]).remove(0);
        assert_eq!(part.held.layers, [[4, 1]]);
        let text = [&ids[..], &part.ids].concat();
        let last = part.logits.unwrap();
        assert_close(
            &last[59 * VOCAB..],
            &of(&text[150 + 59 - 37..150 + 59]),
            "nothing kept is seen any more",
        );
    }
    check(model);
    check(reference);
}

/// Beside layers that look at everything a layer with a window is left alone, also while an answer grows; alone it is not
/// cut again once something left the window.
#[test]
fn answers_cut_again_beside_windows() {
    let streaming = MethodSpec::parse("streamingllm[interval=8]", &[], None).unwrap().at(12).unwrap();
    fn run<B: Backend>(model: &Session<B>, variant: &Variant) -> crate::error::Result<Decoded> {
        let prefill = read(model, &prompt(90, 4));
        let mut state = MethodState::default();
        let selection =
            variant.select(prefill.shape(), prefill.observations(), &Inputs::default(), &mut state).unwrap();
        let again = Some(Arc::new(variant.clone()));
        let one = Sequence { again, ..sequence(&prefill, selection, 40) };
        Ok(model.decode(&[one], &mut |_| ())?.remove(0))
    }
    let [windows, gemma] = [3, 4].map(|i| configs().remove(i));
    assert_eq!(gemma.reach(1), Reach::Window(20));
    let (ours, theirs) =
        (run(&model(&gemma), &streaming).unwrap(), run(&reference(&gemma), &streaming).unwrap());
    assert_eq!(ours.held.layers, [[19, 19], [19, 19], [12, 12], [19, 19]]);
    assert_eq!((&ours.ids, &ours.held.layers), (&theirs.ids, &theirs.held.layers));
    assert_close(&ours.logits.unwrap(), &theirs.logits.unwrap(), "logits");
    let error = run(&model(&windows), &streaming).unwrap_err().to_string();
    assert!(
        error.starts_with("`interval` is not computed where every layer looks through a window, here of 37")
    );
}

#[test]
fn calibration_sees_rows_and_errors() {
    type Rows = Vec<(usize, usize, Vec<f32>)>;
    fn run<B: Backend>(model: &Session<B>) -> (Rows, Vec<f64>) {
        let config = &model.config;
        let ids = prompt(50, 8);
        let rule = DecodeRule { max_new: 4, ..DecodeRule::default() };
        let prefill = read(model, &ids[..49]);
        let mut seen = Vec::new();
        let decoded = model
            .decode_with_attention(&prefill, Some(ids[49]), &rule, None, &mut |step, layer, rows| {
                let entries = 49 + step + 1;
                assert_eq!(rows.len(), config.query_heads * entries);
                for row in rows.chunks_exact(entries) {
                    assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                }
                seen.push((step, layer, rows.to_vec()));
            })
            .unwrap();
        assert_eq!(seen.len(), 4 * config.layers);
        let whole = read(model, &ids);
        let window = vec![(40..50).collect(); config.kv_heads];
        let selection = Selection {
            granularity: Granularity::KvHead,
            layers: vec![LayerSelection::Heads(window); config.layers],
        };
        let (errors, plain) = model.layer_errors(&whole, &selection, &rule).unwrap();
        assert_eq!(plain.ids, decoded.ids);
        let (nothing, _) = model.layer_errors(&whole, &everything(config.layers), &rule).unwrap();
        assert_eq!(nothing, vec![0.0; config.layers]);
        (seen, errors)
    }
    for config in configs() {
        let (ours, theirs) = (run(&model(&config)), run(&reference(&config)));
        for (a, b) in ours.0.iter().zip(&theirs.0) {
            assert_eq!((a.0, a.1), (b.0, b.1));
            assert_close(&a.2, &b.2, "attention rows");
        }
        for (a, b) in ours.1.iter().zip(&theirs.1) {
            assert!(*a > 0.01 && (a - b).abs() < 1e-4 * a, "layer error {a} {b}");
        }
    }
}
