//! A row of a data set as a question.

use std::sync::Arc;

use crate::ask::{ContextKey, Description, Grade, Question, Renderer};
use crate::datasets::{DatasetInfo, longbench_e};
use crate::error::TaskError;
use crate::example::Example;
use crate::prompt::Prompt;
use crate::protocol::Protocol;
use crate::score::{other_scores, score_prediction};
use crate::suite::Suite;

struct RowQuestion {
    row: u64,
    example: Example,
    info: &'static DatasetInfo,
    context: Option<ContextKey>,
}

/// The rows, each with its number, as questions; `without_context`, for the contamination control, leaves out what they are asked about.
pub(super) fn questions(
    examples: impl IntoIterator<Item = (u64, Example)>,
    info: &'static DatasetInfo,
    without_context: bool,
) -> impl Iterator<Item = Arc<dyn Question>> {
    examples.into_iter().map(move |(row, mut example)| -> Arc<dyn Question> {
        if without_context {
            example.context = Arc::default();
        }
        let context = ContextKey::of(&example.context);
        Arc::new(RowQuestion { row, example, info, context })
    })
}

/// What an answer to a row is worth.
pub(super) fn grade(
    info: &DatasetInfo,
    protocol: &Protocol,
    prediction: &str,
    example: &Example,
) -> Result<Grade, TaskError> {
    Ok(Grade {
        metric: protocol.metric(info).to_owned(),
        score: score_prediction(info, protocol, prediction, example)?,
        others: other_scores(info, protocol, prediction, example),
    })
}

/// What is known of a row besides its prompt.
pub(super) fn description<'a>(info: &DatasetInfo, example: &'a Example) -> Description<'a> {
    let length = example.length;
    Description {
        answers: &example.answers,
        all_classes: &example.all_classes,
        language: &example.language,
        length: Some(length),
        bucket: match info.suite {
            Suite::LongBenchE => Some(longbench_e::bucket(length).to_owned()),
            Suite::Ruler => Some(length.to_string()),
            Suite::LongBench | Suite::LooGle | Suite::Needle => None,
        },
    }
}

impl Question for RowQuestion {
    fn key(&self) -> &str {
        &self.example.key
    }

    fn row(&self) -> u64 {
        self.row
    }

    fn context(&self) -> Option<&ContextKey> {
        self.context.as_ref()
    }

    fn prompt(&self, renderer: &Renderer<'_>) -> Result<Prompt, TaskError> {
        let Renderer { protocol, model, text, question } = *renderer;
        protocol.render_as(&self.example, self.info, model, text, question)
    }

    fn grade(&self, protocol: &Protocol, prediction: &str) -> Result<Grade, TaskError> {
        grade(self.info, protocol, prediction, &self.example)
    }

    fn description(&self) -> Description<'_> {
        description(self.info, &self.example)
    }

    fn context_length(&self) -> Option<usize> {
        (self.info.suite == Suite::Ruler).then_some(self.example.length as usize)
    }

    fn dataset(&self) -> Option<&DatasetInfo> {
        Some(self.info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Ask;
    use crate::datasets;

    fn asked(dataset: &str, rows: &[(&str, &str)], without_context: bool) -> Vec<Ask> {
        let example = |(context, input): &(&str, &str)| Example {
            key: format!("{dataset}#{input}"),
            dataset: dataset.into(),
            input: (*input).into(),
            answer_prefix: String::new(),
            context: (*context).into(),
            answers: vec!["a".into()],
            all_classes: Vec::new(),
            length: 0,
            language: "en".into(),
        };
        let examples: Vec<_> = (0..).zip(rows.iter().map(example)).collect();
        Ask::group(questions(examples, datasets::by_name(dataset).unwrap(), without_context))
    }

    #[test]
    fn questions_about_one_document_are_one_ask_in_the_order_of_rows() {
        let rows = [("one", "a"), ("one", "b"), ("two", "c"), ("one", "d")];
        let asks = asked("computation", &rows, false);
        let keys: Vec<Vec<&str>> =
            asks.iter().map(|ask| ask.questions.iter().map(|question| question.key()).collect()).collect();
        // Rows are never moved: what comes back later is asked later.
        assert_eq!(
            keys,
            [vec!["computation#a", "computation#b"], vec!["computation#c"], vec!["computation#d"]]
        );
        assert_eq!(asks[0].questions[1].row(), 1);
        assert_eq!(asks[0].context, asks[2].context);
        assert_ne!(asks[0].context, asks[1].context);
        assert_eq!(asks[0].context.as_ref().map(|key| key.to_string().len()), Some(16));
        // Another data set: still the same document.
        assert_eq!(asks[0].context, asked("timeline_reorder", &rows, false)[0].context);
        let alone = asked("computation", &rows, true);
        assert_eq!(alone.len(), 4, "without context there is nothing to share");
        assert!(alone.iter().all(|ask| ask.context.is_none()));
    }
}
