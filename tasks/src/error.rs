//! Every way this crate can fail. Each message names the thing, the place and the remedy.

use std::path::{Path, PathBuf};

use crate::text::TextError;

/// An error of the tasks crate.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The file system refused.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried, e.g. "read".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A name that no registry holds.
    #[error("unknown {kind} `{name}`{}", suggest(nearest))]
    UnknownName {
        /// "data set", "protocol", …
        kind: &'static str,
        /// The name as given.
        name: String,
        /// The nearest known names, best first.
        nearest: Vec<String>,
    },
    /// A row of a data or prediction file is wrong.
    #[error("{}:{line}: {problem}; {remedy}", path.display())]
    Row {
        /// The file (an archive member is written `archive.zip/member`).
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong, with field and value.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// A file as a whole is wrong (an archive that lies, a hash that differs, an empty file).
    #[error("`{}`: {problem}; {remedy}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// No file of this data set is in the folder.
    #[error("no file of data set `{name}` in `{}` (looked for {looked_for}); {hint}", dir.display())]
    MissingDataset {
        /// The data set.
        name: String,
        /// The folder searched.
        dir: PathBuf,
        /// The file names tried.
        looked_for: String,
        /// What to do.
        hint: String,
    },
    /// A folder that does not have the layout it was said to have.
    #[error("`{}` does not look like layout `{layout}`: expected {expected}, found {found}", dir.display())]
    Layout {
        /// The folder.
        dir: PathBuf,
        /// The layout asked for.
        layout: &'static str,
        /// What files that layout has.
        expected: String,
        /// What was there, with the layout it resembles where one does.
        found: String,
    },
    /// A prompt cannot be built.
    #[error("cannot build the prompt of `{key}` under protocol `{protocol}`: {problem}")]
    Render {
        /// The example's key.
        key: String,
        /// The protocol's name.
        protocol: String,
        /// Why, and what to do.
        problem: PromptError,
    },
    /// A prediction cannot be scored where the official code would stop, too.
    #[error("cannot score `{key}` with `{metric}`: {problem}")]
    Score {
        /// The example's key, or the file and line.
        key: String,
        /// The metric's id.
        metric: String,
        /// Why.
        problem: String,
    },
    /// A needle test cannot be built.
    #[error("cannot build the needle test: {0}")]
    Needle(NeedleError),
    /// A context length that is longer than any prompt of this model.
    #[error("length {length} exceeds the {positions} positions of model `{model}`; choose shorter --lengths")]
    LengthBeyondModel {
        /// The context length in tokens.
        length: usize,
        /// The model's positions.
        positions: usize,
        /// The model's name.
        model: String,
    },
    /// A context length that does not hold what its task hides in it.
    #[error("length {length} does not hold a task's own text; the shortest is {shortest}")]
    LengthTooShort {
        /// The context length in tokens.
        length: usize,
        /// The shortest that is made.
        shortest: usize,
    },
    /// A task whose smallest row is longer than its context length.
    #[error(
        "a row of `{name}` does not fit into length {length}; choose longer --lengths, or leave it out of --datasets"
    )]
    TaskTooLong {
        /// The task.
        name: &'static str,
        /// The context length in tokens.
        length: usize,
    },
    /// RULER's questions of a source that is not there.
    #[error(
        "`{name}` (or `{published}`) is not in the folder of --data\n\
         hint: fetch {address} into it, as RULER's own script does"
    )]
    MissingQuestions {
        /// RULER's name of the file.
        name: &'static str,
        /// The name that it is published by.
        published: &'static str,
        /// Where it is published.
        address: &'static str,
    },
    /// More rows than a source has questions.
    #[error("`{name}` has {questions} questions and more are asked; lower --limit")]
    FewQuestions {
        /// RULER's name of the file.
        name: &'static str,
        /// Questions with an answer.
        questions: usize,
    },
    /// A data set without a single row.
    #[error("data set `{0}` has no rows")]
    NoRows(String),
    /// A text that the model's tokenizer refuses.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A download failed.
    #[error("cannot fetch `{name}`: {problem}")]
    Fetch {
        /// The data set's name.
        name: String,
        /// Why, and what to do.
        problem: String,
    },
}

/// Why a prompt cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The tokenizer refuses.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The chat template refuses.
    #[error("the chat template fails: {0}")]
    Template(TextError),
    /// The protocol wraps prompts in the model's own template.
    #[error("it needs the model's chat template, and tokenizer_config.json has none")]
    NoTemplate,
    /// The answer takes the model's positions.
    #[error(
        "the limit of {limit} prompt tokens leaves no room beside an answer of {answer} in {positions} positions; \
         use a model with more positions"
    )]
    NoRoom {
        /// Prompt tokens allowed.
        limit: usize,
        /// Tokens of the answer.
        answer: usize,
        /// The model's positions.
        positions: usize,
    },
    /// The chat template takes the limit.
    #[error("the chat template takes {around} tokens of {limit}; use a model with more positions")]
    TemplateTooLong {
        /// Tokens of the template.
        around: usize,
        /// Prompt tokens allowed.
        limit: usize,
    },
    /// The template does not give back what stands in the user's turn.
    #[error("the chat template changes the user's text, so its context and question cannot be told apart")]
    TemplateChangesText,
    /// The question leaves no position for its context.
    #[error(
        "question and template have {question} tokens, which leaves no room for a context in {room} positions; use a model \
         with more positions"
    )]
    QuestionTooLong {
        /// Tokens behind the context.
        question: usize,
        /// Positions beside the answer's.
        room: usize,
    },
    /// Prompt and answer are longer than the model.
    #[error(
        "{tokens} prompt tokens and {answer} for the answer exceed the model's {positions} positions; lower the \
         prompt limit"
    )]
    TooLong {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens of the answer.
        answer: usize,
        /// The model's positions.
        positions: usize,
    },
}

/// Why a needle prompt cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum NeedleError {
    /// The tokenizer refuses.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The chat template refuses.
    #[error("the chat template fails: {0}")]
    Template(TextError),
    /// A depth that is none.
    #[error("depth {0} is above 100 percent")]
    Depth(u32),
    /// Nothing to hide a needle in.
    #[error("the haystack has no tokens")]
    EmptyHaystack,
    /// Its smallest prompt is longer. Other trials have other needles, of about that length: the advice leaves room for
    /// them.
    #[error(
        "length {length} leaves no context: question, needle and answer take {needed} tokens; the smallest sensible \
         length is {}",
        needed.next_multiple_of(32)
    )]
    TooShort {
        /// The context length in tokens.
        length: usize,
        /// What the smallest prompt takes.
        needed: usize,
    },
    /// Prompt and answer are longer than the model.
    #[error(
        "the prompt of length {length} has {tokens} tokens: with {answer} for the answer it exceeds the model's \
         {positions} positions; choose shorter lengths"
    )]
    TooLong {
        /// The context length in tokens.
        length: usize,
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens of the answer.
        answer: usize,
        /// The model's positions.
        positions: usize,
    },
}

impl TaskError {
    /// Wraps a system error with what was tried on which path.
    pub fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_path_buf(), source }
    }

    /// An unknown name with the nearest of `known`.
    pub fn unknown<'a>(kind: &'static str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        Self::UnknownName { kind, name: name.to_owned(), nearest: nearest(name, known) }
    }
}

/// The up to three names of `known` that resemble `name`, best first; all of them if none does and they are few.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let lower = name.to_lowercase();
    let mut scored: Vec<(f64, &str)> = known
        .into_iter()
        .map(|k| {
            let k_lower = k.to_lowercase();
            let contains = !lower.is_empty() && (k_lower.contains(&lower) || lower.contains(&k_lower));
            (strsim::jaro_winkler(&lower, &k_lower).max(if contains { 0.9 } else { 0.0 }), k)
        })
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.dedup_by(|a, b| a.1 == b.1);
    let close: Vec<String> = scored.iter().filter(|s| s.0 >= 0.75).take(3).map(|s| s.1.to_owned()).collect();
    if close.is_empty() && scored.len() <= 12 {
        let mut all: Vec<String> = scored.iter().map(|s| s.1.to_owned()).collect();
        all.sort();
        return all;
    }
    close
}

fn suggest(nearest: &[String]) -> String {
    if nearest.is_empty() {
        return String::new();
    }
    let quoted: Vec<String> = nearest.iter().map(|n| format!("`{n}`")).collect();
    format!("; nearest: {}", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names_come_best_first() {
        let known = ["narrativeqa", "qasper", "triviaqa", "gov_report"];
        assert_eq!(nearest("narativeqa", known)[0], "narrativeqa");
        assert_eq!(nearest("govreport", known)[0], "gov_report");
        let message = TaskError::unknown("data set", "qaspr", known).to_string();
        assert!(message.starts_with("unknown data set `qaspr`; nearest: `qasper`"), "{message}");
    }
}
