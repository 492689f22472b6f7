//! `kvsweep calibrate heads`: which heads look at what the answer stands in.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Context;
use kvsweep_engine::backend::Backend;
use kvsweep_engine::decode::DecodeRule;
use kvsweep_engine::model::Model;
use kvsweep_engine::prefill::PrefillOptions;
use kvsweep_engine::session::Session;
use kvsweep_methods::identify::{HeadKind, RowReading};
use kvsweep_methods::inputs::{HeadScores, InputKind};
use kvsweep_plots::head::{self, HeadMap, Kind};
use kvsweep_results::visible;
use kvsweep_tasks::{ModelFacts, ModelText};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use super::{finish, identity, parts_file, tell_apart};
use crate::calibration;
use crate::cli::{CalibrateArgs, HeadKindArg};
use crate::detection::{self, Haystacks, NeedleTest};
use crate::exit::{Exit, usage};
use crate::model::{TINY, TextSide};
use crate::pass::Pass;
use crate::{destination, output, stop};

/// New tokens of a needle test.
const MAX_NEW: usize = 50;

/// One needle test's outcome.
#[derive(Serialize, Deserialize)]
struct Outcome {
    passed: bool,
    /// `[layer][head]`; empty where the test did not pass.
    scores: Vec<Vec<f64>>,
    /// What the model answered; `None` where it was not asked, since the prompt has not the needle's tokens.
    response: Option<String>,
}

/// Measures.
///
/// # Errors
/// Needle tests that do not fit the model, or of which none passes; another process at work on the same pass.
pub(super) fn run<B: Backend>(args: &CalibrateArgs, model: &Session<B>) -> anyhow::Result<Exit> {
    let (kind, input, title) = match args.kind {
        Some(HeadKindArg::Retrieval) => (HeadKind::Retrieval, InputKind::RetrievalScores, "Retrieval heads"),
        Some(HeadKindArg::Reasoning) => {
            (HeadKind::Reasoning, InputKind::ReasoningScores, "Retrieval-reasoning heads")
        }
        Some(HeadKindArg::Semantic) => {
            (HeadKind::Semantic, InputKind::HeadRanking, "Semantic retrieval heads")
        }
        None => return Err(usage("`calibrate heads` needs --kind retrieval, reasoning or semantic")),
    };
    let text = TextSide::new(model)?;
    let facts = crate::model::facts(model);
    let haystacks = match &args.data {
        Some(dir) => Haystacks::read(dir)?,
        None => Haystacks::Mini { seed: args.seed },
    };
    let lengths = lengths(args, model, kind)?;
    let depths: Vec<u32> =
        detection::linspace(0, 100, args.depths).into_iter().map(|depth| depth as u32).collect();
    let tests = haystacks.tests(kind, &lengths, &depths, &facts, &text)?;
    for test in &tests {
        let fits = model.check_prompt(&test.ids, MAX_NEW);
        fits.with_context(|| format!("needle test `{}`; `--lengths` chooses shorter ones", test.key))?;
    }
    let mut rule = stop::of_a_turn(MAX_NEW, &facts, &text)?;
    rule.stop_ids.extend(text.encode("\n", false)?.last());
    let mut params = Map::new();
    params.insert("kind".to_owned(), json!(kind));
    params.insert("lengths".to_owned(), json!(lengths));
    params.insert("depths".to_owned(), json!(depths));
    params.insert("max_new".to_owned(), json!(MAX_NEW));
    params.insert("haystack".to_owned(), json!(args.data.as_ref().map_or("mini", |_| "folder")));

    let output = args.output.clone().unwrap_or_else(|| calibration::default_path(model, input));
    let identity = identity(model, &haystacks.sha256(), &params)?;
    let mut pass = Pass::<Outcome>::resume(parts_file(&output, model, input), &identity)?;
    for (index, test) in tests.iter().enumerate() {
        if pass.get(&test.key).is_some() {
            continue;
        }
        let outcome = test_heads(model, &facts, &text, kind, test, &rule)
            .with_context(|| format!("needle test `{}`", test.key))?;
        let told = if outcome.passed { "passed" } else { "not passed" };
        pass.push(&test.key, outcome)?;
        output::note(&format!("{}/{} tests: {told}", index + 1, tests.len()));
    }
    let outcomes = || tests.iter().filter_map(|test| Some((test, pass.get(&test.key)?)));
    let passed: Vec<&Outcome> =
        outcomes().map(|(_, outcome)| outcome).filter(|outcome| outcome.passed).collect();
    if passed.is_empty() {
        let asked = outcomes().find_map(|(test, outcome)| Some((test, outcome.response.as_ref()?)));
        anyhow::bail!(
            "none of {} needle tests passed, so the heads cannot be told apart; nothing was written\n{}\n\
             hint: ask what it can answer: `{} --data DIR`, where DIR has needles in natural text (docs/calibration.md), or \
             shorter --lengths",
            tests.len(),
            match asked {
                Some((test, response)) => format!(
                    "`{}`: expected `{}`, answered `{}`",
                    test.key,
                    visible(test.answer.trim()),
                    visible(response.trim())
                ),
                None => "no prompt holds the tokens of its needle".to_owned(),
            },
            calibration::command(input, &args.model).unwrap_or_default(),
        );
    }
    params.insert("passed".to_owned(), json!(passed.len()));
    params.insert("tests".to_owned(), json!(tests.len()));
    let lists = HeadScores {
        lists: (0..model.config.layers)
            .map(|layer| {
                (0..model.config.query_heads)
                    .map(|head| passed.iter().map(|outcome| outcome.scores[layer][head]).collect())
                    .collect()
            })
            .collect(),
    };
    let means = lists.means();
    tell_apart("heads", means.iter().flatten())?;
    if let Some(path) = &args.map {
        let picture = head::draw(&HeadMap {
            title: title.to_owned(),
            subtitle: format!(
                "{}{} · {} of {} needle tests passed",
                if model.name == TINY { "embedded model " } else { "" },
                model.name,
                passed.len(),
                tests.len()
            ),
            kind: Kind::Importance,
            heads: "Query head".to_owned(),
            values: means,
            group: model.config.query_heads / model.config.kv_heads,
        })?;
        destination::write_picture(path, &picture)?;
    }
    finish(args, model, input, haystacks.sha256(), params, lists.write(), &output)?;
    pass.remove()?;
    Ok(Exit::Done)
}

/// Decodes one needle test with the whole cache, and scores every head's attention rows.
fn test_heads<B: Backend>(
    model: &Session<B>,
    facts: &ModelFacts,
    text: &TextSide<'_>,
    kind: HeadKind,
    test: &NeedleTest,
    rule: &DecodeRule,
) -> anyhow::Result<Outcome> {
    let (layers, heads) = (model.config.layers, model.config.query_heads);
    let refused = |response| Outcome { passed: false, scores: Vec::new(), response };
    let (Some((&last, rest)), Some(span)) = (test.ids.split_last(), &test.span) else {
        return Ok(refused(None));
    };
    if rest.is_empty() {
        return Ok(refused(None));
    }
    let prefill = Arc::new(model.prefill(rest, &BTreeSet::new(), PrefillOptions::default())?);
    // `[step][layer][head]`; the token that a step produces is only known after its rows.
    let mut readings: Vec<Vec<Vec<RowReading>>> = Vec::new();
    let decoded =
        model.decode_with_attention(&prefill, Some(last), rule, None, &mut |step, layer, values| {
            if readings.len() <= step {
                readings.resize_with(step + 1, || vec![Vec::new(); layers]);
            }
            if let Some(slot) = readings.get_mut(step).and_then(|step| step.get_mut(layer)) {
                let rows = values.chunks_exact((values.len() / heads).max(1)).take(heads);
                *slot = rows.map(|row| RowReading::of(kind, &test.ids, span, row)).collect();
            }
        })?;
    let response = facts.transformers_text(text.decode(&decoded.ids, true)?);
    if !detection::passes(kind, &response, &test.answer)? {
        return Ok(refused(Some(response)));
    }
    let mut produced = decoded.ids.clone();
    produced.extend(decoded.stopped_by);
    let mut scores = vec![vec![0.0; heads]; layers];
    for (step, &token) in readings.iter().zip(&produced) {
        for (layer, readings) in step.iter().enumerate() {
            for (head, reading) in readings.iter().enumerate() {
                scores[layer][head] += reading.score(&test.ids, span, token);
            }
        }
    }
    Ok(Outcome { passed: true, scores, response: Some(response) })
}

/// `N:FROM..TO`, or what suits the kind and the model's positions.
fn lengths(args: &CalibrateArgs, model: &Model, kind: HeadKind) -> anyhow::Result<Vec<usize>> {
    let room = model.config.max_positions.saturating_sub(MAX_NEW);
    let (n, from, to) = match &args.lengths {
        Some(text) => {
            let bad = || usage(format!("`--lengths {text}`: expected N:FROM..TO, e.g. 20:1000..4000"));
            let (n, range) = text.split_once(':').ok_or_else(bad)?;
            let (from, to) = range.split_once("..").ok_or_else(bad)?;
            let number = |text: &str| text.parse::<usize>().map_err(|_| bad());
            (number(n)?, number(from)?, number(to)?)
        }
        None if args.data.is_none() => (8, 256, 2048.min(room)),
        // The papers' grids, cut to the model's positions: RH and CompressKV 20 lengths to 50000, HeadKV-R2 5 to 10000.
        None if kind == HeadKind::Reasoning => (5, 0, 10_000.min(room)),
        None => (20, 1000.min(room), 50_000.min(room)),
    };
    if n == 0 || from > to || to > room {
        return Err(usage(format!(
            "needle lengths {n}:{from}..{to} do not fit: model `{}` has room for prompts of {room} tokens",
            model.name
        )));
    }
    if n > to - from + 1 {
        return Err(usage(format!(
            "needle lengths {n}:{from}..{to}: there are only {} of them",
            to - from + 1
        )));
    }
    Ok(detection::linspace(from, to, n))
}
