//! `kvsweep calibrate heads|layers`: the per-model inputs of HeadKV and CompressKV, for any model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use kvsweep_engine::backend::Backend;
use kvsweep_engine::decode::DecodeRule;
use kvsweep_engine::error::EngineError;
use kvsweep_engine::model::Model;
use kvsweep_engine::prefill::PrefillOptions;
use kvsweep_engine::session::Session;
use kvsweep_engine::with_session;
use kvsweep_methods::identify::{self, HeadKind, RowReading};
use kvsweep_methods::inputs::{Calibration, HeadScores, InputKind, Inputs, LayerScores};
use kvsweep_methods::method::MethodState;
use kvsweep_methods::spec::MethodSpec;
use kvsweep_plots::head::{self, HeadMap, Kind};
use kvsweep_tasks::path::last_component;
use kvsweep_tasks::protocol;
use kvsweep_tasks::{ModelFacts, Tokenizer, datasets, mini};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::calibration::{self, Calibrations};
use crate::cli::{CalibrateArgs, CalibrateWhat, HeadKind as KindArg};
use crate::detection::{self, Source};
use crate::exit::{Exit, usage};
use crate::model::{TINY, TextSide};
use crate::pass::{Identity, Pass};
use crate::questions::Question;
use crate::{destination, interrupt, kept, output, provenance, questions};

/// New tokens of a needle test.
const MAX_NEW: usize = 50;

/// The seed of the rows that layer errors are measured on; the suite itself has another.
const LAYER_ROWS_SEED: u64 = 1_000_003;

/// Runs the command.
pub fn run(args: &CalibrateArgs) -> anyhow::Result<Exit> {
    check(args)?;
    let session = args.model.load()?;
    interrupt::listen()?;
    let done = match args.what {
        CalibrateWhat::Heads => with_session!(&session, session => heads(args, session)),
        CalibrateWhat::Layers => with_session!(&session, session => layers(args, session)),
    };
    match done {
        Err(error) if matches!(error.downcast_ref(), Some(EngineError::Interrupted)) => {
            output::note("run the same command again to continue");
            Ok(Exit::Interrupted)
        }
        done => done,
    }
}

/// What needs no model.
fn check(args: &CalibrateArgs) -> anyhow::Result<()> {
    if args.limit == Some(0) {
        return Err(usage("--limit 0 selects nothing; give at least 1"));
    }
    if !(1..=101).contains(&args.depths) {
        return Err(usage(format!("`--depths {}`: expected a number of depths from 1 to 101", args.depths)));
    }
    let CalibrateArgs { what, kind, data, lengths, limit, map, .. } = args;
    match what {
        CalibrateWhat::Heads if limit.is_some() => {
            return Err(usage(
                "--limit belongs to `calibrate layers`; --lengths and --depths choose the needle tests",
            ));
        }
        CalibrateWhat::Layers if kind.is_some() || data.is_some() || lengths.is_some() || map.is_some() => {
            return Err(usage("--kind, --data, --lengths and --map belong to `calibrate heads`"));
        }
        _ => {}
    }
    let on_stdout = |path: &Option<PathBuf>| path.as_deref().is_some_and(destination::is_stdout);
    if on_stdout(&args.output) && on_stdout(&args.map) {
        return Err(usage("--output and --map both write to stdout; give one of them a file"));
    }
    Ok(())
}

/// One needle test's outcome.
#[derive(Serialize, Deserialize)]
struct Outcome {
    passed: bool,
    /// `[layer][head]`; empty where the test did not pass.
    scores: Vec<Vec<f64>>,
}

fn heads<B: Backend>(args: &CalibrateArgs, model: &Session<B>) -> anyhow::Result<Exit> {
    let (kind, input, title) = match args.kind {
        Some(KindArg::Retrieval) => (HeadKind::Retrieval, InputKind::RetrievalScores, "Retrieval heads"),
        Some(KindArg::Reasoning) => {
            (HeadKind::Reasoning, InputKind::ReasoningScores, "Retrieval-reasoning heads")
        }
        Some(KindArg::Semantic) => (HeadKind::Semantic, InputKind::HeadRanking, "Semantic retrieval heads"),
        None => return Err(usage("`calibrate heads` needs --kind retrieval, reasoning or semantic")),
    };
    let text = TextSide::new(model)?;
    let facts = crate::model::facts(model);
    let source = match &args.data {
        Some(dir) => Source::read(dir)?,
        None => Source::Mini { seed: args.seed },
    };
    let lengths = lengths(args, model, kind)?;
    let depths: Vec<u32> =
        detection::linspace(0, 100, args.depths).into_iter().map(|depth| depth as u32).collect();
    let tests = source.tests(kind, &lengths, &depths, &facts, &text)?;
    let mut params = Map::new();
    params.insert("kind".to_owned(), json!(kind));
    params.insert("lengths".to_owned(), json!(lengths));
    params.insert("depths".to_owned(), json!(depths));
    params.insert("max_new".to_owned(), json!(MAX_NEW));
    params.insert("haystack".to_owned(), json!(args.data.as_ref().map_or("mini", |_| "folder")));

    let output = args.output.clone().unwrap_or_else(|| calibration::default_path(model, input));
    let identity = identity(model, &source.sha256(), &params)?;
    let mut pass = Pass::<Outcome>::resume(parts_file(&output, model, input), &identity)?;
    for (index, test) in tests.iter().enumerate() {
        if pass.get(&test.key).is_some() {
            continue;
        }
        let outcome = test_heads(model, &facts, &text, kind, test)
            .with_context(|| format!("needle test `{}`", test.key))?;
        let told = if outcome.passed { "passed" } else { "not passed" };
        pass.push(&test.key, outcome)?;
        output::note(&format!("{}/{} tests: {told}", index + 1, tests.len()));
    }
    let passed: Vec<&Outcome> =
        tests.iter().filter_map(|test| pass.get(&test.key)).filter(|outcome| outcome.passed).collect();
    anyhow::ensure!(
        !passed.is_empty(),
        "none of {} needle tests passed: this model does not answer them, so its heads cannot be told apart; try shorter \
         --lengths or other --data",
        tests.len()
    );
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
    finish(args, model, input, source.sha256(), params, lists.write(), &output)?;
    pass.remove()?;
    Ok(Exit::Done)
}

/// Everything that decides a pass's numbers: program, device, every file of the model, data, settings.
fn identity(model: &Model, data_sha256: &str, params: &Map<String, Value>) -> anyhow::Result<Identity> {
    let mut identity = Identity::from([
        ("commit".to_owned(), provenance::commit()),
        ("device".to_owned(), crate::model::device_kind(model).to_owned()),
        ("dtype".to_owned(), crate::model::dtype_name(model).to_owned()),
        ("weights".to_owned(), model.weights_sha256.clone()),
        ("tokenizer.json".to_owned(), model.tokenizer()?.sha256().to_owned()),
        ("data".to_owned(), data_sha256.to_owned()),
        ("settings".to_owned(), Value::Object(params.clone()).to_string()),
    ]);
    identity.extend(model.files_sha256.clone());
    Ok(identity)
}

/// The file with the parts that are done: beside the output, where that is a file.
fn parts_file(output: &Path, model: &Model, input: InputKind) -> PathBuf {
    let beside = if destination::is_stdout(output) {
        calibration::default_path(model, input)
    } else {
        output.to_owned()
    };
    let mut path = beside.into_os_string();
    path.push(".parts");
    PathBuf::from(path)
}

/// Refuses scores from which nothing follows; a method would run on them without a word.
fn tell_apart<'a>(what: &str, scores: impl Iterator<Item = &'a f64>) -> anyhow::Result<()> {
    let scores: Vec<f64> = scores.copied().collect();
    anyhow::ensure!(
        scores.iter().all(|score| score.is_finite()),
        "a score of the {what} is no number; nothing was written"
    );
    anyhow::ensure!(
        scores.len() < 2 || scores.windows(2).any(|pair| pair[0] != pair[1]),
        "all {} {what} have the score {}, so they cannot be told apart; nothing was written\n\
         hint: measure on more or longer prompts",
        scores.len(),
        scores[0]
    );
    Ok(())
}

/// Decodes one needle test with the whole cache, and scores every head's attention rows.
fn test_heads<B: Backend>(
    model: &Session<B>,
    facts: &ModelFacts,
    text: &TextSide<'_>,
    kind: HeadKind,
    test: &detection::Test,
) -> anyhow::Result<Outcome> {
    let (layers, heads) = (model.config.layers, model.config.query_heads);
    let refused = Outcome { passed: false, scores: Vec::new() };
    let (Some((&last, rest)), Some(span)) = (test.ids.split_last(), &test.span) else { return Ok(refused) };
    if rest.is_empty() {
        return Ok(refused);
    }
    let mut rule = DecodeRule { max_new: MAX_NEW, ..DecodeRule::default() };
    rule.stop_ids = model.generation.eos_ids.iter().copied().collect();
    let newline = text.encode("\n", false).map_err(anyhow::Error::msg)?;
    rule.stop_ids.extend(newline.last());
    model.check_prompt(&test.ids, rule.max_new)?;
    let prefill = Arc::new(model.prefill(rest, &BTreeSet::new(), PrefillOptions::default())?);
    // `[step][layer][head]`; the token that a step produces is only known after its rows.
    let mut readings: Vec<Vec<Vec<RowReading>>> = Vec::new();
    let decoded =
        model.decode_with_attention(&prefill, Some(last), &rule, None, &mut |step, layer, values| {
            if readings.len() <= step {
                readings.resize_with(step + 1, || vec![Vec::new(); layers]);
            }
            if let Some(slot) = readings.get_mut(step).and_then(|step| step.get_mut(layer)) {
                let rows = values.chunks_exact((values.len() / heads).max(1)).take(heads);
                *slot = rows.map(|row| RowReading::of(kind, &test.ids, span, row)).collect();
            }
        })?;
    let response = facts.transformers_text(text.decode(&decoded.ids, true).map_err(anyhow::Error::msg)?);
    if !detection::passes(kind, &response, &test.answer)? {
        return Ok(refused);
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
    Ok(Outcome { passed: true, scores })
}

/// `N:FROM..TO`, or what suits the kind and the model's positions.
fn lengths(args: &CalibrateArgs, model: &Model, kind: HeadKind) -> anyhow::Result<Vec<usize>> {
    let room = model.config.positions().saturating_sub(MAX_NEW);
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

fn layers<B: Backend>(args: &CalibrateArgs, model: &Session<B>) -> anyhow::Result<Exit> {
    let text = TextSide::new(model)?;
    let calibrations = Calibrations::load(model, &[])?;
    let inputs = Inputs { ranking: calibrations.inputs.ranking.clone(), ..Inputs::default() };
    anyhow::ensure!(
        inputs.has(InputKind::HeadRanking),
        "layer errors are measured with the CompressKV selection, which needs a semantic head ranking of this model\n\
         hint: make it with `{}`",
        calibration::command(InputKind::HeadRanking, &args.model)
    );
    // 32 entries a layer, window 8, kernel 5, 4 heads (CompressKV, `run_longbench_get_score.sh`).
    let uniform = [("allocation".to_owned(), "uniform".to_owned())];
    let variant = MethodSpec::parse("compresskv", &uniform, None)?.at(32)?;
    let wanted: BTreeSet<_> = variant.observations().into_iter().collect();
    let protocol = protocol::by_name(protocol::DEFAULT)?;
    let facts = crate::model::facts(model);
    let output =
        args.output.clone().unwrap_or_else(|| calibration::default_path(model, InputKind::LayerScores));
    let limit = args.limit.unwrap_or(8);
    questions::check_generated(limit, "")?;
    let mut hash = Sha256::new();
    let mut rows_of = Vec::new();
    for set in mini::datasets() {
        let rows = mini::rows(set, LAYER_ROWS_SEED + args.seed, limit.max(mini::ROWS));
        hash.update(datasets::mini::sha256(&rows)?);
        rows_of.push((set, rows));
    }
    let data_sha256 = kept::hex(&hash.finalize());
    let mut params = Map::new();
    params.insert("rows_of_each_data_set".to_owned(), json!(limit));
    params.insert("budget".to_owned(), json!(32));
    params.insert("variant".to_owned(), json!(variant.id()));
    params.extend(
        calibrations
            .hashes(std::slice::from_ref(variant.spec()))
            .into_iter()
            .map(|(name, hash)| (name, json!(hash))),
    );
    let identity = identity(model, &data_sha256, &params)?;
    let mut pass = Pass::<Vec<f64>>::resume(parts_file(&output, model, InputKind::LayerScores), &identity)?;
    let mut data_sets = BTreeMap::new();
    for (set, rows) in rows_of {
        let info = datasets::mini::info(set)?;
        let mut sums = vec![0.0; model.config.layers];
        for (row, mini) in rows.into_iter().enumerate().take(limit) {
            let key = format!("{}#{row}", set.name);
            if pass.get(&key).is_none() {
                let question = Question::row(datasets::mini::example(row, mini), &info, row);
                let prompt = question.prompt(protocol, &facts, &text)?;
                let prefill = Arc::new(model.prefill(&prompt.ids, &wanted, PrefillOptions::default())?);
                let mut state = MethodState::default();
                let selection =
                    variant.select(prefill.shape(), prefill.observations(), &inputs, &mut state)?;
                let rule = DecodeRule {
                    max_new: prompt.stop.max_new,
                    stop_ids: prompt.stop.stop_ids,
                    ..DecodeRule::default()
                };
                pass.push(&key, model.layer_errors(&prefill, &selection, &rule)?.0)?;
            }
            for (sum, error) in sums.iter_mut().zip(pass.get(&key).into_iter().flatten()) {
                *sum += error;
            }
        }
        output::note(&format!("{}: {limit} examples", set.name));
        data_sets.insert(set.name.to_owned(), identify::shares(&sums));
    }
    for shares in data_sets.values() {
        tell_apart("layers", shares.iter())?;
    }
    let scores = LayerScores::of(data_sets);
    finish(args, model, InputKind::LayerScores, data_sha256, params, scores.write(), &output)?;
    pass.remove()?;
    Ok(Exit::Done)
}

/// Writes the calibration with its provenance, and its values in the papers' format beside it, where it is a file.
fn finish(
    args: &CalibrateArgs,
    model: &Model,
    kind: InputKind,
    data_sha256: String,
    params: Map<String, Value>,
    values: Map<String, Value>,
    output: &Path,
) -> anyhow::Result<()> {
    let calibration = Calibration {
        format_version: Calibration::FORMAT_VERSION,
        kind,
        model: model.name.clone(),
        weights_sha256: model.weights_sha256.clone(),
        data_sha256,
        seed: args.seed,
        params,
        commit: provenance::commit(),
        values,
    };
    let text = serde_json::to_string(&calibration)? + "\n";
    if destination::is_stdout(output) {
        return destination::write(output, text.as_bytes());
    }
    let values = calibration.published().map_err(anyhow::Error::msg)?;
    if let Some(folder) = output.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs_err::create_dir_all(folder)?;
    }
    let name = format!("{}{}", last_component(&model.name), kind.published_suffix());
    let published = output.with_file_name(name);
    destination::write(output, text.as_bytes())?;
    destination::write(&published, (serde_json::to_string(&values)? + "\n").as_bytes())?;
    for path in [output, &published] {
        let path = path.display().to_string();
        if args.map.as_deref().is_some_and(destination::is_stdout) {
            output::note(&path);
        } else {
            output::line(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_that_say_nothing_are_refused() {
        let refused = |scores: &[f64]| tell_apart("layers", scores.iter()).unwrap_err().to_string();
        assert!(refused(&[0.0, 0.0]).contains("all 2 layers have the score 0"));
        assert!(refused(&[0.25; 4]).contains("nothing was written"));
        assert!(refused(&[0.5, f64::NAN]).contains("no number"));
        assert!(
            tell_apart("layers", [0.5, 0.25].iter()).is_ok() && tell_apart("layers", [1.0].iter()).is_ok()
        );
    }
}
