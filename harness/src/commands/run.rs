//! `kvsweep run SUITE`: plans a sweep, runs or continues it, prints the table; for `needle` also draws the heatmaps.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvsweep_engine::backend::{Backend, HeadSet};
use kvsweep_engine::model::{Card, Model};
use kvsweep_engine::session::{AnySession, Session};
use kvsweep_engine::with_session;
use kvsweep_methods::inputs::Inputs;
use kvsweep_results::{
    Format, MASK_HEADS, MASKED_HEADS, MODEL_SHAPE, Manifest, MethodInfo, ModelInfo, ProgramInfo,
    ProtocolInfo, Run, RunDataset, RunDir, SCHEMA, Shard,
};
use kvsweep_tasks::path;
use kvsweep_tasks::protocol::{self, ModelFacts, Protocol};

use crate::calibration::Calibrations;
use crate::cli::{RunArgs, Suite};
use crate::cost::{Load, Place};
use crate::exit::{Exit, usage};
use crate::lengths::Lengths;
use crate::model::{TextSide, device_kind, dtype_name};
use crate::progress::Progress;
use crate::questions::{self, Dataset, Selected};
use crate::runner::{Ended, Sweep};
use crate::variants::Variants;
use crate::{interrupt, kept, machine, output, pictures, provenance, tables, variants};

/// Sequences that decode together, where several examples fill a batch.
const BATCH: usize = 32;

/// Examples of each data set whose kept positions are stored.
const STORE_KEPT: u64 = 2;

/// Everything about a sweep that is known before its first prefill.
pub struct Plan {
    /// The model, at work.
    pub session: AnySession,
    /// Facts that prompts depend on.
    pub facts: ModelFacts,
    /// The protocol.
    pub protocol: &'static Protocol,
    /// Methods and budgets.
    pub variants: Variants,
    /// The rows.
    pub datasets: Vec<Dataset>,
    /// Calibrated inputs.
    pub inputs: Inputs,
    /// Masked heads.
    pub masked: Option<Arc<HeadSet>>,
    /// What the run is.
    pub manifest: Manifest,
    /// Where it goes.
    pub out: PathBuf,
}

/// Runs the command.
pub fn run(args: &RunArgs) -> anyhow::Result<Exit> {
    let memory = memory_limit(args.memory)?;
    if args.dry_run {
        return print_load(&load(args)?, args.json);
    }
    if args.record_baseline && args.shard.is_some() {
        return Err(usage("--record-baseline stores a whole run; leave --shard out"));
    }
    let plan = plan(args)?;
    let exit = execute(&plan, memory)?;
    if exit == Exit::Interrupted {
        output::note(&format!("run the same command again to continue `{}`", plan.out.display()));
        return Ok(exit);
    }
    finish(&plan.out, args)
}

/// What the command line asks for, before a model is read.
struct Asked {
    protocol: &'static Protocol,
    variants: Variants,
    selected: Selected,
}

impl Asked {
    fn of(args: &RunArgs) -> anyhow::Result<Self> {
        let suite = args
            .suite
            .ok_or_else(|| usage("no suite given; known: longbench, longbench-e, loogle, needle"))?;
        let protocol =
            protocol::by_name(args.protocol.as_deref().unwrap_or(protocol::DEFAULT)).map_err(usage)?;
        let variants = args
            .variants
            .resolve(&|method| protocol.profile(method, suite == Suite::Needle).map(str::to_owned))?;
        Ok(Self { protocol, variants, selected: Selected::of(suite, args)? })
    }
}

/// Resolves every name, loads model and rows, and says what the run is.
///
/// # Errors
/// Whatever is wrong with the command line, the model or the data, before any time is spent.
pub fn plan(args: &RunArgs) -> anyhow::Result<Plan> {
    let Asked { protocol, mut variants, selected } = Asked::of(args)?;
    let session = args.model.load()?;
    let model: &Model = &session;
    let text = TextSide::new(model)?;
    let facts = crate::model::facts(model);
    let calibrations = Calibrations::load(model, args.variants.calibration.as_deref().unwrap_or_default())?;
    calibrations.fit(&mut variants, args.variants.methods.is_some(), &args.model)?;
    if let Ok(of) = kvsweep_tasks::datasets::suite(selected.suite.name())
        && let Some(info) = of.first()
    {
        protocol.notes(&facts, info.suite).iter().for_each(|note| output::note(note));
    }
    let masked =
        args.mask_heads.as_deref().map(|mask| calibrations.mask(mask, model, &args.model)).transpose()?;
    let datasets = questions::datasets(&selected, protocol, &facts, &text)?;
    check_window(model, protocol, &facts, &datasets)?;
    let mut settings = selected.settings(&datasets);
    settings.extend(calibrations.hashes(&variants.specs));
    if model.name != crate::model::TINY {
        settings.insert(MODEL_SHAPE.to_owned(), crate::model::shape(&model.config));
    }
    if let (Some(asked), Some(heads)) = (&args.mask_heads, &masked) {
        settings.insert(MASK_HEADS.to_owned(), asked.clone());
        settings.insert(MASKED_HEADS.to_owned(), kept::heads_sha256(heads));
    }
    let manifest = manifest(args, &selected, protocol, model, &variants, &datasets, settings)?;
    let out = args.out.clone().unwrap_or_else(|| default_out(&manifest));
    Ok(Plan {
        facts,
        protocol,
        variants,
        datasets,
        inputs: calibrations.inputs,
        masked: masked.map(Arc::new),
        manifest,
        out,
        session,
    })
}

fn manifest(
    args: &RunArgs,
    selected: &Selected,
    protocol: &Protocol,
    model: &Model,
    variants: &Variants,
    datasets: &[Dataset],
    settings: BTreeMap<String, String>,
) -> anyhow::Result<Manifest> {
    Ok(Manifest {
        schema: SCHEMA,
        program: ProgramInfo { version: env!("CARGO_PKG_VERSION").to_owned(), commit: provenance::commit() },
        model: ModelInfo {
            name: model.name.clone(),
            weights_sha256: model.weights_sha256.clone(),
            tokenizer_sha256: model.tokenizer()?.sha256().to_owned(),
            files: model.files_sha256.clone(),
            embedded: model.name == crate::model::TINY,
        },
        suite: selected.suite.name().to_owned(),
        split: selected.split_name().to_owned(),
        protocol: ProtocolInfo {
            name: protocol.name.clone(),
            version: protocol.version.to_string(),
            sha256: protocol.sha256.clone(),
        },
        datasets: datasets
            .iter()
            .map(|dataset| RunDataset {
                name: dataset.name.clone(),
                sha256: dataset.sha256.clone(),
                examples: dataset.questions.len() as u64,
                total: dataset.total,
            })
            .collect(),
        methods: variants
            .specs
            .iter()
            .map(|spec| MethodInfo {
                spec: spec.resolved().name,
                params: spec
                    .resolved()
                    .params
                    .iter()
                    .map(|(key, value)| {
                        (key.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
                    })
                    .collect(),
                granularity: spec.granularity().to_string(),
                budgeted: !spec.is_full(),
            })
            .collect(),
        budgets: variants.budgets.iter().map(|&budget| kept::count(budget)).collect::<Result<_, _>>()?,
        device: device_kind(model).to_owned(),
        dtype: dtype_name(model).to_owned(),
        limit: args.limit.map(|limit| limit as u64),
        shard: selected.shard.map(|(index, count)| Shard { index, count }),
        seed: selected.seed,
        settings,
    })
}

/// `runs/<suite>-<model>-<split>-<configuration>-<commit>`: the same command finds its run again.
fn default_out(manifest: &Manifest) -> PathBuf {
    let model = path::component(&manifest.model.name.replace('/', "-"));
    let commit = &manifest.program.commit;
    let (commit, change) = commit.split_once("-dirty").unwrap_or((commit, ""));
    let mut name = format!(
        "{}-{model}-{}-{:.8}-{commit:.7}{change}",
        manifest.suite,
        manifest.split,
        manifest.configuration(),
    );
    if let Some(shard) = manifest.shard {
        name.push_str(&format!("-{}of{}", shard.index, shard.count));
    }
    Path::new("runs").join(name)
}

/// Runs what is missing, with `memory` bytes for prompts in flight and their variants; by default four fifths of what is
/// free where the model computes.
///
/// # Errors
/// See [`Sweep::run`]; a run directory of another configuration.
pub fn execute(plan: &Plan, memory: Option<u64>) -> anyhow::Result<Exit> {
    let mut run = RunDir::create_or_continue(&plan.out, &plan.manifest)?;
    for problem in run.repairs() {
        output::note(&format!("{problem}"));
    }
    if run.is_complete() {
        output::note(&format!("`{}` is complete: nothing to run", plan.out.display()));
        return Ok(Exit::Done);
    }
    // The weights are loaded: what is free now is for prompts and their variants.
    let memory =
        memory.unwrap_or_else(|| crate::model::free_memory(&plan.session.device).unwrap_or(4 << 30) / 5 * 4);
    interrupt::listen()?;
    with_session!(&plan.session, session => sweep(plan, session, &mut run, memory))
}

fn sweep<B: Backend>(
    plan: &Plan,
    session: &Session<B>,
    run: &mut RunDir,
    memory: u64,
) -> anyhow::Result<Exit> {
    let text = TextSide::new(session)?;
    let keys = plan.manifest.variants();
    let total = plan.manifest.examples();
    let sweep = Sweep {
        session,
        text,
        facts: &plan.facts,
        protocol: plan.protocol,
        datasets: &plan.datasets,
        variants: &plan.variants.all,
        keys: &keys,
        inputs: &plan.inputs,
        masked: plan.masked.clone(),
        batch: BATCH,
        memory,
        store_kept: STORE_KEPT,
    };
    let mut progress = Progress::new(total, run.finished_keys().len() as u64, sweep.tokens_ahead(run));
    let ended = sweep.run(run, &mut progress);
    progress.finish();
    Ok(match ended? {
        Ended::Complete => Exit::Done,
        Ended::Interrupted => Exit::Interrupted,
    })
}

/// Bytes that prompts in flight and their variants may take, if the options say it.
///
/// # Errors
/// A number that makes no byte.
fn memory_limit(gib: Option<f64>) -> anyhow::Result<Option<u64>> {
    match gib {
        Some(gib) if gib.is_finite() && gib * f64::from(1 << 30) >= 1.0 => {
            Ok(Some((gib * f64::from(1 << 30)) as u64))
        }
        Some(gib) => Err(usage(format!("`--memory {gib}`: expected a positive number of GiB, e.g. 0.5"))),
        None => Ok(None),
    }
}

/// Refuses, before anything is computed, a protocol whose prompts are longer than the sliding window that the model
/// was trained with, and says where prompts are cut to it.
fn check_window(
    model: &Card,
    protocol: &Protocol,
    facts: &ModelFacts,
    datasets: &[Dataset],
) -> anyhow::Result<()> {
    let Some(window) = model.config.sliding_window.filter(|&window| window < model.config.max_positions)
    else {
        return Ok(());
    };
    for dataset in datasets {
        let Some(info) = dataset.first.info() else { continue };
        let (limit, _) = protocol.limit(facts, info.max_new_tokens);
        anyhow::ensure!(
            limit + info.max_new_tokens <= window,
            "protocol `{}` has prompts of up to {limit} tokens on `{}`, and model `{}` attends through a sliding window \
             of {window}, which is not computed here\n\
             hint: `--protocol {}` cuts prompts to the window; or set `sliding_window` to null in config.json if the \
             model was trained without one",
            protocol.name,
            info.name,
            facts.name,
            protocol::DEFAULT
        );
    }
    output::note(&format!(
        "model `{}` attends through a sliding window of {window} tokens, which is not computed here: prompts are cut so \
         that they and their answers stay within it",
        facts.name
    ));
    Ok(())
}

/// Prints the table of a finished run, and draws what its suite shows.
fn finish(out: &Path, args: &RunArgs) -> anyhow::Result<Exit> {
    let run = Run::load(out)?;
    let format = if args.json { Format::Json } else { tables::text_format(args.wide) };
    let suite = run.manifest.suite.clone();
    let (table, merged) = tables::of(vec![run], None, false)?;
    tables::print(&table, &merged, format)?;
    let drawn = if suite == Suite::Needle.name() {
        pictures::needle(&merged, out)?
    } else {
        pictures::scores(&table, out)?
    };
    for path in drawn {
        output::note(&format!("drew `{}`", path.display()));
    }
    if args.record_baseline {
        crate::commands::compare::record_baseline(&Run::load(out)?)?;
    }
    output::note(&format!("run directory: `{}`", out.display()));
    Ok(if merged.problems.is_empty() { Exit::Done } else { Exit::Failed })
}

/// What a sweep would take, from the model's configuration and what there is of rows and tokenizer.
///
/// # Errors
/// Whatever is wrong with the command line, the model's configuration or the data.
pub fn load(args: &RunArgs) -> anyhow::Result<Load> {
    let asked = Asked::of(args)?;
    let (cuda, dtype) = args.model.place()?;
    let (card, stand_in) = args.model.card()?;
    let mut lengths = Lengths::of(&asked.selected, asked.protocol, &card)?;
    lengths.assumed.extend(stand_in);
    if card.config.positions() < card.config.max_positions {
        lengths.assumed.push(format!(
            "prompts and answers stay within the sliding window of {} tokens",
            card.config.positions()
        ));
    }
    for spec in &asked.variants.specs {
        if card.name != crate::model::TINY && !spec.needs().is_empty() {
            let name = variants::base(spec.label());
            lengths.assumed.push(format!("`{name}` has the inputs that `kvsweep calibrate` makes"));
        }
    }
    let place = Place {
        name: format!("{}, {}", if cuda.is_some() { "cuda" } else { "cpu" }, dtype.as_str()),
        element: cuda.map(|_| dtype.size_in_bytes()),
        threads: machine::processors(),
    };
    Ok(Load::of(&card.name, &card.config, lengths, &asked.variants.all, &place))
}

/// Prints what a sweep would take.
pub fn print_load(load: &Load, as_json: bool) -> anyhow::Result<Exit> {
    if as_json {
        output::json(load)?;
    } else {
        output::data(&load.to_string())?;
    }
    Ok(Exit::Done)
}
