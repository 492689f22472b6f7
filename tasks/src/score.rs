//! Scores one prediction of our own runs, under a protocol.

use std::collections::BTreeMap;

use crate::datasets::metric_ids::{CODE_SIM, CODE_SIM_LEVENSHTEIN, LOOGLE_CLOZE, LOOGLE_ROUGE_L};
use crate::datasets::{DatasetInfo, loogle};
use crate::error::TaskError;
use crate::example::Example;
use crate::metrics::{self, MetricError, scorer};
use crate::protocol::Protocol;
use crate::suite::Suite;

/// The score of a prediction, 0 to 1. The prediction is what [`Protocol::finish_prediction`] returned.
///
/// LooGLE's scripts put `None` in the place of an empty prediction; a prediction without words, on which they stop,
/// scores 0.
///
/// # Errors
/// The official metric stops on this reference answer: the row belongs to another data set.
pub fn score_prediction(
    dataset: &DatasetInfo,
    protocol: &Protocol,
    prediction: &str,
    example: &Example,
) -> Result<f64, TaskError> {
    let id = protocol.metric(dataset);
    let failed =
        |problem: String| TaskError::Score { key: example.key.clone(), metric: id.to_owned(), problem };
    let metric = metrics::by_id(id).map_err(|e| failed(e.to_string()))?;
    let prediction = official_prediction(dataset, prediction);
    match scorer::score_row(
        metric,
        dataset.first_line_only,
        prediction,
        &example.answers,
        &example.all_classes,
    ) {
        Ok(score) => Ok(score),
        Err(MetricError::NoSentences { .. } | MetricError::NotAString { .. }) => Ok(0.0),
        Err(e) => Err(failed(e.to_string())),
    }
}

/// Further scores of a prediction by metric id, 0 to 1: LooGLE's other automatic metrics, and code similarity as it is
/// where python-Levenshtein is (or is not) installed. A metric on which the official code stops is left out.
pub fn other_scores(
    dataset: &DatasetInfo,
    protocol: &Protocol,
    prediction: &str,
    example: &Example,
) -> BTreeMap<String, f64> {
    let used = protocol.metric(dataset);
    let others: &[&str] = match dataset.metric {
        LOOGLE_ROUGE_L => &["bleu1/loogle", "bleu4/loogle", "rouge1-recall/pltrdy", "rouge2-recall/pltrdy"],
        LOOGLE_CLOZE => &["cloze-exact/loogle"],
        CODE_SIM => &[CODE_SIM, CODE_SIM_LEVENSHTEIN],
        _ => &[],
    };
    let prediction = official_prediction(dataset, prediction);
    others
        .iter()
        .filter(|id| **id != used)
        .filter_map(|id| {
            let metric = metrics::by_id(id).ok()?;
            let first = dataset.first_line_only;
            let score = scorer::score_row(metric, first, prediction, &example.answers, &example.all_classes);
            Some(((*id).to_owned(), score.ok()?))
        })
        .collect()
}

/// LooGLE's own scripts put `None` in the place of an empty prediction.
fn official_prediction<'a>(dataset: &DatasetInfo, prediction: &'a str) -> &'a str {
    let official_loogle = dataset.suite == Suite::LooGle && !loogle::is_longdep_type(dataset.name);
    if official_loogle && prediction.is_empty() { "None" } else { prediction }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{datasets, protocol};

    #[test]
    fn the_protocol_chooses_the_metric_and_the_data_set_the_line() {
        let example = |dataset: &str, answer: &str| Example {
            key: format!("{dataset}#0-x"),
            dataset: dataset.into(),
            input: String::new(),
            answer_prefix: String::new(),
            context: Arc::default(),
            answers: vec![answer.into()],
            all_classes: Vec::new(),
            length: 0,
            language: "en".into(),
        };
        let score = |protocol: &str, dataset: &str, prediction: &str, answer: &str| {
            let info = datasets::by_name(dataset).unwrap();
            score_prediction(
                info,
                protocol::by_name(protocol).unwrap(),
                prediction,
                &example(dataset, answer),
            )
        };
        assert_eq!(score("kvsweep-1", "triviaqa", "\nParis\nQuestion: more", "Paris").unwrap(), 1.0);
        assert!(score("kvsweep-1", "hotpotqa", "\nParis\nQuestion: more", "Paris").unwrap() < 1.0);
        let code = |protocol| score(protocol, "lcc", "return foo(bar)", "int x = bar(foo, 12);").unwrap();
        assert!(code("adakv") > code("kvsweep-1"));
        assert_eq!(score("kvsweep-1", "shortdep_qa", ".", "a word").unwrap(), 0.0);
        let others = |protocol: &str, dataset: &str, prediction: &str, answer: &str| {
            let info = datasets::by_name(dataset).unwrap();
            other_scores(info, protocol::by_name(protocol).unwrap(), prediction, &example(dataset, answer))
        };
        assert_eq!(others("kvsweep-1", "shortdep_qa", "two words", "two words").len(), 4);
        assert_eq!(others("kvsweep-1", "shortdep_qa", "", "None")["rouge1-recall/pltrdy"], 1.0);
        assert!(others("adakv", "lcc", "x", "y").contains_key("code-sim/difflib"));
        assert!(others("kvsweep-1", "lcc_e", "x", "y").contains_key("code-sim/levenshtein"));
        assert!(others("kvsweep-1", "qasper", "x", "y").is_empty());
        assert!(score("kvsweep-1", "passage_retrieval_en", "Paragraph 1", "no number").is_err());
    }
}
