//! `rouge_score` and `rouge_zh_score`: LongBench's ROUGE-L F.

use super::pltrdy::{rouge_l, sentences};
use super::{Metric, MetricError, jieba};

/// ROUGE-L F of the PyPI package `rouge` 1.0.1 inside LongBench's catch-all `except`, which turns errors into 0.
///
/// One of those errors is Python's recursion limit: the package reads a subsequence out recursively, so two long texts
/// without full stops (Chinese ones, looping ones) score 0 however alike they are. How deep it may go depends on how
/// the script was started.
pub struct RougeL {
    id: &'static str,
    about: &'static str,
    /// Deepest nesting of the read-out before Python gives up.
    max_calls: usize,
    /// Whether texts are cut into words by jieba first.
    chinese: bool,
}

/// `python eval.py`, limit 1000: the official script.
pub static SCRIPT: RougeL = RougeL {
    id: "rouge-l/pltrdy",
    about: "set-based ROUGE-L F of PyPI rouge 1.0.1; 0 beyond 991 nested calls, as in `python eval.py`",
    max_calls: 991,
    chinese: false,
};
/// `python -m longbench.eval`, as CompressKV starts it: three frames fewer.
pub static MODULE: RougeL = RougeL {
    id: "rouge-l/pltrdy-module",
    about: "set-based ROUGE-L F of PyPI rouge 1.0.1; 0 beyond 988 nested calls, as in `python -m longbench.eval`",
    max_calls: 988,
    chinese: false,
};
/// Without a recursion limit.
pub static NO_LIMIT: RougeL = RougeL {
    id: "rouge-l/pltrdy-no-limit",
    about: "set-based ROUGE-L F of PyPI rouge 1.0.1 without Python's recursion limit",
    max_calls: usize::MAX,
    chinese: false,
};
/// Chinese, `python eval.py`.
pub static ZH_SCRIPT: RougeL = RougeL {
    id: "rouge-l-zh/pltrdy",
    about: "rouge-l/pltrdy over jieba 0.42.1 words; 0 beyond 990 nested calls, as in `python eval.py`",
    max_calls: 990,
    chinese: true,
};
/// Chinese, `python -m longbench.eval`.
pub static ZH_MODULE: RougeL = RougeL {
    id: "rouge-l-zh/pltrdy-module",
    about: "rouge-l/pltrdy over jieba 0.42.1 words; 0 beyond 987 nested calls, as in `python -m longbench.eval`",
    max_calls: 987,
    chinese: true,
};
/// Chinese, without a recursion limit.
pub static ZH_NO_LIMIT: RougeL = RougeL {
    id: "rouge-l-zh/pltrdy-no-limit",
    about: "rouge-l/pltrdy over jieba 0.42.1 words without Python's recursion limit",
    max_calls: usize::MAX,
    chinese: true,
};

impl RougeL {
    /// The sentences that are compared. `。` is a word like any other: Chinese text is mostly one sentence.
    fn sentences(&self, text: &str) -> Vec<String> {
        if self.chinese { sentences(&jieba::cut(text).join(" ")) } else { sentences(text) }
    }

    /// Nested calls that the read-out of the longest sentence pair needs; 0 without sentences.
    pub fn calls(&self, prediction: &str, answer: &str) -> usize {
        rouge_l(&self.sentences(prediction), &self.sentences(answer), usize::MAX)
            .map_or(0, |(_, calls)| calls)
    }
}

impl Metric for RougeL {
    fn id(&self) -> &'static str {
        self.id
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn score_answer(&self, prediction: &str, answer: &str, _: &[String]) -> Result<f64, MetricError> {
        let score = rouge_l(&self.sentences(prediction), &self.sentences(answer), self.max_calls);
        Ok(score.map_or(0.0, |(score, _)| score.f))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_without_stops_score_zero_in_python() {
        let long = "a ".repeat(990) + "a";
        let score = |metric: &RougeL| metric.score(&long, std::slice::from_ref(&long), &[]).unwrap();
        assert_eq!((score(&SCRIPT), score(&NO_LIMIT)), (0.0, 0.999999995));
    }

    #[test]
    fn chinese_words_and_stops() {
        let score = |p: &str, a: &str| ZH_SCRIPT.score(p, &[a.into()], &[]).unwrap();
        assert_eq!(score("清华大学。", "清华大学。"), 0.999999995);
        assert_eq!(score("", "清华大学"), 0.0);
    }
}
