//! LongBench's table from data set to metric, and its first-line rule.

/// `dataset2metric` of THUDM/LongBench `eval.py`, and HeadKV's additions for LooGLE, as metric ids. Code similarity is
/// the `difflib` one that the official requirements give.
const METRICS: [(&str, &[&str]); 8] = [
    (
        "qa-f1/longbench",
        &[
            "narrativeqa",
            "qasper",
            "multifieldqa_en",
            "hotpotqa",
            "2wikimqa",
            "musique",
            "triviaqa",
            "comprehension_and_reasoning",
            "multiple_information_retrieval",
            "timeline_reorder",
            "computation",
        ],
    ),
    ("qa-f1-zh/jieba-0.42.1", &["multifieldqa_zh"]),
    ("rouge-l/pltrdy", &["gov_report", "qmsum", "multi_news", "samsum"]),
    ("rouge-l-zh/pltrdy", &["dureader", "vcsum"]),
    ("classification/longbench", &["trec", "lsht"]),
    ("retrieval/longbench", &["passage_retrieval_en"]),
    ("count/longbench", &["passage_count"]),
    ("code-sim/difflib", &["lcc", "repobench-p"]),
];

/// The official metric id of a data set; a name ending in `_e` is its LongBench-E half.
pub fn metric_id(dataset: &str) -> Option<&'static str> {
    let name = dataset.strip_suffix("_e").unwrap_or(dataset);
    if name == "passage_retrieval_zh" {
        return Some("retrieval-zh/longbench");
    }
    METRICS.iter().find(|(_, datasets)| datasets.contains(&name)).map(|(id, _)| *id)
}

/// Whether only the first line of a prediction is scored.
pub fn scores_first_line(dataset: &str) -> bool {
    let name = dataset.strip_suffix("_e").unwrap_or(dataset);
    matches!(name, "trec" | "triviaqa" | "samsum" | "lsht")
}

/// The first line after leading newlines. Blanks before it stay: `" \nAnswer"` scores the blank line.
pub fn first_line(prediction: &str) -> &str {
    let text = prediction.trim_start_matches('\n');
    text.split_once('\n').map_or(text, |(line, _)| line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dataset_has_a_registered_metric() {
        let names =
            METRICS.iter().flat_map(|(_, datasets)| *datasets).copied().chain(["passage_retrieval_zh"]);
        let mut count = 0;
        for name in names {
            assert!(crate::metrics::by_id(metric_id(name).unwrap()).is_ok(), "{name}");
            count += 1;
        }
        assert_eq!(count, 25);
        assert_eq!(metric_id("qasper_e"), Some("qa-f1/longbench"));
        assert_eq!(metric_id("squad"), None);
    }

    #[test]
    fn first_lines() {
        assert_eq!(first_line("\n\nAnswer\nmore"), "Answer");
        assert_eq!(first_line(" \nAnswer"), " ");
        assert!(scores_first_line("samsum_e") && !scores_first_line("qasper"));
    }
}
