//! LooGLE: the four official tasks (bigai-nlco/LooGLE, `config/task2prompt.json`, `config/task2maxlen.json`) and the
//! four long-dependency sets that HeadKV made of them (FYYFU/HeadKV, `run_longbench.py`).
//!
//! In the official prompts `{input}` is the document and `{Q}` the question; they are written `{context}` and
//! `{input}` here, as in every other data set. METEOR on sets, BERTScore with swapped arguments and the timeline
//! driver that returns maxima are official bugs that make a metric meaningless: they are left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::metric_ids::{LOOGLE_CLOZE, LOOGLE_ROUGE_L, QA_F1};
use super::{Category, DatasetInfo, Language};
use crate::error::TaskError;
use crate::example::{Example, key};
use crate::python::literal::{self, Literal};
use crate::row::{FIX_ROW, Row};
use crate::suite::Suite;

/// The eight data sets: the official four, then HeadKV's four in its run order.
pub(crate) const DATASETS: [DatasetInfo; 8] = [
    DatasetInfo {
        name: "shortdep_qa",
        base: "shortdep_qa",
        suite: Suite::LooGle,
        category: Category::ShortDependency,
        language: Language::English,
        metric: LOOGLE_ROUGE_L,
        max_new_tokens: 300,
        prompt: "Please answer the question based on the long texts below. \n{context}\nQuestion: {input}\nAnswer: ",
        first_line_only: false,
        raw: false,
        rows: 1951,
        mean_length: None,
        short_name: "ShortQA",
    },
    DatasetInfo {
        name: "longdep_qa",
        base: "longdep_qa",
        suite: Suite::LooGle,
        category: Category::LongDependency,
        language: Language::English,
        metric: LOOGLE_ROUGE_L,
        max_new_tokens: 500,
        prompt: "Please answer the question based on the long texts below. \n{context}\nQuestion: {input}\nAnswer: ",
        first_line_only: false,
        raw: false,
        rows: 1101,
        mean_length: None,
        short_name: "LongQA",
    },
    DatasetInfo {
        name: "shortdep_cloze",
        base: "shortdep_cloze",
        suite: Suite::LooGle,
        category: Category::ShortDependency,
        language: Language::English,
        metric: LOOGLE_CLOZE,
        max_new_tokens: 50,
        prompt: "Please fill in the clozes based on the given long texts below. Each of the placeholder '<mask-n>' in the question could be an entity of Person, Location or Organiocation. The same masks represent the same entity. Output a json format answer, for example: {{'<mask-0>': 'Bob', '<mask-1>': 'Gorrosion Magazine','<mask-2>': 'Bethel Horizon'}}\n{context}\n Question: {input} What are the masked entities? \nAnswer:",
        first_line_only: false,
        raw: false,
        rows: 2880,
        mean_length: None,
        short_name: "Cloze",
    },
    DatasetInfo {
        name: "longdep_summarization",
        base: "longdep_summarization",
        suite: Suite::LooGle,
        category: Category::LongDependency,
        language: Language::English,
        metric: LOOGLE_ROUGE_L,
        max_new_tokens: 500,
        prompt: "Please generate a summary of the below paper. \n{context}\n Summarization: ",
        first_line_only: false,
        raw: false,
        rows: 516,
        mean_length: None,
        short_name: "Summ",
    },
    DatasetInfo {
        name: "comprehension_and_reasoning",
        base: "comprehension_and_reasoning",
        suite: Suite::LooGle,
        category: Category::LongDependency,
        language: Language::English,
        metric: QA_F1,
        max_new_tokens: 64,
        prompt: "Please answer the question based on the long texts below. \n{context}\nQuestion: {input}\nAnswer:",
        first_line_only: false,
        raw: false,
        rows: 406,
        mean_length: None,
        short_name: "Doc.QA",
    },
    DatasetInfo {
        name: "computation",
        base: "computation",
        suite: Suite::LooGle,
        category: Category::LongDependency,
        language: Language::English,
        metric: QA_F1,
        max_new_tokens: 32,
        prompt: "Please answer the question based on the long texts below. \n{context}\nQuestion: {input}\nAnswer:",
        first_line_only: false,
        raw: false,
        rows: 100,
        mean_length: None,
        short_name: "Computation",
    },
    DatasetInfo {
        name: "multiple_information_retrieval",
        base: "multiple_information_retrieval",
        suite: Suite::LooGle,
        category: Category::LongDependency,
        language: Language::English,
        metric: QA_F1,
        max_new_tokens: 64,
        prompt: "Please answer the question based on the long texts below. \n{context}\nQuestion: {input}\nAnswer:",
        first_line_only: false,
        raw: false,
        rows: 380,
        mean_length: None,
        short_name: "Info. Retrieval",
    },
    DatasetInfo {
        name: "timeline_reorder",
        base: "timeline_reorder",
        suite: Suite::LooGle,
        category: Category::LongDependency,
        language: Language::English,
        metric: QA_F1,
        max_new_tokens: 32,
        prompt: "Please answer the question based on the long texts below. \n{context}\nQuestion: {input}\nAnswer:",
        first_line_only: false,
        raw: false,
        rows: 215,
        mean_length: None,
        short_name: "Timeline",
    },
];

/// The names of HeadKV's four sets: they are the `type` values of `longdep_qa`'s questions.
pub(crate) fn is_longdep_type(name: &str) -> bool {
    DATASETS[4..].iter().any(|d| d.name == name)
}

/// The examples of one document: one a question (HeadKV's sets: those of their type), or the summary.
///
/// # Errors
/// A row that lacks a field, `qa_pairs` that are no Python literal of the expected shape.
pub(crate) fn examples(
    info: &DatasetInfo,
    row: &mut Row<'_>,
    index: usize,
) -> Result<Vec<Example>, TaskError> {
    let context: Arc<str> = row.text("input")?.into();
    let pairs = row.text("qa_pairs")?;
    let place = row.place();
    let example = |id: usize, input: String, answer: String| {
        let answers = vec![answer];
        let whole = key(info.name, index, None, &input, &context, &answers);
        let (start, hash) = whole.split_once('-').unwrap_or((&whole, ""));
        Example {
            key: format!("{start}.{id}-{hash}"),
            dataset: info.name.to_owned(),
            length: context.split_whitespace().count() as u64,
            input,
            answer_prefix: String::new(),
            context: Arc::clone(&context),
            answers,
            all_classes: Vec::new(),
            language: "en".to_owned(),
        }
    };
    if info.name == "longdep_summarization" {
        return Ok(vec![example(0, String::new(), row.text("output")?)]);
    }
    let wrong = |problem: String| place.error(format!("field `qa_pairs`: {problem}"), FIX_ROW);
    let parsed = literal::parse(&pairs).map_err(|e| wrong(e.to_string()))?;
    let items = parsed.items().ok_or_else(|| wrong("not a list of questions".to_owned()))?;
    let mut examples = Vec::new();
    for (id, item) in items.iter().enumerate() {
        let text = |name: &str| item.get(name).and_then(Literal::as_str).map(str::to_owned);
        if is_longdep_type(info.name) && text("type").as_deref() != Some(info.name) {
            continue;
        }
        let question = text("Q").ok_or_else(|| wrong(format!("question {id} lacks the text `Q`")))?;
        let answer =
            if info.name == "shortdep_cloze" { item.get("A").and_then(cloze_answer) } else { text("A") };
        let answer = answer.ok_or_else(|| wrong(format!("question {id} lacks a usable answer `A`")))?;
        examples.push(example(id, question, answer));
    }
    Ok(examples)
}

/// The example of a row with one question, as the hub has LooGLE now: `context`, `question`, `answer` (where that is empty,
/// `output`). HeadKV's sets take the rows of their `type`. `before` is the context of the example before, which is held once.
///
/// # Errors
/// A row that lacks a field, an answer that cannot be used.
pub(crate) fn flat_example(
    info: &DatasetInfo,
    row: &mut Row<'_>,
    index: usize,
    before: Option<&Arc<str>>,
) -> Result<Option<Example>, TaskError> {
    let kind = [row.optional_text("type")?, row.optional_text("task")?];
    if is_longdep_type(info.name) && !kind.iter().flatten().any(|kind| kind == info.name) {
        return Ok(None);
    }
    let place = row.place();
    let context = row.text("context")?;
    let context = before.filter(|before| ***before == *context).map_or_else(|| context.into(), Arc::clone);
    let question = row.optional_text("question")?.unwrap_or_default();
    let summary = info.name == "longdep_summarization";
    let answer = match row.take("answer") {
        Ok(Value::String(text)) if !text.trim().is_empty() => text,
        // A cloze: its masks and their names.
        Ok(object @ Value::Object(_)) => object.to_string(),
        Ok(Value::String(_) | Value::Null) | Err(_) if summary => row.text("output")?,
        Ok(_) => return Err(place.error("field `answer` must be a text, and not empty", FIX_ROW)),
        Err(error) => return Err(error),
    };
    let answer = if info.name == "shortdep_cloze" {
        let read = literal::parse(&answer).ok().as_ref().and_then(cloze_answer);
        read.ok_or_else(|| place.error("field `answer` is not a dict of masks and names", FIX_ROW))?
    } else {
        answer
    };
    let id = row.optional_text("id")?;
    let input = if summary { String::new() } else { question };
    let answers = vec![answer];
    Ok(Some(Example {
        key: key(info.name, index, id.as_deref(), &input, &context, &answers),
        dataset: info.name.to_owned(),
        length: context.split_whitespace().count() as u64,
        input,
        answer_prefix: String::new(),
        context,
        answers,
        all_classes: Vec::new(),
        language: "en".to_owned(),
    }))
}

/// A cloze reference as text: JSON of a dict of strings is a Python literal, too, which is what the metric reads.
fn cloze_answer(answer: &Literal) -> Option<String> {
    let Literal::Dict(pairs) = answer else { return None };
    let pairs: BTreeMap<&str, &str> =
        pairs.iter().map(|(mask, name)| Some((mask.as_str()?, name.as_str()?))).collect::<Option<_>>()?;
    serde_json::to_string(&pairs).ok()
}

#[cfg(test)]
mod tests {
    use crate::reader::read_rows;

    #[test]
    fn documents_become_one_example_a_question() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.jsonl");
        let doc = |pairs: &str| {
            serde_json::json!({"input": "a document", "title": "t", "qa_pairs": pairs, "output": "sum"})
                .to_string()
        };
        let pairs = r#"[{'Q': "who?", 'A': 'he', 'type': 'computation', 'S': ['x']}, {'Q': 'when?', 'A': 'now', 'type': 'timeline_reorder', 'S': []}]"#;
        fs_err::write(&path, doc(pairs)).unwrap();
        let all = read_rows(&path, "longdep_qa").unwrap().examples;
        assert!(std::sync::Arc::ptr_eq(&all[0].context, &all[1].context), "a document is held once");
        assert_eq!((all.len(), all[1].input.as_str(), all[1].answers[0].as_str()), (2, "when?", "now"));
        assert!(all[0].key.starts_with("longdep_qa#0.0-"), "{}", all[0].key);
        assert_eq!(read_rows(&path, "computation").unwrap().examples[0].input, "who?");
        assert!(read_rows(&path, "comprehension_and_reasoning").is_err());
        fs_err::write(&path, doc(r#"[{'Q': 'fill', 'A': {'<mask-0>': "O'Hara \u00e9"}, 'S': ''}]"#)).unwrap();
        let cloze = read_rows(&path, "shortdep_cloze").unwrap().examples.remove(0);
        assert_eq!(cloze.answers, [r#"{"<mask-0>":"O'Hara é"}"#]);
        fs_err::write(&path, doc("__import__('os')")).unwrap();
        let error = read_rows(&path, "longdep_qa").unwrap_err().to_string();
        assert!(error.contains(":1: field `qa_pairs`: not a python literal"), "{error}");
        fs_err::write(&path, doc("none")).unwrap();
        assert_eq!(read_rows(&path, "longdep_summarization").unwrap().examples[0].answers, ["sum"]);
    }

    /// One question a row, as the hub has LooGLE now.
    #[test]
    fn rows_of_one_question_are_read_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.jsonl");
        let row = |id: &str, question: &str, answer: serde_json::Value| {
            serde_json::json!({
                "id": id, "doc_id": "1", "title": "t", "context": "Anna wrote it.", "question": question,
                "answer": answer, "evidence": ["Anna"], "output": "none", "type": "computation",
            })
            .to_string()
        };
        let rows = [row("0_0", "Who?", "Anna".into()), row("0_1", "What?", "it".into())];
        fs_err::write(&path, rows.join("\n")).unwrap();
        let read = read_rows(&path, "shortdep_qa").unwrap().examples;
        let [first, second] = &read[..] else { panic!("{read:?}") };
        assert!(std::sync::Arc::ptr_eq(&first.context, &second.context), "a document is held once");
        assert_eq!((&*first.key, &*first.input, &*first.answers[0]), ("shortdep_qa#0-0_0", "Who?", "Anna"));
        assert_eq!((second.length, &*second.context), (3, "Anna wrote it."));
        assert_eq!(read_rows(&path, "computation").unwrap().examples.len(), 2, "by their type");
        assert!(read_rows(&path, "timeline_reorder").unwrap_err().to_string().contains("holds no rows"));
        for masks in [serde_json::json!({"<mask-0>": "O'Hara"}), "{'<mask-0>': \"O'Hara\"}".into()] {
            fs_err::write(&path, row("0", "<mask-0> wrote.", masks)).unwrap();
            let cloze = read_rows(&path, "shortdep_cloze").unwrap().examples.remove(0);
            assert_eq!(cloze.answers, [r#"{"<mask-0>":"O'Hara"}"#]);
        }
        fs_err::write(&path, row("0", "", "".into())).unwrap();
        assert_eq!(read_rows(&path, "longdep_summarization").unwrap().examples[0].answers, ["none"]);
        let error = read_rows(&path, "shortdep_qa").unwrap_err().to_string();
        assert!(error.contains(":1: field `answer` must be a text"), "{error}");
    }
}
