//! `kvsweep calibrate heads|layers`: the per-model inputs of HeadKV and CompressKV, for any model.

mod heads;
mod layers;

use std::path::{Path, PathBuf};

use kvsweep_engine::error::EngineError;
use kvsweep_engine::model::Model;
use kvsweep_engine::with_session;
use kvsweep_methods::inputs::{Calibration, InputKind};
use kvsweep_tasks::path::last_component;
use serde_json::{Map, Value};

use crate::cli::{CalibrateArgs, CalibrateWhat};
use crate::exit::{Exit, usage};
use crate::pass::Identity;
use crate::{calibration, destination, interrupt, output, provenance};

/// Runs the command.
pub(crate) fn run(args: &CalibrateArgs) -> anyhow::Result<Exit> {
    check(args)?;
    let session = args.model.load()?;
    interrupt::listen()?;
    let done = match args.what {
        CalibrateWhat::Heads => with_session!(&session, session => heads::run(args, session)),
        CalibrateWhat::Layers => with_session!(&session, session => layers::run(args, session)),
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
