//! Everything about a sweep that is known before its first prefill.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvsweep_engine::backend::HeadSet;
use kvsweep_engine::model::Model;
use kvsweep_engine::session::AnySession;
use kvsweep_methods::inputs::Inputs;
use kvsweep_methods::observation::Observation;
use kvsweep_methods::spec::Variant;
use kvsweep_results::{
    MASK_HEADS, MASKED_HEADS, MODEL_SHAPE, Manifest, MethodInfo, ModelInfo, NO_TEMPLATE, ProgramInfo,
    ProtocolInfo, QUESTION, RunDataset, SCHEMA, UNSEEN, VariantKey,
};
use kvsweep_tasks::protocol::{self, Protocol};
use kvsweep_tasks::{ModelFacts, ModelText, Prompt, QuestionView, Renderer, Suite, path};

use crate::calibration::Calibrations;
use crate::cli::RunArgs;
use crate::exit::usage;
use crate::model::{TINY, TextSide, device_kind, dtype_name};
use crate::questions::{self, DatasetPart, Selected};
use crate::survey::{Surveyor, compressed_tokens};
use crate::variants::Variants;
use crate::{kept, output, provenance};

/// What a sweep computes and where its records go, whichever device computes it.
pub(crate) struct Plan {
    /// Facts that prompts depend on.
    pub facts: ModelFacts,
    /// The protocol.
    pub protocol: &'static Protocol,
    /// What is asked.
    pub datasets: Vec<DatasetPart>,
    /// Methods and budgets, in the manifest's order.
    pub variants: Vec<PlannedVariant>,
    /// Calibrated inputs of the model.
    pub inputs: Inputs,
    /// Masked heads, for the ablation.
    pub masked: Option<Arc<HeadSet>>,
    /// Whether methods see the question.
    pub question: QuestionView,
    /// What the run is.
    pub manifest: Manifest,
    /// Where it goes.
    pub out: PathBuf,
}

/// A variant with the name that records give it.
pub(crate) struct PlannedVariant {
    /// Names it in records.
    pub key: VariantKey,
    /// Method, parameters and budget.
    pub variant: Variant,
}

/// What the command line asks for, before a model is read.
pub(crate) struct Request {
    /// The protocol.
    pub protocol: &'static Protocol,
    /// Methods and budgets.
    pub variants: Variants,
    /// The suite and what is selected of it.
    pub selected: Selected,
}

impl Request {
    /// Checks every name and option that needs no model.
    ///
    /// # Errors
    /// Unknown names, with the nearest ones; options that contradict each other.
    pub(crate) fn of(args: &RunArgs) -> anyhow::Result<Self> {
        let suite = args
            .suite
            .ok_or_else(|| usage("no suite given; known: longbench, longbench-e, loogle, needle, ruler"))?;
        let protocol =
            protocol::by_name(args.protocol.as_deref().unwrap_or(protocol::DEFAULT)).map_err(usage)?;
        if args.without_context && args.question.unwrap_or(protocol.question) == QuestionView::Unseen {
            return Err(usage(
                "--without-context leaves nothing to compress before an unseen question; give one of the two",
            ));
        }
        let variants = args
            .variants
            .resolve(&|method| protocol.profile(method, suite == Suite::Needle).map(str::to_owned))?;
        Ok(Self { protocol, variants, selected: Selected::of(suite, args)? })
    }
}

impl Plan {
    /// Resolves every name, loads model and rows, and says what the run is.
    ///
    /// # Errors
    /// Whatever is wrong with the command line, the model or the data, before any time is spent.
    pub(crate) fn of(args: &RunArgs) -> anyhow::Result<(Self, AnySession)> {
        let Request { protocol, mut variants, selected } = Request::of(args)?;
        let session = args.model.load()?;
        let model: &Model = &session;
        let text = TextSide::new(model)?;
        let facts = crate::model::facts(model);
        let files = args.variants.calibration.as_deref().unwrap_or_default();
        let calibrations = Calibrations::load(model, files, &args.model)?;
        calibrations.fit(&mut variants, args.variants.methods.is_some(), &args.model)?;
        if selected.suite != Suite::Needle {
            protocol.notes(&facts, selected.suite).iter().for_each(|note| output::note(note));
        }
        let masked =
            args.mask_heads.as_deref().map(|mask| calibrations.mask(mask, model, &args.model)).transpose()?;
        let question = args.question.unwrap_or(protocol.question);
        let datasets =
            questions::read(&selected, &Renderer { protocol, model: &facts, text: &text, question })?;
        let mut settings = selected.settings(&datasets);
        settings.extend(calibrations.hashes(&variants.specs));
        let rule = protocol.chat.iter().find(|rule| rule.model.matches(&model.name));
        if model.no_template.is_some() && rule.is_some_and(|rule| rule.template == "model") {
            settings.insert(NO_TEMPLATE.to_owned(), "prompts run raw".to_owned());
        }
        let reads = |variant: &&Variant| {
            variant.observations().iter().any(|one| one.reads_the_question()) || variant.renumbers()
        };
        if question == QuestionView::Unseen
            && let Some(variant) = variants.all.iter().find(reads)
        {
            return Err(usage(format!(
                "method `{}` reads the question, which --question unseen hides; leave one of the two out",
                variant.spec().label()
            )));
        }
        if question == QuestionView::Unseen {
            settings.insert(QUESTION.to_owned(), UNSEEN.to_owned());
        }
        if model.name != TINY {
            settings.insert(MODEL_SHAPE.to_owned(), crate::model::shape(&model.config));
        }
        if let (Some(asked), Some(heads)) = (&args.mask_heads, &masked) {
            settings.insert(MASK_HEADS.to_owned(), asked.clone());
            settings.insert(MASKED_HEADS.to_owned(), kept::heads_sha256(heads));
        }
        let manifest = manifest(args, &selected, protocol, model, &variants, &datasets, settings)?;
        let keys = manifest.variants();
        let plan = Self {
            facts,
            protocol,
            datasets,
            variants: keys
                .into_iter()
                .zip(variants.all)
                .map(|(key, variant)| PlannedVariant { key, variant })
                .collect(),
            inputs: calibrations.inputs,
            masked: masked.map(Arc::new),
            question,
            out: args.out.clone().unwrap_or_else(|| default_out(&manifest)),
            manifest,
        };
        Ok((plan, session))
    }

    /// What makes the prompts of the sweep.
    pub(crate) fn surveyor<'a>(&'a self, text: TextSide<'a>) -> Surveyor<'a> {
        Surveyor { protocol: self.protocol, facts: &self.facts, text, question: self.question }
    }

    /// See [`compressed_tokens`].
    ///
    /// # Errors
    /// A question that must stay unseen and cannot be told from its context.
    pub(crate) fn compressed_tokens(&self, prompt: &Prompt, text: &dyn ModelText) -> anyhow::Result<usize> {
        compressed_tokens(prompt, self.question, self.protocol, text)
    }

    /// How many of a prompt's last tokens are its question's, where a method reads the question.
    ///
    /// # Errors
    /// A question that cannot be told from its context.
    pub(crate) fn question_tokens(
        &self,
        prompt: &Prompt,
        text: &dyn ModelText,
    ) -> anyhow::Result<Option<usize>> {
        if !self.observations().iter().any(|one| one.reads_the_question()) {
            return Ok(None);
        }
        match prompt.context_tokens(text)? {
            Some(context) if context < prompt.ids.len() => Ok(Some(prompt.ids.len() - context)),
            _ => anyhow::bail!(
                "under protocol `{}` this prompt has no question behind its context, and a method reads the question\n\
                 hint: leave its data set out with --datasets, or the method with --methods",
                self.protocol.name
            ),
        }
    }

    /// What prompts are made for, with the text side of the model.
    pub(crate) fn renderer<'a>(&'a self, text: &'a dyn ModelText) -> Renderer<'a> {
        Renderer { protocol: self.protocol, model: &self.facts, text, question: self.question }
    }

    /// Everything that the variants want observed.
    pub(crate) fn observations(&self) -> BTreeSet<Observation> {
        self.variants.iter().flat_map(|planned| planned.variant.observations()).collect()
    }
}

fn manifest(
    args: &RunArgs,
    selected: &Selected,
    protocol: &Protocol,
    model: &Model,
    variants: &Variants,
    datasets: &[DatasetPart],
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
            embedded: model.name == TINY,
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
                name: dataset.name.to_owned(),
                sha256: dataset.identity.sha256.clone(),
                examples: dataset.questions().count() as u64,
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
        budgets: variants.budgets.iter().map(|&budget| kept::budget(budget)).collect::<Result<_, _>>()?,
        device: device_kind(model).to_owned(),
        dtype: dtype_name(model).to_owned(),
        limit: args.limit.map(|limit| limit as u64),
        shard: selected.shard,
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
