//! What a sweep asks: the examples of a suite, each ready to be rendered into token ids.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Context;

use kvsweep_results::{ESSAYS, ExampleKey, NEEDLE_DEPTHS, NEEDLE_LENGTHS, Needle, WITHOUT_CONTEXT};
use kvsweep_tasks::datasets::{self, DatasetInfo};
use kvsweep_tasks::needle::variants::NeedleVariant;
use kvsweep_tasks::needle::{self, Essays, NeedleGrading};
use kvsweep_tasks::protocol::{ModelFacts, Protocol, StopRule};
use kvsweep_tasks::{Example, TaskError, fetch, find_dataset, mini, read_rows};
use sha2::{Digest, Sha256};

use crate::cli::{RunArgs, Split, Suite};
use crate::exit::usage;
use crate::kept;
use crate::model::TextSide;

/// One data set of a sweep, with its rows.
pub struct Dataset {
    /// The name of the table's column.
    pub name: String,
    /// SHA-256 of the file, or of the generated rows, hexadecimal.
    pub sha256: String,
    /// The questions of this sweep, after limit and shard.
    pub questions: Vec<Question>,
    /// How many there are of all parts.
    pub total: u64,
    /// The needle's context lengths and depths, of all parts.
    pub grid: BTreeSet<(usize, u32)>,
    /// SHA-256 of the essays that the needle lies in, hexadecimal, where it lies in essays.
    pub essays_sha256: Option<String>,
    /// The first question of the whole data set, shard or not: profiles that freeze capacities start from it.
    pub first: Question,
}

/// One example of a sweep.
#[derive(Clone)]
pub struct Question {
    /// Names it in records.
    pub key: ExampleKey,
    /// Row in its data set, from 0.
    pub row: u64,
    asked: Asked,
}

#[derive(Clone)]
enum Asked {
    Row { example: Example, info: DatasetInfo },
    Needle { case: needle::NeedleCase, grading: NeedleGrading },
}

/// A question as the model gets it.
pub struct Prompt {
    /// Token ids, BOS included.
    pub ids: Vec<u32>,
    /// The text they stand for.
    pub text: String,
    /// Tokens cut out of the middle.
    pub removed_tokens: usize,
    /// Whether a reference answer stood in what was cut, and nowhere else.
    pub answer_lost: bool,
    /// When to stop.
    pub stop: StopRule,
    /// The needle's place, for needle questions.
    pub needle: Option<Needle>,
}

/// A score with its metric.
pub struct Grade {
    /// The metric's id.
    pub metric: String,
    /// 0 to 1.
    pub score: f64,
    /// Further scores, 0 to 1, by metric id.
    pub others: BTreeMap<String, f64>,
}

impl Question {
    /// A row of a data set.
    pub fn row(example: Example, info: &DatasetInfo, row: usize) -> Self {
        let key = ExampleKey { dataset: info.name.to_owned(), example: example.key.clone() };
        Self { key, row: row as u64, asked: Asked::Row { example, info: *info } }
    }

    fn needle(case: needle::NeedleCase, grading: NeedleGrading, row: usize) -> Self {
        let key = ExampleKey { dataset: NEEDLE.to_owned(), example: case.key.clone() };
        Self { key, row: row as u64, asked: Asked::Needle { case, grading } }
    }

    /// SHA-256 over a needle's prompt; rows are identified by their file.
    fn fingerprint(&self) -> String {
        match &self.asked {
            Asked::Needle { case, .. } => kept::ids_sha256(&case.ids),
            Asked::Row { .. } => String::new(),
        }
    }

    /// Renders the prompt and encodes it.
    pub fn prompt(
        &self,
        protocol: &Protocol,
        facts: &ModelFacts,
        text: &TextSide<'_>,
    ) -> anyhow::Result<Prompt> {
        match &self.asked {
            Asked::Row { example, info } => {
                let rendered = protocol.render(example, info, facts, text, text.chat())?;
                let truncated = rendered.truncated.as_ref();
                Ok(Prompt {
                    removed_tokens: truncated.map_or(0, |t| t.removed_tokens),
                    answer_lost: truncated
                        .is_some_and(|t| t.answer_was_in_removed && !t.answer_still_in_prompt),
                    ids: rendered.ids,
                    text: rendered.text,
                    stop: rendered.stop,
                    needle: None,
                })
            }
            Asked::Needle { case, .. } => Ok(Prompt {
                ids: case.ids.clone(),
                text: case.text.clone(),
                removed_tokens: 0,
                answer_lost: false,
                stop: case.stop.clone(),
                needle: Some(Needle {
                    length: kept::count(case.length)?,
                    depth: f64::from(case.depth),
                    start: case.needle.as_ref().map(|span| kept::count(span.start)).transpose()?,
                    end: case.needle.as_ref().map(|span| kept::count(span.end)).transpose()?,
                }),
            }),
        }
    }

    /// Why no answer to it can be graded, if so: an empty one and the reference's own are tried.
    pub fn ungradable(&self, protocol: &Protocol) -> Option<String> {
        let reference = self.answers().into_iter().next().unwrap_or_default();
        let failed = ["", &reference].into_iter().find_map(|answer| self.grade(protocol, answer).err());
        failed.map(|error| format!("{error:#}"))
    }

    /// Scores an answer.
    pub fn grade(&self, protocol: &Protocol, prediction: &str) -> anyhow::Result<Grade> {
        match &self.asked {
            Asked::Row { example, info } => Ok(Grade {
                metric: protocol.metric(info).to_owned(),
                score: kvsweep_tasks::score_prediction(info, protocol, prediction, example)?,
                others: kvsweep_tasks::other_scores(info, protocol, prediction, example),
            }),
            Asked::Needle { case, grading } => Ok(Grade {
                metric: grading.metric().to_owned(),
                score: grading.score(prediction, case)?,
                // A metric on which the official code stops is left out, as for rows.
                others: grading.others(prediction, case).unwrap_or_default(),
            }),
        }
    }

    /// The reference answers.
    pub fn answers(&self) -> Vec<String> {
        match &self.asked {
            Asked::Row { example, .. } => example.answers.clone(),
            Asked::Needle { case, .. } => vec![case.answer.clone()],
        }
    }

    /// Class names of a classification set, else empty.
    pub fn all_classes(&self) -> &[String] {
        match &self.asked {
            Asked::Row { example, .. } => &example.all_classes,
            Asked::Needle { .. } => &[],
        }
    }

    /// The language of the row.
    pub fn language(&self) -> &str {
        match &self.asked {
            Asked::Row { example, .. } => &example.language,
            Asked::Needle { .. } => "en",
        }
    }

    /// The row's own length, where the data set states one.
    pub fn length(&self) -> Option<u64> {
        match &self.asked {
            Asked::Row { example, .. } => Some(example.length),
            Asked::Needle { .. } => None,
        }
    }

    /// Sixteen hexadecimal digits of the SHA-256 of the row's context: questions about one document share it.
    pub fn context(&self) -> Option<String> {
        match &self.asked {
            Asked::Row { example, .. } if !example.context.is_empty() => {
                let mut digits = crate::kept::hex(&Sha256::digest(&example.context));
                digits.truncate(16);
                Some(digits)
            }
            Asked::Row { .. } | Asked::Needle { .. } => None,
        }
    }

    /// LongBench-E's bucket, or the needle's context length: columns of a table.
    pub fn bucket(&self) -> Option<String> {
        match &self.asked {
            Asked::Row { example, info } if info.suite == datasets::Suite::LongBenchE => {
                Some(datasets::longbench_e::bucket(example.length).to_owned())
            }
            Asked::Needle { case, .. } => Some(case.length.to_string()),
            Asked::Row { .. } => None,
        }
    }

    /// About how many tokens the prompt will have, four bytes each, for estimates of time.
    pub fn expected_tokens(&self, protocol: &Protocol, facts: &ModelFacts) -> u64 {
        let tokens = match &self.asked {
            Asked::Row { example, info } => {
                let text = example.context.len() + example.input.len();
                (text / 4).min(protocol.limit(facts, info.max_new_tokens).0)
            }
            Asked::Needle { case, .. } => case.ids.len(),
        };
        tokens.max(1) as u64
    }

    /// The row's own length with its data set, for estimates without a tokenizer.
    pub fn stated_length(&self) -> Option<(&DatasetInfo, u64)> {
        match &self.asked {
            Asked::Row { example, info } => Some((info, example.length)),
            Asked::Needle { .. } => None,
        }
    }

    /// The row's data set; a needle has none.
    pub fn info(&self) -> Option<&DatasetInfo> {
        match &self.asked {
            Asked::Row { info, .. } => Some(info),
            Asked::Needle { .. } => None,
        }
    }

    /// The needle's context length and depth.
    pub fn grid(&self) -> Option<(usize, u32)> {
        match &self.asked {
            Asked::Needle { case, .. } => Some((case.length, case.depth)),
            Asked::Row { .. } => None,
        }
    }
}

/// What the command line selects of a suite, names checked before a model is loaded.
pub struct Selected {
    /// The suite.
    pub suite: Suite,
    /// Where rows come from.
    pub split: Split,
    /// This process's part, from 1, of how many.
    pub shard: Option<(u32, u32)>,
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
pub const MINI: &str = "mini";

/// The one data set of the needle suite.
pub const NEEDLE: &str = "needle";

impl Selected {
    /// Checks everything that needs no model.
    ///
    /// # Errors
    /// Options that contradict each other, unknown data sets, a shard that does not exist, missing rows.
    pub fn of(suite: Suite, args: &RunArgs) -> anyhow::Result<Self> {
        let embedded = args.model.name() == crate::model::TINY;
        let split =
            args.split.unwrap_or(if args.data.is_none() && embedded { Split::Mini } else { Split::Full });
        if split == Split::Mini && args.data.is_some() {
            return Err(usage("--split mini is generated and reads no --data; leave one of them out"));
        }
        if split == Split::Mini && !matches!(suite, Suite::Longbench | Suite::Needle) {
            return Err(usage(format!(
                "suite `{}` has no mini split; give its rows with --data DIR, or fetch them with `kvsweep fetch data {}`",
                suite.name(),
                suite.name()
            )));
        }
        if suite != Suite::Needle && (args.lengths.is_some() || args.depths.is_some()) {
            return Err(usage("--lengths and --depths belong to the suite `needle`"));
        }
        if suite == Suite::Needle && args.datasets.is_some() {
            return Err(usage("the suite `needle` has no data sets; use --lengths and --depths"));
        }
        if split == Split::Full && args.seed.is_some() {
            return Err(usage(
                "--seed belongs to the generated mini split; the rows of `--split full` have none",
            ));
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
    pub fn has_rows(&self) -> bool {
        self.split == Split::Mini || self.folder().is_ok() || self.data.is_some()
    }

    /// The data sets of the full split that are asked for, or all that the protocol runs.
    ///
    /// # Errors
    /// Unknown names.
    pub fn infos(&self, protocol: &Protocol) -> anyhow::Result<Vec<&'static DatasetInfo>> {
        Ok(match &self.names {
            Some(names) => datasets::pick(self.suite.name(), names)?,
            None => protocol.datasets(self.suite.name())?,
        })
    }

    /// How many of `rows` rows remain after limit and shard.
    pub fn remaining(&self, rows: usize) -> usize {
        let rows = rows.min(self.limit.unwrap_or(usize::MAX));
        let (index, count) = self.shard.map_or((1, 1), |(index, count)| (index as usize, count as usize));
        (rows + count - index) / count
    }

    /// The full needle grid of a model: context lengths and depths.
    ///
    /// # Errors
    /// A protocol whose needle variant does not exist.
    pub fn grid(
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
    pub fn split_name(&self) -> &'static str {
        match self.split {
            Split::Mini => MINI,
            Split::Full => "full",
        }
    }

    /// What of the selection the manifest's own fields do not say: the needle's grid, the mini suite's version.
    pub fn settings(&self, datasets: &[Dataset]) -> BTreeMap<String, String> {
        let grid: Vec<_> = datasets.iter().flat_map(|dataset| &dataset.grid).collect();
        let lengths: BTreeSet<usize> = grid.iter().map(|cell| cell.0).collect();
        let depths: BTreeSet<u32> = grid.iter().map(|cell| cell.1).collect();
        let mut settings = BTreeMap::new();
        if !grid.is_empty() {
            let list = |numbers: Vec<String>| numbers.join(",");
            settings.insert(NEEDLE_LENGTHS.to_owned(), list(lengths.iter().map(usize::to_string).collect()));
            settings.insert(NEEDLE_DEPTHS.to_owned(), list(depths.iter().map(u32::to_string).collect()));
        }
        if let Some(sha256) = datasets.iter().find_map(|dataset| dataset.essays_sha256.clone()) {
            settings.insert(ESSAYS.to_owned(), sha256);
        }
        if self.split == Split::Mini {
            settings.insert("mini-version".to_owned(), mini::MINI_VERSION.to_owned());
        }
        if self.without_context {
            settings.insert(WITHOUT_CONTEXT.to_owned(), "true".to_owned());
        }
        settings
    }

    fn mini_sets(&self) -> anyhow::Result<Vec<&'static mini::MiniDataset>> {
        let all = mini::datasets();
        let Some(names) = &self.names else { return Ok(all.iter().collect()) };
        names
            .iter()
            .map(|name| {
                all.iter().find(|set| set.name == name).ok_or_else(|| {
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

fn parse_shard(text: &str) -> anyhow::Result<(u32, u32)> {
    text.split_once('/')
        .and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)))
        .filter(|&(index, count)| index >= 1 && index <= count)
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
pub fn check_generated(examples: usize, of: &str) -> anyhow::Result<()> {
    if examples <= MOST_GENERATED {
        return Ok(());
    }
    Err(usage(format!(
        "--limit asks for {examples} examples{of}; a generated data set has at most {MOST_GENERATED}: lower it, and give \
         other examples with --seed"
    )))
}

/// Reads or generates the rows.
///
/// # Errors
/// Missing or malformed rows, a needle grid that the model cannot hold.
pub fn datasets(
    selected: &Selected,
    protocol: &'static Protocol,
    facts: &ModelFacts,
    text: &TextSide<'_>,
) -> anyhow::Result<Vec<Dataset>> {
    match (selected.suite, selected.split) {
        (Suite::Needle, Split::Mini) => mini_needle(selected, facts, text),
        (Suite::Needle, Split::Full) => essay_needle(selected, protocol, facts, text),
        (_, Split::Mini) => mini_rows(selected),
        (_, Split::Full) => file_rows(selected, protocol),
    }
}

fn mini_rows(selected: &Selected) -> anyhow::Result<Vec<Dataset>> {
    let mut out = Vec::new();
    for set in selected.mini_sets()? {
        let info = datasets::mini::info(set)?;
        // A limit beyond the suite's rows makes more of them.
        let rows = mini::rows(set, selected.seed, selected.limit.unwrap_or(0).max(mini::ROWS));
        let sha256 = datasets::mini::sha256(&rows)?;
        let questions = rows
            .into_iter()
            .enumerate()
            .map(|(row, mini)| Question::row(datasets::mini::example(row, mini), &info, row));
        out.push(selected.dataset(set.name, &sha256, questions.collect())?);
    }
    Ok(out)
}

/// The rows of the full split.
///
/// # Errors
/// Missing or malformed rows.
pub fn file_rows(selected: &Selected, protocol: &Protocol) -> anyhow::Result<Vec<Dataset>> {
    let suite = selected.suite;
    let folder = selected.folder()?;
    let named = selected.names.is_some();
    let mut out = Vec::new();
    let mut missing = Vec::new();
    for info in selected.infos(protocol)? {
        let path = match find_dataset(&folder, info.name) {
            Ok(path) => path,
            // A folder may hold some of a suite's data sets; only what was asked for by name must be there.
            Err(TaskError::MissingDataset { .. }) if !named => {
                missing.push(info.name);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let rows = read_rows(&path, info.name, selected.limit)?;
        let questions = rows
            .examples
            .into_iter()
            .enumerate()
            .map(|(row, example)| Question::row(example, info, row))
            .collect();
        out.push(selected.dataset(info.name, &rows.sha256, questions)?);
    }
    anyhow::ensure!(
        !out.is_empty(),
        "`{}` has no data set of the suite `{}`; looked for {}",
        folder.display(),
        suite.name(),
        missing.join(", ")
    );
    if !missing.is_empty() {
        crate::output::note(&format!("not in `{}`, left out: {}", folder.display(), missing.join(", ")));
    }
    Ok(out)
}

fn mini_needle(selected: &Selected, facts: &ModelFacts, text: &TextSide<'_>) -> anyhow::Result<Vec<Dataset>> {
    let lengths = selected.lengths.clone().unwrap_or_else(|| {
        mini::LENGTHS.iter().copied().filter(|&length| length <= facts.max_positions).collect()
    });
    let depths = selected.depths.clone().unwrap_or_else(|| needle::variants::DEPTHS_10.to_vec());
    let trials = selected.limit.unwrap_or(1);
    let cells = lengths.len() * depths.len();
    check_generated(cells.saturating_mul(trials), &format!(" of {cells} cells"))?;
    let mut questions = Vec::new();
    for length in lengths {
        anyhow::ensure!(
            length <= facts.max_positions,
            "needle length {length} exceeds the {} positions of model `{}`; choose shorter --lengths",
            facts.max_positions,
            facts.name
        );
        for &depth in &depths {
            for number in 0..trials as u64 {
                let trial = mini::NeedleTrial { seed: selected.seed, length, depth: depth as usize, number };
                let case = needle::mini_case(trial, selected.without_context, facts, text, text.chat())?;
                questions.push(Question::needle(case, NeedleGrading::Exact, questions.len()));
            }
        }
    }
    Ok(vec![selected.needle_dataset(questions)?])
}

fn essay_needle(
    selected: &Selected,
    protocol: &'static Protocol,
    facts: &ModelFacts,
    text: &TextSide<'_>,
) -> anyhow::Result<Vec<Dataset>> {
    let (variant, lengths, depths) = selected.grid(protocol, facts)?;
    let essays = Essays::read(&selected.folder()?)?;
    let cases = needle::cases(variant, facts, &lengths, &depths, &essays, text, text.chat())?;
    let questions = cases
        .into_iter()
        .take(selected.limit.unwrap_or(usize::MAX))
        .enumerate()
        .map(|(row, case)| Question::needle(case, NeedleGrading::Variant(variant), row))
        .collect();
    let mut dataset = selected.needle_dataset(questions)?;
    dataset.essays_sha256 = Some(essays.sha256);
    Ok(vec![dataset])
}

impl Selected {
    fn needle_dataset(&self, questions: Vec<Question>) -> anyhow::Result<Dataset> {
        let mut hash = Sha256::new();
        for question in &questions {
            hash.update(question.fingerprint());
        }
        let sha256 = kept::hex(&hash.finalize());
        self.dataset(NEEDLE, &sha256, questions)
    }

    /// Applies limit and shard.
    fn dataset(&self, name: &str, sha256: &str, mut questions: Vec<Question>) -> anyhow::Result<Dataset> {
        if self.suite != Suite::Needle {
            questions.truncate(self.limit.unwrap_or(usize::MAX));
        }
        if self.without_context {
            for question in &mut questions {
                if let Asked::Row { example, .. } = &mut question.asked {
                    example.context.clear();
                }
            }
        }
        let first = questions.first().cloned().with_context(|| format!("data set `{name}` has no rows"))?;
        let total = questions.len() as u64;
        let grid = questions.iter().filter_map(Question::grid).collect();
        if let Some((index, count)) = self.shard {
            questions.retain(|question| question.row % u64::from(count) == u64::from(index) - 1);
        }
        Ok(Dataset {
            name: name.to_owned(),
            sha256: sha256.to_owned(),
            questions,
            total,
            grid,
            essays_sha256: None,
            first,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_about_one_document_share_its_context() {
        let context = |dataset: &str, context: &str, input: &str| {
            let example = Example {
                key: format!("{dataset}#0.0-x"),
                dataset: dataset.into(),
                input: input.into(),
                context: context.into(),
                answers: vec!["a".into()],
                all_classes: Vec::new(),
                length: 0,
                language: "en".into(),
            };
            Question::row(example, datasets::by_name(dataset).unwrap(), 0).context()
        };
        let first = context("computation", "a document", "how many?");
        assert_eq!(first.as_ref().map(String::len), Some(16));
        // Another question, another data set: still the same document.
        assert_eq!(first, context("timeline_reorder", "a document", "in which order?"));
        assert_ne!(first, context("computation", "another document", "how many?"));
        assert_eq!(
            context("computation", "", "how many?"),
            None,
            "without context there is nothing to share"
        );
    }
}
