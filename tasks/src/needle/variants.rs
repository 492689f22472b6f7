//! The needle test's variants: needles, questions, templates, grids, periods, stops and scores of four repositories,
//! and our own.

use crate::error::TaskError;
use crate::metrics::needle_overlap::WORDS as WORD_OVERLAP;
use crate::metrics::{self, Metric, MetricError};
use crate::protocol::StopSource;

/// The needle of every variant, both newlines included.
pub const NEEDLE: &str =
    "\nThe best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day.\n";

pub use crate::metrics::needle_overlap::EXPECTED;

/// Context tokens left free, as every repository does.
pub const BUFFER: usize = 200;

/// Ten linear depths in percent, numpy-rounded.
pub const DEPTHS_10: [u32; 10] = [0, 11, 22, 33, 44, 56, 67, 78, 89, 100];

const DEPTHS_35: [u32; 35] = [
    0, 3, 6, 9, 12, 15, 18, 21, 24, 26, 29, 32, 35, 38, 41, 44, 47, 50, 53, 56, 59, 62, 65, 68, 71, 74, 76,
    79, 82, 85, 88, 91, 94, 97, 100,
];

const GKAMRADT_LENGTHS: [usize; 35] = [
    1000, 1441, 1882, 2324, 2765, 3206, 3647, 4088, 4529, 4971, 5412, 5853, 6294, 6735, 7176, 7618, 8059,
    8500, 8941, 9382, 9824, 10265, 10706, 11147, 11588, 12029, 12471, 12912, 13353, 13794, 14235, 14676,
    15118, 15559, 16000,
];

const STORY: &str = "<|im_start|> This is a very long story book: <book> {context} </book>.\n Based on the content of the book, Question: {question}\nAnswer:";

/// Which token ids count as the end of a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Periods {
    /// `encode(".")` of the model's tokenizer, with BOS if the variant encodes with BOS.
    Encoded,
    /// Ids fixed by model name; a model without an entry gets `encode(".")`.
    Fixed(&'static [(&'static str, &'static [u32])]),
    /// Every token whose text ends in a full stop.
    EndsInStop,
}

/// How the prompt is put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeedlePrompt {
    /// One text, encoded with the tokenizer's special tokens.
    Text(&'static str),
    /// One user turn in the model's own chat template (raw text without one), exactly one BOS.
    Chat(&'static str),
    /// gkamradt's three messages: system, context, question. Many chat templates refuse two user turns in a row or a
    /// system turn, so one user turn holds all three, joined by blank lines.
    Messages {
        /// The system message.
        system: &'static str,
        /// What follows the question.
        after_question: &'static str,
    },
}

/// How an answer is graded: `json` is the number in the repository's result files, `plotted` the one in its figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NeedleScoring {
    /// Metric id and factor of the result file's `score`; `None` where a language model judges.
    pub json: Option<(&'static str, f64)>,
    /// Metric id and factor of the figures; `None` where the figure shows the judge's score.
    pub plotted: Option<(&'static str, f64)>,
    /// Top of the figures' colour scale.
    pub plotted_max: f64,
}

/// One variant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NeedleVariant {
    /// The name in protocols and layouts.
    pub name: &'static str,
    /// Where it was read.
    pub source: &'static str,
    /// The question.
    pub question: &'static str,
    /// The prompt.
    pub prompt: NeedlePrompt,
    /// Most new tokens.
    pub max_new_tokens: usize,
    /// Depths in percent.
    pub depths: &'static [u32],
    /// Context and needle are encoded with BOS and decoded with special tokens kept, which puts literal BOS texts into
    /// the prompt.
    pub keeps_special: bool,
    /// Sentence ends.
    pub periods: Periods,
    /// Stops.
    pub stop: &'static [StopSource],
    /// Grades.
    pub scoring: NeedleScoring,
    /// Deviations worth a remark.
    pub oddities: &'static [&'static str],
}

const HARD_CODED: Periods =
    Periods::Fixed(&[("llama-3", &[13]), ("llama3", &[13]), ("mistral", &[842, 28723])]);
const ROUGE1_F: (&str, f64) = ("rouge1/google-porter", 10.0);
const WORDS: &str = "needle-overlap/kvcache-factory";
const EVERY_END: [StopSource; 3] =
    [StopSource::GenerationConfig, StopSource::TokenizerEos, StopSource::LlamaTurnEnds];

/// KVCache-Factory's needle; its change 7855979 touched what ends an answer and nothing else.
const KVCACHE_FACTORY: NeedleVariant = NeedleVariant {
    name: "kvcache-factory",
    source: "Zefan-Cai/KVCache-Factory run_needle_in_haystack.py",
    question: "The best thing to do in San Francisco is: ",
    prompt: NeedlePrompt::Text(STORY),
    max_new_tokens: 30,
    depths: &DEPTHS_10,
    keeps_special: false,
    periods: HARD_CODED,
    stop: &[
        StopSource::GenerationConfig,
        StopSource::TokenizerEos,
        StopSource::LlamaTurnEnds,
        StopSource::Newline,
    ],
    scoring: NeedleScoring { json: Some(ROUGE1_F), plotted: Some((WORDS, 1.0)), plotted_max: 1.0 },
    oddities: &["the Mistral periods [842, 28723] belong to the 32,000-entry vocabulary of v0.1 and v0.2"],
};

/// Every variant.
pub const VARIANTS: [NeedleVariant; 7] = [
    NeedleVariant {
        name: "kvsweep-1",
        source: "docs/protocols.md",
        question: "What is the best thing to do in San Francisco?",
        prompt: NeedlePrompt::Chat(
            "This is a very long story book: <book> {context} </book>.\nBased on the content of the book, Question: {question}\nAnswer:",
        ),
        max_new_tokens: 50,
        depths: &DEPTHS_10,
        keeps_special: false,
        periods: Periods::EndsInStop,
        stop: &EVERY_END,
        scoring: NeedleScoring {
            json: Some((WORDS, 100.0)),
            plotted: Some((WORDS, 100.0)),
            plotted_max: 100.0,
        },
        oddities: &[],
    },
    NeedleVariant {
        name: "gkamradt",
        source: "gkamradt/LLMTest_NeedleInAHaystack needlehaystack/llm_needle_haystack_tester.py",
        question: "What is the best thing to do in San Francisco?",
        prompt: NeedlePrompt::Messages {
            system: "You are a helpful AI bot that answers questions for a user. Keep your response short and direct",
            after_question: " Don't give information outside the document or repeat your findings",
        },
        max_new_tokens: 300,
        depths: &DEPTHS_35,
        keeps_special: false,
        periods: Periods::Encoded,
        stop: &EVERY_END,
        scoring: NeedleScoring { json: None, plotted: None, plotted_max: 10.0 },
        oddities: &[
            "three messages (system, context, question); here one user turn holds them, which every chat template takes",
            "graded 1 to 10 by a language model, which this program does not ask: the word overlap is shown instead",
            "the order of the essays was the file system's; here it is sorted",
        ],
    },
    KVCACHE_FACTORY,
    NeedleVariant {
        name: "kvcache-factory-before-46",
        source: "Zefan-Cai/KVCache-Factory ad51c4e run_needle_in_haystack.py",
        stop: &[StopSource::TokenizerEos, StopSource::Newline],
        ..KVCACHE_FACTORY
    },
    NeedleVariant {
        name: "headkv",
        source: "FYYFU/HeadKV run_needle_in_haystack.py",
        question: "The best thing to do in San Francisco is: ",
        prompt: NeedlePrompt::Text(STORY),
        max_new_tokens: 30,
        depths: &DEPTHS_10,
        keeps_special: true,
        periods: HARD_CODED,
        stop: &[StopSource::TokenizerEos, StopSource::Newline],
        scoring: NeedleScoring { json: Some(ROUGE1_F), plotted: Some((WORDS, 1.0)), plotted_max: 1.0 },
        oddities: &[
            "special tokens survive decoding, so the prompt holds literal BOS texts that become BOS tokens",
            "the Mistral periods [842, 28723] belong to the 32,000-entry vocabulary of v0.1 and v0.2",
            "the order of the essays was the file system's; here it is sorted",
        ],
    },
    NeedleVariant {
        name: "compresskv",
        source: "TUDa-HWAI/CompressKV needle/run_needle_in_haystack.py",
        question: "What is the best thing to do in San Francisco?",
        prompt: NeedlePrompt::Text(STORY),
        max_new_tokens: 50,
        depths: &DEPTHS_10,
        keeps_special: true,
        periods: Periods::Encoded,
        stop: &[StopSource::GenerationConfig],
        scoring: NeedleScoring {
            json: Some(("rouge1-recall/google-porter", 100.0)),
            plotted: Some((WORDS, 100.0)),
            plotted_max: 100.0,
        },
        oddities: &[
            "four BOS tokens a prompt: one leading, two before the essays, one before the needle",
            "the periods are encode(\".\") with its BOS; with Mistral-v0.3 they are [1, 1610], so the needle lands behind the leading BOS at depths 11 to 89",
            "the order of the essays was the file system's; here it is sorted",
        ],
    },
    NeedleVariant {
        name: "compresskv-corrected",
        source: "TUDa-HWAI/CompressKV needle/run_needle_in_haystack.py, needle placed by depth",
        question: "What is the best thing to do in San Francisco?",
        prompt: NeedlePrompt::Text(STORY),
        max_new_tokens: 50,
        depths: &DEPTHS_10,
        keeps_special: true,
        periods: Periods::EndsInStop,
        stop: &[StopSource::GenerationConfig],
        scoring: NeedleScoring {
            json: Some(("rouge1-recall/google-porter", 100.0)),
            plotted: Some((WORDS, 100.0)),
            plotted_max: 100.0,
        },
        oddities: &[
            "as `compresskv`, but every token that ends in a full stop is a period, so depth means depth",
        ],
    },
];

/// A variant by name.
///
/// # Errors
/// An unknown name, with the nearest ones.
pub fn by_name(name: &str) -> Result<&'static NeedleVariant, TaskError> {
    VARIANTS
        .iter()
        .find(|v| v.name == name)
        .ok_or_else(|| TaskError::unknown("needle variant", name, VARIANTS.iter().map(|v| v.name)))
}

impl NeedleVariant {
    /// The context lengths this repository runs with a model; where it names none for the model (and in our own
    /// variant), eight steps up to the model's positions less the answer, at most to 32,768. Empty for a model with too
    /// few positions for any.
    pub fn lengths(&self, model: &str, positions: usize) -> Vec<usize> {
        let model = model.to_lowercase();
        let has = |parts: &[&str]| parts.iter().any(|part| model.contains(part));
        let steps = |start: usize, stop: usize, step: usize| (start..=stop).step_by(step).collect();
        let llama3 = has(&["llama-3", "llama3"]);
        match self.name {
            "gkamradt" => GKAMRADT_LENGTHS.to_vec(),
            "kvcache-factory" | "kvcache-factory-before-46" if llama3 => steps(1000, 8000, 100),
            "kvcache-factory" | "kvcache-factory-before-46" if has(&["mistral"]) => steps(400, 32_000, 400),
            "headkv" if llama3 => steps(1000, 8000, 1000),
            "headkv" if has(&["mistral"]) => steps(1000, 33_000, 100),
            "compresskv" | "compresskv-corrected" if has(&["llama-3.1"]) => steps(8000, 128_000, 8000),
            "compresskv" | "compresskv-corrected" if has(&["mistral"]) => steps(2000, 32_000, 2000),
            _ => {
                let step = positions.saturating_sub(self.max_new_tokens).min(32_768) / 8;
                // Room for prompt and needle, and the tokens the repositories leave free.
                let least = if self.is_ours() { 128 } else { 2 * BUFFER };
                (1..=8).map(|n| n * step).filter(|length| *length >= least).collect()
            }
        }
    }

    /// The number a result file of this variant carries for a response, if no language model judges it. An empty
    /// response gets 0.
    ///
    /// # Errors
    /// The metric's.
    pub fn json_score(&self, response: &str, needle: &str) -> Result<Option<f64>, MetricError> {
        let Some((id, factor)) = self.scoring.json else { return Ok(None) };
        let reference = if id == WORDS { EXPECTED } else { needle };
        if response.is_empty() {
            return Ok(Some(0.0));
        }
        Ok(match metrics::by_id(id) {
            Ok(metric) => Some(metric.score_answer(response, reference, &[])? * factor),
            Err(_) => None,
        })
    }

    /// The number the variant's figures show for a response: word overlap, where the figure shows no judge's score.
    ///
    /// # Errors
    /// The metric's.
    pub fn plotted_score(&self, response: &str) -> Result<f64, MetricError> {
        let factor = self.scoring.plotted.map_or(self.scoring.plotted_max, |(_, factor)| factor);
        Ok(WORD_OVERLAP.score_answer(response, EXPECTED, &[])? * factor)
    }

    /// Our own construction measures lengths on the finished prompt; the repositories leave [`BUFFER`] tokens free.
    pub(crate) fn is_ours(&self) -> bool {
        self.name == "kvsweep-1"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_have_the_published_sizes() {
        let count = |variant: &str, model: &str| by_name(variant).unwrap().lengths(model, 131_072).len();
        assert_eq!(count("kvcache-factory", "meta-llama/Meta-Llama-3-8B-Instruct"), 71);
        assert_eq!(count("kvcache-factory", "mistralai/Mistral-7B-Instruct-v0.2"), 80);
        assert_eq!(count("kvcache-factory-before-46", "meta-llama/Meta-Llama-3-8B-Instruct"), 71);
        assert_eq!(count("headkv", "meta-llama/Meta-Llama-3-8B-Instruct"), 8);
        assert_eq!(count("headkv", "mistralai/Mistral-7B-Instruct-v0.2"), 321);
        assert_eq!(count("compresskv", "meta-llama/Llama-3.1-8B-Instruct"), 16);
        assert_eq!(count("compresskv", "mistralai/Mistral-7B-Instruct-v0.3"), 16);
        assert_eq!(count("gkamradt", "x"), 35);
        let ours = by_name("kvsweep-1").unwrap();
        assert_eq!(ours.lengths("tiny", 2048).last(), Some(&1992));
        assert!(ours.lengths("tiny", 100).is_empty());
        assert_eq!(by_name("gkamradt").unwrap().depths.len(), 35);
    }
}
