//! Whatever a person, a file or a model gets wrong: a clear message, the documented exit code, nothing lost.

use crate::common::{run, shared};

/// Arguments, exit code, and what the message must contain.
const CASES: &[(&[&str], i32, &[&str])] = &[
    (&["run", "longbnch"], 2, &["longbnch", "longbench"]),
    (&["run", "longbench", "--methods", "snapkb"], 2, &["snapkb", "snapkv"]),
    (&["run", "longbench", "--methods", "snapkv@compreskv"], 2, &["compreskv", "compresskv"]),
    (&["run", "longbench", "--methods", "snapkv", "--budget", "32"], 2, &["32", "window"]),
    (&["run", "longbench", "--methods", "snapkv", "--param", "snapkv.kernel=4"], 2, &["kernel", "odd"]),
    (&["run", "longbench", "--methods", "snapkv", "--param", "snapkv.kernal=5"], 2, &["kernal", "kernel"]),
    (&["run", "longbench", "--param", "kernel"], 2, &["METHOD.KEY=VALUE"]),
    (&["run", "longbench", "--datasets", "mini_peeple"], 2, &["mini_peeple", "mini_people"]),
    (&["run", "longbench", "--split", "full", "--datasets", "qaspr"], 2, &["qaspr", "qasper"]),
    (&["run", "longbench", "--split", "full"], 1, &["kvsweep fetch data longbench"]),
    (&["run", "longbench", "--split", "full", "--data", "nowhere"], 1, &["nowhere"]),
    (&["run", "longbench", "--protocol", "kvsweep"], 2, &["kvsweep-1"]),
    (&["run", "longbench", "--model", "nobody/nothing"], 1, &["kvsweep fetch model nobody/nothing"]),
    (&["run", "longbench", "--model", "nothing"], 1, &["nothing"]),
    (&["run", "longbench", "--shard", "3/2"], 2, &["3/2"]),
    (&["run", "longbench", "--device", "gpu"], 2, &["gpu", "cuda"]),
    (&["run", "longbench", "--dtype", "bf16"], 2, &["bf16"]),
    (&["run", "needle", "--lengths", "9000"], 1, &["9000", "positions"]),
    (&["run", "needle", "--depths", "101"], 2, &["101"]),
    (&["run", "needle", "--methods", "full", "--lengths", "16"], 1, &["length 16", "smallest sensible"]),
    (&["run", "needle", "--mask-heads", "semantic:1000000"], 2, &["64 query heads", "1 to 64"]),
    (&["run", "needle", "--mask-heads", "semantic:8:8"], 2, &["semantic:8:8", "random:N:SEED"]),
    (&["run", "needle", "--mask-heads", "random:8:1:2"], 2, &["random:8:1:2"]),
    (&["run", "needle", "--mask-heads", "random:33"], 2, &["1 to 32"]),
    (&["run", "longbench", "--memory", "0.0000000005"], 2, &["--memory", "GiB"]),
    (&["run", "longbench", "--limit", "18446744073709551615", "--dry-run"], 2, &["10000", "--seed"]),
    (&["run", "longbench", "--limit", "1000000000"], 2, &["10000"]),
    (&["run", "needle", "--methods", "full", "--limit", "1000"], 2, &["cells", "10000"]),
    (&["run", "longbench", "--budget", "0.1"], 2, &["0.1", "entries per KV head"]),
    (&["run", "longbench", "--budgets", "64,10%"], 2, &["10%", "entries per KV head", "share"]),
    (&["run", "longbench", "--budget", "64k"], 2, &["64k", "unit"]),
    (&["run", "longbench", "--config", "bad.toml"], 2, &["bad.toml", "bugdet", "budget"]),
    (&["run", "longbench", "--config", "broken.toml"], 2, &["broken.toml"]),
    (&["generate"], 2, &["--prompt"]),
    (&["generate", "--ids", "words.json"], 1, &["words.json"]),
    (&["table", "nowhere"], 1, &["nowhere"]),
    (&["verify", "metrics", "--golden", "nowhere"], 2, &["nowhere"]),
    (
        &["run", "longbench", "--split", "full", "--data", "rows", "--datasets", "qasper"],
        1,
        &["qasper.jsonl", "2"],
    ),
    (
        &["run", "longbench", "--split", "full", "--data", "rows", "--datasets", "hotpotqa"],
        1,
        &["hotpotqa.jsonl", "1", "answers"],
    ),
    (&["generate", "--model", "foreign", "--prompt", "x"], 1, &["GPT2LMHeadModel", "LlamaForCausalLM"]),
    (&["generate", "--model", "pickled", "--prompt", "x"], 1, &["pickle"]),
    (&["generate", "--model", "cut", "--prompt", "x"], 1, &["cut/config.json", "EOF"]),
    (&["score", "nowhere", "--layout", "longbench"], 1, &["nowhere"]),
    (&["fetch", "model", "foreign"], 1, &["GPT2LMHeadModel"]),
];

/// Whether a cause stands behind itself.
fn said_twice(stderr: &str) -> bool {
    let parts: Vec<&str> = stderr.trim().split(": ").collect();
    (1..=parts.len() / 2).any(|n| parts[parts.len() - n..] == parts[parts.len() - 2 * n..parts.len() - n])
}

#[test]
fn messages_name_what_where_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("bad.toml", "bugdet = 128\n");
    write("broken.toml", "budget = \n");
    write("words.json", "[\"a\"]");
    let row = r#"{"input":"q","context":"c","answers":["a"],"length":1,"dataset":"qasper","language":"en","all_classes":null,"_id":"1"}"#;
    write("rows/qasper.jsonl", &format!("{row}\nnot json\n"));
    write(
        "rows/hotpotqa.jsonl",
        &format!("{}\n", row.replace("\"answers\":[\"a\"],", "").replace("qasper", "hotpotqa")),
    );
    write("cut/config.json", "{");
    write("cut/model.safetensors", "x");
    write("foreign/config.json", r#"{"architectures":["GPT2LMHeadModel"],"model_type":"gpt2"}"#);
    write("foreign/model.safetensors", "x");
    write("pickled/config.json", r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama"}"#);
    write("pickled/pytorch_model.bin", "x");
    let mut wrong = Vec::new();
    for (arguments, expected, needles) in CASES {
        let (code, stdout, stderr) = run(dir.path(), arguments);
        if code != *expected
            || !needles.iter().all(|needle| stderr.contains(needle))
            || stderr.contains("panicked")
            || said_twice(&stderr)
        {
            wrong.push(format!(
                "{arguments:?}: exit {code}, expected {expected} and {needles:?}\n{stdout}{stderr}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!dir.path().join("runs").exists(), "a refused command left a run directory behind");
}

#[test]
fn a_config_file_has_the_same_names_and_the_command_line_wins() {
    let dir = tempfile::tempdir().unwrap();
    let config = "suite = \"longbench\"\nmethods = [\"full\", \"snapkv\"]\nbudgets = [64, 128]\ndatasets = [\"mini_people\"]\nlimit = 1\n";
    std::fs::write(dir.path().join("sweep.toml"), config).unwrap();
    let table =
        crate::common::succeed(dir.path(), &["run", "--config", "sweep.toml", "--budget", "96", "--json"]);
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    let budgets: Vec<_> =
        table["table"]["rows"].as_array().unwrap().iter().map(|row| row["budget"].clone()).collect();
    assert_eq!(budgets, [serde_json::Value::Null, 96.into()]);
}

#[test]
fn real_rows_and_essays_go_the_whole_way() {
    let Some(data) = shared("data") else { return };
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| data.join(name).display().to_string();
    let table = crate::common::succeed(
        dir.path(),
        &[
            "run",
            "longbench",
            "--split",
            "full",
            "--data",
            &at("longbench"),
            "--datasets",
            "multi_news,multifieldqa_zh,passage_retrieval_zh",
            "--limit",
            "1",
            "--budgets",
            "64,128",
            "--methods",
            "full,snapkv",
        ],
    );
    for column in ["multi_news", "multifieldqa_zh", "passage_retrieval_zh"] {
        assert!(table.contains(column), "{table}");
    }
    let out = dir.path().join("needles");
    let out_text = out.display().to_string();
    crate::common::succeed(
        dir.path(),
        &[
            "run",
            "needle",
            "--data",
            &at("paul_graham_essays"),
            "--lengths",
            "512,1024",
            "--depths",
            "0,50",
            "--methods",
            "full,snapkv",
            "--budget",
            "64",
            "--out",
            &out_text,
        ],
    );
    for name in ["heatmap.png", "heatmap.svg", "heatmaps/full.png", "heatmaps/snapkv-64.svg"] {
        assert!(out.join(name).is_file(), "{name}");
    }
}
