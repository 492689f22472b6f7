//! `kvsweep calibrate layers`: what compression costs each layer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kvsweep_engine::backend::Backend;
use kvsweep_engine::prefill::PrefillOptions;
use kvsweep_engine::session::Session;
use kvsweep_methods::identify;
use kvsweep_methods::inputs::{InputKind, Inputs, LayerScores};
use kvsweep_methods::method::MethodState;
use kvsweep_methods::spec::MethodSpec;
use kvsweep_tasks::{datasets, mini, protocol};
use serde_json::{Map, json};
use sha2::{Digest, Sha256};

use super::{finish, identity, parts_file, tell_apart};
use crate::calibration::{self, Calibrations};
use crate::cli::CalibrateArgs;
use crate::exit::Exit;
use crate::model::TextSide;
use crate::pass::Pass;
use crate::stop::decode_rule;
use crate::{kept, output, questions};

/// The seed of the rows that layer errors are measured on; the suite itself has another.
const LAYER_ROWS_SEED: u64 = 1_000_003;

/// Measures.
///
/// # Errors
/// A model without a semantic head ranking, errors that are all equal, another process at work on the same pass.
pub(super) fn run<B: Backend>(args: &CalibrateArgs, model: &Session<B>) -> anyhow::Result<Exit> {
    let text = TextSide::new(model)?;
    let calibrations = Calibrations::load(model, &[], &args.model)?;
    let inputs = Inputs { ranking: calibrations.inputs.ranking.clone(), ..Inputs::default() };
    anyhow::ensure!(
        inputs.has(InputKind::HeadRanking),
        "layer errors are measured with the CompressKV selection, which needs a semantic head ranking of this model\n\
         hint: make it with `{}`",
        calibration::command(InputKind::HeadRanking, &args.model).unwrap_or_default()
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
                let example = datasets::mini::example(row, mini);
                let prompt = protocol.render(&example, &info, &facts, &text)?;
                let prefill = Arc::new(model.prefill(&prompt.ids, &wanted, PrefillOptions::default())?);
                let mut state = MethodState::default();
                let selection =
                    variant.select(prefill.shape(), prefill.observations(), &inputs, &mut state)?;
                let rule = decode_rule(&prompt.stop);
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
