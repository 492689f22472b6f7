//! Every official prediction tree at hand gets exactly the official score, and our exports score as we do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kvsweep_tasks::datasets::metric_ids::CODE_SIM;
use kvsweep_tasks::layouts::official::{parse_with_nan, result_file};
use kvsweep_tasks::layouts::{
    self, ExportFile, ExportMeta, NeedleRecord, OfficialScore, Prediction, Scored, TreeScores, export,
    needle, score,
};
use kvsweep_tasks::needle::variants::{EXPECTED, NEEDLE};

use crate::shared::shared;

fn tree(dir: &Path, layout: &str, metric: Option<&str>) -> TreeScores {
    match score(dir, layout, metric).unwrap_or_else(|e| panic!("{e}")) {
        Scored::Datasets(tree) => tree,
        Scored::Needle(_) => panic!("{layout} is no needle layout"),
    }
}

/// Compares with a committed result.json, both ways; returns the number of scores.
fn check(tree: &TreeScores, result: &Path) -> usize {
    let mut official = result_file(result).unwrap_or_else(|e| panic!("{e}"));
    if let Some(OfficialScore::Plain(avg)) = official.remove("avg") {
        assert_eq!(tree.average.unwrap().1, avg);
    }
    let ours: BTreeMap<String, OfficialScore> =
        tree.scores.iter().map(|(name, scored)| (name.clone(), scored.score.clone())).collect();
    assert_eq!(ours, official, "{}", result.display());
    official.len()
}

fn golden(path: &str) -> Option<PathBuf> {
    Some(shared()?.join("golden/metrics/layouts").join(path))
}

#[test]
fn published_predictions_get_their_published_scores() {
    let Some(shared) = shared() else { return };
    let mut scores = 0;
    for (folder, layout) in [
        ("adakv_mistral7b-v0.2_full", "adakv"),
        ("adakv_mistral7b-v0.2_snapkv-256", "adakv"),
        ("adakv_mistral7b-v0.2_ada-snapkv-1024", "adakv"),
        ("longbench-fork_llama3-8b-instruct_full", "longbench"),
        ("magicpig_llama2-7b-chat_longbench-e", "longbench-e"),
    ] {
        let dir = shared.join("data/predictions").join(folder);
        let scored = tree(&dir, layout, None);
        assert_eq!(scored.notes, Vec::<String>::new());
        scores += check(&scored, &dir.join("result.json"));
        if layout == "adakv" {
            let text = fs_err::read_to_string(dir.join("list_result.json")).unwrap();
            let rows: BTreeMap<String, Vec<f64>> = serde_json::from_str(&text).unwrap();
            for (name, rows) in rows {
                assert_eq!(scored.scores[&name].per_row, rows, "{folder}/{name}");
            }
        }
    }
    assert_eq!(scores, 16 * 3 + 21 + 13);
}

/// The committed cases of a scorer as trees: the first case of every data set is a tree, the second another, … Their
/// results are those of the official script on the very files.
fn trees_of_cases(file: &str) -> Vec<Vec<serde_json::Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden/metrics").join(file);
    let bytes = fs_err::read(path).unwrap();
    let mut trees: Vec<Vec<serde_json::Value>> = Vec::new();
    for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let case: serde_json::Value = serde_json::from_slice(line).unwrap();
        let other =
            |tree: &&mut Vec<serde_json::Value>| tree.iter().all(|there| there["dataset"] != case["dataset"]);
        match trees.iter_mut().find(other) {
            Some(tree) => tree.push(case),
            None => trees.push(vec![case]),
        }
    }
    trees
}

#[test]
fn committed_cases_as_trees_get_their_official_scores() {
    for (file, layout, scores) in
        [("dataset_scorer.jsonl", "longbench", 46), ("longbench_e_scorer.jsonl", "longbench-e", 16)]
    {
        let mut compared = 0;
        for cases in trees_of_cases(file) {
            let dir = tempfile::tempdir().unwrap();
            for case in &cases {
                let rows: String =
                    case["rows"].as_array().unwrap().iter().map(|row| format!("{row}\n")).collect();
                let name = case["dataset"].as_str().unwrap();
                fs_err::write(dir.path().join(format!("{name}.jsonl")), rows).unwrap();
            }
            let scored = tree(dir.path(), layout, None);
            assert_eq!(scored.scores.len(), cases.len());
            for case in &cases {
                let ours = &scored.scores[case["dataset"].as_str().unwrap()];
                let official = match &case["result"] {
                    serde_json::Value::Object(buckets) => {
                        OfficialScore::Buckets(["0-4k", "4-8k", "8k+"].map(|bucket| buckets[bucket].as_f64()))
                    }
                    score => OfficialScore::Plain(score.as_f64().unwrap()),
                };
                assert_eq!(ours.score, official, "{}", case["id"]);
                compared += 1;
            }
        }
        assert_eq!(compared, scores, "{file}");
    }
}

#[test]
fn golden_trees_get_their_official_scores() {
    let Some(layouts) = golden("") else { return };
    let pred = layouts.join("longbench/pred/chatglm3-6b-32k");
    assert_eq!(check(&tree(&pred, "longbench", None), &pred.join("result.json")), 21);
    let pred_e = layouts.join("longbench/pred_e/chatglm3-6b-32k");
    assert_eq!(check(&tree(&pred_e, "longbench-e", None), &pred_e.join("result.json")), 13);
    let compresskv =
        layouts.join("compresskv/outputs/longbench/meta-llama/Llama-3.1-8B-Instruct/compresskv/512");
    assert_eq!(check(&tree(&compresskv, "compresskv", None), &compresskv.join("result.json")), 16);
    let adakv = tree(&layouts.join("adakv/pred/4090_ada_1024_Mistral-7B-Instruct-v0.2"), "adakv", None);
    assert!(adakv.notes[0].contains("rows of 200; the official eval.py skips the file"), "{:?}", adakv.notes);
}

#[test]
fn method_trees_get_their_official_tables() {
    let Some(layouts) = golden("") else { return };
    let read_csv = |dir: &Path| -> Vec<Vec<String>> {
        let text = fs_err::read_to_string(dir.join("results.csv")).unwrap();
        text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect()
    };
    // These golden trees were scored without python-Levenshtein.
    for (folder, layout, methods) in [
        ("kvcache_factory/results_long_bench/meta-llama-3-8b-instruct_128", "kvcache-factory", 3),
        (
            "headkv/results/results_long_bench_reason_base128_beta1.5_temp1/meta-llama-3-8b-instruct_128",
            "headkv",
            1,
        ),
    ] {
        let dir = layouts.join(folder);
        let scored = tree(&dir, layout, Some(CODE_SIM));
        assert_eq!(scored.methods.len(), methods);
        let table = read_csv(&dir);
        let mut cells = 0;
        for row in &table[1..] {
            // The script writes CAM's scores into the row L2Norm and the reverse.
            let method = match row[0].as_str() {
                "L2Norm" => "CAM",
                "CAM" => "L2Norm",
                other => other,
            };
            for (dataset, official) in table[0].iter().zip(row).skip(1) {
                let ours = scored.methods.get(method).and_then(|m| m.get(dataset)).map(|s| s.score.clone());
                let official: f64 = official.parse().unwrap();
                assert_eq!(
                    ours,
                    (official != -1.0).then_some(OfficialScore::Plain(official)),
                    "{method} {dataset}"
                );
                cells += usize::from(official != -1.0);
            }
        }
        assert_eq!(cells, scored.methods.values().map(BTreeMap::len).sum::<usize>());
        for (name, ours) in &scored.scores {
            let official = result_file(&dir.join(name).join("metrics.json")).unwrap();
            assert_eq!(official.get(name), Some(&ours.score), "{layout} {name}");
        }
    }
    let wrapped = tree(
        &layouts.join("kvcache_factory/results_long_bench/meta-llama-3-8b-instruct_128"),
        "kvcache-factory",
        None,
    );
    assert_eq!(wrapped.scores["lcc"].metric, "code-sim/levenshtein");
}

#[test]
fn needle_results_get_their_official_scores() {
    let Some(shared) = shared() else { return };
    let layouts = shared.join("golden/metrics/layouts");
    let scored = |dir: &Path, layout: &str| match score(dir, layout, None).unwrap_or_else(|e| panic!("{e}")) {
        Scored::Needle(scores) => scores,
        Scored::Datasets(_) => panic!("{layout} is a needle layout"),
    };
    for (folder, layout) in [
        ("kvcache_factory/results_needle/results/LlaMA3_pyramidkv_96_test", "needle-kvcache-factory"),
        ("kvcache_factory/results_needle/results/LlaMA3_pyramidkv_96_test", "needle-headkv"),
        (
            "compresskv/outputs/needle_result/needle_result_llama3_128k/Llama-3.1-8B-Instruct_compresskv_512",
            "needle-compresskv",
        ),
    ] {
        let scores = scored(&layouts.join(folder), layout);
        assert_eq!(scores.cells[0].score, scores.cells[0].recorded, "{layout}");
        assert_eq!(scores.mean_plotted, Some(if layout == "needle-compresskv" { 100.0 } else { 1.0 }));
    }
    let judged = scored(&layouts.join("gkamradt/results"), "needle-gkamradt");
    assert_eq!((judged.cells[0].score, judged.mean_plotted), (None, Some(10.0)));
    let compresskv = scored(
        &layouts.join(
            "compresskv/outputs/needle_result/needle_result_llama3_128k/Llama-3.1-8B-Instruct_compresskv_512",
        ),
        "needle-compresskv",
    );
    assert_eq!(compresskv.plotted_length(&compresskv.cells[0], "Llama-3.1-8B-Instruct"), 8000);

    // 688 real responses with ROUGE by the official package.
    let claude = shared.join("data/predictions/niah_claude-2.1");
    let text = fs_err::read_to_string(claude.join("results.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> = text.lines().map(|line| parse_with_nan(line).unwrap()).collect();
    for (layout, field, factor) in
        [("needle-compresskv", "rouge1_recall", 100.0), ("needle-kvcache-factory", "rouge1_fmeasure", 10.0)]
    {
        let scores = scored(&claude, layout);
        assert_eq!(scores.cells.len(), 688);
        for (cell, row) in scores.cells.iter().zip(&rows) {
            assert_eq!(cell.score, row[field].as_f64().map(|score| score * factor), "{}", cell.name);
        }
        assert!((scores.mean_recorded.unwrap() - 6.363_372_093_023_256).abs() < 1e-9);
    }
    let gpt4 = scored(&shared.join("data/predictions/niah_gpt-4-128k"), "needle-gkamradt");
    assert_eq!((gpt4.cells.len(), format!("{:.2}", gpt4.mean_plotted.unwrap()).as_str()), (225, "9.44"));
}

fn write_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    fs_err::create_dir_all(path.parent().unwrap())?;
    fs_err::write(path, bytes)
}

/// Writes exported files and gives their paths.
fn put(files: &[ExportFile]) -> Vec<PathBuf> {
    layouts::write(files, write_file).unwrap();
    files.iter().map(|file| file.path.clone()).collect()
}

#[test]
fn needle_exports_score_as_they_did() {
    let meta = ExportMeta {
        model: "org/Model-1.5".into(),
        method: "snapkv".into(),
        budget: Some("64".into()),
        ..ExportMeta::default()
    };
    let record = |depth: f64, response: &str| NeedleRecord {
        length: 1000,
        prompt_tokens: 846,
        depth,
        needle: NEEDLE.into(),
        response: response.into(),
        seconds: 0.5,
    };
    let records = [record(11.0, EXPECTED), record(50.0, "")];
    for (layout, name, first) in [
        ("needle-gkamradt", "Model-1_5_len_1000_depth_1100_results.json", None),
        ("needle-kvcache-factory", "Model-1_5_len_1000_depth_1100_results.json", Some(7.272_727_272_727_273)),
        ("needle-headkv", "Model-1_5_len_1000_depth_1100_results.json", Some(7.272_727_272_727_273)),
        ("needle-compresskv", "Model-1_5_len_846_depth_11_results.json", Some(57.142_857_142_857_14)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let files = needle::export(dir.path(), layout, &meta, "2026-01-01 00:00:00+0000", &records).unwrap();
        let written = put(&files);
        assert_eq!(written[0].file_name().unwrap().to_str(), Some(name));
        let Scored::Needle(scores) = score(written[0].parent().unwrap(), layout, None).unwrap() else {
            panic!("{layout} is a needle layout");
        };
        assert_eq!(scores.cells.len(), 2);
        assert_eq!((scores.cells[0].score, scores.cells[0].recorded), (first, first), "{layout}");
        assert_eq!(scores.cells[1].score, first.map(|_| 0.0), "{layout}");
    }
}

fn predictions() -> Vec<Prediction> {
    let row = |dataset: &str, pred: &str, answer: &str, classes: &[&str], length| Prediction {
        dataset: dataset.into(),
        pred: pred.into(),
        answers: vec![answer.into(), "another é".into()],
        all_classes: classes.iter().map(|c| (*c).to_owned()).collect(),
        length,
        prompt: "p\u{2028}".into(),
        id: "x".into(),
        ..Prediction::default()
    };
    vec![
        row("qasper", "an answer — 2", "the answer", &[], 10),
        row("qasper", "wrong", "right", &[], 5000),
        row("hotpotqa", "\u{85}Paris\n", "Paris", &[], 9000),
        row("multifieldqa_zh", "北京大学", "北京", &[], 3),
        row("mini_people", "Ana", "Ana", &[], 3),
    ]
}

#[test]
fn exports_score_as_they_did() {
    for layout in ["longbench", "compresskv", "kvcache-factory", "headkv", "adakv", "snapkv", "longbench-e"] {
        let dir = tempfile::tempdir().unwrap();
        let meta = ExportMeta {
            model: "org/model-1".into(),
            method: "snapkv".into(),
            budget: Some("64".into()),
            ..ExportMeta::default()
        };
        let mut rows = predictions();
        if layout == "longbench-e" {
            rows.retain(|row| ["qasper", "hotpotqa"].contains(&row.dataset.as_str()));
            rows.iter_mut().for_each(|row| row.dataset += "_e");
        }
        let written = put(&export(dir.path(), layout, &meta, &rows).unwrap());
        // Layouts with methods have one more folder level.
        let up = if matches!(layout, "kvcache-factory" | "headkv") { 2 } else { 1 };
        let folder = written[0].ancestors().nth(up);
        let scored = tree(folder.unwrap(), layout, None);
        let qasper = &scored.scores["qasper"];
        assert_eq!(qasper.per_row, [0.5, 0.0], "{layout}");
        let expected = match layout {
            "longbench-e" => OfficialScore::Buckets([Some(50.0), Some(0.0), None]),
            _ => OfficialScore::Plain(25.0),
        };
        assert_eq!(qasper.score, expected, "{layout}");
        assert_eq!(
            scored.scores.len(),
            match layout {
                "longbench-e" => 2,
                _ => 4,
            }
        );
        assert_eq!(scored.scores["hotpotqa"].per_row, [1.0]);
        put(&export(dir.path(), layout, &meta, &rows).unwrap());
        rows[0].pred.push('!');
        let other = export(dir.path(), layout, &meta, &rows).unwrap();
        assert!(
            layouts::write(&other, write_file).is_err(),
            "other predictions never join or replace a file"
        );
        if matches!(layout, "kvcache-factory" | "headkv") {
            assert!(written.iter().all(|path| fs_err::read(path).unwrap().is_ascii()));
        }
    }
    let wrong = Prediction { dataset: "lcc_e".into(), ..Prediction::default() };
    let dir = tempfile::tempdir().unwrap();
    assert!(export(dir.path(), "longbench", &ExportMeta::default(), &[wrong]).is_err());
}

#[test]
fn mixed_up_layouts_say_what_was_expected_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |layout: &str| score(dir.path(), layout, None).unwrap_err().to_string();
    assert!(
        fails("longbench").contains("expected `<data set>.jsonl` files")
            && fails("longbench").contains("empty folder")
    );
    let meta = ExportMeta { model: "m".into(), method: "full".into(), budget: None, ..ExportMeta::default() };
    put(&export(dir.path(), "kvcache-factory", &meta, &predictions()).unwrap());
    let hint = fails("kvcache-factory");
    assert!(hint.contains("no such file here, but in") && hint.contains("m_128"), "{hint}");
    let inner = dir.path().join("m_128");
    let message = score(&inner, "longbench", None).unwrap_err().to_string();
    assert!(
        message.contains("hotpotqa/FullKV.json` (a file of layout kvcache-factory or headkv)"),
        "{message}"
    );
    assert!(score(&inner, "needle-compresskv", None).unwrap_err().to_string().contains("found `hotpotqa`"));
    assert!(score(&inner, "longbnch", None).unwrap_err().to_string().contains("`longbench`"));
    assert!(
        score(&inner, "kvcache-factory", Some("code-sim/diflib"))
            .unwrap_err()
            .to_string()
            .contains("difflib")
    );

    let headkv = tree(&inner, "headkv", None);
    assert_eq!(headkv.notes, Vec::<String>::new());
    fs_err::create_dir(inner.join("trec")).unwrap();
    fs_err::copy(inner.join("hotpotqa/FullKV.json"), inner.join("trec/FullKV.json")).unwrap();
    assert!(tree(&inner, "headkv", None).notes[0].starts_with("trec: left out"));
    let message = score(&inner, "kvcache-factory", None).unwrap_err().to_string();
    assert!(message.contains("expected a row of data set `trec`, found `hotpotqa`"), "{message}");
    fs_err::remove_dir_all(inner.join("trec")).unwrap();

    let write = |name: &str, text: &str| fs_err::write(inner.join(name), text).unwrap();
    write("qasper.jsonl", "{\"input\": 1, \"context\": 2}");
    let message = score(&inner, "adakv", None).unwrap_err().to_string();
    assert!(
        message.contains("qasper.jsonl:1: the row lacks the field `pred`; it has context, input"),
        "{message}"
    );
    write("qasper.jsonl", "");
    assert!(score(&inner, "adakv", None).unwrap_err().to_string().contains("holds no predictions"));
    write("qasper.jsonl", "{\"pred\": \"x\", \"answers\": [], \"all_classes\": null, \"length\": 1}");
    assert_eq!(tree(&inner, "adakv", None).scores["qasper"].per_row, [0.0]);
    write(
        "passage_retrieval_en.jsonl",
        "{\"pred\": \"1\", \"answers\": [\"none\"], \"all_classes\": null, \"length\": 1}",
    );
    let message = score(&inner, "longbench", None).unwrap_err().to_string();
    assert!(message.contains("passage_retrieval_en.jsonl row 1"), "{message}");
}
