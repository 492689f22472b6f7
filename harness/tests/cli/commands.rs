//! What people do with a finished run: look at it, compare it, put it on a page.

use std::path::Path;

use serde_json::Value;

use crate::common::{run, succeed};

const SWEEP: &[&str] = &[
    "run",
    "longbench",
    "--datasets",
    "mini_people,mini_types",
    "--limit",
    "3",
    "--methods",
    "full,streamingllm,snapkv",
];

#[test]
fn a_run_becomes_tables_a_page_and_an_explanation() {
    let dir = tempfile::tempdir().unwrap();
    succeed(dir.path(), &[SWEEP, &["--budgets", "64,128", "--out", "run"]].concat());
    for (format, mark) in
        [("text", "snapkv"), ("md", "|"), ("csv", ","), ("latex", "\\toprule"), ("json", "\"version\"")]
    {
        let table = succeed(dir.path(), &["table", "run", "--format", format]);
        assert!(table.contains(mark), "{format}: {table}");
        assert!(
            format == "csv" || table.contains("embedded"),
            "{format} does not name the embedded model: {table}"
        );
    }
    succeed(dir.path(), &["report", "run", "-o", "page.html"]);
    let page = std::fs::read_to_string(dir.path().join("page.html")).unwrap();
    assert!(page.contains("snapkv") && page.len() < 5_000_000);
    assert!(page.contains("<h1>LongBench on the embedded model tiny: 3 methods, budgets 64 to 128</h1>"));
    assert!(page.contains("a check of the pipeline, not of any real model"));
    assert!(
        page.contains(r#""pieces":["#),
        "prompts of examples with stored positions are shown token by token"
    );
    assert!(!page.contains("Beside the papers"), "the embedded model is in no paper");
    succeed(dir.path(), &["report", "run", "--paper", "headkv-llama-3-8b", "-o", "page.html"]);
    let page = std::fs::read_to_string(dir.path().join("page.html")).unwrap();
    assert!(page.contains("Beside the papers") && page.contains("rehearsal, not a reproduction"));
    let (code, _, stderr) = run(dir.path(), &["report", "run", "--paper", "nosuch", "-o", "page.html"]);
    assert_eq!(code, 2, "{stderr}");

    let records = std::fs::read_to_string(dir.path().join("run/records.jsonl")).unwrap();
    let record: Value = serde_json::from_str(records.lines().next().unwrap()).unwrap();
    let key = record["key"]["example"].as_str().unwrap();
    let (code, stdout, stderr) = run(dir.path(), &["explain", "run", key]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.contains("<|user|>") && stdout.contains("snapkv") && stderr.contains("prompt tokens"),
        "{stdout}{stderr}"
    );

    let same = succeed(dir.path(), &["compare", "run", "run", "--gate"]);
    assert!(!same.is_empty());
}

#[test]
fn needle_results_go_out_in_the_testers_own_files() {
    let dir = tempfile::tempdir().unwrap();
    let needle = ["run", "needle", "--lengths", "512", "--methods", "full,snapkv", "--budget", "64"];
    succeed(dir.path(), &[&needle[..], &["--depths", "0,100", "--out", "run"]].concat());
    let files = succeed(dir.path(), &["export", "run", "--layout", "needle-kvcache-factory", "-o", "out"]);
    assert_eq!(files.lines().count(), 4, "{files}");
    let file = files.lines().find(|file| file.contains("snapkv-64")).unwrap();
    let record: Value =
        serde_json::from_str(&std::fs::read_to_string(dir.path().join(file)).unwrap()).unwrap();
    assert_eq!((record["context_length"].as_u64(), record["depth_percent"].as_f64()), (Some(512), Some(0.0)));
    assert!(record["test_timestamp_utc"].as_str().unwrap().ends_with("+0000"), "{record}");
    assert!(record["test_duration_seconds"].as_f64().unwrap() > 0.0);
    let folder = Path::new(file).parent().unwrap().to_str().unwrap();
    let read = succeed(dir.path(), &["score", folder, "--layout", "needle-kvcache-factory", "--json"]);
    let read: Value = serde_json::from_str(&read).unwrap();
    assert_eq!(read["cells"].as_array().unwrap().len(), 2, "{read}");
    assert_eq!(read["mean_recorded"], read["mean_score"]);

    // Another suite's run beside it is a table of its own.
    succeed(dir.path(), &[SWEEP, &["--budget", "64", "--out", "rows"]].concat());
    let table = |runs: &[&str]| succeed(dir.path(), &[&["table"], runs].concat());
    assert_eq!(table(&["run", "rows"]), format!("{}\n{}", table(&["run"]), table(&["rows"])));
    let (code, _, stderr) = run(dir.path(), &["table", "run", "rows", "--format", "csv"]);
    assert_eq!(code, 2, "{stderr}");

    let (code, _, stderr) = run(dir.path(), &["export", "run", "--layout", "longbench", "-o", "other"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("needle-headkv"), "{stderr}");
    succeed(dir.path(), &[&needle[..], &["--depths", "0", "--limit", "2", "--out", "trials"]].concat());
    let (code, _, stderr) = run(dir.path(), &["export", "trials", "--layout", "needle-headkv", "-o", "x"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("--limit 1"), "{stderr}");
}

#[test]
fn a_paper_is_rehearsed_on_the_mini_split_with_every_cell_marked_so() {
    let dir = tempfile::tempdir().unwrap();
    // Rows with parameters of their own make several sweeps.
    let paper = ["paper", "headkv-llama-3-8b", "--split", "mini", "--limit", "1", "--budgets", "64,128"];
    let (code, table, stderr) = run(dir.path(), &[&paper[..], &["--out", "runs"]].concat());
    assert_eq!(code, 0, "{stderr}");
    let top = table.lines().next().unwrap();
    assert!(top.contains("rehearsal, not a reproduction (model tiny, mini split)"), "{table}");
    assert!(top.ends_with(" · partial: first row of each data set"), "{table}");
    let cells: Vec<&str> = table.lines().filter(|line| line.contains("HeadKV-R2")).collect();
    assert!(cells.len() > 6 && cells.iter().all(|line| line.ends_with("  unproven: rehearsal")), "{table}");
    assert!(table.contains("mini_people for ") && table.contains("full-cache gate: closed"), "{table}");
    assert!(stderr.contains("runs/part-2"), "{stderr}");
}

/// Two invented rows of each of the sixteen data sets, and a small model in a folder with the paper's model's name.
#[test]
fn a_name_and_two_rows_reproduce_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("Mistral-7B-Instruct-v0.2");
    std::fs::create_dir(&model).unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/assets/tiny");
    for file in std::fs::read_dir(assets).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), model.join(file.file_name())).unwrap();
    }
    let rows = dir.path().join("rows");
    std::fs::create_dir(&rows).unwrap();
    let paper: Value = serde_json::from_str(&succeed(dir.path(), &["paper", "list", "--json"])).unwrap();
    let id = "snapkv-mistral-7b-v0.2";
    let table = paper.as_array().unwrap().iter().find(|table| table["id"] == id).unwrap();
    for name in table["datasets"].as_array().unwrap() {
        let row = serde_json::json!({
            "input": "q", "context": "one two three", "answers": ["Paragraph 1"], "length": 3, "dataset": name,
            "language": "en", "all_classes": ["Paragraph 1"], "_id": "x",
        });
        std::fs::write(rows.join(format!("{}.jsonl", name.as_str().unwrap())), format!("{row}\n{row}\n"))
            .unwrap();
    }
    let paper = ["paper", id, "--model", "Mistral-7B-Instruct-v0.2", "--data", "rows", "--budgets", "1024"];
    let (code, table, stderr) = run(dir.path(), &[&paper[..], &["--out", "runs"]].concat());
    assert_eq!(code, 0, "{stderr}");
    let top = table.lines().next().unwrap();
    assert!(
        top.contains("rehearsal, not a reproduction (model Mistral-7B-Instruct-v0.2 is of another shape"),
        "{top}"
    );
    assert!(table.lines().filter(|line| line.ends_with("unproven: rehearsal")).count() > 16, "{table}");
    assert!(
        !table.lines().any(|line| line.ends_with("  reproduced") || line.ends_with("  close")),
        "{table}"
    );
}

/// Needs nothing but the embedded model: three perfect summaries are not certainty, and two of twelve data sets are not
/// the suite's average.
#[test]
fn a_table_of_few_rows_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let sweep =
        ["run", "longbench", "--limit", "2", "--datasets", "mini_gates,mini_functions", "--methods", "full"];
    let table: Value =
        serde_json::from_str(&succeed(dir.path(), &[&sweep[..], &["--out", "run", "--json"]].concat()))
            .unwrap();
    let table = &table["table"];
    let top = table["title"].as_str().unwrap();
    assert!(top.starts_with("longbench · partial: first 2 rows of each data set · "), "{top}");
    assert_eq!(table["columns"][4]["title"], "Mean of 2", "{table}");
    assert_eq!(table["columns"][2]["title"], "summarization (1 of 2)", "{table}");
    for cell in table["rows"][0]["cells"].as_array().unwrap() {
        let width = cell["high"].as_f64().unwrap() - cell["low"].as_f64().unwrap();
        assert!(width > 10.0, "two rows prove little: {cell}");
    }
    let (code, _, stderr) = run(dir.path(), &["table", "run", "--format", "csv"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("this table is a part: first 2 rows"), "{stderr}");
}

#[test]
fn generate_reads_ids_and_keeps_logits() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("ids.json"),
        serde_json::to_string(&(10..410).collect::<Vec<u32>>()).unwrap(),
    )
    .unwrap();
    let stdout = succeed(
        dir.path(),
        &[
            "generate",
            "--ids",
            "ids.json",
            "--methods",
            "full,snapkv,h2o",
            "--budget",
            "64",
            "--max-new",
            "5",
            "--ignore-eos",
            "--logits",
            "logits.safetensors",
            "--json",
        ],
    );
    let output: Value = serde_json::from_str(&stdout).unwrap();
    let answers = output["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 3);
    // The first token is that of the full cache for every variant: compression follows the prefill.
    assert!(
        answers
            .iter()
            .all(|a| a["ids"][0] == answers[0]["ids"][0] && a["ids"].as_array().unwrap().len() == 5)
    );
    let kept = |answer: &Value| answer["kept_entries"][0][0].as_u64().unwrap();
    assert_eq!((kept(&answers[0]), kept(&answers[1])), (400, 64));
    let bytes = std::fs::read(dir.path().join("logits.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let shape = |name: &str| tensors.tensor(name).unwrap().shape().to_vec();
    let vocab = shape("prompt")[1];
    assert_eq!(
        (shape("prompt"), shape("full"), shape("snapkv/64")),
        (vec![400, vocab], vec![5, vocab], vec![5, vocab])
    );
}

#[test]
fn generate_asks_a_question_behind_its_context() {
    let dir = tempfile::tempdir().unwrap();
    let (context, question): (Vec<u32>, Vec<u32>) = ((10..410).collect(), (500..520).collect());
    let files =
        [("c.json", &context), ("q.json", &question), ("whole.json", &[&*context, &question].concat())];
    for (name, ids) in files {
        std::fs::write(dir.path().join(name), serde_json::to_string(ids).unwrap()).unwrap();
    }
    std::fs::write(dir.path().join("none.json"), "[]").unwrap();
    let answers = |input: &[&str]| -> Value {
        let rest = "--methods full,snapkv --budget 64 --max-new 6 --ignore-eos --json"
            .split(' ')
            .collect::<Vec<_>>();
        serde_json::from_str(&succeed(dir.path(), &[&["generate"], input, &rest[..]].concat())).unwrap()
    };
    let whole = answers(&["--ids", "whole.json"]);
    let unseen = answers(&["--ids", "c.json", "--question-ids", "q.json"]);
    let seen = answers(&["--ids", "c.json", "--question-ids", "q.json", "--question", "seen"]);
    let kept = |output: &Value, answer: usize| output["answers"][answer]["kept_entries"][0][0].as_u64();
    for (output, compressed) in [(&whole, 420), (&unseen, 400), (&seen, 419)] {
        assert_eq!(output["prompt_tokens"], 420);
        assert_eq!(
            output["answers"][0]["ids"], whole["answers"][0]["ids"],
            "the full cache reads the same prompt"
        );
        assert_eq!((kept(output, 0), kept(output, 1)), (Some(compressed), Some(64)));
    }
    // What was compressed without the question answers otherwise, from the first token on.
    assert_ne!(unseen["answers"][1]["ids"], seen["answers"][1]["ids"]);
    for (input, code, what) in [
        (&["--ids", "c.json", "--question-ids", "none.json"][..], 1, "the question has no tokens"),
        (&["--ids", "c.json", "--question", "seen"], 2, "--question-ids"),
        (&["--prompt", "x", "--question-ids", "q.json"], 2, "--ids"),
    ] {
        let (found, _, stderr) = run(dir.path(), &[&["generate"], input].concat());
        assert!(found == code && stderr.contains(what), "{input:?}: {found} {stderr}");
    }
}

#[test]
fn dry_runs_answer_without_computing() {
    let dir = tempfile::tempdir().unwrap();
    let blanks =
        ["--budgets", " 64, 128", "--datasets", "mini_people, mini_types,mini_people", "--limit", "2"];
    let blanks = succeed(dir.path(), &[&["run", "longbench", "--dry-run", "--json"], &blanks[..]].concat());
    assert_eq!(serde_json::from_str::<Value>(&blanks).unwrap()["prompts"], 4);
    let grid = ["--lengths", "256,512,256", "--depths", "50, 0,50", "--methods", "full"];
    let grid = succeed(dir.path(), &[&["run", "needle", "--dry-run", "--json"], &grid[..]].concat());
    assert_eq!(serde_json::from_str::<Value>(&grid).unwrap()["prompts"], 4, "each cell once");
    let dry = succeed(dir.path(), &[SWEEP, &["--dry-run", "--json"]].concat());
    let dry: Value = serde_json::from_str(&dry).unwrap();
    assert_eq!((dry["prompts"].as_u64(), dry["answers"].as_u64()), (Some(6), Some(6 * 13)));
    let (shared, unshared) = (&dry["prefill_shared"]["flops"], &dry["prefill_unshared"]["flops"]);
    assert!((unshared.as_f64().unwrap() / shared.as_f64().unwrap() - 13.0).abs() < 1e-9);
    assert!(!Path::new(&dir.path().join("runs")).exists());
}

#[test]
fn dry_runs_need_no_weights() {
    let dir = tempfile::tempdir().unwrap();
    let load = |arguments: &[&str]| -> Value {
        serde_json::from_str(&succeed(dir.path(), &[arguments, &["--dry-run", "--json"]].concat())).unwrap()
    };
    let number = |value: &Value| value.as_f64().unwrap();
    // A whole published table, by its id alone: 16 data sets, the full cache and four methods at four budgets.
    let paper = load(&["paper", "pyramidkv-llama-3-8b"]);
    assert_eq!(number(&paper["parameters"]), 8_029_995_008.0);
    assert_eq!(paper["longest_prompt"], 7500, "the protocol's limit");
    let answers = number(&paper["answers"]) / number(&paper["prompts"]);
    assert_eq!((answers, number(&paper["cells"])), (17.0, 16.0 * 17.0));
    let ratio = number(&paper["prefill_unshared"]["seconds"]) / number(&paper["prefill_shared"]["seconds"]);
    assert!((ratio / answers - 1.0).abs() < 1e-9, "a prefill a prompt and variant: {ratio}");
    assert!(number(&paper["decode_alone"]["bytes"]) > 2.0 * number(&paper["decode_batched"]["bytes"]));
    assert_eq!(paper["decode_alone"]["flops"], paper["decode_batched"]["flops"]);
    assert!(paper["assumed"].to_string().contains("mean `length`"), "{paper}");

    // A directory with nothing but a configuration.
    std::fs::create_dir(dir.path().join("bare")).unwrap();
    let config = r#"{"model_type": "llama", "dtype": "float16", "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 4096}"#;
    std::fs::write(dir.path().join("bare/config.json"), config).unwrap();
    let sweep =
        ["run", "longbench", "--methods", "snapkv", "--budget", "64", "--datasets", "qasper,dureader"];
    let bare = [sweep.as_slice(), &["--model", "bare", "--limit", "3"]].concat();
    let (cpu, gpu) =
        (load(&bare), load(&[bare.as_slice(), &["--device", "cuda", "--dtype", "bf16"]].concat()));
    assert_eq!((cpu["prompts"].as_u64(), cpu["longest_prompt"].as_u64()), (Some(6), Some(4096 - 128)));
    // The CPU keeps the weights as stored, in float16; keys and values take twice as much there.
    let memory = |load: &Value, part: &str| number(&load["memory"][part]);
    assert_eq!(memory(&cpu, "weight_bytes"), memory(&gpu, "weight_bytes"));
    let caches = |load: &Value| memory(load, "peak_bytes") - memory(load, "weight_bytes");
    assert!(caches(&cpu) > 1.3 * caches(&gpu), "{} {}", caches(&cpu), caches(&gpu));
    let second = load(&[bare.as_slice(), &["--shard", "2/2"]].concat());
    assert_eq!(second["prompts"], 2, "one of three rows of each data set");

    // Rows without a tokenizer: their own length, 10 words of 1.6 tokens.
    std::fs::create_dir(dir.path().join("rows")).unwrap();
    let row = r#"{"input":"q","context":"c","answers":["a"],"length":10,"dataset":"qasper","language":"en","all_classes":null,"_id":"1"}"#;
    std::fs::write(dir.path().join("rows/qasper.jsonl"), format!("{row}\n")).unwrap();
    let rows = load(&["run", "longbench", "--model", "bare", "--datasets", "qasper", "--data", "rows"]);
    assert_eq!((rows["prompts"].as_u64(), rows["prompt_tokens"].as_u64()), (Some(1), Some(16)));

    // The needle's grid: context lengths x depths.
    let grid = ["--model", "bare", "--lengths", "1000,2000", "--depths", "0,50,100"];
    let needle = load(&[["run", "needle"].as_slice(), &grid].concat());
    assert_eq!((needle["prompts"].as_u64(), needle["prompt_tokens"].as_u64()), (Some(6), Some(9000)));

    let (code, _, stderr) = run(dir.path(), &["run", "longbench", "--model", "nobody/nothing", "--dry-run"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("kvsweep fetch model nobody/nothing"), "{stderr}");
    assert!(!dir.path().join("runs").exists());
}

#[test]
fn calibrated_methods_run_out_of_the_box_and_refuse_foreign_calibrations() {
    let dir = tempfile::tempdir().unwrap();
    let sweep = &["run", "longbench", "--datasets", "mini_people", "--limit", "1", "--budget", "64"];
    let methods = &["--methods", "headkv-r,headkv-r2,compresskv", "--out", "run"];
    let table = succeed(dir.path(), &[sweep.as_slice(), methods].concat());
    assert!(["headkv-r", "headkv-r2", "compresskv"].iter().all(|method| table.contains(method)), "{table}");

    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny/layer-scores.json");
    let mut foreign: Value = serde_json::from_str(&std::fs::read_to_string(own).unwrap()).unwrap();
    foreign["weights_sha256"] = "0".repeat(64).into();
    std::fs::write(dir.path().join("foreign.json"), foreign.to_string()).unwrap();
    let (code, _, stderr) =
        run(dir.path(), &[sweep.as_slice(), &["--calibration", "foreign.json", "--out", "x"]].concat());
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("foreign.json") && stderr.contains("000000"), "{stderr}");
}
