//! The two question-answering tasks: one question about documents of SQuAD or HotpotQA, among others of the same file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::seq::{SliceRandom, index};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::{Texts, material};
use crate::error::TaskError;

/// The largest file accepted, in bytes. HotpotQA's has 46 MB.
const MAX_BYTES: u64 = 512 << 20;

/// Where questions come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// SQuAD 2.0, development set: `qa_1`.
    Squad,
    /// HotpotQA, development set with distractors: `qa_2`.
    HotpotQa,
}

impl Source {
    /// RULER's name of the file, and the one that it is published by.
    pub(crate) fn files(self) -> [&'static str; 2] {
        match self {
            Self::Squad => ["squad.json", "dev-v2.0.json"],
            Self::HotpotQa => ["hotpotqa.json", "hotpot_dev_distractor_v1.json"],
        }
    }

    fn address(self) -> &'static str {
        match self {
            Self::Squad => "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json",
            Self::HotpotQa => "http://curtis.ml.cmu.edu/datasets/hotpot/hotpot_dev_distractor_v1.json",
        }
    }

    /// What to say where the file is not there.
    pub(crate) fn missing(self) -> TaskError {
        let [name, published] = self.files();
        TaskError::MissingQuestions { name, published, address: self.address() }
    }
}

/// A question, what answers it, and which documents belong to it.
#[derive(Debug)]
struct Question {
    text: String,
    answers: Vec<String>,
    /// Documents that hold the answer.
    own: Vec<usize>,
    /// Documents about the same subject, taken before any others.
    related: Vec<usize>,
}

/// The questions and documents of a file.
#[derive(Debug)]
pub(crate) struct Questions {
    source: Source,
    pub(crate) sha256: String,
    questions: Vec<Question>,
    documents: Vec<String>,
}

#[derive(Deserialize)]
struct SquadFile {
    data: Vec<SquadArticle>,
}

#[derive(Deserialize)]
struct SquadArticle {
    paragraphs: Vec<SquadParagraph>,
}

#[derive(Deserialize)]
struct SquadParagraph {
    context: String,
    qas: Vec<SquadQuestion>,
}

#[derive(Deserialize)]
struct SquadQuestion {
    question: String,
    answers: Vec<SquadAnswer>,
    #[serde(default)]
    is_impossible: bool,
}

#[derive(Deserialize)]
struct SquadAnswer {
    text: String,
}

#[derive(Deserialize)]
struct HotpotQuestion {
    question: String,
    answer: String,
    context: Vec<(String, Vec<String>)>,
}

impl Questions {
    /// Reads the file of a source, if the folder has it.
    pub(super) fn find(folder: &Path, source: Source) -> Result<Option<Self>, TaskError> {
        let path = source.files().map(|name| folder.join(name)).into_iter().find(|path| path.is_file());
        path.map(|path| Self::read(&path, source)).transpose()
    }

    fn read(path: &PathBuf, source: Source) -> Result<Self, TaskError> {
        let wrong = |problem: String| TaskError::File {
            path: path.clone(),
            problem,
            remedy: format!("fetch it again from {}", source.address()),
        };
        let bytes = fs_err::metadata(path).map_err(|e| TaskError::io("read", path, e))?.len();
        if bytes > MAX_BYTES {
            return Err(wrong(format!("is larger than {} MiB", MAX_BYTES >> 20)));
        }
        let text = fs_err::read(path).map_err(|e| TaskError::io("read", path, e))?;
        let not_json = |e: serde_json::Error| wrong(format!("is not the file of questions: {e}"));
        let sha256 = material::sha256(&text);
        let (questions, documents) = match source {
            Source::Squad => squad(serde_json::from_slice(&text).map_err(not_json)?),
            Source::HotpotQa => hotpotqa(serde_json::from_slice(&text).map_err(not_json)?),
        };
        if questions.is_empty() {
            return Err(wrong("holds no question with an answer".to_owned()));
        }
        Ok(Self { source, sha256, questions, documents })
    }

    pub(super) fn draw(&self, index: u64, chance: ChaCha8Rng) -> Result<Drawn<'_>, TaskError> {
        let question = usize::try_from(index).ok().and_then(|index| self.questions.get(index));
        let question = question.ok_or(TaskError::FewQuestions {
            name: self.source.files()[0],
            questions: self.questions.len(),
        })?;
        Ok(Drawn { file: self, question, chance })
    }
}

/// Numbers documents by their place in the sorted list of all different ones, as RULER does.
fn numbered(mut documents: Vec<String>) -> (Vec<String>, impl Fn(&str) -> usize) {
    documents.sort();
    documents.dedup();
    let places: BTreeMap<String, usize> = documents.iter().cloned().zip(0..).collect();
    (documents, move |document: &str| places.get(document).copied().unwrap_or_default())
}

fn squad(file: SquadFile) -> (Vec<Question>, Vec<String>) {
    let paragraphs = file.data.iter().flat_map(|article| &article.paragraphs);
    let (documents, place) = numbered(paragraphs.map(|paragraph| paragraph.context.clone()).collect());
    let mut questions = Vec::new();
    for article in &file.data {
        let of_article: Vec<usize> = article.paragraphs.iter().map(|p| place(&p.context)).collect();
        for paragraph in &article.paragraphs {
            let own = place(&paragraph.context);
            let related: Vec<usize> = of_article.iter().copied().filter(|&other| other != own).collect();
            let answered = paragraph.qas.iter().filter(|qa| !qa.is_impossible && !qa.answers.is_empty());
            questions.extend(answered.map(|qa| Question {
                text: qa.question.clone(),
                answers: qa.answers.iter().map(|answer| answer.text.clone()).collect(),
                own: vec![own],
                related: related.clone(),
            }));
        }
    }
    (questions, documents)
}

fn hotpotqa(file: Vec<HotpotQuestion>) -> (Vec<Question>, Vec<String>) {
    let document = |(title, sentences): &(String, Vec<String>)| format!("{title}\n{}", sentences.concat());
    let (documents, place) =
        numbered(file.iter().flat_map(|question| question.context.iter().map(document)).collect());
    let question = |question: HotpotQuestion| Question {
        own: question.context.iter().map(|c| place(&document(c))).collect(),
        text: question.question,
        answers: vec![question.answer],
        related: Vec::new(),
    };
    (file.into_iter().map(question).collect(), documents)
}

/// A row's question.
pub(crate) struct Drawn<'a> {
    file: &'a Questions,
    question: &'a Question,
    chance: ChaCha8Rng,
}

const BEFORE: &str = "Answer the question based on the given documents. Only give me the answer and do not output any \
                      other words.\n\nThe following are given documents.\n\n";

impl Drawn<'_> {
    pub(super) fn answers(&self) -> Vec<String> {
        self.question.answers.clone()
    }

    pub(super) fn texts(&self) -> Texts {
        Texts {
            before: BEFORE.to_owned(),
            after: "\n\n",
            question: format!(
                "Answer the question based on the given documents. Only give me the answer and do not output any other \
                 words.\n\nQuestion: {} ",
                self.question.text
            ),
            answer_prefix: "Answer:".to_owned(),
        }
    }

    /// At least the question's own documents; beyond them those of its subject, then any, each once.
    pub(super) fn haystack(&self, units: usize) -> String {
        let mut chance = self.chance.clone();
        let Question { own, related, .. } = self.question;
        let all = &self.file.documents;
        let more = units.saturating_sub(own.len());
        let mut shown = own.clone();
        if more <= related.len() {
            shown.extend(index::sample(&mut chance, related.len(), more).into_iter().map(|at| related[at]));
        } else {
            shown.extend(related);
            let mut others = vec![true; all.len()];
            shown.iter().for_each(|&at| others[at] = false);
            let others: Vec<usize> = (0..all.len()).filter(|&at| others[at]).collect();
            let rest = (more - related.len()).min(others.len());
            shown.extend(index::sample(&mut chance, others.len(), rest).into_iter().map(|at| others[at]));
        }
        shown.shuffle(&mut chance);
        let document = |(number, at): (usize, usize)| format!("Document {}:\n{}", number + 1, all[at]);
        shown.into_iter().enumerate().map(document).collect::<Vec<_>>().join("\n\n")
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Material, RowId, Task};

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs_err::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    const SQUAD: &str = r#"{"data": [{"paragraphs": [
        {"context": "Paris is in France.", "qas": [
            {"question": "Where is Paris?", "answers": [{"text": "France"}, {"text": "in France"}], "is_impossible": false},
            {"question": "Where is Rome?", "answers": [], "is_impossible": true}]},
        {"context": "Lyon is large.", "qas": []}]},
        {"paragraphs": [{"context": "Water is wet.", "qas": [
            {"question": "What is wet?", "answers": [{"text": "Water"}]}]}]}]}"#;
    const HOTPOT: &str = r#"[{"question": "Who?", "answer": "Ann", "context": [["Ann", ["Ann is.", " Ann was."]], ["Bob", ["Bob is."]]]}]"#;

    #[test]
    fn questions_stand_among_their_documents() {
        let dir = folder(&[("dev-v2.0.json", SQUAD), ("hotpotqa.json", HOTPOT)]);
        let material = Material::read(dir.path()).unwrap();
        let draw = |name: &str, index| {
            Task::by_name(name).unwrap().draw(RowId { seed: 0, length: 4096, index }, &material)
        };
        let first = draw("qa_1", 0).unwrap();
        let row = first.write(2);
        assert_eq!(row.answers, ["France", "in France"]);
        // The paragraphs of the same article come before any others.
        assert!(row.context.contains("Lyon") && !row.context.contains("Water"), "{}", row.context);
        assert!(first.write(9).context.contains("Water"));
        assert!(row.question.ends_with("Question: Where is Paris? ") && row.answer_prefix == "Answer:");
        assert_eq!(draw("qa_1", 1).unwrap().write(1).answers, ["Water"]);
        let error = draw("qa_1", 2).err().unwrap().to_string();
        assert!(error.contains("`squad.json` has 2 questions"), "{error}");
        let row = draw("qa_2", 0).unwrap().write(1);
        assert!(row.context.contains("Ann\nAnn is. Ann was.") && row.context.contains("Bob\nBob is."));
        assert!(row.context.contains("Document 2:\n"));
    }

    #[test]
    fn a_missing_or_broken_file_is_named_with_its_remedy() {
        let empty = Material::embedded();
        let task = Task::by_name("qa_2").unwrap();
        let error = task.draw(RowId { seed: 0, length: 512, index: 0 }, &empty).err().unwrap().to_string();
        assert!(error.contains("hotpot_dev_distractor_v1.json") && error.contains("--data"), "{error}");
        let broken = folder(&[("squad.json", "{\"data\": 3}")]);
        let error = Material::read(broken.path()).unwrap_err().to_string();
        assert!(error.contains("squad.json") && error.contains("line 1 column 10"), "{error}");
        let hollow = folder(&[("squad.json", "{\"data\": []}")]);
        assert!(Material::read(hollow.path()).unwrap_err().to_string().contains("no question"));
    }
}
