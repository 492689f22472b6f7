//! Needle tests for head identification: prompts, spans and success filters of the papers' scripts, and of the
//! embedded haystack.

use std::ops::Range;
use std::path::Path;

use anyhow::Context;
use kvsweep_methods::identify::{self, HeadKind};
use kvsweep_tasks::needle::{self, insert};
use kvsweep_tasks::protocol::{ModelFacts, keep_one_bos};
use kvsweep_tasks::{ModelText, metrics, mini};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::kept;
use crate::model::TextSide;

/// Context tokens left free, as the scripts do.
const BUFFER: usize = 200;

/// Trials of the embedded haystack from here on are for calibration: evaluation counts up from 0, and its number of
/// trials (`--limit`) stays far below.
pub(crate) const CALIBRATION_TRIALS: u64 = 1 << 40;

/// One needle test.
pub(crate) struct NeedleTest {
    /// Names it, for resuming.
    pub key: String,
    /// The whole prompt.
    pub ids: Vec<u32>,
    /// Where the answer stands.
    pub span: Option<Range<usize>>,
    /// The text that the response is held against.
    pub answer: String,
}

/// What the needles are hidden in.
pub(crate) enum Haystacks {
    /// The embedded haystack.
    Mini {
        /// Draws other trials.
        seed: u64,
    },
    /// `needles.jsonl` and one haystack a needle.
    Folder {
        /// The needles.
        needles: Vec<DetectionNeedle>,
        /// The haystack of each.
        haystacks: Vec<String>,
        /// SHA-256 over all files read, hexadecimal.
        sha256: String,
    },
}

/// One line of `needles.jsonl`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct DetectionNeedle {
    needle: String,
    question: String,
    real_needle: String,
    answer: Option<String>,
}

impl Haystacks {
    /// Reads `dir/needles.jsonl` and the haystacks `dir/part*/*.txt`, one folder a needle, in order.
    ///
    /// # Errors
    /// Missing or malformed files.
    pub(crate) fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("needles.jsonl");
        let text = fs_err::read_to_string(&path)?;
        let mut hash = Sha256::new();
        hash.update(&text);
        let mut needles = Vec::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let needle: DetectionNeedle = serde_json::from_str(line).with_context(|| {
                format!("`{}` line {}: expected needle, question and real_needle", path.display(), index + 1)
            })?;
            needles.push(needle);
        }
        let mut parts: Vec<_> = fs_err::read_dir(dir)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.is_dir())
            .collect();
        parts.sort();
        anyhow::ensure!(
            !needles.is_empty() && parts.len() == needles.len(),
            "`{}`: {} needles and {} folders with haystacks; there must be one folder a needle",
            dir.display(),
            needles.len(),
            parts.len()
        );
        let mut haystacks = Vec::new();
        for part in parts {
            let mut files: Vec<_> = fs_err::read_dir(&part)?
                .filter_map(|entry| entry.ok().map(|entry| entry.path()))
                .filter(|path| path.extension().is_some_and(|ending| ending == "txt"))
                .collect();
            files.sort();
            let mut haystack = String::new();
            for file in files {
                // The published copies are cut at a byte count, which may split a character.
                let bytes = fs_err::read(&file)?;
                hash.update(&bytes);
                haystack.push_str(&String::from_utf8_lossy(&bytes));
            }
            anyhow::ensure!(!haystack.is_empty(), "`{}` holds no .txt file with text", part.display());
            haystacks.push(haystack);
        }
        Ok(Self::Folder { needles, haystacks, sha256: kept::hex(&hash.finalize()) })
    }

    /// Hash of the data, for the provenance of a calibration.
    pub(crate) fn sha256(&self) -> String {
        match self {
            Self::Mini { seed } => {
                kept::hex(&Sha256::digest(format!("mini {} {seed} {CALIBRATION_TRIALS}", mini::MINI_VERSION)))
            }
            Self::Folder { sha256, .. } => sha256.clone(),
        }
    }

    /// The tests of a grid: needles, then lengths, then depths.
    ///
    /// # Errors
    /// What the tokenizer says, a length that leaves no room.
    pub(crate) fn tests(
        &self,
        kind: HeadKind,
        lengths: &[usize],
        depths: &[u32],
        facts: &ModelFacts,
        text: &TextSide<'_>,
    ) -> anyhow::Result<Vec<NeedleTest>> {
        let mut tests = Vec::new();
        match self {
            Self::Mini { seed } => {
                for &length in lengths {
                    for &depth in depths {
                        let trial = mini::NeedleTrial {
                            seed: mini::SUITE_SEED,
                            length,
                            depth: depth as usize,
                            number: CALIBRATION_TRIALS + seed,
                        };
                        let case = needle::mini_case(trial, false, facts, text)?;
                        let answer = text.encode(&format!(" {}", case.expected), false)?;
                        let prompt = case.prompt;
                        let within = prompt.needle.clone().and_then(|needle| {
                            let start = prompt
                                .ids
                                .get(needle.clone())?
                                .windows(answer.len())
                                .rposition(|w| w == answer)?;
                            Some(needle.start + start..needle.start + start + answer.len())
                        });
                        tests.push(NeedleTest {
                            key: format!("mini-{length}-{depth}"),
                            span: within.or(prompt.needle),
                            ids: prompt.ids,
                            answer: case.expected,
                        });
                    }
                }
            }
            Self::Folder { needles, haystacks, .. } => {
                let longest = lengths.iter().copied().max().unwrap_or_default();
                // Raw prompts are the scripts', special tokens at every seam. The model's own template writes its own.
                let special = !text.has_chat_template();
                let periods = text.encode(".", special)?;
                for (index, (needle, haystack)) in needles.iter().zip(haystacks).enumerate() {
                    let hay = repeated(haystack, longest, special, text)?;
                    for &length in lengths {
                        for &depth in depths {
                            let place = (length, depth);
                            tests.push(folder_test(
                                kind,
                                (index, needle),
                                &hay,
                                place,
                                &periods,
                                facts,
                                text,
                            )?);
                        }
                    }
                }
            }
        }
        Ok(tests)
    }
}

/// The haystack's ids, repeated until there are `longest`.
fn repeated(haystack: &str, longest: usize, special: bool, text: &TextSide<'_>) -> anyhow::Result<Vec<u32>> {
    let once = text.encode(haystack, special)?;
    if once.len() >= longest {
        return Ok(once);
    }
    let copies = longest.div_ceil(once.len().max(1)) + 1;
    Ok(text.encode(&haystack.repeat(copies), special)?)
}

/// Builds a prompt as the published scripts do ("What is measured" in docs/calibration.md): needle and context are encoded
/// with BOS, decoded with special tokens kept, and encoded again. A model with a chat template gets the same text as a
/// user's turn, without the BOS in its middle.
fn folder_test(
    kind: HeadKind,
    (index, needle): (usize, &DetectionNeedle),
    hay: &[u32],
    (length, depth): (usize, u32),
    periods: &[u32],
    facts: &ModelFacts,
    text: &TextSide<'_>,
) -> anyhow::Result<NeedleTest> {
    let encode = |part: &str, special| text.encode(part, special);
    let templated = text.has_chat_template();
    let needle_ids = encode(&needle.needle, !templated)?;
    let context = hay.get(..length).unwrap_or(hay);
    let with_needle = insert::insert_needle(context, &needle_ids, periods, f64::from(depth), length, BUFFER);
    let context = facts.transformers_text(text.decode(&with_needle, false)?);
    let prompt = format!("{context}Based on the content of the book, Question: {}\nAnswer:", needle.question);
    let mut ids = encode(&if templated { text.render_user(&prompt)? } else { prompt }, true)?;
    if templated {
        keep_one_bos(&mut ids, text.bos_id());
    }
    let wanted = encode(&needle.real_needle, false)?;
    let span = match kind {
        HeadKind::Reasoning => Some(identify::find_needle_reasoning(&ids, &wanted, text.bos_id())),
        HeadKind::Retrieval | HeadKind::Semantic => identify::find_needle(&ids, &wanted),
    };
    let answer = needle.answer.clone().filter(|_| kind == HeadKind::Reasoning);
    Ok(NeedleTest {
        key: format!("{index}-{length}-{depth}"),
        ids,
        span,
        answer: answer.unwrap_or_else(|| needle.real_needle.clone()),
    })
}

/// Whether a response passes: ROUGE-1 recall (stemmed) above one half, for reasoning heads token F1 above one half.
///
/// # Errors
/// Never for these two metrics; theirs otherwise.
pub(crate) fn passes(kind: HeadKind, response: &str, answer: &str) -> anyhow::Result<bool> {
    let id = match kind {
        HeadKind::Reasoning => "qa-f1/longbench",
        HeadKind::Retrieval | HeadKind::Semantic => "rouge1-recall/google-porter",
    };
    Ok(metrics::by_id(id)?.score_answer(response, answer, &[])? > 0.5)
}

/// `n` values from `from` to `to`, evenly, rounded half to even as numpy does.
pub(crate) fn linspace(from: usize, to: usize, n: usize) -> Vec<usize> {
    let step = if n > 1 { (to as f64 - from as f64) / (n - 1) as f64 } else { 0.0 };
    (0..n).map(|i| (from as f64 + step * i as f64).round_ties_even() as usize).collect()
}

#[cfg(test)]
mod tests {
    use kvsweep_engine::model::Card;
    use kvsweep_engine::source;

    use super::*;

    #[test]
    fn depths_are_those_of_the_papers() {
        assert_eq!(linspace(0, 100, 10), [0, 11, 22, 33, 44, 56, 67, 78, 89, 100]);
        assert_eq!(linspace(0, 10_000, 5), [0, 2500, 5000, 7500, 10_000]);
        assert_eq!(linspace(7, 9, 1), [7]);
    }

    /// A model with a template is asked in it, and its beginning stands once.
    #[test]
    fn a_model_with_a_template_is_asked_in_it() {
        let card = Card::load(&source::resolve_card("tiny").unwrap()).unwrap();
        let (text, facts) = (TextSide::new(&card).unwrap(), crate::model::facts(&card));
        let needle = DetectionNeedle {
            needle: "\nThe cat sleeps.\n".into(),
            question: "What does the cat do?".into(),
            real_needle: "The cat sleeps.".into(),
            answer: None,
        };
        let haystacks = Haystacks::Folder {
            needles: vec![needle],
            haystacks: vec!["The dog barks at night. ".repeat(40)],
            sha256: String::new(),
        };
        let tests = haystacks.tests(HeadKind::Retrieval, &[300], &[50], &facts, &text).unwrap();
        let ids = &tests[0].ids;
        let asked = text.decode(ids, false).unwrap();
        assert!(
            asked.starts_with("<|bos|><|user|>") && asked.ends_with("Answer:<|end|><|assistant|>"),
            "{asked}"
        );
        assert_eq!(ids.iter().filter(|&&id| Some(id) == text.bos_id()).count(), 1, "{asked}");
        assert!(tests[0].span.is_some());
    }
}
