//! What can go wrong between a method's name and a selection. Messages are lowercase fragments that
//! name the value at fault and, where there is one, the remedy.

use std::fmt;
use std::path::PathBuf;

use crate::budget::Budget;
use crate::inputs::kind::InputKind;
use crate::observation::Observation;
use crate::selection::Granularity;
use crate::shape::BadShape;

/// The error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MethodError {
    /// No method of that name.
    #[error("unknown method `{name}`{nearest}")]
    UnknownMethod {
        /// As typed.
        name: String,
        /// Names that come close, or all.
        nearest: Nearest,
    },
    /// The method has no such profile.
    #[error("method `{method}` has no profile `{profile}`{nearest}")]
    UnknownProfile {
        /// The method.
        method: String,
        /// As typed.
        profile: String,
        /// Names that come close, or all.
        nearest: Nearest,
    },
    /// The method has no such parameter.
    #[error("method `{method}` has no parameter `{parameter}`{nearest}")]
    UnknownParameter {
        /// The method.
        method: String,
        /// As typed.
        parameter: String,
        /// Names that come close, or all.
        nearest: Nearest,
    },
    /// A parameter has a value that it cannot have.
    #[error("parameter `{method}.{parameter}` cannot be `{value}`: {problem}")]
    BadValue {
        /// The method.
        method: String,
        /// The parameter.
        parameter: String,
        /// Its value, as JSON.
        value: String,
        /// Why not.
        problem: String,
    },
    /// The budget does not fit the method's parameters.
    #[error("budget {budget} does not suit method `{method}`: {problem}")]
    BadBudget {
        /// The method.
        method: String,
        /// The budget.
        budget: Budget,
        /// Why not, and the remedy.
        problem: String,
    },
    /// The method has no such granularity.
    #[error("method `{method}` has no granularity {wanted}; it has {has}")]
    BadGranularity {
        /// The method.
        method: String,
        /// Asked for.
        wanted: Granularity,
        /// What there is.
        has: Granularity,
    },
    /// The shape of the prompt contradicts itself.
    #[error(transparent)]
    BadShape(#[from] BadShape),
    /// Numbers that do not have the announced shape.
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch {
        /// Of what.
        what: String,
        /// The shape, hash or name expected.
        expected: String,
        /// The one found.
        found: String,
    },
    /// A method asked for an observation that the prefill did not make.
    #[error("layer {layer} of the prefill has no observation {observation:?}")]
    NotObserved {
        /// The layer.
        layer: usize,
        /// What is missing.
        observation: Observation,
    },
    /// A calibrated input that the method needs is not there.
    #[error("method `{method}` needs {input} for this model; {}{}", input.remedy(), or_a_file(*input))]
    MissingInput {
        /// The method.
        method: String,
        /// What is missing.
        input: InputKind,
    },
    /// An input that was made for another model.
    #[error("{} holds {input} of {found}, not of {expected}", path.display())]
    ForeignInput {
        /// What it is.
        input: InputKind,
        /// The file.
        path: PathBuf,
        /// The model it was made for.
        found: String,
        /// The model loaded.
        expected: String,
    },
    /// The method kept everything although the prompt is longer than the budget.
    #[error(
        "`{variant}` evicted nothing although the prompt has {prompt_len} tokens: no score is given for it"
    )]
    NothingEvicted {
        /// The variant.
        variant: String,
        /// Prompt tokens.
        prompt_len: usize,
    },
    /// A file is not what it should be.
    #[error("{}: {problem}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line or key.
        problem: String,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The other way to an input that a command makes.
fn or_a_file(input: InputKind) -> &'static str {
    if input.command().is_some() { " or name a file" } else { "" }
}

/// Names offered when one was not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearest(Vec<String>);

impl Nearest {
    /// The names closest to `wanted`, or all of them when none comes close.
    pub fn of<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Self {
        let names: Vec<&str> = names.into_iter().collect();
        let mut close: Vec<(f64, &str)> = names
            .iter()
            .map(|&name| (strsim::jaro_winkler(wanted, name), name))
            .filter(|(score, _)| *score >= 0.8)
            .collect();
        close.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        let chosen: Vec<&str> =
            if close.is_empty() { names } else { close.into_iter().take(3).map(|(_, name)| name).collect() };
        Self(chosen.into_iter().map(str::to_owned).collect())
    }
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return write!(f, "; there are none");
        }
        let names: Vec<String> = self.0.iter().map(|name| format!("`{name}`")).collect();
        write!(f, "; there is {}", names.join(", "))
    }
}
