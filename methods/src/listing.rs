//! The reference of all methods, profiles and parameters: for `kvsweep list methods`, and as the generated
//! part of `docs/methods.md`.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use crate::inputs::InputKind;
use crate::method::Question;
use crate::observation::Observation;
use crate::profile;
use crate::registry::{HEADLINE, METHODS};
use crate::selection::Granularity;

/// One method.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// As on the command line.
    pub name: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Paper.
    pub paper: &'static str,
    /// Reference code.
    pub source: &'static str,
    /// Where the default differs from it.
    pub deviations: &'static str,
    /// The question that it was made for.
    pub question: Question,
    /// What the default observes of a prompt.
    pub observes: Vec<&'static str>,
    /// What observing costs, see [`cost`].
    pub costs: Vec<String>,
    /// Whether a sweep runs it unless told otherwise.
    pub headline: bool,
    /// The first is the default.
    pub granularities: &'static [Granularity],
    /// Calibrated inputs it reads.
    pub needs: &'static [InputKind],
    /// Parameters with their defaults.
    pub parameters: Vec<ListedParameter>,
    /// Profiles.
    pub profiles: Vec<ListedProfile>,
}

/// One parameter of a method.
#[derive(Clone, Debug, Serialize)]
pub struct ListedParameter {
    /// As in `--param method.name=value`.
    pub name: &'static str,
    /// Its default, null when unset.
    pub default: Value,
    /// One sentence.
    pub meaning: String,
}

/// One profile of a method.
#[derive(Clone, Debug, Serialize)]
pub struct ListedProfile {
    /// `method@profile`.
    pub name: String,
    /// What differs from the default.
    pub changes: &'static str,
    /// Where it comes from.
    pub source: String,
}

/// Every method, in the order of the registry.
#[must_use]
pub fn methods() -> Vec<Listed> {
    METHODS
        .iter()
        .map(|entry| {
            let defaults = entry.defaults();
            let parameters = entry.parameters.iter().map(|parameter| ListedParameter {
                name: parameter.name,
                default: defaults.get(parameter.name).cloned().unwrap_or_default(),
                meaning: parameter.meaning.trim().to_owned(),
            });
            let profiles = profile::of(entry.name).map(|(name, profile)| ListedProfile {
                name: format!("{}@{name}", entry.name),
                changes: &profile.changes,
                source: format!("{}: {}", profile::all()[name].source, profile.source),
            });
            Listed {
                name: entry.name,
                summary: entry.summary,
                paper: entry.paper,
                source: entry.source,
                deviations: entry.deviations,
                question: entry.question,
                observes: entry.observations().into_iter().map(observes).collect(),
                costs: entry.observations().into_iter().map(cost).collect(),
                headline: HEADLINE.contains(&entry.name),
                granularities: entry.granularities,
                needs: entry.needs,
                parameters: parameters.collect(),
                profiles: profiles.collect(),
            }
        })
        .collect()
}

/// What an observation looks at, in words.
fn observes(observation: Observation) -> &'static str {
    match observation {
        Observation::WindowSum { window: 1 } => "attention of the last token",
        Observation::WindowSum { .. } => "attention of the last tokens",
        Observation::QuestionSum { .. } => "attention of the question's tokens",
        Observation::WindowMax { .. } => "its maximum",
        Observation::WindowMoments { .. } => "mean and variance of the last tokens' attention",
        Observation::AccumulatedSum { .. } => "attention of all tokens",
        Observation::KeyNorm => "key norms",
        Observation::KeySimilarity => "directions of keys",
        Observation::LagRank { .. } => "spread of keys and values",
        Observation::ValueNorm => "value norms",
        Observation::OutputNorm => "value norms behind the output projection",
        Observation::ExpectedAttention { .. } => "mean and covariance of queries before RoPE",
        Observation::Reconstruction { .. } => "attention while the model repeats the prompt",
    }
}

/// Multiply-adds beyond those of the prefill, in one head of one layer, for a prompt of `S` tokens, `Q` of them the question's, heads of `d` elements and a
/// residual stream of `M`.
#[must_use]
pub fn cost(observation: Observation) -> String {
    match observation {
        Observation::WindowSum { window } | Observation::WindowMoments { window } => format!("{window} S d"),
        Observation::QuestionSum { .. } => "Q S d".to_owned(),
        // Reads the rows that the sum reads.
        Observation::WindowMax { window, kernel } => format!("{window} S {kernel}"),
        Observation::AccumulatedSum { .. } => "S S / 2".to_owned(),
        Observation::KeyNorm | Observation::ValueNorm => "S d".to_owned(),
        Observation::KeySimilarity => "2 S d".to_owned(),
        Observation::LagRank { .. } => "4 S d".to_owned(),
        Observation::OutputNorm => "S d M".to_owned(),
        Observation::ExpectedAttention { .. } => "2 S d d".to_owned(),
        Observation::Reconstruction { .. } => "a second prefill".to_owned(),
    }
}

/// The generated part of `docs/methods.md`.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(
        "| method | what it keeps | question | observes | cost | granularity | needs | in the default sweep |\n|---|---|---|---|---|---|---|---|\n",
    );
    let all = methods();
    // Writing to a string cannot fail.
    for method in &all {
        let granularities: Vec<String> = method.granularities.iter().map(Granularity::to_string).collect();
        let listed = |all: &[&str]| if all.is_empty() { "-".to_owned() } else { all.join(", ") };
        let costs: Vec<&str> = method.costs.iter().map(String::as_str).collect();
        let needs: Vec<String> = method.needs.iter().map(InputKind::to_string).collect();
        let _ = writeln!(
            out,
            "| [`{0}`](#{0}) | {1} | {2} | {3} | {4} | {5} | {6} | {7} |",
            method.name,
            method.summary,
            method.question,
            listed(&method.observes),
            if costs.is_empty() { "-".to_owned() } else { costs.join(" + ") },
            granularities.join(", "),
            if needs.is_empty() { "-".to_owned() } else { needs.join(", ") },
            if method.headline { "yes" } else { "no" },
        );
    }
    for method in &all {
        let _ = writeln!(out, "\n## {}\n", method.name);
        let _ = writeln!(out, "- Paper: {}", method.paper);
        let _ = writeln!(out, "- Reference code: {}", method.source);
        let _ = writeln!(out, "- Differences of the default: {}", method.deviations);
        for need in method.needs {
            let command = need.command().map_or_else(String::new, |command| format!("`{command}`, or "));
            let _ =
                writeln!(out, "- Needs {need}: {command}a published file `MODEL{}`", need.published_suffix());
        }
        if !method.parameters.is_empty() {
            out.push_str("\n| parameter | default | meaning |\n|---|---|---|\n");
            for parameter in &method.parameters {
                let default = match &parameter.default {
                    Value::Null => "unset".to_owned(),
                    Value::String(text) => format!("`{text}`"),
                    other => format!("`{other}`"),
                };
                let _ = writeln!(out, "| `{}` | {default} | {} |", parameter.name, parameter.meaning);
            }
        }
        if !method.profiles.is_empty() {
            out.push_str("\n| profile | what it changes | source |\n|---|---|---|\n");
            for profile in &method.profiles {
                let _ = writeln!(out, "| `{}` | {} | {} |", profile.name, profile.changes, profile.source);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str =
        "<!-- generated by kvsweep-methods: UPDATE_DOCS=1 cargo test -p kvsweep-methods listing -->\n";
    const END: &str = "<!-- end of the generated part -->\n";

    #[test]
    fn the_reference_page_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/methods.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (before, rest) = page.split_once(BEGIN).expect("the page has a generated part");
        let (generated, after) = rest.split_once(END).expect("the generated part ends");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, format!("{before}{BEGIN}\n{}\n{END}{after}", markdown())).unwrap();
        } else {
            assert_eq!(
                generated,
                format!("\n{}\n", markdown()),
                "run: UPDATE_DOCS=1 cargo test -p kvsweep-methods listing"
            );
        }
    }

    #[test]
    fn every_method_is_documented() {
        for method in methods() {
            for text in [method.summary, method.paper, method.source, method.deviations] {
                assert!(
                    !text.is_empty() && !text.ends_with('.') && !text.contains('|'),
                    "{}: {text}",
                    method.name
                );
            }
            assert!(method.parameters.iter().all(|parameter| !parameter.meaning.is_empty()));
        }
    }
}
