//! The command line `kvsweep`: parse, dispatch, exit code.

#![warn(unreachable_pub)]

mod calibration;
mod cli;
mod commands;
mod config_file;
mod cost;
mod destination;
mod detection;
mod exit;
mod footprint;
#[cfg(test)]
mod hints;
mod interrupt;
mod kept;
mod lengths;
mod machine;
mod model;
mod nearest;
mod output;
mod pass;
mod pictures;
#[cfg(test)]
mod pinned_prompts;
mod plan;
mod progress;
mod provenance;
mod questions;
mod recorded;
mod remaining;
mod repeat;
mod runner;
mod slurm;
mod stop;
mod survey;
mod tables;
mod variants;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches};

use crate::cli::{Cli, Command};
use crate::exit::Exit;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        // A panic may quote what it met, like any error.
        output::note(&format!("{panic}\n{}", std::backtrace::Backtrace::capture()));
    }));
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match parse(arguments) {
        Ok(cli) => cli,
        Err(error) => return output::failure(&error).into(),
    };
    match dispatch(cli) {
        Ok(exit) => exit.into(),
        Err(error) => output::failure(&error).into(),
    }
}

/// Parses the command line, and once more with what a `--config` file adds to it.
fn parse(mut arguments: Vec<OsString>) -> anyhow::Result<Cli> {
    let command = Cli::command();
    let matches = matches(&command, &arguments)?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| wrong(&error))?;
    let (name, run) = match &cli.command {
        Command::Run(run) => ("run", &**run),
        Command::Slurm(args) => ("slurm", &args.run),
        _ => return Ok(cli),
    };
    let (Some(path), Some(given), Some(run_command)) =
        (&run.config, matches.subcommand_matches(name), command.find_subcommand(name))
    else {
        return Ok(cli);
    };
    arguments.extend(config_file::arguments(path, run_command, given)?);
    let matches = self::matches(&command, &arguments)?;
    Cli::from_arg_matches(&matches).map_err(|error| wrong(&error))
}

fn matches(command: &clap::Command, arguments: &[OsString]) -> anyhow::Result<ArgMatches> {
    command.clone().try_get_matches_from(arguments).map_err(|error| {
        if !error.use_stderr() {
            // --help and --version, which quote nothing.
            error.exit();
        }
        wrong(&error)
    })
}

/// clap's message, for [`output::failure`]: it may quote a `--config` file.
fn wrong(error: &clap::Error) -> anyhow::Error {
    let text = error.render().to_string();
    exit::usage(text.strip_prefix("error: ").unwrap_or(&text).trim_end())
}

fn dispatch(cli: Cli) -> anyhow::Result<Exit> {
    match cli.command {
        Command::Run(args) => commands::run::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
        Command::Slurm(args) => commands::slurm::run(&args),
        Command::Status(args) => commands::status::run(&args),
        Command::Table(args) => commands::table::run(&args),
        Command::Heatmap(args) => commands::heatmap::run(&args),
        Command::Paper(args) => commands::paper::run(&args),
        Command::Compare(args) => commands::compare::run(&args),
        Command::History(args) => commands::history::run(&args),
        Command::Report(args) => commands::report::run(&args),
        Command::Score(args) => commands::score::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Calibrate(args) => commands::calibrate::run(&args),
        Command::Verify(args) => commands::verify::run(&args),
        Command::Explain(args) => commands::explain::run(&args),
        Command::List(args) => commands::list::run(&args),
        Command::Fetch(args) => commands::fetch::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
    }
}
