//! `kvsweep export RUN --layout NAME`: a run's predictions as another harness writes them.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use kvsweep_results::{Budget, ExampleRecord, Merged, QUESTION, Run, UNSEEN, VariantKey};
use kvsweep_tasks::Suite;
use kvsweep_tasks::layouts::{self, ExportMeta, NeedleRecord, Prediction, needle};

use crate::cli::ExportArgs;
use crate::exit::{Exit, usage};
use crate::{output, pictures, tables};

/// Runs the command: one tree a variant, all of them or none.
pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<Exit> {
    if args.output == Path::new("-") {
        return Err(usage("an export is a folder, which stdout cannot hold; name one with -o"));
    }
    let run = Run::load(&args.run)?;
    let needles = run.manifest.suite == Suite::Needle.name();
    if needles != needle::LAYOUTS.iter().any(|layout| layout.0 == args.layout)
        && layouts::names().contains(&args.layout.as_str())
    {
        let (what, other): (_, Vec<&str>) = if needles {
            ("needle results", needle::LAYOUTS.iter().map(|layout| layout.0).collect())
        } else {
            ("data sets", layouts::LAYOUTS.iter().map(|layout| layout.name()).collect())
        };
        return Err(usage(format!(
            "`{}` holds {what} and the layout `{}` does not; layouts that do: {}",
            args.run.display(),
            args.layout,
            other.join(", ")
        )));
    }
    let written = if needles { Some(written_at(&args.run)?) } else { None };
    let merged = Merged::of(std::slice::from_ref(&run), false)?;
    let mut files = Vec::new();
    for (group, variant) in merged.groups.iter().flat_map(|g| g.variants.iter().map(move |v| (g, v))) {
        let meta = ExportMeta {
            model: run.manifest.model.name.clone(),
            question_seen: run.manifest.settings.get(QUESTION).is_none_or(|view| view != UNSEEN),
            removed: removed(&run, variant),
            method: variant.method.to_string(),
            budget: variant.budget.map(|budget| budget.to_string()),
        };
        // Layouts whose paths carry no method would collide: each variant gets a folder.
        let root = args.output.join(pictures::variant_file_name(group, variant));
        files.extend(match &written {
            Some(time) => needle::export(&root, &args.layout, &meta, time, &needle_records(&run, variant)?)?,
            None => layouts::export(&root, &args.layout, &meta, &predictions(&run, variant))?,
        });
    }
    layouts::write(&files, |path, bytes| {
        path.parent().map_or(Ok(()), fs_err::create_dir_all)?;
        kvsweep_results::write_atomic(path, bytes)
    })?;
    for file in files {
        output::line(&file.path.display().to_string())?;
    }
    Ok(tables::tell(&Merged::of(&[run], false)?))
}

/// One variant's answers with their places in the records.
fn answers<'a>(run: &'a Run, variant: &VariantKey) -> Vec<(&'a ExampleRecord, usize)> {
    let place = |example: &ExampleRecord| example.variants.iter().position(|a| a.variant == *variant);
    run.examples.iter().filter_map(|example| Some((example, place(example)?))).collect()
}

/// The share that a variant removed: what its own share leaves, or of entries the mean over the prompts, two decimals.
fn removed(run: &Run, variant: &VariantKey) -> f64 {
    if let Some(share) = variant.budget.and_then(Budget::share) {
        return share.removed().parse().unwrap_or_default();
    }
    let shares: Vec<f64> = answers(run, variant)
        .into_iter()
        .map(|(example, place)| {
            let kept = example.variants[place].kept.entries_nominal;
            1.0 - kept / f64::from(example.info.compressed().max(1))
        })
        .collect();
    let mean = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
    if variant.budget.is_none() { 0.0 } else { (mean * 100.0).round() / 100.0 }
}

fn predictions(run: &Run, variant: &VariantKey) -> Vec<Prediction> {
    let prediction = |(example, place): (&ExampleRecord, usize)| {
        let info = &example.info;
        Prediction {
            dataset: example.key.dataset.clone(),
            pred: example.variants[place].prediction.to_string(),
            answers: info.answers.clone(),
            all_classes: info.all_classes.clone(),
            length: info.length.unwrap_or_default(),
            prompt: info.prompt_tail.clone(),
            input: String::new(),
            context: String::new(),
            language: info.language.clone(),
            id: example.key.example.clone(),
        }
    };
    answers(run, variant).into_iter().map(prediction).collect()
}

/// One record a cell of the grid: those testers write one file a cell.
fn needle_records(run: &Run, variant: &VariantKey) -> anyhow::Result<Vec<NeedleRecord>> {
    let mut records = Vec::new();
    let mut cells = BTreeSet::new();
    for (example, place) in answers(run, variant) {
        let key = &example.key.example;
        let grid = example.info.needle.with_context(|| format!("example `{key}` has no needle's place"))?;
        anyhow::ensure!(
            cells.insert((grid.length, grid.depth.to_bits())),
            "`{}` has several trials of length {} at depth {}, and these layouts hold one result a cell; run it with \
             --limit 1",
            run.path.display(),
            grid.length,
            grid.depth
        );
        let seconds = example
            .timings
            .as_ref()
            .and_then(|timings| Some(timings.prefill_s + timings.variants.get(place)?.decode_s));
        records.push(NeedleRecord {
            length: u64::from(grid.length),
            prompt_tokens: u64::from(example.info.prompt_tokens),
            depth: grid.depth,
            needle: example.info.answers.first().cloned().unwrap_or_default(),
            response: example.variants[place].prediction.to_string(),
            seconds: seconds.unwrap_or_default(),
        });
    }
    Ok(records)
}

/// When the run's records were last written, as the testers write times: the same run gives the same files.
fn written_at(run: &Path) -> anyhow::Result<String> {
    let records = run.join("records.jsonl");
    let modified = fs_err::metadata(&records)?.modified()?;
    utc(modified).with_context(|| format!("the time `{}` was last written", records.display()))
}

/// `2026-01-31 12:00:00+0000`.
fn utc(at: SystemTime) -> anyhow::Result<String> {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let at = time::UtcDateTime::from_unix_timestamp(i64::try_from(seconds)?)?;
    let ((year, month, day), (hour, minute, second)) = (at.to_calendar_date(), at.as_hms());
    Ok(format!("{year:04}-{:02}-{day:02} {hour:02}:{minute:02}:{second:02}+0000", u8::from(month)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_civil_dates() {
        let at = |seconds| utc(UNIX_EPOCH + Duration::from_secs(seconds)).expect("a year below 10,000");
        assert_eq!(at(0), "1970-01-01 00:00:00+0000");
        assert_eq!(at(951_827_696), "2000-02-29 12:34:56+0000");
        assert_eq!(at(1_735_689_599), "2024-12-31 23:59:59+0000");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00+0000");
    }
}
