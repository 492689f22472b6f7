//! Published rows: kvpress's (`context`, `question`, `answer_prefix`, `answer`, `task`, `max_new_tokens`) and those that
//! NVIDIA's scripts and KVCache-Factory write (`input`, `outputs`), cut as kvpress cuts them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Task;
use crate::datasets::DatasetInfo;
use crate::error::TaskError;
use crate::example::{Example, key};
use crate::reader::{DatasetRows, for_each_line};
use crate::row::{FIX_ROW, Row};

const ENDS: [&str; 3] = ["jsonl", "jsonl.gz", "jsonl.zst"];

/// The context lengths that a folder has rows of, each with where they are: `4096/` or `4096.jsonl` in it, or the folder
/// itself where its name is a length. None where it has no rows of RULER.
pub fn lengths(dir: &Path) -> BTreeMap<usize, PathBuf> {
    let length = |path: &Path| {
        let name = path.file_name()?.to_str()?;
        let stem = ENDS.iter().find_map(|end| name.strip_suffix(&format!(".{end}"))).unwrap_or(name);
        stem.parse::<usize>().ok().filter(|_| !stem.starts_with('+'))
    };
    if let Some(length) = length(dir) {
        return BTreeMap::from([(length, dir.to_path_buf())]);
    }
    let Ok(entries) = fs_err::read_dir(dir) else { return BTreeMap::new() };
    entries.flatten().map(|entry| entry.path()).filter_map(|path| Some((length(&path)?, path))).collect()
}

/// The file with a task's rows where the rows of a length are: a file of its own, or one of every task.
///
/// # Errors
/// No such file; the message lists what was looked for.
pub fn find(place: &Path, task: &str) -> Result<PathBuf, TaskError> {
    if place.is_file() && holds(place, task)? {
        return Ok(place.to_path_buf());
    }
    let nested = place.join(task);
    let stems = [
        place.join(task),
        nested.join("validation"),
        nested.join("test"),
        place.join("test"),
        place.join("validation"),
    ];
    for stem in stems {
        for end in ENDS {
            let mut path = stem.clone().into_os_string();
            path.push(format!(".{end}"));
            let path = PathBuf::from(path);
            if path.is_file() && holds(&path, task)? {
                return Ok(path);
            }
        }
    }
    let parquet = fs_err::read_dir(place)
        .ok()
        .into_iter()
        .flatten()
        .flatten()
        .find(|entry| entry.path().extension().is_some_and(|end| end == "parquet"));
    let hint = match parquet {
        Some(entry) => format!(
            "convert the parquet file: python -c \"import pandas; pandas.read_parquet('{}').to_json('{}', \
             orient='records', lines=True)\"",
            entry.path().display(),
            place.join("test.jsonl").display()
        ),
        None => "without it --data, rows are generated".to_owned(),
    };
    Err(TaskError::MissingDataset {
        name: task.to_owned(),
        dir: place.to_path_buf(),
        looked_for: format!("{task}.jsonl, {task}/validation.jsonl, test.jsonl, the same with .gz and .zst"),
        hint,
    })
}

/// Whether a file has a row of a task: one that names it, or names none.
fn holds(path: &Path, task: &str) -> Result<bool, TaskError> {
    let mut found = false;
    for_each_line(path, None, |place, line| {
        if !found {
            found = Row::parse(place, line)?.optional_text("task")?.is_none_or(|named| named == task);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Reads the rows of a task and a length from the file that [`find`] found; rows of other tasks are passed over.
///
/// # Errors
/// A malformed row (file, line, field), a row without the question that its task has.
pub fn read(path: &Path, info: &'static DatasetInfo, length: usize) -> Result<DatasetRows, TaskError> {
    let task = Task::by_name(info.name).ok_or_else(|| TaskError::NoRows(info.name.to_owned()))?;
    let mut examples = Vec::new();
    let sha256 = for_each_line(path, Some(info), |place, line| {
        let mut row = Row::parse(place, line)?;
        if row.optional_text("task")?.is_some_and(|named| named != info.name) {
            return Ok(());
        }
        examples.push(example(info, task, &mut row, examples.len(), length)?);
        Ok(())
    })?;
    if examples.is_empty() {
        return Err(TaskError::NoRows(format!("{} of length {length}", info.name)));
    }
    Ok(DatasetRows { examples, sha256 })
}

fn example(
    info: &DatasetInfo,
    task: Task,
    row: &mut Row<'_>,
    index: usize,
    length: usize,
) -> Result<Example, TaskError> {
    let place = row.place();
    let (context, question, answer_prefix, answers) = if row.has("context") {
        let parts = (row.text("context")?, row.text("question")?, row.text("answer_prefix")?);
        if let Some(tokens) = row.optional_float("max_new_tokens")?
            && tokens != info.max_new_tokens as f64
        {
            let problem = format!(
                "field `max_new_tokens` is {tokens}, and `{}` has {}",
                info.name, info.max_new_tokens
            );
            return Err(place.error(problem, "the rows are another version's: fetch them again"));
        }
        (parts.0, parts.1, parts.2, row.texts("answer")?)
    } else {
        let mut text = row.text("input")?;
        text.push_str(&row.optional_text("answer_prefix")?.unwrap_or_default());
        let (context, question, prefix) = cut(task, &text).ok_or_else(|| {
            let problem = format!("field `input` does not end with the question of `{}`", info.name);
            place.error(problem, "the file is another task's: rename or fetch it")
        })?;
        (context.to_owned(), question.to_owned(), prefix.to_owned(), row.texts("outputs")?)
    };
    if answers.is_empty() {
        return Err(place.error("the row has no answers: no prediction could score", FIX_ROW));
    }
    let context: Arc<str> = context.into();
    let whole = key(info.name, index, None, &question, &context, &answers);
    let (start, hash) = whole.split_once('-').unwrap_or((&whole, ""));
    Ok(Example {
        key: format!("{start}.{length}-{hash}"),
        dataset: info.name.to_owned(),
        input: question,
        answer_prefix,
        context,
        answers,
        all_classes: Vec::new(),
        length: length as u64,
        language: "en".to_owned(),
    })
}

/// Context, question and the beginning of the answer: the last mark of a question, and the first of an answer behind it.
fn cut(task: Task, text: &str) -> Option<(&str, &str, &str)> {
    let (questions, answer) = task.marks();
    let at = questions.iter().filter_map(|mark| text.rfind(mark)).max()?;
    let (context, asked) = text.split_at(at);
    let (question, prefix) = asked.split_at(asked.find(answer)?);
    Some((context, question, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasets;

    fn put(dir: &Path, name: &str, rows: &[serde_json::Value]) {
        fs_err::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
        fs_err::write(dir.join(name), lines.join("\n")).unwrap();
    }

    #[test]
    fn rows_of_both_kinds_are_cut_alike() {
        let dir = tempfile::tempdir().unwrap();
        let (context, question, prefix) = (
            "Memorize.\nVAR A = 1\n",
            "Question: Find all variables that are assigned the value 1 in the text above. ",
            "Answer: they are: ",
        );
        put(
            dir.path(),
            "4096/vt/validation.jsonl",
            &[serde_json::json!({
                "index": 0, "input": format!("{context}{}", question.trim_end()), "outputs": ["A"], "length": 3000,
                "answer_prefix": format!(" {prefix}"),
            })],
        );
        let kvpress = |task: &str| {
            serde_json::json!({
                "context": context, "question": question, "answer_prefix": prefix, "answer": ["A"], "task": task,
                "max_new_tokens": 30,
            })
        };
        put(dir.path(), "8192.jsonl", &[kvpress("cwe"), kvpress("vt")]);
        let info = datasets::by_name("vt").unwrap();
        let all = lengths(dir.path());
        assert_eq!(all.keys().copied().collect::<Vec<_>>(), [4096, 8192]);
        let read = |length: usize| {
            let path = find(&all[&length], "vt").unwrap();
            super::read(&path, info, length).unwrap()
        };
        // A file of all tasks has no rows of one that it does not name.
        let missing = find(&all[&8192], "fwe").unwrap_err();
        assert!(matches!(missing, TaskError::MissingDataset { .. }), "{missing}");
        let (one, two) = (read(4096), read(8192));
        assert_eq!((one.examples.len(), two.examples.len()), (1, 1));
        let (one, two) = (&one.examples[0], &two.examples[0]);
        assert_eq!(
            (&one.context, &one.input, &one.answer_prefix),
            (&two.context, &two.input, &two.answer_prefix)
        );
        assert_eq!((&*one.context, one.input.as_str(), one.length), (context, question, 4096));
        assert!(one.key.starts_with("vt#0.4096-") && two.key.starts_with("vt#0.8192-"), "{}", one.key);
    }

    #[test]
    fn wrong_rows_and_folders_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let info = datasets::by_name("niah_single_1").unwrap();
        put(
            dir.path(),
            "4096/niah_single_1.jsonl",
            &[serde_json::json!({"input": "What?", "outputs": ["1"]})],
        );
        let place = dir.path().join("4096");
        let complain = || read(&find(&place, info.name).unwrap(), info, 4096).unwrap_err().to_string();
        assert!(
            complain().contains(".jsonl:1: field `input` does not end with the question"),
            "{}",
            complain()
        );
        put(
            dir.path(),
            "4096/niah_single_1.jsonl",
            &[serde_json::json!({
                "context": "c", "question": "q", "answer_prefix": "a", "answer": ["1"], "max_new_tokens": 30,
            })],
        );
        assert!(complain().contains("`max_new_tokens` is 30, and `niah_single_1` has 128"), "{}", complain());
        fs_err::write(place.join("test-00000-of-00001.parquet"), "PAR1").unwrap();
        let error = find(&place, "vt").unwrap_err().to_string();
        assert!(error.contains("pandas.read_parquet"), "{error}");
        assert!(lengths(&dir.path().join("none")).is_empty());
    }

    #[test]
    fn kvcache_factorys_rows_are_read_whole() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/ruler");
        let all = lengths(Path::new(dir));
        let Some(place) = all.get(&4096) else {
            assert!(std::env::var_os("CI").is_none(), "{dir} is missing");
            println!("skipped: {dir} is not present");
            return;
        };
        let info = datasets::by_name("niah_multikey_3").unwrap();
        let rows = read(&find(place, info.name).unwrap(), info, 4096).unwrap();
        assert_eq!(rows.examples.len(), 20);
        for row in rows.examples {
            assert!(row.context.contains(&format!("is: {}.", row.answers[0])), "{}", row.key);
            assert!(row.input.ends_with("mentioned in the provided text? "), "{}", row.input);
            assert!(row.answer_prefix.starts_with("The special magic uuid for "), "{}", row.answer_prefix);
        }
    }
}
