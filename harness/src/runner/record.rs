//! What an example's record says.

use kvsweep_engine::cache::Held;
use kvsweep_methods::shape::CacheShape;
use kvsweep_results::{
    CacheSize, ExampleInfo, ExampleRecord, Finish, Needle, SCHEMA, SelectionDigest, Timings, VariantRecord,
    VariantTiming,
};
use kvsweep_tasks::{Grade, Prompt};

use super::flight::{Answer, Branch, InFlight};
use super::writer::Scored;
use crate::kept::{self, count, layers_kept};
use crate::questions::KeyedQuestion;

/// A branch with its answer and what that is worth.
pub(super) struct Graded<'a> {
    /// The branch.
    pub branch: &'a Branch<'a>,
    /// What it generated.
    pub answer: &'a Answer,
    /// What was graded.
    pub prediction: String,
    /// The scores.
    pub grade: Grade,
}

/// An example without answers, and why.
///
/// # Errors
/// A number that no record can hold.
pub(super) fn skipped(asked: &KeyedQuestion<'_>, why: String) -> anyhow::Result<Scored> {
    let record = ExampleRecord {
        schema: SCHEMA,
        key: asked.key.clone(),
        info: info(asked, None)?,
        skipped: Some(why),
        variants: Vec::new(),
        timings: None,
    };
    Ok(Scored { record, kept: None })
}

/// An example with all its variants; the kept positions of the first `store_kept` ones go with it.
///
/// # Errors
/// A number that no record can hold.
pub(super) fn graded<P>(
    flown: &InFlight<'_, P>,
    graded: Vec<Graded<'_>>,
    store_kept: u64,
) -> anyhow::Result<Scored> {
    let InFlight { asked, prompt, prefill, .. } = flown;
    let mut info = info(asked, Some(prompt))?;
    if !flown.follow.is_empty() {
        info.compressed_tokens = Some(count(prefill.shape().len)?);
    }
    let seen = prefill.shape().seen().len();
    let mut variants = Vec::with_capacity(graded.len());
    let mut timings = Vec::with_capacity(graded.len());
    for Graded { branch, answer, prediction, grade } in graded {
        let decoded = &answer.decoded;
        let layers = layers_kept(&branch.selection, prefill.shape());
        let entries = budgeted(&decoded.held, prefill.shape());
        variants.push(VariantRecord {
            variant: branch.planned.key.clone(),
            prediction: prediction.into(),
            prediction_sha256: kept::ids_sha256(&decoded.ids).into(),
            new_tokens: count(decoded.ids.len())?,
            finish: if decoded.stopped_by.is_some() { Finish::Stop } else { Finish::Length },
            metric: grade.metric.into(),
            score: grade.score,
            other_scores: grade.others.into(),
            kept: CacheSize {
                entries_mean: entries.iter().sum::<usize>() as f64 / entries.len().max(1) as f64,
                entries_max: count(entries.iter().copied().max().unwrap_or(0))?,
                entries_nominal: branch.planned.variant.entries(seen) as f64,
                bytes: decoded.held.bytes,
                last_only: branch.planned.variant.room(seen).is_err(),
            },
            selection: Some(SelectionDigest::of(&layers)),
            retention: info.needle.and_then(|needle| kept::retention(&layers, prefill.shape(), needle)),
        });
        timings.push(VariantTiming { select_s: branch.select_seconds, decode_s: answer.decode_seconds });
    }
    let stored = asked.place < store_kept;
    let branches = flown.branches.iter().map(|branch| (&branch.planned.key, &*branch.selection));
    Ok(Scored {
        kept: stored.then(|| kept::positions(branches, prefill.shape())),
        record: ExampleRecord {
            schema: SCHEMA,
            key: asked.key.clone(),
            info,
            skipped: None,
            variants,
            timings: Some(Timings { prefill_s: flown.prefill_seconds, variants: timings }),
        },
    })
}

/// What the variants of an example share; an example that is skipped has no prompt.
fn info(asked: &KeyedQuestion<'_>, prompt: Option<&Prompt>) -> anyhow::Result<ExampleInfo> {
    let question = asked.question;
    let about = question.description();
    let needle = match prompt.zip(question.cell()) {
        Some((prompt, cell)) => Some(Needle {
            length: count(cell.length)?,
            depth: f64::from(cell.depth),
            start: prompt.needle.as_ref().map(|span| count(span.start)).transpose()?,
            end: prompt.needle.as_ref().map(|span| count(span.end)).transpose()?,
        }),
        None => None,
    };
    Ok(ExampleInfo {
        row: question.row(),
        language: about.language.to_owned(),
        length: about.length,
        bucket: about.bucket,
        context: asked.ask.context.as_ref().map(ToString::to_string),
        answers: about.answers.to_vec(),
        all_classes: about.all_classes.to_vec(),
        prompt_sha256: prompt.map_or_else(String::new, |prompt| kept::ids_sha256(&prompt.ids)),
        prompt_tail: prompt.map_or_else(String::new, |prompt| kept::tail(&prompt.text)),
        prompt_tokens: prompt.map_or(Ok(0), |prompt| count(prompt.ids.len()))?,
        compressed_tokens: None,
        truncated_tokens: prompt.map_or(Ok(0), |prompt| count(prompt.removed_tokens()))?,
        needle,
    })
}

/// Entries of every stored head of the layers that budgets speak of.
fn budgeted(held: &Held, shape: &CacheShape) -> Vec<usize> {
    shape.contested().into_iter().flat_map(|layer| held.layers[layer].iter().copied()).collect()
}
