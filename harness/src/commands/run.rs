//! `kvsweep run SUITE`: plans a sweep, runs or continues it, prints the table; for `needle` also draws the heatmaps.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvsweep_engine::decode::HeadSet;
use kvsweep_engine::model::Model;
use kvsweep_methods::inputs::Inputs;
use kvsweep_results::{
    DatasetInfo, Format, MASK_HEADS, MODEL_SHAPE, Manifest, MethodInfo, ModelInfo, ProgramInfo, ProtocolInfo,
    Run, RunDir, SCHEMA, Shard,
};
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
use crate::{interrupt, machine, output, pictures, provenance, tables, variants};

/// Sequences that decode together, where several examples fill a batch.
const BATCH: usize = 32;

/// Examples of each data set whose kept positions are stored.
const STORE_KEPT: u64 = 2;

/// Everything about a sweep that is known before its first prefill.
pub struct Plan {
    /// The model.
    pub model: Model,
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
    if args.dry_run {
        return print_load(&load(args)?, args.json);
    }
    let plan = plan(args)?;
    let exit = execute(&plan, args.memory)?;
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
    let model = args.model.load()?;
    let text = TextSide::new(&model)?;
    let facts = crate::model::facts(&model);
    let calibrations = Calibrations::load(&model, args.variants.calibration.as_deref().unwrap_or_default())?;
    calibrations.fit(&mut variants, args.variants.methods.is_some())?;
    if let Ok(of) = kvsweep_tasks::datasets::suite(selected.suite.name())
        && let Some(info) = of.first()
    {
        protocol.notes(&facts, info.suite).iter().for_each(|note| output::note(note));
    }
    let masked = args.mask_heads.as_deref().map(|mask| calibrations.mask(mask, &model)).transpose()?;
    let datasets = questions::datasets(&selected, protocol, &facts, &text)?;
    let manifest = manifest(args, &selected, protocol, &model, &variants, &datasets, &calibrations)?;
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
        model,
    })
}

fn manifest(
    args: &RunArgs,
    selected: &Selected,
    protocol: &Protocol,
    model: &Model,
    variants: &Variants,
    datasets: &[Dataset],
    calibrations: &Calibrations,
) -> anyhow::Result<Manifest> {
    let mut settings = selected.settings(datasets);
    settings.extend(calibrations.hashes(&variants.specs));
    if model.name != crate::model::TINY {
        settings.insert(MODEL_SHAPE.to_owned(), crate::model::shape(&model.config));
    }
    if let Some(mask) = &args.mask_heads {
        settings.insert(MASK_HEADS.to_owned(), mask.clone());
    }
    Ok(Manifest {
        schema: SCHEMA,
        program: ProgramInfo { version: env!("CARGO_PKG_VERSION").to_owned(), commit: provenance::commit() },
        model: ModelInfo {
            name: model.name.clone(),
            weights_sha256: model.weights_sha256.clone(),
            tokenizer_sha256: model.tokenizer()?.sha256().to_owned(),
            embedded: model.name == crate::model::TINY,
        },
        suite: selected.suite.name().to_owned(),
        split: selected.split_name().to_owned(),
        protocol: ProtocolInfo { name: protocol.name.clone(), version: protocol.version.to_string() },
        datasets: datasets
            .iter()
            .map(|dataset| DatasetInfo {
                name: dataset.name.clone(),
                sha256: dataset.sha256.clone(),
                examples: dataset.questions.len() as u64,
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
        budgets: variants.budgets.iter().map(|&budget| u32::try_from(budget).unwrap_or(u32::MAX)).collect(),
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
    let model: String = manifest
        .model
        .name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .collect();
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

/// Runs what is missing.
///
/// # Errors
/// See [`Sweep::run`]; a run directory of another configuration.
pub fn execute(plan: &Plan, memory_gib: Option<f64>) -> anyhow::Result<Exit> {
    let mut run = RunDir::create_or_continue(&plan.out, &plan.manifest)?;
    for problem in run.repairs() {
        output::note(&format!("{problem}"));
    }
    if run.is_complete() {
        output::note(&format!("`{}` is complete: nothing to run", plan.out.display()));
        return Ok(Exit::Done);
    }
    let memory = memory_limit(memory_gib)?;
    interrupt::listen()?;
    let text = TextSide::new(&plan.model)?;
    let keys = plan.manifest.variants();
    let total = plan.manifest.examples();
    let mut progress = Progress::new(total, run.finished_keys().len() as u64);
    let sweep = Sweep {
        model: &plan.model,
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
    let ended = sweep.run(&mut run, &mut progress);
    progress.finish();
    Ok(match ended? {
        Ended::Complete => Exit::Done,
        Ended::Interrupted => Exit::Interrupted,
    })
}

/// Bytes that prompts in flight may take: as given, or half of what is free.
fn memory_limit(gib: Option<f64>) -> anyhow::Result<u64> {
    match gib {
        Some(gib) if gib.is_finite() && gib > 0.0 => Ok((gib * f64::from(1 << 30)) as u64),
        Some(gib) => Err(usage(format!("`--memory {gib}`: expected a positive number of GiB"))),
        None => Ok(machine::available_memory().unwrap_or(4 << 30) / 2),
    }
}

/// Prints the table of a finished run, and draws what its suite shows.
fn finish(out: &Path, args: &RunArgs) -> anyhow::Result<Exit> {
    let run = Run::load(out)?;
    let format = if args.json { Format::Json } else { Format::Text };
    let (table, merged) = tables::of(std::slice::from_ref(&run), None, false)?;
    tables::print(&table, &merged, format)?;
    let drawn = if run.manifest.suite == Suite::Needle.name() {
        pictures::needle(&merged, out)?
    } else {
        pictures::scores(&table, out)?
    };
    for path in drawn {
        output::note(&format!("drew `{}`", path.display()));
    }
    if args.record_baseline {
        crate::commands::compare::record_baseline(&run)?;
    }
    output::note(&format!("run directory: `{}`", out.display()));
    Ok(if run.problems.is_empty() { Exit::Done } else { Exit::Failed })
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
    for spec in &asked.variants.specs {
        if card.name != crate::model::TINY && !spec.needs().is_empty() {
            let name = variants::base(spec.label());
            lengths.assumed.push(format!("`{name}` has the inputs that `kvsweep calibrate` makes"));
        }
    }
    let place = Place {
        name: format!("{}, {}", if cuda.is_some() { "cuda" } else { "cpu" }, dtype.as_str()),
        element: dtype.size_in_bytes(),
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
