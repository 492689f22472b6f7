//! Calibrated inputs of a model: embedded for `tiny`, from `calibrations/` where one stands, from `--calibration`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context;
use kvsweep_engine::decode::HeadSet;
use kvsweep_engine::model::Model;
use kvsweep_methods::inputs::{Calibration, InputKind, InputModel, Inputs};
use kvsweep_methods::spec::MethodSpec;
use kvsweep_results::{CALIBRATION, shell_word};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::cli::ModelArgs;
use crate::exit::usage;
use crate::variants::Variants;
use crate::{kept, output};

/// Where `kvsweep calibrate` writes, and `run` looks: one folder a set of weights.
const FOLDER: &str = "calibrations";

/// The embedded model's own calibrations, made by `kvsweep calibrate` (docs/calibration.md).
const EMBEDDED: &[(InputKind, &str)] = &[
    (InputKind::RetrievalScores, include_str!("../assets/tiny/retrieval-scores.json")),
    (InputKind::ReasoningScores, include_str!("../assets/tiny/reasoning-scores.json")),
    (InputKind::HeadRanking, include_str!("../assets/tiny/head-ranking.json")),
    (InputKind::LayerScores, include_str!("../assets/tiny/layer-scores.json")),
];

/// The inputs at hand for one model, and what they were read from.
pub(crate) struct Calibrations {
    /// The inputs.
    pub inputs: Inputs,
    hashes: BTreeMap<InputKind, String>,
    semantic: Option<Vec<Vec<f64>>>,
}

/// The default file of one kind for these weights.
pub(crate) fn default_path(model: &Model, kind: InputKind) -> PathBuf {
    Path::new(FOLDER).join(&model.weights_sha256[..16.min(model.weights_sha256.len())]).join(file_name(kind))
}

/// `retrieval-scores.json` and the like.
fn file_name(kind: InputKind) -> String {
    let name = match kind {
        InputKind::RetrievalScores => "retrieval-scores",
        InputKind::ReasoningScores => "reasoning-scores",
        InputKind::HeadRanking => "head-ranking",
        InputKind::LayerScores => "layer-scores",
        InputKind::FullHeads => "full-heads",
    };
    format!("{name}.json")
}

impl Calibrations {
    /// Collects what there is: embedded, then the default folder, then `files`; later ones win. `typed` names the model in
    /// advice.
    ///
    /// # Errors
    /// A file that cannot be read, that belongs to other weights, or has another shape.
    pub(crate) fn load(model: &Model, files: &[PathBuf], typed: &ModelArgs) -> anyhow::Result<Self> {
        let made = |kind| format!("hint: {}", remedy(kind, typed));
        let mut this = Self { inputs: Inputs::default(), hashes: BTreeMap::new(), semantic: None };
        for &(kind, text) in EMBEDDED {
            let own = Calibration::parse(text).ok().flatten();
            if own.is_some_and(|own| own.weights_sha256 == model.weights_sha256) {
                this.add(kind, text, Path::new(crate::model::TINY), model)?;
            }
        }
        for kind in InputKind::ALL {
            let path = default_path(model, kind);
            if path.is_file() {
                let added = this.add(kind, &fs_err::read_to_string(&path)?, &path, model);
                added.map_err(|error| anyhow::anyhow!("{}\n{}", output::causes(&error), made(kind)))?;
            }
        }
        for path in files {
            let text = fs_err::read_to_string(path)?;
            let own = Calibration::parse(&text)
                .map_err(|problem| anyhow::anyhow!("`{}`: {problem}", path.display()))?;
            let kind = match own {
                Some(own) => own.kind,
                None => published_kind(path)?,
            };
            let added = this.add(kind, &text, path, model);
            added.map_err(|error| anyhow::anyhow!("{}\n{}", output::causes(&error), made(kind)))?;
        }
        Ok(this)
    }

    fn add(&mut self, kind: InputKind, text: &str, origin: &Path, model: &Model) -> anyhow::Result<()> {
        let facts = InputModel {
            name: &model.name,
            weights_sha256: &model.weights_sha256,
            layers: model.config.layers,
            query_heads: model.config.query_heads,
            kv_heads: model.config.kv_heads,
        };
        self.inputs.add(kind, text, origin, &facts)?;
        if kind == InputKind::HeadRanking
            && let Ok(Some(own)) = Calibration::parse(text)
        {
            self.semantic =
                kvsweep_methods::inputs::HeadScores::read(&own.values).ok().map(|scores| scores.means());
        }
        self.hashes.insert(kind, kept::hex(&Sha256::digest(text)));
        Ok(())
    }

    /// Refuses methods whose inputs are missing if they were asked for by name; leaves them out, saying so, if not.
    ///
    /// # Errors
    /// A named method without its inputs, with the command that makes them.
    pub(crate) fn fit(&self, variants: &mut Variants, named: bool, model: &ModelArgs) -> anyhow::Result<()> {
        let lacking: Vec<(String, InputKind)> = variants
            .specs
            .iter()
            .flat_map(|spec| spec.needs().into_iter().map(move |kind| (spec.label().to_owned(), kind)))
            .filter(|(_, kind)| !self.inputs.has(*kind))
            .collect();
        if named && !lacking.is_empty() {
            let needs: Vec<String> =
                lacking.iter().map(|(label, kind)| format!("method `{label}` needs {kind}")).collect();
            let kinds: BTreeSet<InputKind> = lacking.iter().map(|(_, kind)| *kind).collect();
            let (made, published): (Vec<_>, Vec<_>) =
                kinds.into_iter().partition(|kind| kind.command().is_some());
            let commands: Vec<String> = made
                .into_iter()
                .filter_map(|kind| command(kind, model))
                .map(|it| format!("`{it}`"))
                .collect();
            let mut hints: Vec<String> = published.into_iter().map(InputKind::remedy).collect();
            if !commands.is_empty() {
                hints.insert(0, format!("make them with {}", commands.join(", then ")));
            }
            anyhow::bail!(
                "{} of this model\nhint: {}, or give files with --calibration",
                needs.join(", "),
                hints.join("; ")
            );
        }
        for (label, kind) in &lacking {
            let how = command(*kind, model).map_or_else(|| kind.remedy(), |command| format!("`{command}`"));
            output::note(&format!("left out `{label}`: it needs {kind} of this model ({how})"));
        }
        let out = |label: &str| lacking.iter().any(|(lacking, _)| lacking == label);
        variants.specs.retain(|spec| !out(spec.label()));
        variants.all.retain(|variant| !out(variant.spec().label()));
        Ok(())
    }

    /// Hashes of the files that these methods read, for the manifest.
    pub(crate) fn hashes(&self, specs: &[MethodSpec]) -> BTreeMap<String, String> {
        let needed = |kind: InputKind| specs.iter().any(|spec| spec.needs().contains(&kind));
        self.hashes
            .iter()
            .filter(|(kind, _)| needed(**kind))
            .map(|(kind, hash)| (format!("{CALIBRATION}{kind}"), hash.clone()))
            .collect()
    }

    /// The heads that `KIND:N` names: the N best of a ranking over all layers, or N at random (`random:N:SEED`), not
    /// among the N best semantic ones. `typed` names the model in advice.
    ///
    /// # Errors
    /// An unknown kind, a number that is none or beyond the model's heads, a ranking that this model lacks.
    pub(crate) fn mask(&self, text: &str, model: &Model, typed: &ModelArgs) -> anyhow::Result<HeadSet> {
        let bad = || {
            usage(format!(
                "`--mask-heads {text}`: expected semantic:N, retrieval:N, reasoning:N, random:N or random:N:SEED"
            ))
        };
        let parts: Vec<&str> = text.split(':').collect();
        let (kind, count, seed) = match parts[..] {
            [kind, count] => (kind, count, "0"),
            [kind @ "random", count, seed] => (kind, count, seed),
            _ => return Err(bad()),
        };
        let count: usize = count.parse().map_err(|_| bad())?;
        let seed: u64 = seed.parse().map_err(|_| bad())?;
        let heads = model.config.layers * model.config.query_heads;
        // The random ones are drawn beside as many semantic ones.
        let most = if kind == "random" { heads / 2 } else { heads };
        if !(1..=most).contains(&count) {
            return Err(usage(format!(
                "`--mask-heads {text}`: model `{}` has {heads} query heads; N is 1 to {most}",
                model.name
            )));
        }
        let missing = |kind: InputKind| format!("this model has no {kind}; {}", remedy(kind, typed));
        let semantic = || self.semantic.as_ref().with_context(|| missing(InputKind::HeadRanking));
        match kind {
            "semantic" => Ok(best(semantic()?, count)),
            "retrieval" => Ok(best(
                self.inputs.retrieval.as_ref().with_context(|| missing(InputKind::RetrievalScores))?,
                count,
            )),
            "reasoning" => Ok(best(
                self.inputs.reasoning.as_ref().with_context(|| missing(InputKind::ReasoningScores))?,
                count,
            )),
            "random" => {
                let spared = best(semantic()?, count);
                let mut heads: Vec<(usize, usize)> = (0..model.config.layers)
                    .flat_map(|layer| (0..model.config.query_heads).map(move |head| (layer, head)))
                    .filter(|head| !spared.contains(head))
                    .collect();
                heads.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
                Ok(heads.into_iter().take(count).collect())
            }
            _ => Err(bad()),
        }
    }
}

/// The command that makes the inputs of one kind for the model that the command line names, where it computes, if one does.
pub(crate) fn command(kind: InputKind, model: &ModelArgs) -> Option<String> {
    let ModelArgs { model, device, dtype } = model;
    let mut command = kind.command()?.to_owned();
    for (option, value) in [("--model", model), ("--device", device), ("--dtype", dtype)] {
        if let Some(value) = value {
            command.push_str(&format!(" {option} {}", shell_word(value)));
        }
    }
    Some(command)
}

/// How to get the inputs of one kind for that model, as a message goes on.
fn remedy(kind: InputKind, model: &ModelArgs) -> String {
    command(kind, model).map_or_else(|| kind.remedy(), |command| format!("make them with `{command}`"))
}

/// The `count` best heads over all layers; equal scores keep layer and head order.
fn best(scores: &[Vec<f64>], count: usize) -> HeadSet {
    let mut heads: Vec<(usize, usize, f64)> = scores
        .iter()
        .enumerate()
        .flat_map(|(layer, heads)| heads.iter().enumerate().map(move |(head, &score)| (layer, head, score)))
        .collect();
    heads.sort_by(|a, b| b.2.total_cmp(&a.2));
    heads.into_iter().take(count).map(|(layer, head, _)| (layer, head)).collect()
}

/// What a file in a paper's own format holds, by the end of its name.
fn published_kind(path: &Path) -> anyhow::Result<InputKind> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // The longest ending first: `_retrieval_reasoning_heads.json` ends like no other, but `.json` would.
    InputKind::ALL.into_iter().find(|kind| name.ends_with(kind.published_suffix())).with_context(|| {
        let endings = InputKind::ALL.map(InputKind::published_suffix).join(", ");
        format!(
            "`{}`: neither a calibration of kvsweep nor a published file by its name ({endings})",
            path.display()
        )
    })
}
