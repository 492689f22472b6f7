//! `kvsweep doctor`: what this machine can run, what is missing, and the command that mends it.

use kvsweep_methods::instructions::{InstructionSet, VARIABLE};
use serde::Serialize;

use crate::cli::{DoctorArgs, ModelArgs};
use crate::exit::Exit;
use crate::model::SLOW;
use crate::{machine, output, provenance};

/// One finding.
#[derive(Serialize)]
struct Finding {
    what: &'static str,
    fine: bool,
    found: String,
    remedy: Option<String>,
}

/// Runs the command.
pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<Exit> {
    let findings = vec![program(), processors(), memory(), cuda(), embedded_model(), hub(), rows()];
    if args.json {
        output::json(&findings)?;
        return Ok(Exit::Done);
    }
    for finding in &findings {
        let mark = if finding.fine { "ok  " } else { "miss" };
        output::line(&format!("{mark}  {:15} {}", finding.what, finding.found))?;
        if let Some(remedy) = &finding.remedy {
            output::line(&format!("      {:15} {remedy}", ""))?;
        }
    }
    Ok(Exit::Done)
}

fn fine(what: &'static str, found: String) -> Finding {
    Finding { what, fine: true, found, remedy: None }
}

fn missing(what: &'static str, found: impl ToString, remedy: impl ToString) -> Finding {
    Finding { what, fine: false, found: found.to_string(), remedy: Some(remedy.to_string()) }
}

fn program() -> Finding {
    fine("program", format!("kvsweep {}", provenance::VERSION))
}

/// The cores, and the vector instructions that decide how fast the CPU kernels are.
fn processors() -> Finding {
    let set = InstructionSet::in_use();
    let found = format!("{} cores, kernels for {}", machine::processors(), set.name());
    match InstructionSet::asked_for() {
        Err(error) => missing("processors", found, error),
        Ok(_) if set == InstructionSet::Portable => missing("processors", found, SLOW),
        Ok(Some(_)) => missing("processors", found, format!("unset {VARIABLE} to use the widest set")),
        Ok(None) => fine("processors", found),
    }
}

fn memory() -> Finding {
    match machine::available_memory() {
        Some(bytes) => fine("memory", format!("{:.1} GiB available", bytes as f64 / f64::from(1 << 30))),
        None => {
            missing("memory", "this system does not tell how much is available", "give --memory GIB to `run`")
        }
    }
}

fn cuda() -> Finding {
    if !cfg!(feature = "cuda") {
        return missing(
            "cuda",
            "not in this build",
            "cargo install --path harness --features cuda (docs/cuda.md)",
        );
    }
    let device = ModelArgs { device: Some("cuda:0".to_owned()), ..ModelArgs::default() };
    match device.device() {
        Ok(_) => fine("cuda", "device 0 answers".to_owned()),
        Err(error) => {
            missing("cuda", output::causes(&error), "install an NVIDIA driver for CUDA 13 or newer")
        }
    }
}

fn embedded_model() -> Finding {
    match ModelArgs::default().load() {
        Ok(model) => fine(
            "embedded model",
            format!(
                "{} layers, {} positions, weights {:.12}",
                model.config.layers, model.config.max_positions, model.weights_sha256
            ),
        ),
        Err(error) => missing("embedded model", output::causes(&error), "build from a complete checkout"),
    }
}

fn hub() -> Finding {
    let models = kvsweep_engine::source::cached_models();
    if models.is_empty() {
        return missing("models", "none fetched", "kvsweep fetch model OWNER/NAME");
    }
    let names: Vec<String> = models.into_iter().map(|(id, _)| id).collect();
    fine("models", names.join(", "))
}

fn rows() -> Finding {
    match kvsweep_tasks::fetch::folder("longbench") {
        Ok(folder) => fine("LongBench rows", format!("in `{}`", folder.display())),
        Err(_) => {
            missing("LongBench rows", "not fetched", "kvsweep fetch data longbench, or run with --data DIR")
        }
    }
}
