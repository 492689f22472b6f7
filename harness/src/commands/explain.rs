//! `kvsweep explain RUN EXAMPLE`: the exact prompt of a recorded example, what truncation removed, and which tokens each
//! variant kept.

use kvsweep_results::Run;
use serde_json::json;

use crate::cli::ExplainArgs;
use crate::exit::Exit;
use crate::output;
use crate::recorded::Recorded;

/// Runs the command.
pub(crate) fn run(args: &ExplainArgs) -> anyhow::Result<Exit> {
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

    let names = Some(vec![record.key.dataset.clone()]);
    let recorded = Recorded::of(&run.manifest, names, args.data.as_deref(), args.model.as_slice())?;
    let prompt = recorded.prompt(&record.key, &record.info.prompt_sha256)?;
    let positions = run.kept(&record.key)?;
    let shares: Vec<(String, Vec<f64>)> = positions
        .iter()
        .flat_map(|kept| &kept.variants)
        .map(|variant| (variant.variant.clone(), variant.shares(prompt.ids.len())))
        .collect();
    if args.json {
        output::json(&json!({
            "example": record.key.example,
            "dataset": record.key.dataset,
            "prompt": prompt.text,
            "prompt_tokens": prompt.ids.len(),
            "removed_tokens": prompt.removed_tokens(),
            "answer_lost": prompt.answer_lost(),
            "answers": record.info.answers,
            "stop_ids": prompt.stop.stop_ids,
            "max_new_tokens": prompt.stop.max_new,
            "kept_share_by_position": shares.iter().map(|(variant, shares)| json!({"variant": variant, "share": shares})).collect::<Vec<_>>(),
        }))?;
        return Ok(Exit::Done);
    }
    output::line(&prompt.text)?;
    output::note(&format!(
        "{} prompt tokens, {} removed{}; at most {} new tokens; answers: {}",
        prompt.ids.len(),
        prompt.removed_tokens(),
        if prompt.answer_lost() { ", the answer among them" } else { "" },
        prompt.stop.max_new,
        record.info.answers.join(" | ")
    ));
    if shares.is_empty() {
        output::note(
            "kept positions were not stored for this example (the first ones of each data set have them)",
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
