//! What the command line selects of a suite, checked before a model is loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use kvsweep_results::{
    ESSAYS, LIMIT_TAKES, NEEDLE_DEPTHS, NEEDLE_LENGTHS, RULER_LENGTHS, SPREAD, Shard, WITHOUT_CONTEXT,
};
use kvsweep_tasks::datasets::{self, DatasetInfo};
use kvsweep_tasks::needle::{self, NeedleVariant};
use kvsweep_tasks::ruler::{self, Material, published};
use kvsweep_tasks::source::{
    EssayNeedle, GeneratedRuler, MiniNeedle, MiniRows, MiniRuler, PublishedRuler, RowFile, spread_rows,
};
use kvsweep_tasks::{ModelFacts, Protocol, Source, Suite, TaskError, fetch, find_dataset, mini};

use super::DatasetPart;
use crate::cli::{RunArgs, Split};
use crate::exit::usage;
use crate::output;

/// What the command line selects of a suite, names checked before a model is loaded.
pub(crate) struct Selected {
    /// The suite.
    pub suite: Suite,
    /// Where rows come from.
    pub split: Split,
    /// This process's part.
    pub shard: Option<Shard>,
    data: Option<PathBuf>,
    names: Option<Vec<String>>,
    limit: Option<usize>,
    lengths: Option<Vec<usize>>,
    depths: Option<Vec<u32>>,
    /// Seed of the mini suite's rows.
    pub seed: u64,
    without_context: bool,
}

/// The split whose rows are generated, in manifests.
pub(crate) const MINI: &str = "mini";

impl Selected {
    /// Checks everything that needs no model.
    ///
    /// # Errors
    /// Options that contradict each other, unknown data sets, a shard that does not exist, missing rows.
    pub(crate) fn of(suite: Suite, args: &RunArgs) -> anyhow::Result<Self> {
        let embedded = args.model.name() == crate::model::TINY;
        let split =
            args.split.unwrap_or(if args.data.is_none() && embedded { Split::Mini } else { Split::Full });
        if split == Split::Mini && args.data.is_some() {
            return Err(usage("--split mini is generated and reads no --data; leave one of them out"));
        }
        if split == Split::Mini && !matches!(suite, Suite::LongBench | Suite::Needle | Suite::Ruler) {
            return Err(usage(format!(
                "suite `{}` has no mini split; give its rows with --data DIR, or fetch them with `kvsweep fetch data {}`",
                suite.name(),
                suite.name()
            )));
        }
        if !matches!(suite, Suite::Needle | Suite::Ruler) && args.lengths.is_some() {
            return Err(usage("--lengths belongs to the suites `needle` and `ruler`"));
        }
        if suite != Suite::Needle && args.depths.is_some() {
            return Err(usage("--depths belongs to the suite `needle`"));
        }
        if suite == Suite::Needle && args.datasets.is_some() {
            return Err(usage("the suite `needle` has no data sets; use --lengths and --depths"));
        }
        if split == Split::Full && args.seed.is_some() && !is_generated(suite, args.data.as_deref()) {
            return Err(usage("--seed belongs to generated rows; those of a file have none"));
        }
        if args.without_context && (suite, split) == (Suite::Needle, Split::Full) {
            return Err(usage("--without-context leaves nothing of a haystack of essays; use --split mini"));
        }
        if args.limit == Some(0) {
            return Err(usage("--limit 0 selects nothing; give at least 1"));
        }
        if split == Split::Mini && suite != Suite::Needle {
            check_generated(args.limit.unwrap_or_default(), "")?;
        }
        if suite == Suite::Ruler && args.lengths.as_ref().is_some_and(Vec::is_empty) {
            return Err(usage("--lengths is empty; give context lengths in tokens, e.g. 4096"));
        }
        let shard = args.shard.as_deref().map(parse_shard).transpose()?;
        let depths = args.depths.as_deref().map(parse_depths).transpose()?;
        let selected = Self {
            suite,
            split,
            shard,
            data: args.data.clone(),
            names: args.datasets.as_deref().map(distinct),
            limit: args.limit,
            lengths: args.lengths.as_deref().map(distinct),
            depths: depths.as_deref().map(distinct),
            seed: args.seed.unwrap_or(mini::SUITE_SEED),
            without_context: args.without_context,
        };
        if suite != Suite::Needle {
            match split {
                Split::Mini => drop(selected.mini_sets()?),
                Split::Full => {
                    if let Some(names) = &selected.names {
                        datasets::pick(suite.name(), names).map_err(usage)?;
                    }
                }
            }
        }
        Ok(selected)
    }

    /// Whether there are rows to read: generated ones, a folder that was named, or a fetched one.
    pub(crate) fn has_rows(&self) -> bool {
        self.split == Split::Mini || self.is_generated() || self.folder().is_ok() || self.data.is_some()
    }

    /// Whether rows are made from a seed, embedded or for the model's tokenizer.
    pub(crate) fn is_generated(&self) -> bool {
        self.split == Split::Mini || is_generated(self.suite, self.data.as_deref())
    }

    /// The prompts of RULER rows, each of its whole length, without making them: data sets, and tokens of each prompt
    /// beside its answer's.
    ///
    /// # Errors
    /// As [`Selected::sources`].
    pub(crate) fn ruler_lengths(&self, protocol: &Protocol) -> anyhow::Result<(usize, Vec<(usize, usize)>)> {
        let mut prompts = Vec::new();
        if !self.is_generated() {
            let sources = self.published_ruler(protocol)?;
            for source in &sources {
                let new = source.info.max_new_tokens;
                let rows = DatasetPart::of(source.rows()?, self.shard);
                let lengths = rows.questions().filter_map(|asked| asked.question.context_length());
                prompts.extend(lengths.map(|length| (length.saturating_sub(new), new)));
            }
            return Ok((sources.len(), prompts));
        }
        let sources = self.generated_ruler(protocol)?;
        for source in &sources {
            let new = source.info.max_new_tokens;
            let each = source.lengths.iter().map(|length| (length.saturating_sub(new), new));
            let rows = self.shard.map_or(source.rows * source.lengths.len(), |shard| {
                shard.rows((source.rows * source.lengths.len()) as u64) as usize
            });
            prompts.extend(each.cycle().take(rows));
        }
        Ok((sources.len(), prompts))
    }

    /// The data sets of the full split that are asked for, or all that the protocol runs.
    ///
    /// # Errors
    /// Unknown names.
    pub(crate) fn infos(&self, protocol: &Protocol) -> anyhow::Result<Vec<&'static DatasetInfo>> {
        Ok(match &self.names {
            Some(names) => datasets::pick(self.suite.name(), names)?,
            None => protocol.datasets(self.suite.name())?,
        })
    }

    /// How many of `rows` rows remain after limit and shard.
    pub(crate) fn remaining(&self, rows: usize) -> usize {
        let rows = rows.min(self.limit.unwrap_or(usize::MAX));
        self.shard.map_or(rows, |shard| shard.rows(rows as u64) as usize)
    }

    /// Those of some cells' lengths that remain after limit and shard.
    pub(crate) fn remaining_lengths(&self, lengths: &[usize]) -> Vec<usize> {
        let keys: Vec<u64> = lengths.iter().map(|&length| length as u64).collect();
        let drawn = spread_rows(&keys, self.limit.unwrap_or(usize::MAX));
        let ours = |place: usize| {
            self.shard.is_none_or(|Shard { index, count }| place % count as usize + 1 == index as usize)
        };
        let drawn = drawn.into_iter().enumerate().filter(|(place, _)| ours(*place));
        drawn.map(|(_, row)| lengths[row as usize]).collect()
    }

    /// The full needle grid of a model: context lengths and depths.
    ///
    /// # Errors
    /// A protocol whose needle variant does not exist.
    pub(crate) fn grid(
        &self,
        protocol: &Protocol,
        facts: &ModelFacts,
    ) -> anyhow::Result<(&'static NeedleVariant, Vec<usize>, Vec<u32>)> {
        let variant = needle::variants::by_name(&protocol.needle.variant)?;
        let lengths =
            self.lengths.clone().unwrap_or_else(|| variant.lengths(&facts.name, facts.max_positions));
        Ok((variant, lengths, self.depths.clone().unwrap_or_else(|| variant.depths.to_vec())))
    }

    /// The split's name in manifests.
    pub(crate) fn split_name(&self) -> &'static str {
        match self.split {
            Split::Mini => MINI,
            Split::Full => "full",
        }
    }

    /// What of the selection the manifest's own fields do not say: the needle's grid, the mini suite's version.
    pub(crate) fn settings(&self, datasets: &[DatasetPart]) -> BTreeMap<String, String> {
        let cells: Vec<_> = datasets.iter().flat_map(|dataset| &dataset.cells).collect();
        let lengths: BTreeSet<usize> = cells.iter().map(|cell| cell.length).collect();
        let depths: BTreeSet<u32> = cells.iter().map(|cell| cell.depth).collect();
        let mut settings = BTreeMap::new();
        if !cells.is_empty() {
            let list = |numbers: Vec<String>| numbers.join(",");
            settings.insert(NEEDLE_LENGTHS.to_owned(), list(lengths.iter().map(usize::to_string).collect()));
            settings.insert(NEEDLE_DEPTHS.to_owned(), list(depths.iter().map(u32::to_string).collect()));
        }
        if self.suite == Suite::Ruler {
            let lengths: BTreeSet<usize> = datasets.iter().flat_map(|d| d.lengths.clone()).collect();
            let lengths: Vec<String> = lengths.iter().map(usize::to_string).collect();
            settings.insert(RULER_LENGTHS.to_owned(), lengths.join(","));
        }
        if let Some(sha256) = datasets.iter().find_map(|dataset| dataset.identity.essays_sha256.clone()) {
            settings.insert(ESSAYS.to_owned(), sha256);
        }
        match (self.suite, self.split) {
            (Suite::Ruler, Split::Mini) => {
                settings.insert("mini-ruler-version".to_owned(), mini::ruler::RULER_VERSION.to_owned());
            }
            (_, Split::Mini) => {
                settings.insert("mini-version".to_owned(), mini::MINI_VERSION.to_owned());
            }
            (Suite::Ruler, Split::Full) if self.is_generated() => {
                settings.insert(GENERATOR.to_owned(), ruler::RULER_VERSION.to_owned());
            }
            (_, Split::Full) => {}
        }
        // RULER's rows of a length are one like another.
        if self.limit.is_some() && self.split == Split::Full && self.suite != Suite::Ruler {
            settings.insert(LIMIT_TAKES.to_owned(), SPREAD.to_owned());
        }
        if self.without_context {
            settings.insert(WITHOUT_CONTEXT.to_owned(), "true".to_owned());
        }
        settings
    }

    /// Where the questions come from.
    ///
    /// # Errors
    /// Rows or essays that are not there, more generated examples than are allowed, a protocol whose needle variant does
    /// not exist.
    pub(crate) fn sources(
        &self,
        protocol: &Protocol,
        model: &ModelFacts,
    ) -> anyhow::Result<Vec<Box<dyn Source>>> {
        fn boxed<S: Source + 'static>(sources: Vec<S>) -> Vec<Box<dyn Source>> {
            sources.into_iter().map(|source| Box::new(source) as Box<dyn Source>).collect()
        }
        Ok(match (self.suite, self.split) {
            (Suite::Needle, Split::Mini) => boxed(vec![self.mini_needle(model)?]),
            (Suite::Needle, Split::Full) => boxed(vec![self.essay_needle(protocol, model)?]),
            (Suite::Ruler, Split::Mini) => boxed(self.mini_ruler()?),
            (_, Split::Mini) => boxed(self.mini_rows()?),
            (Suite::Ruler, Split::Full) if self.is_generated() => boxed(self.generated_ruler(protocol)?),
            (Suite::Ruler, Split::Full) => boxed(self.published_ruler(protocol)?),
            (_, Split::Full) => boxed(self.row_files(protocol)?),
        })
    }

    fn mini_rows(&self) -> anyhow::Result<Vec<MiniRows>> {
        let rows = |set| MiniRows::new(set, self.seed, self.limit, self.without_context);
        Ok(self.mini_sets()?.into_iter().map(rows).collect::<Result<_, _>>()?)
    }

    fn mini_ruler(&self) -> anyhow::Result<Vec<MiniRuler>> {
        let names: Vec<&str> = self.mini_sets()?.iter().map(|set| set.name).collect();
        let asked = mini::ruler::TASKS.iter().filter(|task| names.contains(&task.set.name));
        let source =
            |task| MiniRuler::new(task, self.lengths.clone(), self.seed, self.limit, self.without_context);
        Ok(asked.map(source).collect::<Result<_, _>>()?)
    }

    /// The thirteen tasks, made for the model's tokenizer; those whose questions are not there are left out unless they
    /// were asked for by name.
    fn generated_ruler(&self, protocol: &Protocol) -> anyhow::Result<Vec<GeneratedRuler>> {
        let material = match &self.data {
            Some(_) => Material::read(&self.folder()?)?,
            None => Material::embedded(),
        };
        let lengths = self.lengths.clone().unwrap_or_else(|| vec![ruler::DEFAULT_LENGTH]);
        let rows = self.limit.unwrap_or(ruler::RULER_ROWS);
        check_generated(rows.saturating_mul(lengths.len()), &format!(" of {} lengths", lengths.len()))?;
        let material = Arc::new(material);
        let (mut sources, mut missing) = (Vec::new(), Vec::new());
        for info in self.infos(protocol)? {
            match material.check(info) {
                Ok(()) => sources.push(GeneratedRuler {
                    info,
                    lengths: lengths.clone(),
                    rows,
                    seed: self.seed,
                    material: Arc::clone(&material),
                    without_context: self.without_context,
                }),
                Err(error) if self.names.is_none() => missing.push(error.to_string()),
                Err(error) => return Err(error.into()),
            }
        }
        for problem in missing {
            output::note(&format!("left out: {problem}"));
        }
        let essays = sources.iter().any(|source| ruler::reads_essays(source.info));
        if essays && material.essays_sha256.is_none() {
            output::note(
                "no essays given: the tasks whose needles lie in essays use the embedded haystack; --data DIR names a folder \
                 of `.txt` files",
            );
        }
        Ok(sources)
    }

    /// Published rows, of all the lengths that are there and that are asked for.
    fn published_ruler(&self, protocol: &Protocol) -> anyhow::Result<Vec<PublishedRuler>> {
        let folder = self.folder()?;
        let there = published::lengths(&folder);
        let lengths = self.lengths.clone().unwrap_or_else(|| there.keys().copied().collect());
        let mut places = Vec::new();
        for length in lengths {
            let place = there.get(&length).with_context(|| {
                let known: Vec<String> = there.keys().map(usize::to_string).collect();
                format!("`{}` has no rows of length {length}; it has {}", folder.display(), known.join(", "))
            })?;
            places.push((length, place));
        }
        let (mut sources, mut missing) = (Vec::new(), Vec::new());
        for info in self.infos(protocol)? {
            let file =
                |(length, place): &(usize, &PathBuf)| Ok((*length, published::find(place, info.name)?));
            match places.iter().map(file).collect::<Result<Vec<_>, TaskError>>() {
                Ok(files) => sources.push(PublishedRuler {
                    info,
                    files,
                    limit: self.limit,
                    without_context: self.without_context,
                }),
                Err(TaskError::MissingDataset { .. }) if self.names.is_none() => missing.push(info.name),
                Err(error) => return Err(error.into()),
            }
        }
        if sources.is_empty() {
            let (_, place) = places.first().context("no length is asked for")?;
            published::find(place, missing.first().copied().unwrap_or_default())?;
        }
        if !missing.is_empty() {
            output::note(&format!("not in `{}`, left out: {}", folder.display(), missing.join(", ")));
        }
        Ok(sources)
    }

    /// The files of the full split.
    ///
    /// # Errors
    /// A data set that was asked for by name and is not there; none at all.
    pub(crate) fn row_files(&self, protocol: &Protocol) -> anyhow::Result<Vec<RowFile>> {
        let folder = self.folder()?;
        let (mut files, mut missing) = (Vec::new(), Vec::new());
        for info in self.infos(protocol)? {
            match find_dataset(&folder, info.name) {
                Ok(path) => files.push(RowFile {
                    info,
                    path,
                    limit: self.limit,
                    without_context: self.without_context,
                }),
                // A folder may hold some of a suite's data sets; only what was asked for by name must be there.
                Err(TaskError::MissingDataset { .. }) if self.names.is_none() => missing.push(info.name),
                Err(error) => return Err(error.into()),
            }
        }
        anyhow::ensure!(
            !files.is_empty(),
            "`{}` has no data set of the suite `{}`; looked for {}",
            folder.display(),
            self.suite.name(),
            missing.join(", ")
        );
        if !missing.is_empty() {
            output::note(&format!("not in `{}`, left out: {}", folder.display(), missing.join(", ")));
        }
        Ok(files)
    }

    fn mini_needle(&self, model: &ModelFacts) -> anyhow::Result<MiniNeedle> {
        let needle = MiniNeedle {
            lengths: self.lengths.clone().unwrap_or_else(|| MiniNeedle::lengths_for(model)),
            depths: self.depths.clone().unwrap_or_else(MiniNeedle::depths),
            trials: self.limit.unwrap_or(1),
            seed: self.seed,
            without_context: self.without_context,
        };
        let cells = needle.cells();
        check_generated(cells.saturating_mul(needle.trials), &format!(" of {cells} cells"))?;
        Ok(needle)
    }

    fn essay_needle(&self, protocol: &Protocol, model: &ModelFacts) -> anyhow::Result<EssayNeedle> {
        let (variant, lengths, depths) = self.grid(protocol, model)?;
        Ok(EssayNeedle { variant, lengths, depths, folder: self.folder()?, limit: self.limit })
    }

    fn mini_sets(&self) -> anyhow::Result<Vec<&'static mini::MiniDataset>> {
        let all = mini_sets(self.suite);
        let Some(names) = &self.names else { return Ok(all) };
        names
            .iter()
            .map(|name| {
                all.iter().copied().find(|set| set.name == name).ok_or_else(|| {
                    let hint = crate::nearest::hint(name, all.iter().map(|set| set.name));
                    usage(format!("unknown data set `{name}` of the mini suite{hint}"))
                })
            })
            .collect()
    }

    /// The folder with rows: `--data`, or where `kvsweep fetch data` put them.
    fn folder(&self) -> anyhow::Result<PathBuf> {
        if let Some(dir) = &self.data {
            anyhow::ensure!(
                dir.exists(),
                "`{}` does not exist; --data names a directory with rows",
                dir.display()
            );
            return Ok(dir.clone());
        }
        Ok(fetch::folder(self.suite.name())?)
    }
}

/// The setting that names the version of RULER's generator.
pub(crate) const GENERATOR: &str = "ruler-version";

/// Whether the full split of a suite is made from a seed: RULER's, unless a folder of published rows is named.
fn is_generated(suite: Suite, data: Option<&Path>) -> bool {
    suite == Suite::Ruler && data.is_none_or(|dir| published::lengths(dir).is_empty())
}

/// The data sets of a suite's mini split.
pub(crate) fn mini_sets(suite: Suite) -> Vec<&'static mini::MiniDataset> {
    match suite {
        Suite::Ruler => mini::ruler::TASKS.iter().map(|task| &task.set).collect(),
        _ => mini::datasets().iter().collect(),
    }
}

fn parse_shard(text: &str) -> anyhow::Result<Shard> {
    text.split_once('/')
        .and_then(|(index, count)| Some(Shard { index: index.parse().ok()?, count: count.parse().ok()? }))
        .filter(|shard| shard.index >= 1 && shard.index <= shard.count)
        .ok_or_else(|| usage(format!("`--shard {text}`: expected I/N with 1 <= I <= N, e.g. 1/4")))
}

fn parse_depths(depths: &[f64]) -> anyhow::Result<Vec<u32>> {
    depths
        .iter()
        .map(|&depth| {
            if (0.0..=100.0).contains(&depth) && depth.fract() == 0.0 {
                Ok(depth as u32)
            } else {
                Err(usage(format!("`--depths {depth}`: expected whole percents from 0 to 100")))
            }
        })
        .collect()
}

/// The values without repetitions, in their order: a sweep has each data set and each cell once.
fn distinct<T: Clone + Eq>(values: &[T]) -> Vec<T> {
    let mut kept = Vec::new();
    for value in values {
        if !kept.contains(value) {
            kept.push(value.clone());
        }
    }
    kept
}

/// Examples of one generated data set at most: they are held in memory, about a gigabyte of them.
const MOST_GENERATED: usize = 10_000;

/// # Errors
/// More than [`MOST_GENERATED`] examples; `of` says of what.
pub(crate) fn check_generated(examples: usize, of: &str) -> anyhow::Result<()> {
    if examples <= MOST_GENERATED {
        return Ok(());
    }
    Err(usage(format!(
        "--limit asks for {examples} examples{of}; a generated data set has at most {MOST_GENERATED}: lower it, and give \
         other examples with --seed"
    )))
}
