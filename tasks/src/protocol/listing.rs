//! The reference page of all protocols, generated from their data files.

use std::fmt::Write as _;

use super::{
    ChatRule, FirstTokenBan, NameMatch, Protocol, QuestionView, StopSource, TruncationRule, WrapTime, all,
};
use crate::needle::variants;

/// The generated part of `docs/protocols.md`.
pub fn markdown() -> String {
    all().iter().map(section).collect::<Vec<_>>().join("\n")
}

fn section(protocol: &Protocol) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "### `{}` (version {})\n", protocol.name, protocol.version);
    let _ = writeln!(out, "{}. Source: {}.\n", capital(&protocol.summary), protocol.source);
    let mut row = |name: &str, text: &str| {
        let _ = writeln!(out, "| {name} | {} |", text.replace('|', "\\|").replace('\n', "\\n"));
    };
    row("choice", "value");
    row("---", "---");
    row("prompt limit", &limits(protocol));
    row(
        "truncation",
        match protocol.truncation {
            TruncationRule::MiddleIds => "middle, by token ids, template included; the count is exact",
            TruncationRule::MiddleText => "middle, two halves decoded and joined as text, encoded again",
            TruncationRule::ContextRight => {
                "the end of the context, which is encoded apart from its question"
            }
        },
    );
    if protocol.chat.is_empty() {
        row("chat template", "none: raw prompts");
    }
    for rule in &protocol.chat {
        row(&format!("chat template, {}", models(&rule.model)), &chat(rule));
    }
    row("BOS", if protocol.one_bos { "exactly one, where the tokenizer has one" } else { "as encoded" });
    row("stop", &stops(&protocol.stop.normal));
    row("stop, samsum", &stops(&protocol.stop.samsum));
    row(
        "empty answer forbidden",
        match protocol.stop.ban_first {
            FirstTokenBan::Samsum => "samsum",
            FirstTokenBan::All => "every data set",
            FirstTokenBan::Nowhere => "nowhere",
        },
    );
    if protocol.question != QuestionView::default() {
        row("question", protocol.question.name());
    }
    for (suite, more) in &protocol.more_new_tokens {
        row(&format!("new tokens, {suite}"), &format!("{more} more than the official number"));
    }
    let metrics: Vec<String> = protocol.metrics.iter().map(|(set, id)| format!("{set}: `{id}`")).collect();
    row("metrics", &if metrics.is_empty() { "official".to_owned() } else { metrics.join(", ") });
    row("averages", &protocol.averages.join(", "));
    let sets: Vec<String> =
        protocol.datasets.iter().map(|(suite, names)| format!("{suite}: {}", names.join(", "))).collect();
    row(
        "data sets",
        &if sets.is_empty() {
            "all of a suite (LooGLE: the official four)".to_owned()
        } else {
            sets.join("; ")
        },
    );
    row("needle", &format!("variant `{}`", protocol.needle.variant));
    let profiles: Vec<String> = protocol.methods.iter().map(|(m, p)| format!("{m}@{p}")).collect();
    row("method profiles", &if profiles.is_empty() { "defaults".to_owned() } else { profiles.join(", ") });
    if protocol.counts_removed {
        row("share of the cache", "named by what is removed; `--ratios` take what is kept, tables show both");
    }
    if let Some(dtype) = &protocol.original.dtype {
        let version = protocol.original.transformers.as_deref().unwrap_or("unknown");
        row("original runs", &format!("{dtype}, transformers {version}"));
    }
    out.push_str("\nOddities:\n\n");
    let of_needle = variants::by_name(&protocol.needle.variant).map_or(&[][..], |v| v.oddities);
    for oddity in protocol.oddities.iter().map(String::as_str).chain(of_needle.iter().copied()) {
        let _ = writeln!(out, "- {oddity}");
    }
    out
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

fn models(name: &NameMatch) -> String {
    let any = name.any.iter().map(|part| format!("`{part}`")).collect::<Vec<_>>().join(" or ");
    let all = name.all.iter().map(|part| format!("`{part}`")).collect::<Vec<_>>().join(" and ");
    match (any.is_empty(), all.is_empty()) {
        (true, true) => "any model".to_owned(),
        (false, true) => any,
        (true, false) => all,
        (false, false) => format!("{all} and ({any})"),
    }
}

fn limits(protocol: &Protocol) -> String {
    let mut parts: Vec<String> =
        protocol.limits.iter().map(|rule| format!("{}: {}", models(&rule.model), rule.tokens)).collect();
    parts.push("others: the model's positions less the answer".to_owned());
    if protocol.limits.is_empty() {
        parts = vec!["the model's positions less the answer".to_owned()];
    }
    parts.join("; ")
}

fn chat(rule: &ChatRule) -> String {
    let template = match rule.template.as_str() {
        "model" => "the model's own".to_owned(),
        text => format!("`{}`", text.replace('\n', "\\n")),
    };
    let when = match rule.wrap {
        WrapTime::BeforeTruncation => "before",
        WrapTime::AfterTruncation => "after",
    };
    let raw = if rule.skip_raw_sets { "few-shot and code sets raw" } else { "every data set" };
    let special = if rule.add_special_tokens { "with" } else { "without" };
    format!("{template}, {when} truncation, {raw}, encoded {special} special tokens")
}

fn stops(sources: &[StopSource]) -> String {
    let name = |source: &StopSource| match source {
        StopSource::GenerationConfig => "generation_config",
        StopSource::TokenizerEos => "tokenizer's end token",
        StopSource::LlamaTurnEnds => "`<|eot_id|>`, `<|end_of_text|>` where known",
        StopSource::Newline => "newline",
    };
    sources.iter().map(name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    const BEGIN: &str = "<!-- generated: KVSWEEP_UPDATE=1 cargo test -p kvsweep-tasks protocol -->\n";

    #[test]
    fn the_page_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/protocols.md");
        let page = fs_err::read_to_string(path).unwrap();
        let (head, _) = page.split_once(BEGIN).expect("docs/protocols.md has a generated part");
        let fresh = format!("{head}{BEGIN}\n{}", super::markdown());
        if std::env::var_os("KVSWEEP_UPDATE").is_some() {
            fs_err::write(path, fresh).unwrap();
        } else {
            assert!(
                page == fresh,
                "docs/protocols.md is stale: KVSWEEP_UPDATE=1 cargo test -p kvsweep-tasks protocol"
            );
        }
    }
}
