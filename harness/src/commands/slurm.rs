//! `kvsweep slurm RUN-ARGUMENTS`: writes the batch script of a sweep in parts, and submits it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use clap::Args;

use crate::cli::{SlurmArgs, SlurmOptions};
use crate::exit::{Exit, usage};
use crate::plan::Request;
use crate::slurm::Script;
use crate::{destination, output};

/// Runs the command.
pub(crate) fn run(args: &SlurmArgs) -> anyhow::Result<Exit> {
    let (sweep, own) = (&args.run, &args.own);
    for (given, option) in [
        (sweep.shard.is_some(), "--shard"),
        (sweep.record_baseline, "--record-baseline"),
        (sweep.dry_run, "--dry-run"),
    ] {
        if given {
            return Err(usage(format!(
                "{option} does not go with `slurm`, which cuts the run into parts itself"
            )));
        }
    }
    let Some(out) = &sweep.out else {
        return Err(usage("no folder for the parts; give --out DIR, which all nodes must see"));
    };
    Request::of(sweep)?;
    let on_gpu = sweep.model.device.as_deref().is_some_and(|device| device.starts_with("cuda"));
    let gpus = own.gpus_per_task.unwrap_or(u32::from(on_gpu));
    if (gpus > 0) != on_gpu {
        return Err(usage(format!(
            "--gpus-per-task {gpus} and --device {} do not go together",
            sweep.model.device.as_deref().unwrap_or("cpu")
        )));
    }
    if gpus > 1 {
        return Err(usage("a task computes on one GPU; give more --tasks instead of more GPUs a task"));
    }
    let named = [("partition", &own.partition), ("time", &own.time)];
    let mut site: Vec<String> =
        named.iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?))).collect();
    site.extend(own.sbatch.iter().flatten().cloned());
    if let Some(bad) =
        site.iter().find(|option| !option.starts_with('-') || option.contains(char::is_control))
    {
        return Err(usage(format!("`{}` is no option of sbatch", kvsweep_results::visible(bad))));
    }
    let counts =
        [("cpus-per-task", own.cpus_per_task), ("gpus-per-task", Some(gpus).filter(|&gpus| gpus > 0))];
    let task = counts.iter().filter_map(|(name, count)| Some(format!("--{name}={}", (*count)?))).collect();
    let script = Script {
        program: text(std::env::current_exe().context("cannot tell where this program is")?)?,
        folder: text(std::env::current_dir().context("cannot tell the folder one stands in")?)?,
        out: text(out.clone())?,
        run: run_arguments(std::env::args().skip(2)),
        tasks: own.tasks,
        site,
        task,
    };
    let path = own.output.clone().unwrap_or_else(|| out.join("kvsweep.sh"));
    if !destination::is_stdout(&path) {
        fs_err::create_dir_all(out)?;
    } else if own.submit {
        return Err(usage("--submit needs the script in a file; leave `-o -` out"));
    }
    destination::write(&path, script.to_string().as_bytes())?;
    if destination::is_stdout(&path) {
        return Ok(Exit::Done);
    }
    if !own.submit {
        output::note(&format!("wrote `{0}`; submit it with `bash {0}`", path.display()));
        return Ok(Exit::Done);
    }
    submit(&path)
}

fn submit(script: &Path) -> anyhow::Result<Exit> {
    if Command::new("sbatch").arg("--version").output().is_err() {
        anyhow::bail!(
            "`sbatch` is not on this machine\nhint: the script is written; on a node that submits, run `bash {}`",
            script.display()
        );
    }
    let submitted = Command::new("bash").arg(script).output().context("cannot start `bash`")?;
    output::data(&String::from_utf8_lossy(&submitted.stdout))?;
    anyhow::ensure!(
        submitted.status.success(),
        "sbatch refused `{}`: {}",
        script.display(),
        String::from_utf8_lossy(&submitted.stderr).trim()
    );
    Ok(Exit::Done)
}

fn text(path: PathBuf) -> anyhow::Result<String> {
    path.into_os_string()
        .into_string()
        .map_err(|path| usage(format!("a script cannot hold the path {path:?}")))
}

/// The arguments of `run` among those of `slurm`: all but `slurm`'s own and `--out`.
fn run_arguments(given: impl IntoIterator<Item = String>) -> Vec<String> {
    let own = SlurmOptions::augment_args(clap::Command::new("slurm"));
    let mut takes_value: BTreeMap<String, bool> = BTreeMap::from([("--out".to_owned(), true)]);
    for argument in own.get_arguments() {
        let value = argument.get_action().takes_values();
        let names = [
            argument.get_long().map(|long| format!("--{long}")),
            argument.get_short().map(|c| format!("-{c}")),
        ];
        takes_value.extend(names.into_iter().flatten().map(|name| (name, value)));
    }
    let mut rest = Vec::new();
    let mut given = given.into_iter();
    while let Some(argument) = given.next() {
        let (name, value) = argument.split_once('=').map_or((argument.as_str(), None), |(n, v)| (n, Some(v)));
        match takes_value.get(name) {
            Some(true) if value.is_none() => drop(given.next()),
            Some(_) => {}
            None => rest.push(argument),
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::run_arguments;

    #[test]
    fn what_is_not_of_slurm_goes_to_run() {
        let given = "longbench --tasks 4 --budget 128 --sbatch=--account=x --submit --out d --time 1:00 --param snapkv.window=8 -o s.sh --json";
        let rest = run_arguments(given.split(' ').map(str::to_owned));
        assert_eq!(
            rest,
            "longbench --budget 128 --param snapkv.window=8 --json".split(' ').collect::<Vec<_>>()
        );
    }
}
