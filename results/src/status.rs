//! How far the parts of a run are, read from their directories while they are written or after.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use crate::Result;
use crate::error::ResultsError;
use crate::manifest::Shard;
use crate::run::{LOCK, MANIFEST, RECORDS, Run};
use crate::text::short_time;
use crate::text_table::TextTable;

/// What one part is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartState {
    /// It has no directory, or nothing in it.
    NotStarted,
    /// A process holds it. One that was killed without a chance to say so looks the same: see the age of the last record.
    AtWork,
    /// Examples are missing, and no process holds it.
    Stopped,
    /// Every example is there.
    Finished,
}

impl PartState {
    fn name(self) -> &'static str {
        match self {
            Self::NotStarted => "not started",
            Self::AtWork => "at work",
            Self::Stopped => "stopped",
            Self::Finished => "finished",
        }
    }
}

/// One part.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartStatus {
    /// Its number, from 1.
    pub part: u32,
    /// What it is doing.
    pub state: PartState,
    /// Examples that are there.
    pub done: u64,
    /// Examples that it should have; none where its directory does not say.
    pub examples: Option<u64>,
    /// Prompt tokens of the examples that are there.
    pub prompt_tokens: u64,
    /// Seconds of computing behind them: prefill, selection, decode.
    pub seconds: f64,
    /// Seconds until it is finished, at the pace so far; none before the first example.
    pub left_seconds: Option<f64>,
    /// Seconds since its last record.
    pub last_record_seconds: Option<f64>,
}

/// A run in one or several parts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunStatus {
    /// Its directory.
    pub path: PathBuf,
    /// All parts, those without a directory included.
    pub parts: Vec<PartStatus>,
}

impl RunStatus {
    /// Reads a run directory, or a folder whose folders are the parts of one run.
    ///
    /// # Errors
    /// No run there, parts that are not of one cut, records that cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        let folders = if path.join(MANIFEST).is_file() { vec![path.to_owned()] } else { runs_in(path)? };
        let mut parts = Vec::new();
        let mut cut: Option<(u32, PathBuf)> = None;
        for folder in folders {
            let run = Run::load_for_scores(&folder)?;
            let Shard { index, count } = run.manifest.shard.unwrap_or(Shard { index: 1, count: 1 });
            match &cut {
                Some((expected, first)) if *expected != count => {
                    let why =
                        format!("it is cut into {count} parts, and `{}` into {expected}", first.display());
                    return Err(ResultsError::NotARun { path: folder, why });
                }
                _ => cut = Some((count, folder.clone())),
            }
            parts.push(PartStatus::of(&run, index));
        }
        let Some((count, _)) = cut else {
            let why = format!("neither it nor a folder in it has a {MANIFEST}");
            return Err(ResultsError::NotARun { path: path.to_owned(), why });
        };
        // A run of a billion parts is a mistake that is not worth a line each.
        let absent = (1..=count.min(MOST_PARTS)).filter(|index| parts.iter().all(|part| part.part != *index));
        let absent: Vec<_> = absent.map(PartStatus::absent).collect();
        parts.extend(absent);
        parts.sort_by_key(|part| part.part);
        Ok(Self { path: path.to_owned(), parts })
    }

    /// Whether every part is finished.
    pub fn is_finished(&self) -> bool {
        self.parts.iter().all(|part| part.state == PartState::Finished)
    }

    /// A line a part, and one for all together.
    pub fn text(&self) -> String {
        let titles = ["part", "state", "examples", "prompt tok/s", "s/example", "left", "last record"];
        let dash = || "-".to_owned();
        let mut rows: Vec<Vec<String>> = self
            .parts
            .iter()
            .map(|part| {
                vec![
                    part.part.to_string(),
                    part.state.name().to_owned(),
                    part.examples.map_or_else(dash, |all| format!("{}/{all}", part.done)),
                    part.rate().map_or_else(dash, |rate| format!("{rate:.0}")),
                    part.pace().map_or_else(dash, |pace| format!("{pace:.1}")),
                    part.left_seconds.map_or_else(dash, short_time),
                    part.last_record_seconds.map_or_else(dash, |age| format!("{} ago", short_time(age))),
                ]
            })
            .collect();
        if self.parts.len() > 1 {
            let done: u64 = self.parts.iter().map(|part| part.done).sum();
            let all: Option<u64> = self.parts.iter().map(|part| part.examples).sum();
            let last = self.parts.iter().map(|part| part.left_seconds).collect::<Option<Vec<_>>>();
            let last = last.and_then(|left| left.into_iter().reduce(f64::max));
            let finished = self.parts.iter().filter(|part| part.state == PartState::Finished).count();
            rows.push(vec![
                "all".to_owned(),
                format!("{finished} of {} finished", self.parts.len()),
                all.map_or_else(|| format!("{done}/?"), |all| format!("{done}/{all}")),
                dash(),
                dash(),
                last.map_or_else(dash, short_time),
                dash(),
            ]);
        }
        TextTable::of_rows(&titles, &[0, 1], &rows).text()
    }
}

/// Parts that are listed at most.
const MOST_PARTS: u32 = 10_000;

impl PartStatus {
    fn of(run: &Run, part: u32) -> Self {
        let examples: u64 = run.manifest.datasets.iter().map(|dataset| dataset.examples).sum();
        let timings = || run.examples.iter().filter_map(|record| record.timings.as_ref());
        let seconds: f64 = timings()
            .map(|timings| {
                let variants = timings.variants.iter().map(|variant| variant.select_s + variant.decode_s);
                timings.prefill_s + variants.sum::<f64>()
            })
            .sum();
        let done = run.examples.len() as u64;
        let complete = run.is_complete();
        let missing = examples.saturating_sub(done);
        let held = fs_err::metadata(run.path.join(LOCK)).is_ok_and(|lock| lock.len() > 0);
        let modified = fs_err::metadata(run.path.join(RECORDS)).and_then(|records| records.modified());
        let age = |time: SystemTime| SystemTime::now().duration_since(time).unwrap_or_default().as_secs_f64();
        Self {
            part,
            state: match (complete, held) {
                (true, _) => PartState::Finished,
                (false, true) => PartState::AtWork,
                (false, false) => PartState::Stopped,
            },
            done,
            examples: Some(examples),
            prompt_tokens: run.examples.iter().map(|record| u64::from(record.info.prompt_tokens)).sum(),
            seconds,
            left_seconds: match timings().count() {
                _ if complete => Some(0.0),
                0 => None,
                timed => Some(seconds / timed as f64 * missing as f64),
            },
            last_record_seconds: modified.ok().filter(|_| done > 0).map(age),
        }
    }

    fn absent(part: u32) -> Self {
        Self {
            part,
            state: PartState::NotStarted,
            done: 0,
            examples: None,
            prompt_tokens: 0,
            seconds: 0.0,
            left_seconds: None,
            last_record_seconds: None,
        }
    }

    /// Prompt tokens a second of computing.
    fn rate(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.prompt_tokens as f64 / self.seconds)
    }

    /// Seconds of computing an example.
    fn pace(&self) -> Option<f64> {
        (self.seconds > 0.0 && self.done > 0).then(|| self.seconds / self.done as f64)
    }
}

/// The folders of `path` that are runs.
fn runs_in(path: &Path) -> Result<Vec<PathBuf>> {
    let mut runs = Vec::new();
    for entry in fs_err::read_dir(path)? {
        let folder = entry?.path();
        if folder.join(MANIFEST).is_file() {
            runs.push(folder);
        }
    }
    runs.sort();
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{manifest, part, record};
    use crate::run::RunDir;

    #[test]
    fn parts_say_how_far_they_are() {
        let dir = tempfile::tempdir().unwrap();
        for index in [1, 3] {
            let manifest = part(&manifest(), index, 3);
            let mut run =
                RunDir::create_or_continue(&dir.path().join(format!("part-{index}")), &manifest).unwrap();
            let name = manifest.datasets[0].name.clone();
            let mut one = record(&manifest, &name, u64::from(index) - 1, &[1.0, 0.5, 0.5]);
            if let Some(timings) = &mut one.timings {
                timings.prefill_s = 4.0;
                timings
                    .variants
                    .iter_mut()
                    .for_each(|variant| (variant.select_s, variant.decode_s) = (0.0, 0.0));
            }
            run.append(&one, None).unwrap();
            if index == 3 {
                let name = manifest.datasets[1].name.clone();
                run.append(&record(&manifest, &name, 2, &[1.0, 0.5, 0.5]), None).unwrap();
            }
        }
        let status = RunStatus::of(dir.path()).unwrap();
        let states: Vec<PartState> = status.parts.iter().map(|part| part.state).collect();
        assert_eq!(states, [PartState::Stopped, PartState::NotStarted, PartState::Finished]);
        assert_eq!((status.parts[0].done, status.parts[0].examples), (1, Some(2)));
        assert_eq!(status.parts[0].left_seconds, Some(4.0), "one example took 4 s, and one is missing");
        assert_eq!(status.parts[2].left_seconds, Some(0.0));
        let text = status.text();
        assert!(text.contains("1 of 3 finished") && text.contains("3/?"), "{text}");
        assert!(!status.is_finished());

        let held = RunDir::create_or_continue(&dir.path().join("part-1"), &part(&manifest(), 1, 3)).unwrap();
        assert_eq!(RunStatus::of(dir.path()).unwrap().parts[0].state, PartState::AtWork);
        drop(held);
        RunDir::create_or_continue(&dir.path().join("other"), &part(&manifest(), 1, 2)).unwrap();
        let error = RunStatus::of(dir.path()).unwrap_err().to_string();
        assert!(error.contains("parts"), "{error}");
        let none = tempfile::tempdir().unwrap();
        assert!(RunStatus::of(none.path()).unwrap_err().to_string().contains("manifest.json"));
    }
}
