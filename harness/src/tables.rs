//! Score tables of runs: which columns a suite has, and how its protocol averages them.

use std::collections::BTreeSet;

use kvsweep_results::{
    Bootstrap, Column, Format, Group, Manifest, Mean, Merged, NEEDLE_LENGTHS, RULER_LENGTHS, Run, ScoreTable,
    TableLayout,
};
use kvsweep_tasks::datasets::longbench_e::BUCKETS;
use kvsweep_tasks::datasets::{self, DatasetInfo, Language};
use kvsweep_tasks::metrics::scorer;
use kvsweep_tasks::protocol::{self, Protocol};
use kvsweep_tasks::{Suite, averages};

use crate::exit::Exit;
use crate::{output, questions};

/// Prints a table; lines of records that could not be used make the exit say so.
///
/// # Errors
/// A stdout that cannot be written to.
pub(crate) fn print(table: &ScoreTable, merged: &Merged, format: Format) -> anyhow::Result<Exit> {
    let text = table.render(format)?;
    if format == Format::Json {
        output::json_text(text.trim_end())?;
    } else {
        output::data(&text)?;
    }
    // Comma-separated lines have no title that could say it; missing shards are told in any case.
    let told: Vec<String> = merged.groups.iter().flat_map(Group::parts).collect();
    let untold: Vec<&str> =
        table.part.iter().filter(|part| !told.contains(part)).map(String::as_str).collect();
    if format == Format::Csv && !untold.is_empty() {
        output::note(&format!("this table is a part: {}", untold.join("; ")));
    }
    Ok(tell(merged))
}

/// Tells what the records lack: missing parts, and lines that could not be used, which make the exit say so. Every command
/// that reads runs ends so.
pub(crate) fn tell(merged: &Merged) -> Exit {
    for parts in merged.groups.iter().flat_map(Group::parts) {
        output::note(&parts);
    }
    for problem in &merged.problems {
        output::note(&problem.to_string());
    }
    if merged.problems.is_empty() { Exit::Done } else { Exit::Failed }
}

/// The runs of each suite, in the order in which the suites come first: a table each, since their columns and averages
/// have nothing in common.
pub(crate) fn by_suite(runs: Vec<Run>) -> Vec<Vec<Run>> {
    let mut suites: Vec<Vec<Run>> = Vec::new();
    for run in runs {
        let same =
            |suite: &&mut Vec<Run>| suite.iter().any(|other| other.manifest.suite == run.manifest.suite);
        match suites.iter_mut().find(same) {
            Some(suite) => suite.push(run),
            None => suites.push(vec![run]),
        }
    }
    suites
}

/// The table of `runs`, and the merged records behind it; they are moved there, since they may be many.
///
/// # Errors
/// Runs that do not belong into one table, an unknown protocol.
pub(crate) fn of(
    runs: Vec<Run>,
    protocol: Option<&str>,
    mixed: bool,
) -> anyhow::Result<(ScoreTable, Merged)> {
    let manifests: Vec<Manifest> = runs.iter().map(|run| run.manifest.clone()).collect();
    let merged = Merged::of(runs, mixed)?;
    let layout = layout(&manifests.iter().collect::<Vec<_>>(), protocol)?;
    let table = ScoreTable::new(&merged, &layout, &Bootstrap::default())?;
    Ok((table, merged))
}

/// The columns of the suite that the first manifest names; data sets of all manifests. What a mean is over, and how it and
/// every score are rounded, is the protocol's.
///
/// # Errors
/// An unknown protocol.
pub(crate) fn layout(manifests: &[&Manifest], protocol: Option<&str>) -> anyhow::Result<TableLayout> {
    let first = manifests.first();
    let (suite, own_protocol) = first.map_or(("", ""), |m| (m.suite.as_str(), m.protocol.name.as_str()));
    let is_mini = first.is_some_and(|manifest| manifest.split == questions::MINI);
    let protocol = protocol::by_name(protocol.unwrap_or(own_protocol)).map_err(crate::exit::usage)?;
    let mut names: Vec<&str> = Vec::new();
    for dataset in manifests.iter().flat_map(|manifest| &manifest.datasets) {
        if !names.contains(&dataset.name.as_str()) {
            names.push(&dataset.name);
        }
    }
    let lengths = lengths(manifests);
    let expected = expected(suite, is_mini, protocol, &names);
    let mut categories: Vec<Mean> = Vec::new();
    for column in expected.iter().flat_map(|name| columns(suite, name, &lengths)) {
        let (title, part) = (category(suite, &column), (column.key(), 1.0));
        match categories.iter_mut().find(|known| known.title == title) {
            Some(known) => known.parts.push(part),
            None => categories.push(Mean { title, parts: vec![part], percent: averages::mean }),
        }
    }
    for category in &mut categories {
        let share = 1.0 / category.parts.len() as f64;
        category.parts.iter_mut().for_each(|(_, weight)| *weight = share);
    }
    // Columns of one category stand together, in the order in which the categories first appear.
    let mut columns: Vec<Column> = names.iter().flat_map(|name| columns(suite, name, &lengths)).collect();
    let mut order: Vec<String> = Vec::new();
    for title in columns.iter().map(|column| category(suite, column)) {
        if !order.contains(&title) {
            order.push(title);
        }
    }
    let place = |title: &str| order.iter().position(|category| category == title);
    columns.sort_by_key(|column| place(&category(suite, column)));
    categories.retain(|known| place(&known.title).is_some());
    categories.sort_by_key(|known| place(&known.title));
    let average = average(suite, is_mini, protocol, &columns);
    Ok(TableLayout {
        title: suite.to_owned(),
        columns,
        categories,
        average,
        counts_removed: protocol.counts_removed,
    })
}

/// The columns of one data set: one, or one a length.
fn columns(suite: &str, name: &str, lengths: &BTreeSet<usize>) -> Vec<Column> {
    let column = |title: String, bucket: Option<String>| Column {
        title,
        dataset: name.to_owned(),
        bucket,
        percent: info(name).map_or(scorer::plain_percent, scorer::percent),
    };
    if suite == Suite::LongBenchE.name() {
        BUCKETS.iter().map(|bucket| column(format!("{name} {bucket}"), Some((*bucket).to_owned()))).collect()
    } else if suite == Suite::Needle.name() {
        lengths.iter().map(|length| column(length.to_string(), Some(length.to_string()))).collect()
    } else {
        // All names of the mini suite share their beginning.
        let shown = name.strip_prefix("mini_").unwrap_or(name);
        if suite == Suite::Ruler.name() && lengths.len() > 1 {
            let of = |length: &usize| column(format!("{shown} {length}"), Some(length.to_string()));
            return lengths.iter().map(of).collect();
        }
        vec![column(shown.to_owned(), None)]
    }
}

/// The data sets that the means of categories are over: those that the protocol runs, and whatever else was run.
fn expected<'a>(suite: &str, is_mini: bool, protocol: &Protocol, names: &[&'a str]) -> Vec<&'a str> {
    let mut all: Vec<&'a str> = if suite == Suite::Needle.name() {
        Vec::new()
    } else if is_mini {
        let suite = Suite::by_name(suite).unwrap_or(Suite::LongBench);
        questions::mini_sets(suite).iter().map(|set| set.name).collect()
    } else {
        protocol.datasets(suite).unwrap_or_default().iter().map(|info| info.name).collect()
    };
    all.extend(names.iter().filter(|name| !all.contains(name)).copied().collect::<Vec<_>>());
    all
}

/// The protocol's average of the suite; the plain mean of all columns where it has none.
fn average(suite: &str, is_mini: bool, protocol: &Protocol, columns: &[Column]) -> Mean {
    let registry: &[DatasetInfo] = if is_mini { datasets::mini::all() } else { datasets::all() };
    let own = protocol.averages().into_iter().find(|average| average.suite().name() == suite);
    let title = "Average".to_owned();
    match own {
        Some(average) => {
            let named = |(name, weight): (&'static str, f64)| (name.to_owned(), weight);
            let parts = average.parts(registry).into_iter().map(named).collect();
            Mean { title, parts, percent: average.mean() }
        }
        None => {
            let share = 1.0 / columns.len() as f64;
            let parts = columns.iter().map(|column| (column.key(), share)).collect();
            Mean { title, parts, percent: averages::mean }
        }
    }
}

/// The context lengths of needle and RULER runs, ascending.
fn lengths(manifests: &[&Manifest]) -> BTreeSet<usize> {
    let list = |manifest: &&Manifest| {
        let settings = &manifest.settings;
        settings.get(NEEDLE_LENGTHS).or_else(|| settings.get(RULER_LENGTHS)).cloned()
    };
    let lists: Vec<String> = manifests.iter().filter_map(list).collect();
    lists.iter().flat_map(|list| list.split(',')).filter_map(|length| length.parse().ok()).collect()
}

fn info(dataset: &str) -> Option<&'static DatasetInfo> {
    datasets::by_name(dataset).ok()
}

/// What a column tests. Chinese sets are a category of their own: the official leaderboard averages them apart. Where
/// RULER is asked at several lengths, its means are over the tasks of each length, as in its paper.
fn category(suite: &str, column: &Column) -> String {
    if let Some(length) = column.bucket.as_ref().filter(|_| suite == Suite::Ruler.name()) {
        return length.clone();
    }
    match info(&column.dataset) {
        Some(info) if info.language == Language::Chinese => format!("{} (zh)", info.category.name()),
        Some(info) => info.category.name().to_owned(),
        None => questions::NEEDLE.to_owned(),
    }
}

/// What fits the terminal, where stdout is one and not all columns are asked for.
pub(crate) fn text_format(wide: bool) -> Format {
    match terminal_size::terminal_size_of(std::io::stdout()) {
        Some((width, _)) if !wide => Format::Terminal(usize::from(width.0)),
        _ => Format::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvsweep_results::{
        Budget, CacheSize, ExampleInfo, ExampleKey, ExampleRecord, Finish, MethodInfo, MetricScores,
        ModelInfo, ProgramInfo, ProtocolInfo, RunDataset, RunDir, SCHEMA, VariantRecord,
    };

    /// The table's last row of a full-cache run of these data sets, each with its rows' scores and stated lengths.
    fn table(suite: &str, protocol: &str, sets: &[(&str, Vec<(f64, u64)>)]) -> ScoreTable {
        let manifest = Manifest {
            schema: SCHEMA,
            program: ProgramInfo { version: "0".into(), commit: "c".into() },
            model: ModelInfo {
                name: "m".into(),
                weights_sha256: String::new(),
                tokenizer_sha256: String::new(),
                files: [].into(),
                embedded: false,
            },
            suite: suite.into(),
            split: "full".into(),
            protocol: ProtocolInfo { name: protocol.into(), version: "1".into(), sha256: String::new() },
            datasets: sets
                .iter()
                .map(|(name, rows)| RunDataset {
                    name: (*name).into(),
                    sha256: String::new(),
                    examples: rows.len() as u64,
                    total: rows.len() as u64,
                })
                .collect(),
            methods: vec![MethodInfo {
                spec: "full".into(),
                params: [].into(),
                granularity: "kv-head".into(),
                budgeted: false,
            }],
            budgets: vec![Budget::Entries(64)],
            device: "cpu".into(),
            dtype: "f32".into(),
            limit: None,
            shard: None,
            seed: 0,
            settings: [].into(),
        };
        let dir = tempfile::tempdir().unwrap();
        let mut run = RunDir::create_or_continue(dir.path(), &manifest).unwrap();
        for (name, rows) in sets {
            for (row, (score, length)) in rows.iter().enumerate() {
                let record = ExampleRecord {
                    schema: SCHEMA,
                    key: ExampleKey { dataset: (*name).into(), example: format!("{name}#{row}") },
                    info: ExampleInfo {
                        row: row as u64,
                        language: "en".into(),
                        length: Some(*length),
                        bucket: (suite == "longbench-e")
                            .then(|| datasets::longbench_e::bucket(*length).to_owned()),
                        context: None,
                        answers: Vec::new(),
                        all_classes: Vec::new(),
                        prompt_sha256: String::new(),
                        prompt_tail: String::new(),
                        prompt_tokens: 1,
                        compressed_tokens: None,
                        truncated_tokens: 0,
                        needle: None,
                    },
                    variants: vec![VariantRecord {
                        variant: manifest.variants().remove(0),
                        prediction: "".into(),
                        prediction_sha256: "".into(),
                        new_tokens: 1,
                        finish: Finish::Stop,
                        metric: "m".into(),
                        score: *score,
                        other_scores: MetricScores::default(),
                        kept: CacheSize {
                            entries_mean: 1.0,
                            entries_max: 1,
                            entries_nominal: 1.0,
                            bytes: 1,
                            last_only: false,
                        },
                        selection: None,
                        retention: None,
                    }],
                    skipped: None,
                    timings: None,
                };
                run.append(&record, None).unwrap();
            }
        }
        of(vec![run.records().unwrap()], None, false).unwrap().0
    }

    fn same(score: f64) -> Vec<(f64, u64)> {
        vec![(score, 1); 2]
    }

    /// Title and number of the last column.
    fn last(table: &ScoreTable) -> (&str, f64) {
        let column = table.columns.last().unwrap();
        (&column.title, table.rows[0].cells.last().unwrap().unwrap().score)
    }

    #[test]
    fn the_official_average_is_of_english_and_code_sets_and_only_when_all_are_there() {
        let chinese = ["multifieldqa_zh", "dureader", "vcsum", "lsht", "passage_retrieval_zh"];
        let mut sets: Vec<(&str, Vec<(f64, u64)>)> =
            datasets::english_16().iter().map(|info| (info.name, same(0.4))).collect();
        sets.extend(chinese.map(|name| (name, same(1.0))));
        let all = table("longbench", "longbench-official", &sets);
        assert_eq!(last(&all), ("Average", 40.0));
        let score = |title: &str| {
            let place = all.columns.iter().position(|column| column.title == title).unwrap();
            all.rows[0].cells[place].unwrap().score
        };
        assert_eq!((score("single-doc QA"), score("single-doc QA (zh)")), (40.0, 100.0));

        let four = [
            ("qasper", same(0.4)),
            ("multifieldqa_zh", same(1.0)),
            ("hotpotqa", same(0.4)),
            ("dureader", same(1.0)),
        ];
        for protocol in ["longbench-official", "compresskv", "kvsweep-1"] {
            let part = table("longbench", protocol, &four);
            assert_eq!(last(&part), ("Mean of 4", 70.0), "{protocol}");
            assert!(part.notes[0].starts_with("no average: it is over 16 columns"), "{:?}", part.notes);
            assert!(part.columns.iter().any(|c| c.title == "single-doc QA (1 of 3)"), "{:?}", part.columns);
        }
    }

    #[test]
    fn compresskvs_average_is_of_rounded_scores_and_rounded() {
        let sets: Vec<_> = datasets::english_16().iter().map(|info| (info.name, same(1.0 / 3.0))).collect();
        let printed = last(&table("longbench", "compresskv", &sets)).1;
        assert_eq!(printed, 33.33);
        let plain = last(&table("longbench", "adakv", &sets)).1;
        assert!((plain - 100.0 / 3.0).abs() < 1e-9, "{plain}");
        let scores: averages::Scores = sets.iter().map(|(name, _)| ((*name).to_owned(), 33.33)).collect();
        assert_eq!(Some(printed), averages::Average::CompressKv.of(&scores), "`table` and `score` agree");
    }

    #[test]
    fn longbench_e_is_rounded_as_its_script_rounds() {
        // 40 rows that sum to 0.43: the official script prints 1.08, and `export` and `score` do.
        let mut rows = vec![(0.0, 10); 40];
        rows[0].0 = 0.43;
        let e = table("longbench-e", "longbench-official", &[("lcc_e", rows.clone())]);
        assert_eq!((e.columns[0].title.as_str(), e.rows[0].cells[0].unwrap().score), ("lcc_e 0-4k", 1.08));
        let plain = table("longbench", "longbench-official", &[("lcc", rows)]);
        assert_eq!(plain.rows[0].cells[0].unwrap().score, 1.07);
    }

    #[test]
    fn headkvs_suites_have_averages_of_their_own() {
        let qa = ["narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique"];
        let sets: Vec<_> = qa.iter().map(|name| (*name, same(0.5))).collect();
        let is_average = |(title, score): (&str, f64)| title == "Average" && (score - 50.0).abs() < 1e-9;
        assert!(is_average(last(&table("longbench", "headkv", &sets))));
        assert_eq!(last(&table("longbench", "headkv", &sets[..5])).0, "Mean of 5");
        let loogle = [
            "comprehension_and_reasoning",
            "computation",
            "multiple_information_retrieval",
            "timeline_reorder",
        ];
        let sets: Vec<_> = loogle.iter().map(|name| (*name, same(0.5))).collect();
        assert!(is_average(last(&table("loogle", "headkv", &sets))));
        assert_eq!(last(&table("loogle", "headkv", &sets[1..])).0, "Mean of 3");
    }
}
