//! Runs made of shards, or of several runs, as one body of records; whatever contradicts is refused.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::answers::{Answers, MergedVariant};
use crate::error::{Conflict, ResultsError};
use crate::identity::Identity;
use crate::kept::KeptPositions;
use crate::manifest::{
    MASK_HEADS, Manifest, MethodInfo, NO_TEMPLATE, QUESTION, RunDataset, SEEN, WITHOUT_CONTEXT,
};
use crate::parts::{MissingParts, expected_examples, missing_parts};
use crate::record::{ExampleInfo, ExampleKey, ExampleRecord, VariantKey, VariantRecord};
use crate::run::{RecordProblem, Run, kept_of};
use crate::stats::Sample;

const PIPELINE: &str = " · a check of the pipeline, not of any real model";

/// One example with the variants of all runs.
#[derive(Clone, Debug)]
pub struct MergedExample {
    /// What its variants share.
    pub info: ExampleInfo,
    /// The answers.
    pub answers: Answers,
    source: usize,
}

/// Runs that may stand in one table: nothing keeps them from being compared.
#[derive(Clone, Debug)]
pub struct Group {
    /// The first run's manifest: model, protocol, suite, split.
    pub manifest: Manifest,
    /// All runs' manifests, in the order given.
    pub manifests: Vec<Manifest>,
    /// What all runs together are.
    pub(crate) identity: Identity,
    /// The directories, in the order given.
    pub sources: Vec<String>,
    paths: Vec<PathBuf>,
    /// The commits of the programs, in the order met.
    pub commits: Vec<String>,
    /// All methods with their parameters, in the order met.
    pub methods: Vec<MethodInfo>,
    /// All variants, in the order of the manifests.
    pub variants: Vec<VariantKey>,
    /// All data sets, in the order met; `examples` is how many the runs together should have, `total` the largest of any.
    pub datasets: Vec<RunDataset>,
    /// All examples that have answers.
    pub examples: BTreeMap<ExampleKey, MergedExample>,
    /// Why an example has none: its row cannot be graded.
    pub skipped: BTreeMap<ExampleKey, String>,
    /// What tells the group from others of the merge, beside its model, protocol and machine; empty for a single group.
    distinction: String,
    known_variants: BTreeSet<VariantKey>,
}

/// The records of several runs.
#[derive(Clone, Debug)]
pub struct Merged {
    /// One group unless different models or protocols were allowed.
    pub groups: Vec<Group>,
    /// Lines of any run that were not used. Not empty: report them and exit with 1 after using the rest.
    pub problems: Vec<RecordProblem>,
}

impl<'a> From<&'a Run> for Cow<'a, Run> {
    fn from(run: &'a Run) -> Self {
        Self::Borrowed(run)
    }
}

impl From<Run> for Cow<'_, Run> {
    fn from(run: Run) -> Self {
        Self::Owned(run)
    }
}

impl Merged {
    /// Merges runs: the same cell of two runs counts once. Runs that are given away are not copied.
    ///
    /// # Errors
    /// No run; runs that are not comparable (unless `allow_different`, which keeps them apart in groups); one cell with
    /// two different results, naming both sources.
    pub fn of<'a>(
        runs: impl IntoIterator<Item = impl Into<Cow<'a, Run>>>,
        allow_different: bool,
    ) -> Result<Self> {
        let mut groups: Vec<Group> = Vec::new();
        let mut problems = Vec::new();
        for run in runs {
            let run: Cow<'_, Run> = run.into();
            problems.extend(run.problems.iter().cloned());
            let identity = run.manifest.identity();
            match groups.iter_mut().find(|group| group.identity.incomparable(&identity).is_empty()) {
                Some(group) => group.add(run)?,
                None => {
                    if let Some(group) = groups.first().filter(|_| !allow_different) {
                        return Err(group.refusal(&run));
                    }
                    let mut group = Group::new(&run.manifest);
                    group.add(run)?;
                    groups.push(group);
                }
            }
        }
        if groups.is_empty() {
            return Err(ResultsError::Empty("no run was given".to_owned()));
        }
        distinguish(&mut groups);
        Ok(Self { groups, problems })
    }
}

/// Facts that [`Group::label`] names anyway.
const LABELLED: [&str; 6] =
    ["model.name", "model.embedded", "protocol.name", "protocol.version", "device", "dtype"];

/// Names in every group's label what else its runs differ in from those of other groups.
fn distinguish(groups: &mut [Group]) {
    let differences = |a: &Group, b: &Group| a.identity.incomparable(&b.identity);
    let mut fields = BTreeSet::new();
    for (place, group) in groups.iter().enumerate() {
        let others = groups.iter().skip(place + 1).flat_map(|other| differences(group, other));
        fields.extend(others.map(|difference| difference.field));
    }
    fields.retain(|field| !LABELLED.contains(&field.as_str()));
    for group in groups {
        for field in &fields {
            let name = field.strip_prefix("settings.").unwrap_or(field);
            let unset = if name == QUESTION { SEEN } else { "none" };
            let value = group.identity.value(field).unwrap_or(unset);
            // A hash is told apart by its beginning.
            let value = if value.len() == 64 { value.get(..8).unwrap_or(value) } else { value };
            group.distinction.push_str(&format!(" · {name} {value}"));
        }
    }
}

impl Group {
    fn new(manifest: &Manifest) -> Self {
        Self {
            manifest: manifest.clone(),
            manifests: Vec::new(),
            identity: manifest.identity(),
            sources: Vec::new(),
            paths: Vec::new(),
            commits: Vec::new(),
            methods: Vec::new(),
            variants: Vec::new(),
            datasets: Vec::new(),
            examples: BTreeMap::new(),
            skipped: BTreeMap::new(),
            distinction: String::new(),
            known_variants: BTreeSet::new(),
        }
    }

    /// Why `run` cannot join: the run of the group that it contradicts, and in what.
    fn refusal(&self, run: &Run) -> ResultsError {
        let wanted = run.manifest.identity();
        let mut stored = self.manifests.iter().map(|manifest| manifest.identity().incomparable(&wanted));
        let place = stored.position(|differences| !differences.is_empty()).unwrap_or_default();
        ResultsError::NotComparable {
            first: self.source(place),
            second: run.path.display().to_string(),
            differences: self.identity.incomparable(&wanted),
        }
    }

    /// Runs of the group of which parts are missing.
    pub(crate) fn missing_parts(&self) -> Vec<MissingParts> {
        missing_parts(&self.manifests)
    }

    /// Model and protocol in one line, to tell groups apart.
    pub fn label(&self) -> String {
        let m = &self.manifest;
        let model =
            if m.model.embedded { format!("embedded model {}", m.model.name) } else { m.model.name.clone() };
        format!(
            "{model} · {} v{} · {} {}{}",
            m.protocol.name, m.protocol.version, m.device, m.dtype, self.distinction
        )
    }

    /// Model, protocol, split and missing parts in one line, and what the embedded model's scores are worth: what stands
    /// under every picture.
    pub fn caption(&self) -> String {
        self.captioned(&self.parts())
    }

    /// [`Group::caption`] without the missing parts, for a title that names them itself.
    pub(crate) fn caption_beside_parts(&self) -> String {
        self.captioned(&[])
    }

    fn captioned(&self, parts: &[String]) -> String {
        let manifest = &self.manifest;
        let seed = if manifest.seed == 0 { String::new() } else { format!(", seed {}", manifest.seed) };
        let context = manifest.settings.get(WITHOUT_CONTEXT).map_or("", |_| " · context removed");
        let question =
            manifest.settings.get(QUESTION).map_or(String::new(), |view| format!(" · question {view}"));
        let template = manifest.settings.get(NO_TEMPLATE).map_or("", |_| " · no chat template found");
        let masked = manifest
            .settings
            .get(MASK_HEADS)
            .map_or(String::new(), |heads| format!(" · heads masked: {heads}"));
        let parts: String = parts.iter().map(|part| format!(" · {part}")).collect();
        let caution = if manifest.model.embedded { PIPELINE } else { "" };
        format!(
            "{} · {} split{seed}{context}{question}{template}{masked}{parts}{caution}",
            self.label(),
            manifest.split
        )
    }

    /// The missing parts in words; with the methods, where the group is of several runs.
    pub fn parts(&self) -> Vec<String> {
        let sweeps: BTreeSet<String> = self.manifests.iter().map(|m| m.identity().sweep()).collect();
        let text = |missing: &MissingParts| match sweeps.len() {
            1 => missing.to_string(),
            _ => format!("{}: {missing}", missing.methods.join(", ")),
        };
        self.missing_parts().iter().map(text).collect()
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

    fn add(&mut self, run: Cow<'_, Run>) -> Result<()> {
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
        self.identity.join(&run.manifest.identity());
        for method in &run.manifest.methods {
            if !self.methods.contains(method) {
                self.methods.push(method.clone());
            }
        }
        for variant in run.manifest.variants() {
            if self.known_variants.insert(variant.clone()) {
                self.variants.push(variant);
            }
        }
        for dataset in &run.manifest.datasets {
            match self.datasets.iter_mut().find(|known| known.name == dataset.name) {
                None => self.datasets.push(dataset.clone()),
                Some(known) => known.total = known.total.max(dataset.total),
            }
        }
        for dataset in &mut self.datasets {
            dataset.examples = expected_examples(&self.manifests, &dataset.name);
        }
        // Records that are given away are moved, not copied: there may be hundreds of thousands.
        match run {
            Cow::Owned(run) => {
                run.examples.into_iter().try_for_each(|record| self.add_record(record, source, &run.path))
            }
            Cow::Borrowed(run) => {
                run.examples.iter().try_for_each(|record| self.add_record(record.clone(), source, &run.path))
            }
        }
    }

    fn add_record(&mut self, record: ExampleRecord, source: usize, path: &Path) -> Result<()> {
        let sources = &self.sources;
        let conflict = |what: String, first: usize| {
            ResultsError::Conflict(Box::new(Conflict {
                what,
                first: sources.get(first).cloned().unwrap_or_default(),
                second: path.display().to_string(),
            }))
        };
        let ExampleRecord { key, info, variants, timings, skipped, .. } = record;
        if let Some(why) = skipped {
            self.skipped.insert(key, why);
            return Ok(());
        }
        let decode_s = |index: usize| Some(timings.as_ref()?.variants.get(index)?.decode_s);
        let merged = |(index, record): (usize, VariantRecord)| MergedVariant {
            record,
            decode_s: decode_s(index),
            source,
        };
        let answers = variants.into_iter().enumerate().map(merged);
        let example = match self.examples.entry(key.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(MergedExample { info, answers: Answers::new(answers.collect()), source });
                return Ok(());
            }
            Entry::Occupied(entry) => entry.into_mut(),
        };
        if !example.info.is_of_the_same_prompt(&info) {
            let what = format!("prompt of example `{}` of data set `{}`", key.example, key.dataset);
            return Err(conflict(what, example.source));
        }
        if example.info.context.is_none() {
            example.info.context = info.context;
        }
        for answer in answers {
            let variant = answer.record.variant.clone();
            if let Err(known) = example.answers.add(answer) {
                let what = format!("example `{}` of data set `{}` under {variant}", key.example, key.dataset);
                return Err(conflict(what, known.source));
            }
        }
        Ok(())
    }

    /// How many examples of a data set are finished: answered or skipped.
    pub(crate) fn finished(&self, dataset: &str) -> u64 {
        let keys =
            self.examples.keys().chain(self.skipped.keys().filter(|key| !self.examples.contains_key(key)));
        keys.filter(|key| key.dataset == dataset).count() as u64
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
                let value = example.answers.get(variant)?.record.score;
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
    use crate::fixture::{manifest, part, record, write_run};
    use crate::run::RunDir;

    fn score(dataset: &str, row: u64, variant: usize) -> f64 {
        (dataset.len() as f64 + row as f64 + variant as f64) / 20.0
    }

    #[test]
    fn shards_merge_into_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let run = |name: &str, manifest: &Manifest| write_run(&dir.path().join(name), manifest, score);
        let shards: Vec<Run> =
            [2, 1].map(|index| run(&index.to_string(), &part(&manifest(), index, 2))).into();
        let whole = Merged::of(&[run("all", &manifest())], false).unwrap();
        let merged = Merged::of(&shards, false).unwrap();
        assert_eq!(merged.groups.len(), 1);
        for variant in manifest().variants() {
            for dataset in ["qasper", "trec"] {
                let scores = merged.groups[0].samples(&variant, dataset, None);
                assert_eq!(scores, whole.groups[0].samples(&variant, dataset, None));
                assert_eq!(scores.len(), 3);
            }
        }
        assert_eq!(merged.groups[0].caption(), whole.groups[0].caption());
        assert_eq!(merged.groups[0].datasets, whole.groups[0].datasets);
        let first = Merged::of(&shards[1..], false).unwrap();
        let caption = first.groups[0].caption();
        assert!(caption.contains(" · part 1 of 2; part 2 missing: 2 examples · a check"), "{caption}");
        // Beside another run, the methods say whose part is missing.
        let mut more = manifest();
        more.methods.remove(0);
        more.methods[0].spec = "h2o".into();
        let first = Merged::of(&[shards[1].clone(), run("more", &more)], false).unwrap();
        assert_eq!(first.groups[0].parts(), ["full, snapkv: part 1 of 2; part 2 missing: 2 examples"]);
    }

    #[test]
    fn a_setting_that_moves_numbers_keeps_runs_apart() {
        let dir = tempfile::tempdir().unwrap();
        let run = |name: &str, method: &str, setting: Option<(&str, &str)>| {
            let mut m = manifest();
            m.methods.remove(0);
            m.methods[0].spec = method.into();
            m.settings.extend(setting.map(|(name, value)| (name.to_owned(), value.to_owned())));
            write_run(&dir.path().join(name), &m, score)
        };
        let plain = run("plain", "snapkv", None);
        for (setting, value) in
            [(MASK_HEADS, "semantic:16"), (WITHOUT_CONTEXT, "true"), ("a setting of the future", "on")]
        {
            let other = run(setting, "h2o", Some((setting, value)));
            let error = Merged::of(&[plain.clone(), other.clone()], false).unwrap_err().to_string();
            assert!(error.contains(&format!("settings.{setting}: `none` against `{value}`")), "{error}");
            for runs in [[plain.clone(), other.clone()], [other, plain.clone()]] {
                let groups = Merged::of(&runs, true).unwrap().groups;
                let labels: Vec<bool> =
                    groups.iter().map(|g| g.label().ends_with(&format!(" · {setting} {value}"))).collect();
                assert_eq!(labels.iter().filter(|named| **named).count(), 1, "{:?}", groups[0].label());
            }
        }
        // A calibration that only one of them reads is no difference; two contents are, also behind a third run.
        let name = "calibration of retrieval scores";
        let first = run("first", "headkv-r", Some((name, "aaaa")));
        let second = run("second", "headkv-r:8", Some((name, "bbbb")));
        assert!(Merged::of(&[plain.clone(), first.clone()], false).is_ok());
        let error = Merged::of(&[plain, first, second], false).unwrap_err().to_string();
        assert!(error.contains("/first`") && error.contains("`aaaa` against `bbbb`"), "{error}");
    }

    #[test]
    fn a_manifest_of_many_budgets_is_read_in_linear_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut many = manifest();
        many.budgets = (1..=200_000).map(crate::Budget::Entries).collect();
        let runs = ["a", "b"].map(|name| {
            drop(RunDir::create_or_continue(&dir.path().join(name), &many).unwrap());
            Run::load(&dir.path().join(name)).unwrap()
        });
        let started = std::time::Instant::now();
        assert_eq!(Merged::of(&runs, false).unwrap().groups[0].variants.len(), 200_001);
        // Every variant against every other took minutes.
        assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
    }

    #[test]
    fn skipped_examples_stand_apart() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = RunDir::create_or_continue(dir.path(), &manifest()).unwrap();
        let mut skipped = record(&manifest(), "trec", 1, &[0.5; 3]);
        (skipped.skipped, skipped.timings) = (Some("no class".into()), None);
        skipped.variants.clear();
        run.append(&skipped, None).unwrap();
        run.append(&record(&manifest(), "trec", 0, &[0.5; 3]), None).unwrap();
        let merged = Merged::of(&[run.records().unwrap()], false).unwrap();
        assert_eq!(merged.groups[0].examples.len(), 1);
        assert_eq!(merged.groups[0].skipped, [(skipped.key, "no class".to_owned())].into());
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
        assert!(Merged::of(&[] as &[Run], false).is_err());
    }

    #[test]
    fn other_data_under_the_same_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = write_run(&dir.path().join("a"), &manifest(), score);
        let mut other = manifest();
        other.datasets[0].sha256 = "another file".into();
        let second = write_run(&dir.path().join("b"), &other, score);
        let error = Merged::of(&[first, second], false).unwrap_err().to_string();
        assert!(
            error.contains("datasets[qasper].sha256: `hash of qasper` against `another file`"),
            "{error}"
        );
    }
}
