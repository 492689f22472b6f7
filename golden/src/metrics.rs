//! Checks the metrics against golden vectors made by the official Python code.
//!
//! [`check`] reads a folder of JSON Lines files and recomputes every case. Scores must agree to the last bit: sums,
//! order of operations and roundings are those of the originals. Only BLEU goes through `exp` and `ln`, which differ
//! between C libraries, and is compared within 1e-9.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kvsweep_tasks::datasets::longbench_e::BUCKETS;
use kvsweep_tasks::metrics::cloze::Hits;
use kvsweep_tasks::metrics::{
    self, Metric, MetricError, google_rouge, jieba, longbench, porter, reorder, rouge_l, scorer,
};
use kvsweep_tasks::needle::insert::insert_needle;
use kvsweep_tasks::python::number::{numpy_mean, numpy_round2, round2};
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

/// What was checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Cases that agree.
    pub passed: usize,
    /// Values that differ, by file and case.
    pub failed: Vec<Failure>,
    /// Cases that agree and cases that do not, by file name.
    pub files: BTreeMap<String, (usize, usize)>,
    /// Cases that went through each metric, by the metric's id.
    pub metrics: BTreeMap<&'static str, usize>,
    /// Files that no check is known for, with the reason.
    pub skipped: Vec<(String, &'static str)>,
}

impl Report {
    /// Share of the cases that agree, 0..1.
    pub fn agreement(&self) -> f64 {
        let failed: usize = self.files.values().map(|(_, failed)| failed).sum();
        self.passed as f64 / (self.passed + failed).max(1) as f64
    }
}

/// One value that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// File name.
    pub file: String,
    /// Case id and field.
    pub id: String,
    /// The value in the file.
    pub expected: String,
    /// The value computed here.
    pub got: String,
}

/// A folder that cannot be checked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UnreadableVectors {
    /// A file or folder cannot be read.
    #[error("cannot read the golden vectors: {0}")]
    Read(#[from] std::io::Error),
    /// The folder holds no file with a known name.
    #[error("no golden file in `{}`: expected names such as `qa_f1_score.jsonl`", .0.display())]
    NoFiles(PathBuf),
    /// A line is no case of its file's format.
    #[error("`{}` line {line}: {reason}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

/// Recomputes every case of the golden files in a folder.
///
/// # Errors
/// [`UnreadableVectors`] if the folder cannot be read, has no known file, or has a malformed line.
pub fn check(dir: &Path) -> Result<Report, UnreadableVectors> {
    let mut names = Vec::new();
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();

    let mut report = Report::default();
    for name in names.into_iter().filter(|name| name.ends_with(".jsonl")) {
        let path = dir.join(name);
        check_file(&path, &fs_err::read(&path)?, &mut report)?;
    }
    if report.files.is_empty() {
        return Err(UnreadableVectors::NoFiles(dir.to_owned()));
    }
    Ok(report)
}

/// Recomputes every case of one golden file, whose name says what it holds.
fn check_file(path: &Path, bytes: &[u8], report: &mut Report) -> Result<(), UnreadableVectors> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(&(_, check)) = CHECKS.iter().find(|(known, _)| name.strip_suffix(".jsonl") == Some(known))
    else {
        let reason = if name.starts_with("loogle_meteor") {
            "METEOR is left out: it depends on Python's hash seed and on WordNet"
        } else {
            "no check has this file name"
        };
        report.skipped.push((name, reason));
        return Ok(());
    };
    let (mut passed, mut failed) = (0, 0);
    let mut cloze = ClozeTotals::default();
    // Lines end at LF only: texts contain U+2028, U+0085 and other line ends.
    for (number, line) in bytes.split(|&b| b == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let malformed =
            |reason| UnreadableVectors::Malformed { file: path.to_owned(), line: number + 1, reason };
        let value: Value =
            serde_json::from_slice(line).map_err(|error| malformed(format!("invalid json: {error}")))?;
        let mut case = Case { value, differences: Vec::new(), metrics: BTreeSet::new(), cloze };
        check(&mut case).map_err(malformed)?;
        cloze = case.cloze;
        for id in case.metrics {
            *report.metrics.entry(id).or_default() += 1;
        }
        let id = case.value.get("id").and_then(Value::as_str).unwrap_or("case without id").to_owned();
        if case.differences.is_empty() {
            passed += 1;
        } else {
            failed += 1;
        }
        report.failed.extend(case.differences.into_iter().map(|(field, expected, got)| Failure {
            file: name.clone(),
            id: format!("{id} {field}"),
            expected,
            got,
        }));
    }
    report.passed += passed;
    report.files.insert(name, (passed, failed));
    Ok(())
}

/// One line of a golden file and the differences found.
struct Case {
    value: Value,
    differences: Vec<(String, String, String)>,
    metrics: BTreeSet<&'static str>,
    cloze: ClozeTotals,
}

/// The cloze cases so far on which neither official function raises, exact and partial: the file's last line has their
/// totals.
type ClozeTotals = [Hits; 2];

/// Recomputes a case; an `Err` is a malformed line.
type Check = fn(&mut Case) -> Result<(), String>;

/// How closely a float must agree.
#[derive(Clone, Copy)]
enum Tolerance {
    Exact,
    Close,
}

/// What the file says in place of a score.
type Outcome = Result<f64, MetricError>;

impl Case {
    fn field(&self, name: &str) -> Result<&Value, String> {
        self.value.get(name).ok_or_else(|| format!("field `{name}` is missing"))
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<T, String> {
        T::deserialize(self.field(name)?).map_err(|error| format!("field `{name}`: {error}"))
    }

    /// Like [`Case::read`], with a missing or null field as nothing.
    fn read_or_default<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, String> {
        match self.value.get(name) {
            None | Some(Value::Null) => Ok(T::default()),
            Some(_) => self.read(name),
        }
    }

    /// The metric with this id, which the case counts for from here on.
    fn metric(&mut self, id: &str) -> Result<&'static dyn Metric, String> {
        let metric = metrics::by_id(id).map_err(|error| error.to_string())?;
        self.metrics.insert(metric.id());
        Ok(metric)
    }

    fn equal<T: PartialEq + std::fmt::Debug>(&mut self, field: &str, expected: &T, got: &T) {
        if expected != got {
            self.differences.push((field.to_owned(), format!("{expected:?}"), format!("{got:?}")));
        }
    }

    fn float(&mut self, field: &str, got: f64, tolerance: Tolerance) -> Result<(), String> {
        self.outcome(field, &Ok(got), tolerance)
    }

    /// Compares with a field that is null where the official code raises.
    fn outcome(&mut self, field: &str, got: &Outcome, tolerance: Tolerance) -> Result<(), String> {
        let expected: Option<f64> = self.read_or_default(field)?;
        self.number(field, expected, got, tolerance);
        Ok(())
    }

    fn number(&mut self, field: &str, expected: Option<f64>, got: &Outcome, tolerance: Tolerance) {
        let agree = match (expected, got) {
            (Some(expected), Ok(got)) => match tolerance {
                Tolerance::Exact => expected == *got,
                Tolerance::Close => (expected - got).abs() <= 1e-9,
            },
            (None, Err(_)) => true,
            _ => false,
        };
        if !agree {
            let shown = match got {
                Ok(score) => format!("{score:?}"),
                Err(error) => error.to_string(),
            };
            let expected = expected.map_or("an error".to_owned(), |score| format!("{score:?}"));
            self.differences.push((field.to_owned(), expected, shown));
        }
    }

    /// A LongBench-shaped case: one score over all answers in `field`, one per answer in `each`.
    fn scores(
        &mut self,
        id: &str,
        field: &str,
        each: Option<&str>,
        tolerance: Tolerance,
    ) -> Result<(), String> {
        let metric = self.metric(id)?;
        let prediction: String = self.read("prediction")?;
        let answers: Vec<String> = self.read("answers")?;
        let classes: Vec<String> = self.read_or_default("all_classes")?;
        self.outcome(field, &metric.score(&prediction, &answers, &classes), tolerance)?;
        if let Some(each) = each {
            let expected: Vec<Option<f64>> = self.read(each)?;
            self.equal(each, &expected.len(), &answers.len());
            for (i, (answer, expected)) in answers.iter().zip(expected).enumerate() {
                let got = metric.score_answer(&prediction, answer, &classes);
                self.number(&format!("{each}[{i}]"), expected, &got, tolerance);
            }
        }
        Ok(())
    }
}

/// The known files, without `.jsonl`.
const CHECKS: [(&str, Check); 24] = [
    ("babilong", babilong),
    ("classification_score", |case| {
        case.scores("classification/longbench", "score", Some("scores"), Tolerance::Exact)
    }),
    ("code_sim_score", |case| {
        case.scores("code-sim/difflib", "score", Some("scores"), Tolerance::Exact)?;
        case.scores("code-sim/levenshtein", "score_levenshtein", Some("scores_levenshtein"), Tolerance::Exact)
    }),
    ("count_score", |case| case.scores("count/longbench", "score", Some("scores"), Tolerance::Exact)),
    ("dataset_scorer", |case| dataset(case, false)),
    ("jieba_cut", |case| {
        let text: String = case.read("text")?;
        let tokens: Vec<String> = case.read("tokens")?;
        case.equal("tokens", &tokens.iter().map(String::as_str).collect(), &jieba::cut(&text));
        Ok(())
    }),
    ("longbench_e_scorer", |case| dataset(case, true)),
    ("loogle_bleu", |case| {
        case.scores("bleu1/loogle", "bleu1", None, Tolerance::Close)?;
        case.scores("bleu4/loogle", "bleu4", None, Tolerance::Close)
    }),
    ("loogle_cloze", cloze),
    ("loogle_reorder", timeline),
    ("loogle_rouge", |case| {
        case.scores("rouge1-recall/pltrdy", "rouge1_r", None, Tolerance::Exact)?;
        case.scores("rouge2-recall/pltrdy", "rouge2_r", None, Tolerance::Exact)?;
        case.scores("rouge-l-recall/pltrdy", "rougel_r", None, Tolerance::Exact)
    }),
    ("needle_insert", needle_insert),
    ("needle_rouge", needle_rouge),
    ("needle_word_overlap", needle_word_overlap),
    ("numpy_mean", |case| {
        let values: Vec<f64> = case.read("values")?;
        let mean = numpy_mean(&values);
        case.float("numpy_mean", mean, Tolerance::Exact)?;
        case.float("rounded", numpy_round2(100.0 * mean), Tolerance::Exact)?;
        case.float("sequential_sum", values.iter().fold(0.0, |sum, value| sum + value), Tolerance::Exact)
    }),
    ("porter_stem", |case| {
        let (word, expected): (String, String) = (case.read("word")?, case.read("stem")?);
        case.equal("stem", &expected, &porter::stem(&word));
        Ok(())
    }),
    ("qa_f1_score", |case| case.scores("qa-f1/longbench", "score", Some("scores"), Tolerance::Exact)),
    ("qa_f1_zh_score", |case| {
        case.scores("qa-f1-zh/jieba-0.42.1", "score", Some("scores"), Tolerance::Exact)
    }),
    ("retrieval_score", |case| case.scores("retrieval/longbench", "score", Some("scores"), Tolerance::Exact)),
    ("retrieval_zh_score", |case| {
        case.scores("retrieval-zh/longbench", "score", Some("scores"), Tolerance::Exact)
    }),
    ("round2", |case| {
        let value: f64 = case.read("value")?;
        case.float("python_round_2", round2(value), Tolerance::Exact)?;
        case.float("numpy_round_2", numpy_round2(value), Tolerance::Exact)
    }),
    ("rouge_score", |case| rouge(case, &rouge_l::SCRIPT, &rouge_l::NO_LIMIT)),
    ("rouge_zh_score", |case| rouge(case, &rouge_l::ZH_SCRIPT, &rouge_l::ZH_NO_LIMIT)),
    ("ruler_string_match", ruler),
];

fn babilong(case: &mut Case) -> Result<(), String> {
    let labels: Vec<String> = case.read("task_labels")?;
    let (target, prediction, question): (String, String, String) =
        (case.read("target")?, case.read("prediction")?, case.read("question")?);
    let expected: bool = case.read("correct")?;
    case.equal(
        "correct",
        &expected,
        &metrics::babilong::compare_answers(&target, &prediction, &question, &labels),
    );
    Ok(())
}

fn rouge(case: &mut Case, script: &rouge_l::RougeL, no_limit: &rouge_l::RougeL) -> Result<(), String> {
    case.scores(script.id(), "score", Some("scores"), Tolerance::Exact)?;
    case.scores(no_limit.id(), "score_no_recursion_limit", None, Tolerance::Exact)?;
    let Some(expected) = case.read_or_default::<Option<usize>>("max_recon_depth")? else { return Ok(()) };
    let prediction: String = case.read("prediction")?;
    let answers: Vec<String> = case.read("answers")?;
    let calls = answers.iter().map(|answer| no_limit.calls(&prediction, answer)).max().unwrap_or(0);
    case.equal("max_recon_depth", &expected, &calls);
    Ok(())
}

fn dataset(case: &mut Case, buckets: bool) -> Result<(), String> {
    #[derive(serde::Deserialize)]
    struct Row {
        pred: String,
        answers: Vec<String>,
        all_classes: Option<Vec<String>>,
        length: u64,
    }
    let name: String = case.read("dataset")?;
    let id =
        longbench::metric_id(&name).ok_or_else(|| format!("field `dataset`: unknown data set `{name}`"))?;
    let (metric, first_line) = (case.metric(id)?, longbench::scores_first_line(&name));
    let rows: Vec<Row> = case.read("rows")?;
    // The official script passes the classes of the last row for all rows.
    let classes = rows.last().and_then(|row| row.all_classes.clone()).unwrap_or_default();
    let scores: Vec<f64> = rows
        .iter()
        .map(|row| scorer::score_row(metric, first_line, &row.pred, &row.answers, &classes))
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    if buckets {
        let got = scorer::bucket_scores(scores.into_iter().zip(rows.iter().map(|row| row.length)));
        let expected: BTreeMap<String, Option<f64>> = case.read("result")?;
        for (bucket, got) in BUCKETS.into_iter().zip(got) {
            let expected =
                expected.get(bucket).ok_or_else(|| format!("field `result`: no bucket `{bucket}`"))?;
            case.equal(bucket, expected, &got);
        }
        return Ok(());
    }
    let expected: Vec<f64> = case.read("per_row")?;
    case.equal("per_row", &expected, &scores);
    let expected: Option<f64> = case.read("result")?;
    case.equal("result", &expected, &scorer::dataset_score(&scores));
    Ok(())
}

fn cloze(case: &mut Case) -> Result<(), String> {
    if case.value.get("reference").is_none() {
        let totals = case.cloze;
        for (field, total) in ["exact_match", "partial_match"].into_iter().zip(totals) {
            let expected: Option<f64> = case.read(field)?;
            case.equal(field, &expected, &total.total());
        }
        return Ok(());
    }
    let prediction: String = case.read("prediction")?;
    let reference: BTreeMap<String, String> = case.read("reference")?;
    let exact = metrics::cloze::exact(&prediction, &reference);
    let partial = metrics::cloze::partial(&prediction, &reference).ok();
    if let Some(partial) = partial {
        let [exacts, partials] = case.cloze;
        case.cloze = [[exacts, exact].into_iter().sum(), [partials, partial].into_iter().sum()];
    }
    for (field, got) in [("exact", Some(exact)), ("partial", partial)] {
        let expected: Option<(usize, usize)> = case.read(field)?;
        case.equal(field, &expected, &got.map(|got| (got.hits, got.keys)));
    }
    // The metrics read the reference as LooGLE writes it: JSON of texts is a Python dict too.
    let answer = serde_json::to_string(&reference).map_err(|error| error.to_string())?;
    for (field, id) in [("exact", "cloze-exact/loogle"), ("partial", "cloze-partial/loogle")] {
        let expected: Option<(f64, f64)> = case.read(field)?;
        let got = case.metric(id)?.score_answer(&prediction, &answer, &[]).ok();
        case.equal(id, &expected.map(|(hits, keys)| hits / keys), &got);
    }
    Ok(())
}

fn timeline(case: &mut Case) -> Result<(), String> {
    let found = if case.value.get("reference").is_some() {
        let (reference, prediction): (Vec<Value>, Vec<Value>) =
            (case.read("reference")?, case.read("prediction")?);
        reorder::deviations(&reference, &prediction)
    } else {
        // Quadratic in `n` nowhere, yet a number from a file should not size a list unchecked.
        let n: usize = case.read("n")?;
        if n > 1_000_000 {
            return Err(format!("field `n`: {n} is more than 1000000 events"));
        }
        Some(reorder::Deviations::largest(n))
    };
    let got = [
        ("location_square_deviation", found.map(|d| d.location_square)),
        ("location_mean_deviation", found.map(|d| d.location_mean)),
        ("swap_deviation", found.map(|d| d.swap)),
        ("swap_distance_deviation", found.map(|d| d.swap_distance)),
    ];
    for (field, got) in got {
        // The string `"None"` is what the official code returns where it cannot compare.
        let expected = match case.field(field)? {
            Value::String(none) if none == "None" => None,
            _ => Some(case.read::<f64>(field)?),
        };
        case.equal(field, &expected, &got);
    }
    Ok(())
}

fn needle_insert(case: &mut Case) -> Result<(), String> {
    let ids = |name| case.read::<Vec<u32>>(name);
    let (context, needle, periods, expected) =
        (ids("context_ids")?, ids("needle_ids")?, ids("period_ids")?, ids("result_ids")?);
    let (length, buffer) = (case.read("context_length")?, case.read("final_context_length_buffer")?);
    let got = insert_needle(&context, &needle, &periods, case.read("depth_percent")?, length, buffer);
    case.equal("result_ids", &expected, &got);
    Ok(())
}

fn needle_rouge(case: &mut Case) -> Result<(), String> {
    let (target, prediction): (String, String) = (case.read("target")?, case.read("prediction")?);
    let (one, long) =
        (google_rouge::rouge1(&target, &prediction), google_rouge::rouge_l(&target, &prediction));
    for (field, got) in [("rouge1", one), ("rougeL", long)] {
        let expected: (f64, f64, f64) = case.read(field)?;
        case.equal(field, &expected, &(got.precision, got.recall, got.f));
    }
    let by_id = |case: &mut Case, id| -> Result<f64, String> {
        case.metric(id)?.score_answer(&prediction, &target, &[]).map_err(|error| error.to_string())
    };
    let (f, recall) = (by_id(case, "rouge1/google-porter")?, by_id(case, "rouge1-recall/google-porter")?);
    for (field, got) in [
        ("headkv_score", f * 10.0),
        ("kvcache_factory_score", f * 10.0),
        ("compresskv_score", recall * 100.0),
    ] {
        case.float(field, got, Tolerance::Exact)?;
    }
    let (_, _, expected): (f64, f64, f64) = case.read("rougeL")?;
    let got = by_id(case, "rouge-l/google-porter")?;
    case.equal("rouge-l/google-porter", &expected, &got);
    Ok(())
}

fn needle_word_overlap(case: &mut Case) -> Result<(), String> {
    let prediction: String = case.read("prediction")?;
    let mut score = |id| -> Result<f64, String> {
        let answer = metrics::needle_overlap::EXPECTED;
        case.metric(id)?.score_answer(&prediction, answer, &[]).map_err(|error| error.to_string())
    };
    let (distinct, repeats) = (score("needle-overlap/kvcache-factory")?, score("needle-overlap/franxyao")?);
    case.float("kvcache_factory", distinct, Tolerance::Exact)?;
    case.float("headkv", distinct, Tolerance::Exact)?;
    case.float("compresskv", distinct * 100.0, Tolerance::Exact)?;
    case.float("franxyao", repeats, Tolerance::Exact)
}

fn ruler(case: &mut Case) -> Result<(), String> {
    let predictions: Vec<String> = case.read("predictions")?;
    let references: Vec<Vec<String>> = case.read("references")?;
    for (field, id) in [
        ("string_match_all", "ruler-all/kvcache-factory"),
        ("string_match_all_kvpress", "ruler-all/kvpress"),
        ("string_match_part_kvpress", "ruler-part/kvpress"),
    ] {
        let metric = case.metric(id)?;
        let mut total = 0.0;
        for (prediction, references) in predictions.iter().zip(&references) {
            total += metric.score(prediction, references, &[]).map_err(|error| error.to_string())?;
        }
        case.float(field, round2(total / predictions.len() as f64 * 100.0), Tolerance::Exact)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn write(name: &str, text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join(name), text).unwrap();
        dir
    }

    /// The cases that are part of the repository.
    fn committed() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/metrics"))
    }

    /// The larger set that they were taken from. `None`, with a word about it, where it is absent; in CI that fails.
    fn larger() -> Option<&'static Path> {
        let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/golden/metrics"));
        if dir.exists() {
            return Some(dir);
        }
        assert!(std::env::var_os("CI").is_none(), "{} not present", dir.display());
        eprintln!("skipped: {} not present", dir.display());
        None
    }

    fn agreeing(dir: &Path) -> Report {
        let report = check(dir).unwrap();
        let first: Vec<_> = report.failed.iter().take(40).collect();
        assert!(first.is_empty(), "{} values differ: {first:#?}", report.failed.len());
        assert_eq!(report.files.len(), CHECKS.len());
        assert!(report.files.values().all(|(passed, _)| *passed > 0), "{:?}", report.files);
        report
    }

    fn committed_lines(name: &str) -> Vec<Value> {
        let bytes = fs_err::read(committed().join(name)).unwrap();
        let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    #[test]
    fn agrees_with_every_committed_case() {
        assert_eq!(agreeing(committed()).skipped, []);
    }

    #[test]
    fn agrees_with_every_case_of_the_larger_set() {
        let Some(dir) = larger() else { return };
        assert_eq!(agreeing(dir).skipped.len(), 1, "METEOR");
    }

    #[test]
    fn committed_cases_are_those_of_the_larger_set() {
        let Some(dir) = larger() else { return };
        for (name, _) in CHECKS {
            let name = format!("{name}.jsonl");
            let (ours, theirs) =
                (fs_err::read(committed().join(&name)).unwrap(), fs_err::read(dir.join(&name)).unwrap());
            let theirs: BTreeSet<&[u8]> = theirs.split(|&byte| byte == b'\n').collect();
            let new = ours.split(|&byte| byte == b'\n').filter(|line| !theirs.contains(line)).count();
            // The total of the cloze cases is over the cases that are there.
            assert_eq!(new, usize::from(name == "loogle_cloze.jsonl"), "{name}");
        }
    }

    /// Metrics without a committed case, and why.
    const WITHOUT_CASES: [(&str, &str); 3] = [
        ("rouge-l/pltrdy-module", "`rouge-l/pltrdy` with another recursion limit"),
        ("rouge-l-zh/pltrdy-module", "`rouge-l-zh/pltrdy` with another recursion limit"),
        ("exact/kvsweep", "of the embedded needle test, which no other code grades"),
    ];

    #[test]
    fn every_metric_has_a_committed_case() {
        let cases = check(committed()).unwrap().metrics;
        let without: Vec<&str> =
            metrics::all().iter().map(|metric| metric.id()).filter(|id| !cases.contains_key(id)).collect();
        assert_eq!(without, WITHOUT_CASES.map(|(id, _)| id));
    }

    /// LongBench data sets without a committed case: all cases at hand hold texts of others. The metrics of the three
    /// have cases of other data sets.
    const WITHOUT_ROWS: [&str; 3] = ["2wikimqa", "musique", "samsum"];

    #[test]
    fn every_longbench_data_set_has_a_committed_case() {
        let cases = committed_lines("dataset_scorer.jsonl");
        let with: BTreeSet<&str> = cases.iter().filter_map(|case| case["dataset"].as_str()).collect();
        let without: BTreeSet<&str> = kvsweep_tasks::datasets::all()
            .iter()
            .filter(|info| info.suite == kvsweep_tasks::Suite::LongBench && !with.contains(info.name))
            .map(|info| info.name)
            .collect();
        assert_eq!(without, BTreeSet::from(WITHOUT_ROWS));
    }

    /// An edge of a metric: its name, the file, and what a case of it looks like.
    type Edge = (&'static str, &'static str, fn(&Value) -> bool);

    const EDGES: [Edge; 12] = [
        ("an empty list of answers", "qa_f1_score", |case| case["answers"] == Value::Array(Vec::new())),
        ("several answers", "qa_f1_score", |case| case["scores"].as_array().is_some_and(|all| all.len() > 1)),
        ("an answer without a number", "retrieval_score", |case| case["error"] == "IndexError"),
        ("the recursion limit", "rouge_score", |case| {
            case["score"] == 0.0 && case["score_no_recursion_limit"].as_f64() > Some(0.0)
        }),
        ("the recursion limit in Chinese", "rouge_zh_score", |case| {
            case["score"] == 0.0 && case["score_no_recursion_limit"].as_f64() > Some(0.0)
        }),
        ("difflib's junk above 200 characters", "code_sim_score", |case| case["tag"] == "autojunk-201"),
        ("the two code similarities apart", "code_sim_score", |case| {
            case["score"] != case["score_levenshtein"]
        }),
        ("no 4-gram in common", "loogle_bleu", |case| {
            case["bleu4"].as_f64().is_some_and(|score| score > 0.0 && score < 1e-70)
        }),
        ("no sentence left", "loogle_rouge", |case| !case["error"].is_null()),
        ("a cloze value that is no text", "loogle_cloze", |case| !case["partial_error"].is_null()),
        ("orders that cannot be compared", "loogle_reorder", |case| case["swap_deviation"] == "None"),
        ("an empty length bucket", "longbench_e_scorer", |case| {
            case["result"].as_object().is_some_and(|all| all.values().any(Value::is_null))
        }),
    ];

    #[test]
    fn every_edge_has_a_committed_case() {
        for (edge, file, is) in EDGES {
            let cases = committed_lines(&format!("{file}.jsonl"));
            assert!(cases.iter().any(is), "{edge}: no case in {file}.jsonl");
        }
    }

    #[test]
    fn a_wrong_score_is_reported() {
        let line = r#"{"id":"c-1","prediction":"3","answers":["3"],"score":0.5,"scores":[1.0]}"#;
        let dir = write("count_score.jsonl", line);
        let report = check(dir.path()).unwrap();
        let [failure] = report.failed.as_slice() else { panic!("{report:?}") };
        assert_eq!(
            (failure.id.as_str(), failure.expected.as_str(), failure.got.as_str()),
            ("c-1 score", "0.5", "1.0")
        );
        assert_eq!((report.passed, report.files["count_score.jsonl"], report.agreement()), (0, (0, 1), 0.0));
    }

    #[test]
    fn malformed_lines_name_file_and_line() {
        for (text, reason) in [
            ("\n{", "invalid json"),
            ("{}\n{}", "field `prediction` is missing"),
            ("\n{\"prediction\":1}", "field `prediction`: invalid type"),
            ("\n\u{0}", "invalid json"),
        ] {
            let dir = write("count_score.jsonl", text);
            let error = check(dir.path()).unwrap_err().to_string();
            let line = if text.starts_with('\n') { "line 2" } else { "line 1" };
            assert!(
                error.contains(reason) && error.contains(line) && error.contains("count_score.jsonl"),
                "{error}"
            );
        }
    }

    /// A committed line with a few bytes changed, removed or doubled.
    fn spoil(line: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
        let mut spoiled = line.to_vec();
        for _ in 0..rng.random_range(1..=4) {
            let at = rng.random_range(0..spoiled.len().max(1)).min(spoiled.len());
            let end = (at + rng.random_range(0..=8)).min(spoiled.len());
            match rng.random_range(0..4) {
                0 => drop(spoiled.drain(at..end)),
                1 => drop(spoiled.splice(at..at, spoiled[at..end].to_vec())),
                2 => drop(spoiled.splice(at..end, *b"18446744073709551616")),
                _ => drop(spoiled.splice(at..end, [b"0123456789-.,:[]{}\"ne"[rng.random_range(0..21)]])),
            }
        }
        spoiled
    }

    #[test]
    fn spoiled_lines_never_panic() {
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        for (name, _) in CHECKS {
            let name = format!("{name}.jsonl");
            let bytes = fs_err::read(committed().join(&name)).unwrap();
            let short = bytes.split(|&byte| byte == b'\n').filter(|line| (1..2000).contains(&line.len()));
            let lines: Vec<&[u8]> = short.collect();
            for _ in 0..200 {
                let line = spoil(lines[rng.random_range(0..lines.len())], rng);
                let _ = check_file(Path::new(&name), &line, &mut Report::default());
            }
        }
    }

    #[test]
    fn unknown_files_are_skipped_and_an_empty_folder_is_an_error() {
        let dir = write("other.jsonl", "x");
        assert!(check(dir.path()).unwrap_err().to_string().contains("no golden file"));
        fs_err::write(dir.path().join("porter_stem.jsonl"), r#"{"word":"sky","stem":"sky"}"#).unwrap();
        let report = check(dir.path()).unwrap();
        assert_eq!((report.passed, report.skipped.len()), (1, 1));
        assert!(check(Path::new("/nonexistent")).is_err());
    }
}
