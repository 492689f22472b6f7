//! The averages of published tables, each as its paper or script computes it.

use std::collections::BTreeMap;

use crate::datasets::{self, Category, Language, Suite};
use crate::python::number::round2;

/// Scores by data set name, 0 to 100.
pub type Scores = BTreeMap<String, f64>;

/// A named average over data sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Average {
    /// The leaderboard's "Avg" (English): mean over the six categories, each the mean of its English and code sets.
    Official,
    /// Plain mean over the 14 English and 2 code sets: the usual figure of papers.
    Mean16,
    /// CompressKV's `eval.py --eval_avg`: the 16 scores, each already rounded to two decimals, averaged, rounded again.
    CompressKv,
    /// HeadKV's first table: mean of the six English QA sets.
    HeadKvQa,
    /// HeadKV's second table: mean of its four LooGLE sets.
    HeadKvLooGle,
}

impl Average {
    /// All averages.
    pub const ALL: [Self; 5] =
        [Self::Official, Self::Mean16, Self::CompressKv, Self::HeadKvQa, Self::HeadKvLooGle];

    /// The name in protocols and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Official => "official",
            Self::Mean16 => "mean-16",
            Self::CompressKv => "compresskv",
            Self::HeadKvQa => "headkv-qa",
            Self::HeadKvLooGle => "headkv-loogle",
        }
    }

    /// An average by its name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }

    /// The data sets it needs, all of them.
    pub fn datasets(self) -> Vec<&'static str> {
        match self {
            Self::Official | Self::Mean16 | Self::CompressKv => {
                datasets::english_16().iter().map(|d| d.name).collect()
            }
            Self::HeadKvQa => datasets::english_16().iter().take(6).map(|d| d.name).collect(),
            Self::HeadKvLooGle => {
                let names = datasets::loogle::DATASETS.iter().map(|d| d.name);
                names.filter(|n| datasets::loogle::is_longdep_type(n)).collect()
            }
        }
    }

    /// The average of `scores`; `None` unless all its data sets are present (as CompressKV's script does).
    pub fn of(self, scores: &Scores) -> Option<f64> {
        let values: Vec<f64> =
            self.datasets().iter().map(|n| scores.get(*n).copied()).collect::<Option<_>>()?;
        match self {
            Self::Official => {
                let means = category_means(scores, Suite::LongBench);
                (means.len() == 6).then(|| mean(&means.iter().map(|m| m.1).collect::<Vec<_>>()))
            }
            Self::CompressKv => {
                let rounded: Vec<f64> = values.into_iter().map(round2).collect();
                Some(round2(mean(&rounded)))
            }
            Self::Mean16 | Self::HeadKvQa | Self::HeadKvLooGle => Some(mean(&values)),
        }
    }
}

/// The mean of each category over the English and code sets of `suite` that `scores` has, in the official order.
pub fn category_means(scores: &Scores, suite: Suite) -> Vec<(Category, f64)> {
    let mut means = Vec::new();
    for info in datasets::all().iter().filter(|d| d.suite == suite && d.language != Language::Chinese) {
        if means.iter().any(|(c, _)| *c == info.category) {
            continue;
        }
        let in_category: Vec<f64> = datasets::all()
            .iter()
            .filter(|d| d.suite == suite && d.language != Language::Chinese && d.category == info.category)
            .filter_map(|d| scores.get(d.name).copied())
            .collect();
        if !in_category.is_empty() {
            means.push((info.category, mean(&in_category)));
        }
    }
    means
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compresskv_average_is_the_committed_one() {
        // The scores of the official script in golden/metrics/layouts/compresskv and the `avg` it wrote.
        let scores: Scores = [
            ("gov_report", 49.55),
            ("trec", 25.0),
            ("triviaqa", 100.0),
            ("hotpotqa", 96.43),
            ("repobench-p", 61.5),
            ("lcc", 36.5),
            ("multi_news", 63.96),
            ("qasper", 75.08),
            ("samsum", 37.07),
            ("narrativeqa", 68.82),
            ("passage_count", 54.17),
            ("passage_retrieval_en", 60.0),
            ("2wikimqa", 79.17),
            ("multifieldqa_en", 63.38),
            ("qmsum", 80.29),
            ("musique", 82.14),
        ]
        .map(|(n, s)| (n.to_owned(), s))
        .into();
        assert_eq!(Average::CompressKv.of(&scores), Some(64.57));
        let mut missing = scores;
        missing.remove("lcc");
        assert_eq!(Average::CompressKv.of(&missing), None);
        assert_eq!(category_means(&missing, Suite::LongBench).len(), 6);
    }

    #[test]
    fn official_average_is_the_mean_of_category_means() {
        // GPT-3.5-Turbo-16k in the LongBench README: category means 39.8 38.7 26.5 67.1 54.1 37.8 gave Avg 44.0... per
        // data set, any scores with these category means give it.
        let category = |c: Category| match c {
            Category::SingleDocQa => 39.8,
            Category::MultiDocQa => 38.7,
            Category::Summarization => 26.5,
            Category::FewShot => 67.1,
            Category::Synthetic => 54.1,
            _ => 37.8,
        };
        let scores: Scores =
            datasets::english_16().iter().map(|d| (d.name.to_owned(), category(d.category))).collect();
        assert!((Average::Official.of(&scores).unwrap() - 44.0).abs() < 1e-9);
        assert!(Average::HeadKvLooGle.of(&scores).is_none());
    }
}
