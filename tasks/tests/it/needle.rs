//! Needle prompts of every variant with the real texts and essays.

use kvsweep_tasks::mini::{NeedleTrial, SUITE_SEED};
use kvsweep_tasks::needle::{Essays, NeedleGrading, cases, mini_case, variants};
use kvsweep_tasks::{ModelFacts, ModelText};

use crate::shared::{HubText, shared};

fn essays() -> Option<Essays> {
    Some(Essays::read(&shared()?.join("data/paul_graham_essays")).unwrap())
}

fn facts(name: &str) -> ModelFacts {
    ModelFacts { name: name.into(), max_positions: 131_072, eos_ids: vec![2], ..ModelFacts::default() }
}

/// Where the needle lies in per cent of the prompt.
fn places(
    variant: &str,
    folder: &'static str,
    name: &str,
    length: usize,
    depths: &[u32],
) -> Option<Vec<usize>> {
    let (essays, text) = (essays()?, HubText::load(folder)?);
    let variant = variants::by_name(variant).unwrap();
    let built = cases(variant, &facts(name), &[length], depths, &essays, &text).unwrap();
    let sentence = variants::NEEDLE.trim();
    Some(
        built
            .iter()
            .map(|case| {
                let span = case.prompt.needle.clone().unwrap();
                let text = text.decode(&case.prompt.ids[span.clone()], true).unwrap();
                assert!(text.contains(sentence), "{text:?}");
                assert!(text.len() < sentence.len() + 12, "{text:?}");
                assert_eq!(case.prompt.text.matches(sentence).count(), 1);
                assert!(case.prompt.ids.len() < length + 60, "{} tokens for {length}", case.prompt.ids.len());
                span.start * 100 / case.prompt.ids.len()
            })
            .collect(),
    )
}

#[test]
fn needles_lie_where_each_repository_puts_them() {
    let depths = [0, 11, 50, 89, 100];
    let near = |places: &[usize], wanted: [usize; 5]| {
        assert!(places.iter().zip(wanted).all(|(p, w)| p.abs_diff(w) <= 5), "{places:?}, wanted {wanted:?}");
    };
    let by_depth = [1, 11, 48, 87, 97];
    let llama = "meta-llama/Meta-Llama-3-8B-Instruct";
    for variant in
        ["kvsweep-1", "gkamradt", "kvcache-factory", "headkv", "compresskv", "compresskv-corrected"]
    {
        let Some(places) = places(variant, "llama3", llama, 2000, &depths) else { return };
        near(&places, by_depth);
    }
    // CompressKV's periods for Mistral-v0.3 are BOS and a piece that hardly occurs: only depth 100 is right.
    let v3 = "mistralai/Mistral-7B-Instruct-v0.3";
    near(&places("compresskv", "mistral_v3", v3, 2000, &depths).unwrap(), [1, 1, 1, 1, 97]);
    near(&places("compresskv-corrected", "mistral_v3", v3, 2000, &depths).unwrap(), by_depth);
    // The hard-coded periods fit the vocabulary of v0.2 and not that of v0.3.
    let v2 = "mistralai/Mistral-7B-Instruct-v0.2";
    near(&places("kvcache-factory", "mistral_v1", v2, 2000, &depths).unwrap(), by_depth);
    assert!(places("kvcache-factory", "mistral_v3", v3, 2000, &depths).unwrap()[3] < 50);
    near(&places("kvsweep-1", "mistral_v3", v3, 2000, &depths).unwrap(), by_depth);
}

#[test]
fn prompts_hold_the_bos_tokens_of_their_repository() {
    let (Some(essays), Some(text)) = (essays(), HubText::load("llama3")) else { return };
    let model = facts("meta-llama/Llama-3.1-8B-Instruct");
    for (name, bos) in
        [("compresskv", 4), ("headkv", 4), ("kvcache-factory", 1), ("gkamradt", 1), ("kvsweep-1", 1)]
    {
        let variant = variants::by_name(name).unwrap();
        let case = &cases(variant, &model, &[2000], &[44], &essays, &text).unwrap()[0];
        let count = case.prompt.ids.iter().filter(|id| Some(**id) == text.bos_id()).count();
        assert_eq!(count, bos, "{name}");
        assert_eq!(case.key, "needle#2000-44");
        if name == "kvsweep-1" {
            assert!((1980..=2000).contains(&case.prompt.ids.len()), "{}", case.prompt.ids.len());
        }
    }
    let ours = variants::by_name("kvsweep-1").unwrap();
    let fails = |length, depth| cases(ours, &model, &[length], &[depth], &essays, &text).unwrap_err();
    assert!(fails(30, 0).to_string().contains("leaves no context"));
    assert!(fails(131_072, 0).to_string().contains("positions"));
    assert!(fails(1000, 101).to_string().contains("above 100"));
}

#[test]
fn mini_needles_are_found_and_graded() {
    let Some(text) = HubText::load("llama3") else { return };
    let trial = NeedleTrial { seed: SUITE_SEED, length: 512, depth: 50, number: 1 };
    let case = mini_case(trial, false, &facts("tiny"), &text).unwrap();
    let span = case.prompt.needle.clone().unwrap();
    assert!(text.decode(&case.prompt.ids[span.clone()], true).unwrap().contains(case.answer.trim()));
    assert!((30..70).contains(&(span.start * 100 / case.prompt.ids.len())), "{span:?}");
    assert!((450..=512 - 16).contains(&case.prompt.ids.len()), "{}", case.prompt.ids.len());
    assert_eq!(NeedleGrading::Exact.score(&case.expected, &case).unwrap(), 1.0);
    assert_eq!(NeedleGrading::Exact.score("something else", &case).unwrap(), 0.0);
    assert!(mini_case(trial, false, &ModelFacts::default(), &text).is_err());
    // Whatever length a refusal advises is accepted, with any other needle.
    let at = |length, number| {
        let trial = NeedleTrial { length, number, ..trial };
        mini_case(trial, false, &facts("tiny"), &text)
    };
    for short in [0, 1, 16, 40] {
        let message = at(short, 1).unwrap_err().to_string();
        let advised: usize = message.rsplit(' ').next().unwrap().parse().unwrap();
        for number in 0..50 {
            assert!(at(advised, number).unwrap().prompt.ids.len() + 16 <= advised, "{message}");
        }
    }
    let alone = mini_case(trial, true, &facts("tiny"), &text).unwrap();
    assert_eq!((alone.prompt.needle, alone.expected), (None, case.expected.clone()));
    assert!(
        !alone.prompt.text.contains(&case.expected) && alone.prompt.ids.len() < 64,
        "{}",
        alone.prompt.text
    );
    let ours = NeedleGrading::Variant(variants::by_name("compresskv").unwrap());
    let others = ours.others(variants::NEEDLE, &case).unwrap();
    assert_eq!(others.len(), 1, "{others:?}");
}
