//! `kvsweep explain RUN EXAMPLE`: the exact prompt of a recorded example, what truncation removed, and which tokens each
//! variant kept.

use anyhow::Context;
use kvsweep_results::{LayerKept, Run};
use serde_json::json;

use crate::cli::{ExplainArgs, ModelArgs, RunArgs, Split, Suite};
use crate::exit::Exit;
use crate::model::TextSide;
use crate::questions::{self, Selected};
use crate::{kept, model, output};

/// Runs the command.
pub fn run(args: &ExplainArgs) -> anyhow::Result<Exit> {
    let run = Run::load(&args.run)?;
    let matches: Vec<_> =
        run.examples.iter().filter(|record| record.key.example.starts_with(&args.example)).collect();
    let record = match matches.as_slice() {
        [one] => *one,
        [] => anyhow::bail!(
            "no example of `{}` starts with `{}`; the first ones are {}",
            args.run.display(),
            args.example,
            run.examples.iter().take(5).map(|r| r.key.example.as_str()).collect::<Vec<_>>().join(", ")
        ),
        several => anyhow::bail!(
            "{} examples start with `{}`: {}; give more of the key",
            several.len(),
            args.example,
            several.iter().take(5).map(|r| r.key.example.as_str()).collect::<Vec<_>>().join(", ")
        ),
    };

    // The run's own settings give the same prompt again; its hash proves it.
    let manifest = &run.manifest;
    let suite = Suite::by_name(&manifest.suite)
        .with_context(|| format!("the run's suite `{}` is unknown", manifest.suite))?;
    let numbers = |name: &str| {
        manifest.settings.get(name).map(|list| list.split(',').filter_map(|n| n.parse().ok()).collect())
    };
    let run_args = RunArgs {
        suite: Some(suite),
        model: ModelArgs { model: Some(manifest.model.name.clone()), ..ModelArgs::default() },
        split: Some(if manifest.split == "mini" { Split::Mini } else { Split::Full }),
        data: args.data.clone(),
        datasets: (suite != Suite::Needle).then(|| vec![record.key.dataset.clone()]),
        limit: manifest.limit.map(|limit| limit as usize),
        lengths: numbers(questions::LENGTHS),
        depths: manifest
            .settings
            .get(questions::DEPTHS)
            .map(|list| list.split(',').filter_map(|n| n.parse().ok()).collect()),
        ..RunArgs::default()
    };
    let loaded = run_args.model.load()?;
    let text = TextSide::new(&loaded)?;
    let facts = model::facts(&loaded);
    let protocol = kvsweep_tasks::protocol::by_name(&manifest.protocol.name)?;
    let datasets = questions::datasets(&Selected::of(suite, &run_args)?, protocol, &facts, &text)?;
    let question = datasets
        .iter()
        .flat_map(|dataset| &dataset.questions)
        .find(|question| question.key == record.key)
        .with_context(|| {
            format!("example `{}` is not in the data; give the run's rows with --data", record.key.example)
        })?;
    let prompt = question.prompt(protocol, &facts, &text)?;
    anyhow::ensure!(
        kept::ids_sha256(&prompt.ids) == record.info.prompt_sha256,
        "the prompt of `{}` is not the recorded one any more: other rows, another tokenizer or another protocol version",
        record.key.example
    );
    let positions = run.kept(&record.key)?;
    let shares: Vec<(String, Vec<f64>)> = positions
        .iter()
        .flat_map(|kept| &kept.variants)
        .map(|variant| (variant.variant.clone(), share_by_position(&variant.layers, prompt.ids.len())))
        .collect();
    if args.json {
        output::json(&json!({
            "example": record.key.example,
            "dataset": record.key.dataset,
            "prompt": prompt.text,
            "prompt_tokens": prompt.ids.len(),
            "removed_tokens": prompt.removed_tokens,
            "answer_lost": prompt.answer_lost,
            "answers": record.info.answers,
            "stop_ids": prompt.stop.stop_ids,
            "max_new_tokens": prompt.stop.max_new,
            "kept_share_by_position": shares.iter().map(|(variant, shares)| json!({"variant": variant, "share": shares})).collect::<Vec<_>>(),
        }))?;
        return Ok(Exit::Done);
    }
    output::line(&prompt.text)?;
    output::note(&format!(
        "{} prompt tokens, {} removed from the middle{}; at most {} new tokens; answers: {}",
        prompt.ids.len(),
        prompt.removed_tokens,
        if prompt.answer_lost { ", the answer among them" } else { "" },
        prompt.stop.max_new,
        record.info.answers.join(" | ")
    ));
    if shares.is_empty() {
        output::note(
            "kept positions were not stored for this example (the first rows of each data set have them)",
        );
    }
    for (variant, shares) in &shares {
        output::line(&format!("{variant}\n  {}", strip(shares)))?;
    }
    for answer in &record.variants {
        output::line(&format!(
            "{} scored {:.3}: {}",
            answer.variant,
            answer.score,
            kvsweep_results::visible(&answer.prediction)
        ))?;
    }
    Ok(Exit::Done)
}

/// For every prompt position, the share of layers and heads that kept it.
fn share_by_position(layers: &[LayerKept], len: usize) -> Vec<f64> {
    let mut shares = vec![0.0; len];
    for layer in layers {
        match layer {
            LayerKept::All => shares.iter_mut().for_each(|share| *share += 1.0),
            LayerKept::Heads(heads) => {
                for &position in heads.iter().flatten() {
                    if let Some(share) = shares.get_mut(position as usize) {
                        *share += 1.0 / heads.len() as f64;
                    }
                }
            }
        }
    }
    shares.iter_mut().for_each(|share| *share /= layers.len().max(1) as f64);
    shares
}

/// The prompt in 96 columns, darker where more of it was kept.
fn strip(shares: &[f64]) -> String {
    const MARKS: [char; 5] = ['·', '░', '▒', '▓', '█'];
    let columns = shares.len().min(96);
    (0..columns)
        .map(|column| {
            let part = &shares[column * shares.len() / columns..(column + 1) * shares.len() / columns];
            let mean = part.iter().sum::<f64>() / part.len().max(1) as f64;
            MARKS[((mean * 4.0).ceil() as usize).min(4)]
        })
        .collect()
}
