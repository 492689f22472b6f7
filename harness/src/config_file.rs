//! `--config FILE.toml`: the options of `run` under the same names. What the command line gives wins.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Context;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use crate::exit::usage;

/// The options of which a sweep has one.
const BUDGETS: [&str; 3] = ["budget", "budgets", "ratios"];

/// The arguments to add to the command line for what `path` sets and the command line does not.
///
/// # Errors
/// A file that cannot be read, is not TOML, or has a name that `run` does not know.
pub(crate) fn arguments(path: &Path, run: &Command, given: &ArgMatches) -> anyhow::Result<Vec<OsString>> {
    let text = fs_err::read_to_string(path).map_err(usage)?;
    let table: toml::Table =
        toml::from_str(&text).map_err(usage).with_context(|| format!("`{}`", path.display()))?;
    let options: Vec<(&str, &str)> = run
        .get_arguments()
        .filter_map(|arg| Some((arg.get_long()?, arg.get_id().as_str())))
        .filter(|(long, _)| *long != "config" && *long != "help")
        .collect();
    let mut arguments = Vec::new();
    for (name, value) in &table {
        if name == "suite" {
            if given.value_source("suite").is_none() {
                arguments.push(scalar(path, name, value)?.into());
            }
            continue;
        }
        let Some((_, id)) = options.iter().find(|(long, _)| long == name) else {
            let names = options.iter().map(|(long, _)| *long);
            let nearest = crate::nearest::hint(name, names);
            return Err(usage(format!("`{}`: unknown option `{name}`{nearest}", path.display())));
        };
        let budget_given =
            BUDGETS.contains(&name.as_str()) && BUDGETS.iter().any(|id| on_command_line(given, id));
        if budget_given || on_command_line(given, id) {
            continue;
        }
        match value {
            toml::Value::Boolean(true) => arguments.push(format!("--{name}").into()),
            toml::Value::Boolean(false) => {}
            toml::Value::Array(values) => {
                for value in values {
                    arguments.push(format!("--{name}={}", scalar(path, name, value)?).into());
                }
            }
            other => arguments.push(format!("--{name}={}", scalar(path, name, other)?).into()),
        }
    }
    Ok(arguments)
}

fn on_command_line(given: &ArgMatches, id: &str) -> bool {
    given.value_source(id) == Some(ValueSource::CommandLine)
}

fn scalar(path: &Path, name: &str, value: &toml::Value) -> anyhow::Result<String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        other => Err(usage(format!(
            "`{}`: `{name}` is a {}, expected a string, a number, true, or a list of these",
            path.display(),
            other.type_str()
        ))),
    }
}
