//! A needle test as a question.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Dataset, Identity, NEEDLE};
use crate::ask::{Description, Grade, NeedleCell, Question, Renderer};
use crate::error::TaskError;
use crate::example::hex;
use crate::needle::{NeedleCase, NeedleGrading};
use crate::prompt::Prompt;
use crate::protocol::Protocol;

struct NeedleQuestion {
    row: u64,
    case: NeedleCase,
    grading: NeedleGrading,
}

/// The tests as one data set, identified by their prompts.
pub(super) fn dataset(
    cases: Vec<NeedleCase>,
    grading: NeedleGrading,
    essays_sha256: Option<String>,
) -> Result<Dataset, TaskError> {
    let mut hash = Sha256::new();
    for case in &cases {
        let mut ids = Sha256::new();
        for id in &case.prompt.ids {
            ids.update(id.to_le_bytes());
        }
        hash.update(hex(&ids.finalize()));
    }
    let identity = Identity { sha256: hex(&hash.finalize()), essays_sha256 };
    let question = |(row, case)| -> Arc<dyn Question> { Arc::new(NeedleQuestion { row, case, grading }) };
    Dataset::new(NEEDLE, identity, (0..).zip(cases).map(question))
}

impl Question for NeedleQuestion {
    fn key(&self) -> &str {
        &self.case.key
    }

    fn row(&self) -> u64 {
        self.row
    }

    fn prompt(&self, _: &Renderer<'_>) -> Result<Prompt, TaskError> {
        Ok(self.case.prompt.clone())
    }

    fn grade(&self, _: &Protocol, prediction: &str) -> Result<Grade, TaskError> {
        Ok(Grade {
            metric: self.grading.metric().to_owned(),
            score: self.grading.score(prediction, &self.case)?,
            // A metric on which the official code stops is left out, as for rows.
            others: self.grading.others(prediction, &self.case).unwrap_or_default(),
        })
    }

    fn description(&self) -> Description<'_> {
        Description {
            answers: std::slice::from_ref(&self.case.answer),
            all_classes: &[],
            language: "en",
            length: None,
            bucket: Some(self.case.cell.length.to_string()),
        }
    }

    fn cell(&self) -> Option<NeedleCell> {
        Some(self.case.cell)
    }
}
