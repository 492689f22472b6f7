//! `kvsweep calibrate heads|layers`: the per-model inputs of HeadKV and CompressKV, for any model.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use kvsweep_engine::decode::DecodeRule;
use kvsweep_engine::model::Model;
use kvsweep_engine::prefill::PrefillOptions;
use kvsweep_methods::identify::{self, HeadKind};
use kvsweep_methods::inputs::{Calibration, HeadScores, InputKind, Inputs, LayerScores};
use kvsweep_methods::method::MethodState;
use kvsweep_methods::spec::MethodSpec;
use kvsweep_plots::head::{self, HeadMap, Kind};
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
use crate::questions::Question;
use crate::{destination, interrupt, kept, output, provenance};

/// New tokens of a needle test.
const MAX_NEW: usize = 50;

/// The seed of the rows that layer errors are measured on; the suite itself has another.
const LAYER_ROWS_SEED: u64 = 1_000_003;

/// Runs the command.
pub fn run(args: &CalibrateArgs) -> anyhow::Result<Exit> {
    let model = args.model.load()?;
    interrupt::listen()?;
    match args.what {
        CalibrateWhat::Heads => heads(args, &model),
        CalibrateWhat::Layers => layers(args, &model),
    }
}

/// One test's outcome, a line of the file that makes the pass resumable.
#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    passed: bool,
    /// `[layer][head]`; empty where the test did not pass.
    scores: Vec<Vec<f64>>,
}

fn heads(args: &CalibrateArgs, model: &Model) -> anyhow::Result<Exit> {
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
    let output = args.output.clone().unwrap_or_else(|| calibration::default_path(model, input));
    let mut params = Map::new();
    params.insert("kind".to_owned(), json!(kind));
    params.insert("lengths".to_owned(), json!(lengths));
    params.insert("depths".to_owned(), json!(depths));
    params.insert("max_new".to_owned(), json!(MAX_NEW));
    params.insert("haystack".to_owned(), json!(args.data.as_ref().map_or("mini", |_| "folder")));

    let identity = kept::hex(&Sha256::digest(format!(
        "{} {} {}",
        model.weights_sha256,
        source.sha256(),
        Value::Object(params.clone())
    )));
    let mut pass = Pass::resume(&output, &identity)?;
    for (index, test) in tests.iter().enumerate() {
        if interrupt::requested() {
            output::note("run the same command again to continue");
            return Ok(Exit::Interrupted);
        }
        if pass.done.contains_key(&test.key) {
            continue;
        }
        let line = test_heads(model, &facts, &text, kind, test)
            .with_context(|| format!("needle test `{}`", test.key))?;
        pass.push(line)?;
        output::note(&format!(
            "{}/{} tests, {} passed",
            index + 1,
            tests.len(),
            pass.done.values().filter(|line| line.passed).count()
        ));
    }
    let passed: Vec<&Line> =
        tests.iter().filter_map(|test| pass.done.get(&test.key)).filter(|line| line.passed).collect();
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
                    .map(|head| passed.iter().map(|line| line.scores[layer][head]).collect())
                    .collect()
            })
            .collect(),
    };
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
            values: lists.means(),
            group: model.config.query_heads / model.config.kv_heads,
        })?;
        destination::write_picture(path, &picture)?;
    }
    finish(model, input, source.sha256(), args.seed, params, lists.write(), &output)?;
    pass.remove()?;
    Ok(Exit::Done)
}

/// Decodes one needle test with the whole cache, and scores every head's attention rows.
fn test_heads(
    model: &Model,
    facts: &ModelFacts,
    text: &TextSide<'_>,
    kind: HeadKind,
    test: &detection::Test,
) -> anyhow::Result<Line> {
    let (layers, heads) = (model.config.layers, model.config.query_heads);
    let refused = Line { key: test.key.clone(), passed: false, scores: Vec::new() };
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
    // The token that a step produces is only known after its rows: they are kept until then, for the needle's span
    // plus what the strongest entries need.
    let mut rows: Vec<Vec<Vec<f32>>> = Vec::new();
    let decoded =
        model.decode_with_attention(&prefill, Some(last), &rule, None, &mut |step, layer, values| {
            if rows.len() <= step {
                rows.resize_with(step + 1, Vec::new);
            }
            if let Some(step) = rows.get_mut(step) {
                step.resize_with(step.len().max(layer + 1), Vec::new);
                if let Some(slot) = step.get_mut(layer) {
                    *slot = values.to_vec();
                }
            }
        })?;
    let response = facts.transformers_text(text.decode(&decoded.ids, true).map_err(anyhow::Error::msg)?);
    if !detection::passes(kind, &response, &test.answer)? {
        return Ok(refused);
    }
    let mut produced = decoded.ids.clone();
    produced.extend(decoded.stopped_by);
    let mut scores = vec![vec![0.0; heads]; layers];
    for (step, &token) in rows.iter().zip(&produced) {
        for (layer, values) in step.iter().enumerate() {
            let width = values.len() / heads;
            for (head, row) in values.chunks_exact(width.max(1)).enumerate().take(heads) {
                scores[layer][head] += identify::step_score(kind, &test.ids, span, row, token);
            }
        }
    }
    Ok(Line { key: test.key.clone(), passed: true, scores })
}

/// `N:FROM..TO`, or what suits the kind and the model's positions.
fn lengths(args: &CalibrateArgs, model: &Model, kind: HeadKind) -> anyhow::Result<Vec<usize>> {
    let room = model.config.max_positions - MAX_NEW.min(model.config.max_positions);
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
    Ok(detection::linspace(from, to, n))
}

fn layers(args: &CalibrateArgs, model: &Model) -> anyhow::Result<Exit> {
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
    let mut data_sets = BTreeMap::new();
    let mut hash = Sha256::new();
    for set in mini::datasets() {
        let info = datasets::mini::info(set)?;
        let rows = mini::rows(set, LAYER_ROWS_SEED + args.seed, mini::ROWS);
        hash.update(datasets::mini::sha256(&rows)?);
        let mut sums = vec![0.0; model.config.layers];
        for (row, mini) in rows.into_iter().enumerate().take(limit) {
            if interrupt::requested() {
                return Ok(Exit::Interrupted);
            }
            let question = Question::row(datasets::mini::example(row, mini), &info, row);
            let prompt = question.prompt(protocol, &facts, &text)?;
            let prefill = Arc::new(model.prefill(&prompt.ids, &wanted, PrefillOptions::default())?);
            let mut state = MethodState::default();
            let selection = variant.select(prefill.shape(), prefill.observations(), &inputs, &mut state)?;
            let rule = DecodeRule {
                max_new: prompt.stop.max_new,
                stop_ids: prompt.stop.stop_ids,
                ..DecodeRule::default()
            };
            let (errors, _) = model.layer_errors(&prefill, &selection, &rule)?;
            for (sum, error) in sums.iter_mut().zip(errors) {
                *sum += error;
            }
        }
        output::note(&format!("{}: {limit} examples", set.name));
        data_sets.insert(set.name.to_owned(), identify::shares(&sums));
    }
    let mut params = Map::new();
    params.insert("rows_of_each_data_set".to_owned(), json!(limit));
    params.insert("budget".to_owned(), json!(32));
    params.insert("variant".to_owned(), json!(variant.id()));
    let scores = LayerScores::of(data_sets);
    finish(
        model,
        InputKind::LayerScores,
        kept::hex(&hash.finalize()),
        args.seed,
        params,
        scores.write(),
        &output,
    )?;
    Ok(Exit::Done)
}

/// Writes the calibration with its provenance, and its values in the papers' format beside it.
fn finish(
    model: &Model,
    kind: InputKind,
    data_sha256: String,
    seed: u64,
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
        seed,
        params,
        commit: provenance::commit(),
        values,
    };
    if let Some(folder) = output.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs_err::create_dir_all(folder)?;
    }
    let text = serde_json::to_string(&calibration)? + "\n";
    kvsweep_results::write_atomic(output, text.as_bytes())?;
    let name: String =
        model.name.rsplit('/').next().unwrap_or_default().chars().filter(|c| *c != '\0').collect();
    let published = output.with_file_name(format!("{name}{}", kind.published_suffix()));
    let values = calibration.published().map_err(anyhow::Error::msg)?;
    kvsweep_results::write_atomic(&published, (serde_json::to_string(&values)? + "\n").as_bytes())?;
    output::line(&output.display().to_string())?;
    output::line(&published.display().to_string())
}

/// The tests done so far, in a file beside the output: `<output>.tests`.
struct Pass {
    path: PathBuf,
    file: fs_err::File,
    done: BTreeMap<String, Line>,
}

impl Pass {
    /// Continues the pass whose first line names the same weights, data and settings; starts anew otherwise.
    fn resume(output: &Path, identity: &str) -> anyhow::Result<Self> {
        if let Some(folder) = output.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs_err::create_dir_all(folder)?;
        }
        let mut path = output.as_os_str().to_owned();
        path.push(".tests");
        let path = PathBuf::from(path);
        let text = fs_err::read_to_string(&path).unwrap_or_default();
        let mut lines = text.lines();
        let mut done = BTreeMap::new();
        if lines.next() == Some(identity) {
            // A torn last line does not parse and is measured again.
            for line in lines.filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
                done.insert(line.key.clone(), line);
            }
        }
        let mut whole = format!("{identity}\n");
        for line in done.values() {
            whole.push_str(&(serde_json::to_string(line)? + "\n"));
        }
        kvsweep_results::write_atomic(&path, whole.as_bytes())?;
        let file = fs_err::OpenOptions::new().append(true).open(&path)?;
        Ok(Self { path, file, done })
    }

    fn push(&mut self, line: Line) -> anyhow::Result<()> {
        self.file.write_all((serde_json::to_string(&line)? + "\n").as_bytes())?;
        self.file.sync_data()?;
        self.done.insert(line.key.clone(), line);
        Ok(())
    }

    fn remove(self) -> anyhow::Result<()> {
        drop(self.file);
        Ok(fs_err::remove_file(self.path)?)
    }
}
