//! The only place that prints: stdout carries data, stderr everything for people.

use std::io::{IsTerminal, Write};

use crate::exit::Exit;

/// Writes data to stdout. A closed pipe (`kvsweep … | head`) is not an error.
pub fn data(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow::anyhow!("failed to write to stdout: {error}"))
        }
        _ => Ok(()),
    }
}

/// Writes one line of data to stdout.
pub fn line(text: &str) -> anyhow::Result<()> {
    data(&format!("{text}\n"))
}

/// Writes a value as indented JSON to stdout.
pub fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Tells a person something on stderr; a stderr that cannot be written to is ignored.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints an error with its chain of causes and gives the exit it stands for.
pub fn failure(error: &anyhow::Error) -> Exit {
    let red = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let label = if red { "\u{1b}[1;31merror\u{1b}[0m" } else { "error" };
    note(&format!("{label}: {error:#}"));
    if error.downcast_ref::<crate::exit::UsageError>().is_some() { Exit::Usage } else { Exit::Failed }
}
