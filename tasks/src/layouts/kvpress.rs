//! NVIDIA/kvpress: `<dataset>__<data_dir>__<model>__<press>__<ratio>/` with `predictions.csv`, `metrics.json` and
//! `config.yaml` (`evaluation/evaluate.py`), of RULER and LongBench.
//!
//! Lists stand in the CSV as numpy prints them, `['a' 'b']`. Its LooGLE numbers need METEOR and BERTScore, which are not
//! computed here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::csv::{Csv, Record, quoted};
use super::{
    DatasetScore, ExportFile, ExportMeta, Layout, OfficialScore, Prediction, PredictionFile, TreeScores, read,
};
use crate::datasets::{self, DatasetInfo};
use crate::error::TaskError;
use crate::metrics::{self, scorer};
use crate::path::component;
use crate::python::literal::{self, Literal};
use crate::python::text::is_space;
use crate::suite::Suite;

const PREDICTIONS: &str = "predictions.csv";
const METRICS: &str = "metrics.json";
const CONFIG: &str = "config.yaml";

/// kvpress's results folders.
pub(super) struct KvPress;

impl Layout for KvPress {
    fn name(&self) -> &'static str {
        "kvpress"
    }

    fn expected(&self) -> &'static str {
        "`predictions.csv` with the columns task, predicted_answer and answer (LongBench: answers, all_classes)"
    }

    fn suite(&self) -> Suite {
        Suite::Ruler
    }

    /// One file holds several data sets; the first stands for all.
    fn files(&self, dir: &Path) -> Result<Vec<PredictionFile>, TaskError> {
        let path = dir.join(PREDICTIONS);
        let dataset = datasets::by_name("niah_single_1")?;
        Ok(path.is_file().then_some(PredictionFile { dataset, method: None, path }).into_iter().collect())
    }

    /// A folder for each context length of RULER, and for each data set of LongBench.
    fn export(
        &self,
        root: &Path,
        meta: &ExportMeta,
        predictions: &[Prediction],
    ) -> Result<Vec<ExportFile>, TaskError> {
        let mut folders: BTreeMap<(&str, String), Vec<(&DatasetInfo, &Prediction)>> = BTreeMap::new();
        for prediction in predictions {
            let info = datasets::by_name(&prediction.dataset)?;
            let place = match info.suite {
                Suite::Ruler => prediction.length.to_string(),
                Suite::LongBench => info.base.to_owned(),
                other => {
                    let name = format!("{} of suite {}", info.name, other.name());
                    let nearest = vec!["suite ruler".to_owned(), "suite longbench".to_owned()];
                    return Err(TaskError::UnknownName { kind: "data set in this layout", name, nearest });
                }
            };
            folders.entry((info.suite.name(), place)).or_default().push((info, prediction));
        }
        let mut files = Vec::new();
        for ((dataset, data_dir), rows) in folders {
            files.extend(folder(root, meta, dataset, &data_dir, &rows)?);
        }
        Ok(files)
    }
}

/// The press that computes what a method of ours does; our own name where there is none.
fn press(method: &str) -> &str {
    match method.split('@').next().unwrap_or(method) {
        "full" => "no_press",
        "streamingllm" => "streaming_llm",
        "adakv" => "adakv_snapkv",
        other => other,
    }
}

fn folder(
    root: &Path,
    meta: &ExportMeta,
    dataset: &str,
    data_dir: &str,
    rows: &[(&DatasetInfo, &Prediction)],
) -> Result<Vec<ExportFile>, TaskError> {
    let (press, model) = (press(&meta.method), &meta.model);
    let mut name =
        format!("{dataset}__{data_dir}__{}__{press}__{:.2}", model.replace('/', "--"), meta.removed);
    if meta.question_seen {
        name.push_str("__query_aware");
    }
    let dir = root.join(component(&name));
    let ruler = dataset == Suite::Ruler.name();
    let lists = if ruler { "answer" } else { "answers,all_classes" };
    let mut text = format!("task,max_new_tokens,{lists},predicted_answer,compression_ratio\n");
    let mut scores: BTreeMap<&str, (&DatasetInfo, Vec<f64>)> = BTreeMap::new();
    for (info, row) in rows {
        let classes = if ruler { String::new() } else { quoted(&numpy_list(&row.all_classes)) + "," };
        text.push_str(&format!(
            "{},{},{},{classes}{},{}\n",
            info.base,
            info.max_new_tokens,
            quoted(&numpy_list(&row.answers)),
            quoted(&row.pred),
            meta.removed,
        ));
        let score = score_row(info, &row.pred, &row.answers, &row.all_classes, &row.id)?;
        scores.entry(info.base).or_insert_with(|| (info, Vec::new())).1.push(score);
    }
    let percent = |(info, scores): &(&DatasetInfo, Vec<f64>)| scorer::percent(info)(scores);
    let metrics: Value = if ruler {
        let tasks =
            scores.iter().map(|(task, of)| ((*task).to_owned(), json!({"string_match": percent(of)})));
        Value::Object(tasks.collect::<Map<_, _>>())
    } else {
        scores.values().next().map_or(Value::Null, |of| json!(percent(of)))
    };
    let mut json = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    serde::Serialize::serialize(&metrics, &mut serde_json::Serializer::with_formatter(&mut json, formatter))
        .map_err(|e| TaskError::io("write", &dir, e.into()))?;
    let config = format!(
        "dataset: {dataset}\ndata_dir: {data_dir}\nmodel: {model}\npress_name: {press}\ncompression_ratio: {}\n\
         fraction: 1.0\nmax_new_tokens: null\nmax_context_length: null\nquery_aware: {}\n",
        meta.removed, meta.question_seen
    );
    Ok(vec![
        ExportFile { path: dir.join(PREDICTIONS), text },
        ExportFile { path: dir.join(METRICS), text: String::from_utf8_lossy(&json).into_owned() },
        ExportFile { path: dir.join(CONFIG), text: config },
    ])
}

/// A list of strings as numpy prints an array of objects, on one line.
fn numpy_list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| python_repr(item)).collect();
    format!("[{}]", items.join(" "))
}

/// Python's `repr` of a string whose characters are printable or blanks.
fn python_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// The strings of an array as numpy prints it, or of a Python list. `None` if it is neither, or was shortened.
fn string_list(text: &str) -> Option<Vec<String>> {
    let inside = text.trim().strip_prefix('[')?.strip_suffix(']')?;
    let mut rest = inside.trim_start();
    let mut items = Vec::new();
    while let Some(quote) = rest.chars().next() {
        if !['\'', '"'].contains(&quote) {
            return None;
        }
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find(|&(_, c)| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let (literal, behind) = rest.split_at(end?.0 + 1);
        let Ok(Literal::Str(item)) = literal::parse(literal) else { return None };
        items.push(item);
        let blank = behind.trim_start();
        rest = blank.strip_prefix(',').unwrap_or(blank).trim_start();
    }
    Some(items)
}

/// kvpress's score of a row: LongBench's predictions lose the white space in front.
fn score_row(
    info: &DatasetInfo,
    prediction: &str,
    answers: &[String],
    all_classes: &[String],
    key: &str,
) -> Result<f64, TaskError> {
    let failed =
        |problem: String| TaskError::Score { key: key.to_owned(), metric: info.metric.to_owned(), problem };
    let metric = metrics::by_id(info.metric).map_err(|e| failed(e.to_string()))?;
    let prediction =
        if info.suite == Suite::LongBench { prediction.trim_start_matches(is_space) } else { prediction };
    scorer::score_row(metric, info.first_line_only, prediction, answers, all_classes)
        .map_err(|e| failed(e.to_string()))
}

/// Scores a results folder as `calculate_metrics.py` of its benchmark does.
///
/// # Errors
/// Another folder, a CSV without the columns needed or with fields that are no lists, a task that is unknown here.
pub(super) fn score(dir: &Path, replacement: Option<&str>) -> Result<TreeScores, TaskError> {
    if let Some(metric) = replacement {
        return Err(TaskError::UnknownName {
            kind: "metric of layout kvpress",
            name: metric.to_owned(),
            nearest: Vec::new(),
        });
    }
    let path = dir.join(PREDICTIONS);
    if !path.is_file() {
        return Err(TaskError::Layout {
            dir: dir.to_path_buf(),
            layout: KvPress.name(),
            expected: KvPress.expected().to_owned(),
            found: read::found(dir, &KvPress),
        });
    }
    let csv = Csv::read(&path)?;
    let mut rows: BTreeMap<&'static str, (&'static DatasetInfo, Vec<f64>)> = BTreeMap::new();
    for record in csv.records() {
        let name = record.field("task")?;
        let known =
            |info: &&DatasetInfo| info.base == name && matches!(info.suite, Suite::Ruler | Suite::LongBench);
        let registry = datasets::all().iter().chain(datasets::mini::all());
        let info = registry
            .clone()
            .find(known)
            .ok_or_else(|| record.error(format!("`{name}` is no task of RULER or LongBench")))?;
        let column = if csv.has("answers") { "answers" } else { "answer" };
        let answers = list(&record, column)?;
        let classes = if csv.has("all_classes") && info.suite == Suite::LongBench {
            list(&record, "all_classes")?
        } else {
            Vec::new()
        };
        if answers.is_empty() {
            return Err(record.error(format!("field `{column}` is an empty list: no prediction could score")));
        }
        let prediction = record.field("predicted_answer")?;
        let score =
            score_row(info, prediction, &answers, &classes, &format!("{} of {name}", path.display()))?;
        rows.entry(info.base).or_insert_with(|| (info, Vec::new())).1.push(score);
    }
    if rows.is_empty() {
        return Err(TaskError::File {
            path: path.clone(),
            problem: "holds no predictions".to_owned(),
            remedy: "remove the folder or finish the run".to_owned(),
        });
    }
    let recorded = recorded(&dir.join(METRICS))?;
    let mut tree = TreeScores {
        scores: BTreeMap::new(),
        methods: BTreeMap::new(),
        average: None,
        notes: config(&dir.join(CONFIG))?.into_iter().collect(),
    };
    let mut percents = Vec::new();
    for (name, (info, per_row)) in rows {
        let percent = scorer::percent(info)(&per_row);
        if let Some(theirs) = recorded.get(name).filter(|theirs| (*theirs - percent).abs() > 0.005) {
            tree.notes.push(format!("{name}: {METRICS} says {theirs}, its predictions score {percent}"));
        }
        percents.push(percent);
        let score = OfficialScore::Plain(percent);
        tree.scores.insert(
            name.to_owned(),
            DatasetScore { score, per_row, metric: info.metric, path: path.clone() },
        );
    }
    // What its leaderboard shows: the mean of the tasks' rounded scores.
    if percents.len() > 1 {
        tree.average = Some(("average", percents.iter().sum::<f64>() / percents.len() as f64));
    }
    Ok(tree)
}

fn list(record: &Record<'_>, column: &str) -> Result<Vec<String>, TaskError> {
    let text = record.field(column)?;
    string_list(text).ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        record.error(format!("field `{column}` is no list of strings: `{shown}`"))
    })
}

/// The scores of a `metrics.json`, by task; empty where there is none.
fn recorded(path: &PathBuf) -> Result<BTreeMap<String, f64>, TaskError> {
    if !path.is_file() {
        return Ok(BTreeMap::new());
    }
    let text = fs_err::read_to_string(path).map_err(|e| TaskError::io("read", path, e))?;
    let value: Value = serde_json::from_str(&text).map_err(|e| TaskError::File {
        path: path.clone(),
        problem: format!("is not JSON: {e}"),
        remedy: "remove it, or take it from the results folder again".to_owned(),
    })?;
    let score = |(task, of): (&String, &Value)| Some((task.clone(), of.get("string_match")?.as_f64()?));
    Ok(value.as_object().into_iter().flatten().filter_map(score).collect())
}

/// What a `config.yaml` says in a line: model, press and the share that was removed. `None` where there is none. Only the
/// top level's `key: value` is read; deeper lines belong to keys that nothing here needs.
fn config(path: &Path) -> Result<Option<String>, TaskError> {
    if !path.is_file() {
        return Ok(None);
    }
    let text = fs_err::read_to_string(path).map_err(|e| TaskError::io("read", path, e))?;
    let mut told = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() || line.starts_with([' ', '\t', '-', '#']) {
            continue;
        }
        let (key, value) = line.split_once(':').ok_or_else(|| TaskError::Row {
            path: path.to_path_buf(),
            line: number,
            problem: "expected `key: value`".to_owned(),
            remedy: "take the file from the results folder again".to_owned(),
        })?;
        told.insert(key.trim(), value.trim().trim_matches(['\'', '"']));
    }
    let of = |key: &str| told.get(key).copied().filter(|value| !["null", "~", ""].contains(value));
    let removed = ["threshold", "head_compression_ratio", "compression_ratio"]
        .into_iter()
        .find_map(|key| Some(format!("{} {}", key.replace('_', " "), of(key)?)));
    let parts = [of("model").map(str::to_owned), of("press_name").map(str::to_owned), removed];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    let aware = if of("query_aware") == Some("true") { ", question seen" } else { "" };
    Ok((!parts.is_empty()).then(|| format!("{}{aware}", parts.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, name: &str, text: &str) {
        fs_err::write(dir.join(name), text).unwrap();
    }

    #[test]
    fn lists_are_read_as_numpy_and_python_print_them() {
        let of = |text: &str| string_list(text);
        let list = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>());
        assert_eq!(of("['a b' 'c']"), list(&["a b", "c"]));
        assert_eq!(of("[\"it's\"\n 'x\\'y']"), list(&["it's", "x'y"]));
        assert_eq!(of("['a', \"b\"]"), list(&["a", "b"]));
        assert_eq!(of("[]"), list(&[]));
        for wrong in ["a", "['a'", "['a' ... 'b']", "['a]", "[1 2]", ""] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        let items = ["it's", "say \"x\"", "both ' and \"", "a\\b\nc"].map(str::to_owned);
        assert_eq!(of(&numpy_list(&items)).as_deref(), Some(&items[..]));
    }

    /// A folder in pandas' own words: columns in any order, an answer over two lines, an empty prediction.
    #[test]
    fn a_results_folder_scores_as_its_own_script_does() {
        let dir = tempfile::tempdir().unwrap();
        put(
            dir.path(),
            PREDICTIONS,
            "predicted_answer,task,answer,question,compression_ratio,max_new_tokens,answer_prefix\n\
             \"  ABC, \u{1}def\n\",vt,\"['abc' 'DEF'\n 'x']\",q,0.5,30,a\n,vt,['abc'],q,0.5,30,a\n\
             yes Paris,qa_1,['London' 'paris'],q,0.5,32,a\n",
        );
        put(dir.path(), METRICS, r#"{"qa_1": {"string_match": 100.0}, "vt": {"string_match": 40.0}}"#);
        put(
            dir.path(),
            CONFIG,
            "dataset: ruler\ndata_dir: '4096'\nmodel: org/m\nmodel_kwargs:\n  a: b\npress_name: knorm\ncompression_ratio: 0.5\nthreshold: null\n",
        );
        let tree = score(dir.path(), None).unwrap();
        let plain = |name: &str| tree.scores[name].score.clone();
        assert_eq!(plain("vt"), OfficialScore::Plain(33.33));
        assert_eq!(plain("qa_1"), OfficialScore::Plain(100.0));
        assert_eq!(
            tree.average.map(|(name, mean)| (name, (mean * 1e3).round())),
            Some(("average", 66_665.0))
        );
        assert_eq!(tree.notes[0], "org/m, knorm, compression ratio 0.5");
        assert_eq!(tree.notes[1], "vt: metrics.json says 40, its predictions score 33.33");
    }

    #[test]
    fn broken_folders_are_named_by_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let complain = |csv: &str| {
            put(dir.path(), PREDICTIONS, csv);
            score(dir.path(), None).unwrap_err().to_string()
        };
        let head = "task,answer,predicted_answer\n";
        assert!(complain("").contains("is empty"));
        assert!(complain(head).contains("holds no predictions"));
        assert!(complain("task,answer\nvt,['a']\n").contains(":2: there is no column `predicted_answer`"));
        assert!(
            complain(&format!("{head}vt,['a'],x\nvt,['a']\n"))
                .contains(":3: the record has 2 fields, and the head 3")
        );
        assert!(complain(&format!("{head}vt,a,x\n")).contains("field `answer` is no list of strings: `a`"));
        assert!(complain(&format!("{head}vt,[],x\n")).contains("empty list"));
        assert!(complain(&format!("{head}../x,['a'],x\n")).contains("`../x` is no task"));
        assert!(complain(&format!("{head}vt,\"['a'],x\n")).contains("a quote that opens in line 2"));
        put(dir.path(), PREDICTIONS, &format!("{head}vt,['a'],x\n"));
        put(dir.path(), CONFIG, "dataset: ruler\njust words\n");
        let error = score(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains("config.yaml:2: expected `key: value`"), "{error}");
        put(dir.path(), CONFIG, "");
        put(dir.path(), METRICS, "{");
        assert!(score(dir.path(), None).unwrap_err().to_string().contains("metrics.json`: is not JSON"));
    }

    #[test]
    fn an_export_scores_as_it_did() {
        let dir = tempfile::tempdir().unwrap();
        let meta = ExportMeta {
            model: "org/m".into(),
            method: "streamingllm@kvpress".into(),
            removed: 0.25,
            ..ExportMeta::default()
        };
        let row = |dataset: &str, length: u64, pred: &str| Prediction {
            dataset: dataset.into(),
            pred: pred.into(),
            answers: vec!["it's".into(), "b".into()],
            length,
            ..Prediction::default()
        };
        let rows = [row("vt", 4096, "It's, \"so\"\n"), row("qa_2", 4096, "none"), row("vt", 8192, "b it's")];
        let files = KvPress.export(dir.path(), &meta, &rows).unwrap();
        assert_eq!(files.len(), 6);
        for file in &files {
            fs_err::create_dir_all(file.path.parent().unwrap()).unwrap();
            fs_err::write(&file.path, &file.text).unwrap();
        }
        let folder = dir.path().join("ruler__4096__org--m__streaming_llm__0.25");
        let tree = score(&folder, None).unwrap();
        assert_eq!(tree.scores["vt"].score, OfficialScore::Plain(50.0));
        assert_eq!(tree.scores["qa_2"].score, OfficialScore::Plain(0.0));
        assert_eq!(tree.notes, ["org/m, streaming_llm, compression ratio 0.25"]);
        let other = row("narrativeqa_e", 1, "x");
        assert!(KvPress.export(dir.path(), &meta, &[other]).is_err());
    }
}
