//! Runs made of shards, or of several runs, as one body of records; whatever contradicts is refused.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::Result;
use crate::error::{Conflict, ResultsError};
use crate::kept::KeptPositions;
use crate::manifest::{DatasetInfo, MASK_HEADS, Manifest, MethodInfo, WITHOUT_CONTEXT};
use crate::record::{ExampleInfo, ExampleKey, VariantKey, VariantRecord};
use crate::run::{RecordProblem, Run, kept_of};
use crate::stats::Sample;

const PIPELINE: &str = " · a check of the pipeline, not of any real model";

/// One example with the variants of all runs.
#[derive(Clone, Debug)]
pub struct MergedExample {
    /// What its variants share.
    pub info: ExampleInfo,
    /// The answers, by variant.
    pub variants: BTreeMap<VariantKey, MergedVariant>,
    source: usize,
}

/// One answer, with where it was read.
#[derive(Clone, Debug)]
pub struct MergedVariant {
    /// The record.
    pub record: VariantRecord,
    /// Seconds of its decode, where known.
    pub decode_s: Option<f64>,
    source: usize,
}

/// Runs that may stand in one table: same model, protocol, data and kind of machine.
#[derive(Clone, Debug)]
pub struct Group {
    /// The first run's manifest: model, protocol, suite, split.
    pub manifest: Manifest,
    /// Every run's manifest, in the order given: limits, shards and settings may differ.
    pub manifests: Vec<Manifest>,
    /// The directories, in the order given.
    pub sources: Vec<String>,
    paths: Vec<PathBuf>,
    /// The commits of the programs, in the order met.
    pub commits: Vec<String>,
    /// All methods with their parameters, in the order met.
    pub methods: Vec<MethodInfo>,
    /// All variants, in the order of the manifests.
    pub variants: Vec<VariantKey>,
    /// All data sets, in the order met; `examples` is the largest number any run has.
    pub datasets: Vec<DatasetInfo>,
    /// All examples.
    pub examples: BTreeMap<ExampleKey, MergedExample>,
}

/// The records of several runs.
#[derive(Clone, Debug)]
pub struct Merged {
    /// One group unless different models or protocols were allowed.
    pub groups: Vec<Group>,
    /// Lines of any run that were not used. Not empty: report them and exit with 1 after using the rest.
    pub problems: Vec<RecordProblem>,
}

impl Merged {
    /// Merges runs: the same cell of two runs counts once.
    ///
    /// # Errors
    /// No run; runs of different models, protocols or data (unless `allow_different`, which keeps them apart in
    /// groups); one cell with two different results, naming both sources.
    pub fn of(runs: &[Run], allow_different: bool) -> Result<Self> {
        let mut groups: Vec<Group> = Vec::new();
        let mut problems = Vec::new();
        for run in runs {
            problems.extend(run.problems.iter().cloned());
            let fits = |group: &&mut Group| group.manifest.incomparable(&run.manifest).is_empty();
            let place = match groups.iter_mut().find(fits) {
                Some(group) => group,
                None => {
                    if let Some(first) = groups.first().filter(|_| !allow_different) {
                        return Err(ResultsError::NotComparable {
                            first: first.source(0),
                            second: run.path.display().to_string(),
                            differences: first.manifest.incomparable(&run.manifest),
                        });
                    }
                    groups.push(Group::new(&run.manifest));
                    match groups.last_mut() {
                        Some(group) => group,
                        None => continue,
                    }
                }
            };
            place.add(run)?;
        }
        if groups.is_empty() {
            return Err(ResultsError::Empty("no run was given".to_owned()));
        }
        Ok(Self { groups, problems })
    }
}

impl Group {
    fn new(manifest: &Manifest) -> Self {
        Self {
            manifest: manifest.clone(),
            manifests: Vec::new(),
            sources: Vec::new(),
            paths: Vec::new(),
            commits: Vec::new(),
            methods: Vec::new(),
            variants: Vec::new(),
            datasets: Vec::new(),
            examples: BTreeMap::new(),
        }
    }

    /// Model and protocol in one line, to tell groups apart.
    pub fn label(&self) -> String {
        let m = &self.manifest;
        let model =
            if m.model.embedded { format!("embedded model {}", m.model.name) } else { m.model.name.clone() };
        format!("{model} · {} v{} · {} {}", m.protocol.name, m.protocol.version, m.device, m.dtype)
    }

    /// Model, protocol and split in one line, and what the embedded model's scores are worth: what stands under every
    /// picture and over every table.
    pub fn caption(&self) -> String {
        let manifest = &self.manifest;
        let seed = if manifest.seed == 0 { String::new() } else { format!(", seed {}", manifest.seed) };
        let context = manifest.settings.get(WITHOUT_CONTEXT).map_or("", |_| " · context removed");
        let masked = manifest
            .settings
            .get(MASK_HEADS)
            .map_or(String::new(), |heads| format!(" · heads masked: {heads}"));
        let caution = if manifest.model.embedded { PIPELINE } else { "" };
        format!("{} · {} split{seed}{context}{masked}{caution}", self.label(), manifest.split)
    }

    fn source(&self, index: usize) -> String {
        self.sources.get(index).cloned().unwrap_or_default()
    }

    /// The kept positions of one example, over all sources that stored them.
    ///
    /// # Errors
    /// A damaged file.
    pub fn kept(&self, key: &ExampleKey) -> Result<KeptPositions> {
        let mut all = KeptPositions::default();
        for path in &self.paths {
            for variant in kept_of(path, key)?.into_iter().flat_map(|kept| kept.variants) {
                if !all.variants.iter().any(|known| known.variant == variant.variant) {
                    all.variants.push(variant);
                }
            }
        }
        Ok(all)
    }

    fn add(&mut self, run: &Run) -> Result<()> {
        let source = self.sources.len();
        self.sources.push(run.path.display().to_string());
        self.paths.push(run.path.clone());
        self.manifests.push(run.manifest.clone());
        let push_new = |list: &mut Vec<String>, item: &String| {
            if !list.contains(item) {
                list.push(item.clone());
            }
        };
        push_new(&mut self.commits, &run.manifest.program.commit);
        for method in &run.manifest.methods {
            if !self.methods.contains(method) {
                self.methods.push(method.clone());
            }
        }
        for variant in run.manifest.variants() {
            if !self.variants.contains(&variant) {
                self.variants.push(variant);
            }
        }
        let first = self.source(0);
        for dataset in &run.manifest.datasets {
            match self.datasets.iter_mut().find(|known| known.name == dataset.name) {
                None => self.datasets.push(dataset.clone()),
                // Only the first run's data sets were compared when the group was chosen.
                Some(known) if known.sha256 != dataset.sha256 => {
                    return Err(ResultsError::Conflict(Box::new(Conflict {
                        what: format!("data set `{}` (sha256 of its file)", dataset.name),
                        first: format!("{first}: {}", known.sha256),
                        second: format!("{}: {}", run.path.display(), dataset.sha256),
                    })));
                }
                Some(known) => known.examples = known.examples.max(dataset.examples),
            }
        }
        let sources = &self.sources;
        for record in &run.examples {
            let conflict = |what: String, first: usize| {
                ResultsError::Conflict(Box::new(Conflict {
                    what,
                    first: sources.get(first).cloned().unwrap_or_default(),
                    second: run.path.display().to_string(),
                }))
            };
            let example = self.examples.entry(record.key.clone()).or_insert_with(|| MergedExample {
                info: record.info.clone(),
                variants: BTreeMap::new(),
                source,
            });
            if !example.info.is_of_the_same_prompt(&record.info) {
                let what = format!(
                    "prompt of example `{}` of data set `{}`",
                    record.key.example, record.key.dataset
                );
                return Err(conflict(what, example.source));
            }
            if example.info.context.is_none() {
                example.info.context.clone_from(&record.info.context);
            }
            for (index, variant) in record.variants.iter().enumerate() {
                let decode_s =
                    record.timings.as_ref().and_then(|t| t.variants.get(index)).map(|timing| timing.decode_s);
                match example.variants.get(&variant.variant) {
                    None => {
                        let merged = MergedVariant { record: variant.clone(), decode_s, source };
                        example.variants.insert(variant.variant.clone(), merged);
                    }
                    Some(known) if known.record != *variant => {
                        let what = format!(
                            "example `{}` of data set `{}` under {}",
                            record.key.example, record.key.dataset, variant.variant
                        );
                        return Err(conflict(what, known.source));
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    /// The scores of one variant on one data set (and length bucket), in the order of the rows.
    pub(crate) fn samples(
        &self,
        variant: &VariantKey,
        dataset: &str,
        bucket: Option<&str>,
    ) -> Vec<Sample<'_>> {
        self.keyed_samples(variant, dataset, bucket).into_iter().map(|(_, sample)| sample).collect()
    }

    /// As [`Group::samples`], each with its example.
    pub(crate) fn keyed_samples(
        &self,
        variant: &VariantKey,
        dataset: &str,
        bucket: Option<&str>,
    ) -> Vec<(&ExampleKey, Sample<'_>)> {
        let mut rows: Vec<(u64, &ExampleKey, Sample<'_>)> = self
            .examples
            .iter()
            .filter(|(key, example)| {
                key.dataset == dataset && (bucket.is_none() || example.info.bucket.as_deref() == bucket)
            })
            .filter_map(|(key, example)| {
                let value = example.variants.get(variant)?.record.score;
                Some((example.info.row, key, Sample { value, context: example.info.context.as_deref() }))
            })
            .collect();
        rows.sort_by_key(|(row, ..)| *row);
        rows.into_iter().map(|(_, key, sample)| (key, sample)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Shard;
    use crate::run::RunDir;
    use crate::run::tests::{manifest, record, write_run};

    fn score(dataset: &str, row: u64, variant: usize) -> f64 {
        (dataset.len() as f64 + row as f64 + variant as f64) / 20.0
    }

    #[test]
    fn shards_merge_into_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut shards = Vec::new();
        for index in [2, 1] {
            let mut part = manifest();
            part.shard = Some(Shard { index, count: 2 });
            let mut run = RunDir::create_or_continue(&dir.path().join(index.to_string()), &part).unwrap();
            for dataset in ["qasper", "trec"] {
                // Row 1 lies in both parts.
                for row in [1, if index == 1 { 0 } else { 2 }] {
                    let scores: Vec<f64> = (0..3).map(|v| score(dataset, row, v)).collect();
                    run.append(&record(&part, dataset, row, &scores), None).unwrap();
                }
            }
            shards.push(run.records().unwrap());
        }
        let whole = Merged::of(&[write_run(&dir.path().join("all"), &manifest(), score)], false).unwrap();
        let merged = Merged::of(&shards, false).unwrap();
        assert_eq!(merged.groups.len(), 1);
        for variant in manifest().variants() {
            for dataset in ["qasper", "trec"] {
                let scores = merged.groups[0].samples(&variant, dataset, None);
                assert_eq!(scores, whole.groups[0].samples(&variant, dataset, None));
                assert_eq!(scores.len(), 3);
            }
        }
    }

    #[test]
    fn a_run_from_before_contexts_were_recorded_still_merges() {
        let dir = tempfile::tempdir().unwrap();
        let old = write_run(&dir.path().join("old"), &manifest(), score);
        let mut new = write_run(&dir.path().join("new"), &manifest(), score);
        new.examples.iter_mut().for_each(|record| record.info.context = Some("a document".into()));
        let mut other = new.clone();
        other.examples[0].info.context = Some("another document".into());
        for runs in [[old.clone(), new.clone()], [new.clone(), old]] {
            let merged = Merged::of(&runs, false).unwrap();
            assert!(merged.groups[0].examples.values().all(|e| e.info.context.is_some()));
        }
        assert!(Merged::of(&[new, other], false).is_err(), "one example has one context");
    }

    #[test]
    fn a_second_run_adds_its_methods() {
        let dir = tempfile::tempdir().unwrap();
        let first = write_run(&dir.path().join("a"), &manifest(), score);
        let mut more = manifest();
        more.methods[1].spec = "h2o".into();
        more.program.commit = "def".into();
        let second = write_run(&dir.path().join("b"), &more, score);
        let merged = Merged::of(&[first, second], false).unwrap();
        let methods: Vec<&str> = merged.groups[0].variants.iter().map(|v| v.method.as_str()).collect();
        // The snapkv and h2o predictions differ by name only; `full` is in both and counts once.
        assert_eq!(methods, ["full", "snapkv", "snapkv", "h2o", "h2o"]);
        assert_eq!(merged.groups[0].commits, ["abc", "def"]);
    }

    #[test]
    fn a_contradiction_names_both_sources() {
        let dir = tempfile::tempdir().unwrap();
        let first = write_run(&dir.path().join("a"), &manifest(), score);
        let second = write_run(&dir.path().join("b"), &manifest(), |d, r, v| score(d, r, v) / 2.0);
        let error = Merged::of(&[first, second], false).unwrap_err().to_string();
        assert!(error.contains("/a\n") && error.contains("/b\n") && error.contains("qasper-0"), "{error}");
    }

    #[test]
    fn different_models_need_to_be_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let first = write_run(&dir.path().join("a"), &manifest(), score);
        let mut other = manifest();
        other.model.name = "Llama".into();
        other.model.weights_sha256 = "v".into();
        let second = write_run(&dir.path().join("b"), &other, score);
        let runs = [first, second];
        let error = Merged::of(&runs, false).unwrap_err().to_string();
        assert!(error.contains("model.name: `tiny` against `Llama`"), "{error}");
        assert_eq!(Merged::of(&runs, true).unwrap().groups.len(), 2);
        assert!(Merged::of(&[], false).is_err());
    }

    #[test]
    fn other_data_under_the_same_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = write_run(&dir.path().join("a"), &manifest(), score);
        let mut other = manifest();
        other.datasets[0].sha256 = "another file".into();
        let second = write_run(&dir.path().join("b"), &other, score);
        let error = Merged::of(&[first, second], false).unwrap_err().to_string();
        assert!(error.contains("data set qasper: `hash of qasper` against `another file`"), "{error}");
    }
}
