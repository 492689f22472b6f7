//! LongBench-E: 13 of LongBench's data sets with rows spread evenly over three length buckets.
//! Prompts, generation lengths and metrics are LongBench's; only rows, names (`_e`) and the scorer differ.

use super::{DatasetInfo, Suite, longbench};

/// The 13 data sets in the official order: LongBench name, LongBench-E name, official number of rows.
const NAMES: [(&str, &str, usize); 13] = [
    ("qasper", "qasper_e", 224),
    ("multifieldqa_en", "multifieldqa_en_e", 150),
    ("hotpotqa", "hotpotqa_e", 300),
    ("2wikimqa", "2wikimqa_e", 300),
    ("gov_report", "gov_report_e", 300),
    ("multi_news", "multi_news_e", 294),
    ("trec", "trec_e", 300),
    ("triviaqa", "triviaqa_e", 300),
    ("samsum", "samsum_e", 300),
    ("passage_count", "passage_count_e", 300),
    ("passage_retrieval_en", "passage_retrieval_en_e", 300),
    ("lcc", "lcc_e", 300),
    ("repobench-p", "repobench-p_e", 300),
];

/// The 13 data sets.
pub fn datasets() -> Vec<DatasetInfo> {
    NAMES
        .iter()
        .filter_map(|&(base, name, rows)| {
            let info = longbench::DATASETS.iter().find(|info| info.name == base)?;
            Some(DatasetInfo { name, suite: Suite::LongBenchE, rows, ..*info })
        })
        .collect()
}

/// The bucket of a row by its `length`, as the official `scorer_e` cuts.
pub fn bucket(length: u64) -> &'static str {
    match length {
        0..4000 => BUCKETS[0],
        4000..8000 => BUCKETS[1],
        _ => BUCKETS[2],
    }
}

/// The bucket names in the official order.
pub const BUCKETS: [&str; 3] = ["0-4k", "4-8k", "8k+"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_thirteen_exist_and_buckets_cut_where_the_official_code_cuts() {
        assert_eq!(datasets().len(), 13);
        assert_eq!(datasets().iter().map(|d| d.rows).sum::<usize>(), 3668);
        assert_eq!([0, 3999, 4000, 7999, 8000].map(bucket), ["0-4k", "0-4k", "4-8k", "4-8k", "8k+"]);
    }
}
