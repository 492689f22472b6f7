//! The only place that prints: stdout carries data, stderr everything for people. Whatever a model, a data set or a run
//! directory put into a text, no control character and no bidirectional mark of it reaches a terminal.

use std::io::{IsTerminal, Write};

use kvsweep_results::{is_hidden, printable};

use crate::exit::Exit;

/// Writes text to stdout, control characters written out.
pub(crate) fn data(text: &str) -> anyhow::Result<()> {
    bytes(printable(text).as_bytes())
}

/// Writes one line of text to stdout.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    data(&format!("{text}\n"))
}

/// Writes a value as indented JSON to stdout.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    json_text(&serde_json::to_string_pretty(value)?)
}

/// Writes JSON and a line end to stdout: the same values, hidden characters as `\uXXXX`.
pub(crate) fn json_text(text: &str) -> anyhow::Result<()> {
    bytes((escaped(text) + "\n").as_bytes())
}

/// Writes bytes to stdout as they are: files that were asked for there. A closed pipe (`kvsweep … | head`) is not an
/// error.
pub(crate) fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow::anyhow!("failed to write to stdout: {error}"))
        }
        _ => Ok(()),
    }
}

/// Tells a person something on stderr; a stderr that cannot be written to is ignored.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable(text));
}

/// Prints an error with its chain of causes and gives the exit it stands for.
pub(crate) fn failure(error: &anyhow::Error) -> Exit {
    let red = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let label = if red { "\u{1b}[1;31merror\u{1b}[0m" } else { "error" };
    let _ = writeln!(std::io::stderr().lock(), "{label}: {}", printable(&causes(error)));
    if error.downcast_ref::<crate::exit::UsageError>().is_some() { Exit::Usage } else { Exit::Failed }
}

/// An error and what caused it, each said once: some errors have their cause in their own text already.
pub(crate) fn causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(&format!(": {cause}"));
        }
    }
    text
}

/// JSON in which hidden characters, which occur inside strings only, are escapes; the line ends between values stay.
fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || !is_hidden(c) {
            out.push(c);
        } else {
            out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let end = || anyhow::anyhow!("the file ended");
        assert_eq!(causes(&end().context("row 3").context("rows")), "rows: row 3: the file ended");
        assert_eq!(
            causes(&end().context("row 3: the file ended").context("rows")),
            "rows: row 3: the file ended"
        );
    }

    #[test]
    fn json_keeps_its_values_and_hides_nothing() {
        let value = serde_json::json!({"a": "\u{9b}2J\u{202e}\u{1b}\u{e0041}\u{7f}", "b": ["é\n"]});
        let text = escaped(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!text.chars().any(|c| c != '\n' && is_hidden(c)), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
