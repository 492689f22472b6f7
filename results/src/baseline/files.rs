//! The files of one stored run.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{BaselineKey, BaselineStore};
use crate::Result;
use crate::error::{Conflict, ResultsError};
use crate::git::is_hex;
use crate::io::{create_dirs, sync_dir, write_atomic};
use crate::manifest::Shard;
use crate::record::{ExampleInfo, ExampleKey, ExampleRecord, SCHEMA, Timings, VariantRecord};
use crate::run::{MANIFEST, Run, kept_of, kept_path, read_manifest, to_json};
use crate::shared::Pool;
use crate::text::visible;

pub(super) const EXAMPLES: &str = "examples.jsonl";
pub(super) const CELLS: &str = "cells.jsonl";
pub(super) const TIMINGS: &str = "timings.jsonl";

/// Examples of each data set whose kept positions are stored: enough to see a change, small enough to commit.
const KEPT_EXAMPLES: usize = 2;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExampleLine {
    schema: u32,
    key: ExampleKey,
    info: ExampleInfo,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CellLine {
    key: ExampleKey,
    cell: VariantRecord,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TimingLine {
    key: ExampleKey,
    timings: Timings,
}

impl BaselineStore {
    /// Stores a complete run under `commit` (a full hash, see [`super::resolve_commit`]). Storing the same results again does
    /// nothing.
    ///
    /// # Errors
    /// An incomplete run, a part of a run, a run of a changed tree or of an older schema, other results for the same
    /// commit and configuration.
    pub fn put(&self, run: &Run, commit: &str) -> Result<BaselineKey> {
        let refuse = |why: &str| ResultsError::NotARun { path: run.path.clone(), why: why.to_owned() };
        if !run.is_complete() || !run.problems.is_empty() {
            return Err(refuse("it is not complete, so it cannot be a baseline; run it again to continue"));
        }
        if let Some(Shard { index, count }) = run.manifest.shard {
            return Err(refuse(&format!("it is part {index} of {count}, and a baseline is the whole run")));
        }
        if run.manifest.schema != SCHEMA {
            return Err(refuse(&format!(
                "it is of schema {}; run it again with this program",
                run.manifest.schema
            )));
        }
        if run.manifest.program.commit.contains("-dirty") {
            return Err(refuse("its program was built from a changed tree; commit the change first"));
        }
        if !is_hex(commit) {
            return Err(refuse(&format!("`{}` is no commit hash", visible(commit))));
        }
        let key = BaselineKey { configuration: run.manifest.configuration(), commit: commit.to_owned() };
        let place = self.place(&key);
        let examples: Vec<&ExampleRecord> = {
            let mut all: Vec<&ExampleRecord> = run.examples.iter().collect();
            all.sort_by(|a, b| a.key.cmp(&b.key));
            all
        };
        let json = |value: std::result::Result<String, serde_json::Error>| {
            value.map(|text| text + "\n").map_err(|error| refuse(&error.to_string()))
        };
        let (mut lines, mut cells, mut timings) = (String::new(), String::new(), String::new());
        for record in &examples {
            let line = ExampleLine {
                schema: SCHEMA,
                key: record.key.clone(),
                info: record.info.clone(),
                skipped: record.skipped.clone(),
            };
            lines += &json(serde_json::to_string(&line))?;
            for cell in &record.variants {
                let line = CellLine { key: record.key.clone(), cell: cell.clone() };
                cells += &json(serde_json::to_string(&line))?;
            }
            if let Some(seconds) = &record.timings {
                let line = TimingLine { key: record.key.clone(), timings: seconds.clone() };
                timings += &json(serde_json::to_string(&line))?;
            }
        }
        if place.exists() {
            let same = fs_err::read_to_string(place.join(EXAMPLES))? == lines
                && fs_err::read_to_string(place.join(CELLS))? == cells;
            return if same {
                Ok(key)
            } else {
                Err(ResultsError::Conflict(Box::new(Conflict {
                    what: format!("commit {commit} with configuration {}", key.configuration),
                    first: place.display().to_string(),
                    second: run.path.display().to_string(),
                })))
            };
        }
        // Built aside and renamed: a baseline is there whole or not at all.
        let part = place.with_extension("part");
        if part.exists() {
            fs_err::remove_dir_all(&part)?;
        }
        create_dirs(&part.join("kept"))?;
        let mut manifest = to_json(&run.manifest, &part.join(MANIFEST))?;
        manifest.push(b'\n');
        for (name, bytes) in [
            (MANIFEST, manifest.as_slice()),
            (EXAMPLES, lines.as_bytes()),
            (CELLS, cells.as_bytes()),
            (TIMINGS, timings.as_bytes()),
        ] {
            write_atomic(&part.join(name), bytes)?;
        }
        let mut stored: BTreeMap<&str, usize> = BTreeMap::new();
        for record in examples {
            let count = stored.entry(&record.key.dataset).or_default();
            if *count < KEPT_EXAMPLES
                && let Some(kept) = kept_of(&run.path, &record.key)?
            {
                write_atomic(&kept_path(&part, &record.key), kept.to_text().as_bytes())?;
                *count += 1;
            }
        }
        fs_err::rename(&part, &place)?;
        place.parent().map_or(Ok(()), sync_dir)?;
        Ok(key)
    }

    pub(super) fn read(&self, key: &BaselineKey) -> Result<Run> {
        let path = self.place(key);
        let manifest = read_manifest(&path)?;
        let mut examples: BTreeMap<ExampleKey, ExampleRecord> = BTreeMap::new();
        for_each_line(&path.join(EXAMPLES), |line: ExampleLine| {
            if line.schema > SCHEMA {
                return Err(format!("schema {} is newer than {SCHEMA}; update kvsweep", line.schema));
            }
            let record = ExampleRecord {
                schema: line.schema,
                key: line.key.clone(),
                info: line.info,
                skipped: line.skipped,
                variants: Vec::new(),
                timings: None,
            };
            examples.insert(line.key, record).map_or(Ok(()), |_| Err("the example is there twice".to_owned()))
        })?;
        let missing = || "its example is not in examples.jsonl".to_owned();
        for_each_line(&path.join(CELLS), |line: CellLine| {
            examples.get_mut(&line.key).ok_or_else(missing)?.variants.push(line.cell);
            Ok(())
        })?;
        for_each_line(&path.join(TIMINGS), |line: TimingLine| {
            examples.get_mut(&line.key).ok_or_else(missing)?.timings = Some(line.timings);
            Ok(())
        })?;
        let mut examples: Vec<ExampleRecord> = examples.into_values().collect();
        let (variants, mut names) = (manifest.variants(), Pool::default());
        for record in &mut examples {
            record.share(&variants, &mut names);
            record.check().map_err(|why| ResultsError::Malformed { path: path.join(CELLS), why })?;
        }
        Ok(Run { path, manifest, examples, problems: Vec::new() })
    }
}

/// Reads one JSON value a line.
fn for_each_line<T: for<'a> Deserialize<'a>>(
    path: &Path,
    mut each: impl FnMut(T) -> std::result::Result<(), String>,
) -> Result<()> {
    for (index, line) in fs_err::read_to_string(path)?.lines().enumerate() {
        let value = serde_json::from_str(line).map_err(|error| error.to_string());
        value.and_then(&mut each).map_err(|why| ResultsError::Malformed {
            path: path.to_owned(),
            why: format!("line {}: {why}", index + 1),
        })?;
    }
    Ok(())
}
