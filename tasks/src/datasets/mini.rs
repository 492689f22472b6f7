//! The embedded mini suite in the shapes of the registry: its data sets as LongBench's, its rows as examples.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

use super::metric_ids::{CLASSIFICATION, CODE_SIM, COUNT, QA_F1, RETRIEVAL, ROUGE, RULER_ALL};
use super::{Category, DatasetInfo, Language};
use crate::error::TaskError;
use crate::example::{Example, hex, key};
use crate::mini::{self, MiniDataset, MiniRow, ROWS};
use crate::suite::Suite;

/// What the registry would say of a mini data set. All of them are wrapped in the chat template, which the embedded
/// model was trained with.
///
/// # Errors
/// A category or metric that neither LongBench nor RULER has.
pub fn info(set: &MiniDataset) -> Result<DatasetInfo, TaskError> {
    let category = match set.category {
        "single-doc-qa" => Category::SingleDocQa,
        "multi-doc-qa" => Category::MultiDocQa,
        "summarization" => Category::Summarization,
        "few-shot" => Category::FewShot,
        "synthetic" => Category::Synthetic,
        "code" => Category::Code,
        "retrieval" => Category::Retrieval,
        "tracing" => Category::Tracing,
        other => {
            return Err(TaskError::unknown("category", other, Category::LONGBENCH.iter().map(|c| c.name())));
        }
    };
    let metrics = [
        ("qa_f1", QA_F1),
        ("rouge", ROUGE),
        ("classification", CLASSIFICATION),
        ("retrieval", RETRIEVAL),
        ("count", COUNT),
        ("code_sim", CODE_SIM),
        ("string_match_all", RULER_ALL),
    ];
    let metric = metrics
        .into_iter()
        .find_map(|(name, id)| (name == set.metric).then_some(id))
        .ok_or_else(|| TaskError::unknown("metric", set.metric, metrics.map(|m| m.0)))?;
    Ok(DatasetInfo {
        name: set.name,
        base: set.name,
        suite: if Category::LONGBENCH.contains(&category) { Suite::LongBench } else { Suite::Ruler },
        category,
        language: if category == Category::Code { Language::Code } else { Language::English },
        metric,
        max_new_tokens: set.max_new_tokens,
        prompt: set.prompt,
        first_line_only: category == Category::FewShot,
        raw: false,
        rows: ROWS,
        mean_length: None,
        short_name: set.name.trim_start_matches("mini_"),
    })
}

static ALL: LazyLock<Vec<DatasetInfo>> = LazyLock::new(|| {
    let sets = mini::datasets().iter().chain(mini::ruler::TASKS.iter().map(|task| &task.set));
    sets.filter_map(|set| info(set).ok()).collect()
});

/// The mini data sets, in their own order, LongBench's and then RULER's. They are no part of [`super::all`].
pub fn all() -> &'static [DatasetInfo] {
    &ALL
}

/// SHA-256 of the rows as JSON lines.
///
/// # Errors
/// A row cannot be written as JSON.
pub fn sha256(rows: &[MiniRow]) -> Result<String, TaskError> {
    let mut hash = Sha256::new();
    for row in rows {
        let line =
            serde_json::to_vec(row).map_err(|e| TaskError::io("write", "mini row".as_ref(), e.into()))?;
        hash.update(&line);
        hash.update(b"\n");
    }
    Ok(hex(&hash.finalize()))
}

/// Row number `index` as an example.
pub fn example(index: usize, row: MiniRow) -> Example {
    let key = key(&row.dataset, index, Some(&row._id), &row.input, &row.context, &row.answers);
    Example {
        key,
        dataset: row.dataset,
        input: row.input,
        answer_prefix: String::new(),
        context: row.context.into(),
        answers: row.answers,
        all_classes: row.all_classes.unwrap_or_default(),
        length: row.length as u64,
        language: row.language,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{protocol, score_prediction};

    #[test]
    fn every_mini_set_is_complete_and_its_reference_scores() {
        let protocol = protocol::by_name(protocol::DEFAULT).unwrap();
        for set in mini::datasets() {
            let info = info(set).unwrap();
            assert!(all().contains(&info));
            let rows: Vec<_> = (0..2).map(|n| mini::row(set, mini::SUITE_SEED, n, 256)).collect();
            assert_eq!(sha256(&rows).unwrap(), sha256(&rows).unwrap());
            for (index, row) in rows.into_iter().enumerate() {
                let example = example(index, row);
                let score = score_prediction(&info, protocol, &example.answers[0], &example).unwrap();
                assert!(score > 0.99, "{}: {score}", example.key);
            }
        }
    }
}
