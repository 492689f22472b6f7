//! The averages of published tables, each as its paper or script computes it: the one place where scores are averaged.
//!
//! An average is data, [`Average::parts`] (which data sets count, and how much), and arithmetic, [`Average::mean`] (what
//! is rounded, and when). Tables take both from here, so that what they print is what [`Average::of`] computes.

use std::collections::BTreeMap;

use crate::datasets::{self, Category, DatasetInfo, Language, loogle};
use crate::python::number::round2;
use crate::suite::Suite;

/// Scores by data set name, 0 to 100.
pub type Scores = BTreeMap<String, f64>;

/// Percents with their weights, which sum to 1.
pub type Weighted<'a> = &'a [(f64, f64)];

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

    /// The suite it is an average of.
    pub fn suite(self) -> Suite {
        match self {
            Self::HeadKvLooGle => Suite::LooGle,
            _ => Suite::LongBench,
        }
    }

    /// The data sets of `registry` that it averages, with weights that sum to 1. The registry is [`datasets::all`], or
    /// [`datasets::mini::all`] for the same average over the mini suite.
    pub fn parts(self, registry: &[DatasetInfo]) -> Vec<(&'static str, f64)> {
        let counts = |info: &&DatasetInfo| {
            info.suite == self.suite()
                && info.language != Language::Chinese
                && match self {
                    Self::Official | Self::Mean16 | Self::CompressKv => true,
                    Self::HeadKvQa => matches!(info.category, Category::SingleDocQa | Category::MultiDocQa),
                    Self::HeadKvLooGle => loogle::is_longdep_type(info.name),
                }
        };
        let members: Vec<&DatasetInfo> = registry.iter().filter(counts).collect();
        let mut categories: Vec<Category> = members.iter().map(|info| info.category).collect();
        categories.sort_unstable();
        categories.dedup();
        let weight = |info: &DatasetInfo| match self {
            Self::Official => {
                let alike = members.iter().filter(|other| other.category == info.category).count();
                1.0 / categories.len() as f64 / alike as f64
            }
            _ => 1.0 / members.len() as f64,
        };
        members.iter().map(|info| (info.name, weight(info))).collect()
    }

    /// The number that is printed, from the percents of its data sets, rounded or not.
    pub fn mean(self) -> fn(Weighted<'_>) -> f64 {
        match self {
            Self::CompressKv => mean_of_printed,
            Self::Official | Self::Mean16 | Self::HeadKvQa | Self::HeadKvLooGle => mean,
        }
    }

    /// The average of `scores`; `None` unless all its data sets are present (as CompressKV's script does).
    pub fn of(self, scores: &Scores) -> Option<f64> {
        let score = |(name, weight): (&'static str, f64)| Some((weight, *scores.get(name)?));
        let parts: Option<Vec<(f64, f64)>> = self.parts(datasets::all()).into_iter().map(score).collect();
        Some(self.mean()(&parts?))
    }
}

/// The weighted mean, unrounded.
pub fn mean(parts: Weighted<'_>) -> f64 {
    parts.iter().map(|(weight, percent)| weight * percent).sum()
}

/// The weighted mean of percents rounded to two decimals, rounded again: how CompressKV's script averages its scores, and
/// how a reader averages a printed table. Weights of 1/16 scale exactly, so that this is the script's `sum / 16` to the
/// last bit.
pub fn mean_of_printed(parts: Weighted<'_>) -> f64 {
    round2(parts.iter().map(|(weight, percent)| weight * round2(*percent)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasets::mini;

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
    }

    #[test]
    fn official_average_is_the_mean_of_category_means_without_the_chinese_sets() {
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
        let mut scores: Scores =
            datasets::english_16().iter().map(|d| (d.name.to_owned(), category(d.category))).collect();
        assert!((Average::Official.of(&scores).unwrap() - 44.0).abs() < 1e-9);
        for chinese in ["multifieldqa_zh", "dureader", "vcsum", "lsht", "passage_retrieval_zh"] {
            scores.insert(chinese.to_owned(), 100.0);
        }
        assert!((Average::Official.of(&scores).unwrap() - 44.0).abs() < 1e-9);
        assert!(Average::HeadKvLooGle.of(&scores).is_none());
    }

    #[test]
    fn every_average_has_its_papers_data_sets() {
        let names = |average: Average| -> Vec<&str> {
            average.parts(datasets::all()).into_iter().map(|(name, _)| name).collect()
        };
        let english: Vec<&str> = datasets::english_16().iter().map(|d| d.name).collect();
        assert_eq!(names(Average::Official), english);
        assert_eq!(names(Average::CompressKv), english);
        assert_eq!(names(Average::HeadKvQa), english[..6]);
        let types = ["comprehension_and_reasoning", "computation", "multiple_information_retrieval"];
        assert_eq!(names(Average::HeadKvLooGle), [types.as_slice(), &["timeline_reorder"]].concat());
        for average in Average::ALL {
            for registry in [datasets::all(), mini::all()] {
                let parts = average.parts(registry);
                let total: f64 = parts.iter().map(|(_, weight)| weight).sum();
                assert!(parts.is_empty() || (total - 1.0).abs() < 1e-12, "{average:?} {total}");
            }
        }
    }
}
