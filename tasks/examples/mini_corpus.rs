//! Writes text of the mini suite as JSON lines: training documents, rows, needle trials.
//!
//! ```text
//! mini_corpus train KINDS SEED FIRST COUNT TOKENS   documents FIRST.. of a list of kinds in turn
//! mini_corpus rows DATASET SEED COUNT TOKENS        rows with their rendered prompts
//! mini_corpus needle DEPTH FIRST COUNT TOKENS       needle trials
//! ```

use std::error::Error;
use std::io::{BufWriter, Write};

use kvsweep_tasks::mini;
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut out = BufWriter::new(std::io::stdout().lock());
    match arguments.as_slice() {
        ["train", kinds, seed, first, count, tokens] => {
            let kinds: Vec<&str> = kinds.split(',').collect();
            let (seed, first, count): (u64, usize, usize) = (seed.parse()?, first.parse()?, count.parse()?);
            for index in first..first + count {
                let kind = kinds.get(index % kinds.len()).copied().unwrap_or_default();
                let document = mini::training_document(kind, seed, index as u64, tokens.parse()?)
                    .ok_or_else(|| format!("unknown kind `{kind}`"))?;
                serde_json::to_writer(&mut out, &document)?;
                writeln!(out)?;
            }
        }
        ["rows", name, seed, count, tokens] => {
            let dataset = mini::datasets()
                .iter()
                .find(|dataset| dataset.name == *name)
                .ok_or_else(|| format!("unknown data set `{name}`"))?;
            for index in 0..count.parse()? {
                let row = mini::row(dataset, seed.parse()?, index, tokens.parse()?);
                let prompt = dataset.render(&row);
                let row = json!({"prompt": prompt, "answer": row.answers, "metric": dataset.metric,
                    "classes": row.all_classes, "max_new_tokens": dataset.max_new_tokens});
                writeln!(out, "{row}")?;
            }
        }
        ["needle", depth, first, count, tokens] => {
            let first: u64 = first.parse()?;
            let count: u64 = count.parse()?;
            for number in first..first + count {
                let (length, depth) = (tokens.parse()?, depth.parse()?);
                let trial = mini::NeedleTrial { seed: mini::SUITE_SEED, length, depth, number };
                let case = mini::needle(trial, &mini::estimate_tokens);
                let row = json!({"prompt": case.prompt, "answer": [case.answer], "metric": "exact",
                    "classes": null, "max_new_tokens": 12});
                writeln!(out, "{row}")?;
            }
        }
        _ => return Err("usage: mini_corpus train|rows|needle ..., see the file's head".into()),
    }
    out.flush()?;
    Ok(())
}
