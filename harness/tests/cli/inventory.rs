//! What the program says that there is: lists against the registries, `doctor` against the machine, pictures on request.

use std::collections::BTreeSet;

use kvsweep_engine::model::known;
use kvsweep_methods::{profile, registry};
use kvsweep_tasks::{datasets, mini, needle, protocol};
use serde_json::Value;

use crate::common::{NEEDLE, run, succeed};

#[test]
fn lists_name_everything_that_is_registered() {
    let dir = tempfile::tempdir().unwrap();
    let methods = registry::METHODS.iter().flat_map(|entry| {
        let profiles = profile::of(entry.name).map(|(name, _)| format!("{}@{name}", entry.name));
        std::iter::once(entry.name.to_owned()).chain(profiles)
    });
    let tasks = (datasets::all().iter().map(|info| info.name))
        .chain(mini::datasets().iter().map(|set| set.name))
        .chain(needle::variants::VARIANTS.iter().map(|variant| variant.name));
    for (what, expected) in [
        ("methods", methods.collect::<BTreeSet<String>>()),
        ("tasks", tasks.map(str::to_owned).collect()),
        ("protocols", protocol::all().iter().map(|protocol| protocol.name.clone()).collect()),
        ("models", known::ids().chain(["tiny"]).map(str::to_owned).collect()),
    ] {
        let text = succeed(dir.path(), &["list", what]);
        let json: Value = serde_json::from_str(&succeed(dir.path(), &["list", what, "--json"])).unwrap();
        let names: BTreeSet<String> =
            json.as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect();
        assert_eq!(names, expected, "{what}");
        for name in &names {
            assert!(
                text.lines().any(|line| line.contains(name.as_str())),
                "{what}: no line for {name}\n{text}"
            );
        }
    }
    let methods = succeed(dir.path(), &["list", "methods"]);
    let snapkv = methods.lines().find(|line| line.starts_with("snapkv ")).unwrap();
    assert!(snapkv.contains("window=32") && snapkv.contains("pooling=maxpool"), "{snapkv}");
}

/// Published numbers: 8.03 billion weights of two bytes, and 128 KiB of keys and values a token; of Gemma 3 4B five layers
/// of 34 see everything, and the others hold 1023 entries each.
#[test]
fn models_are_listed_with_their_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let text = succeed(dir.path(), &["list", "models"]);
    let line = |name: &str| text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
    let llama = "8.03 billion weights in 15.0 GiB; 32 layers, 32 query and 8 KV heads of 128; 128.0 KiB a token, caches \
                 of 1.0 GiB 8k, 4.0 GiB 32k, 16.0 GiB 128k";
    assert!(line("meta-llama/Llama-3.1-8B-Instruct").ends_with(llama), "{text}");
    assert!(line("google/gemma-3-4b-it").contains("34 layers, 5 of which see everything"), "{text}");
    assert!(line("meta-llama/Llama-2-7b-chat-hf").ends_with("caches of less than 8k"), "{text}");
    let json: Value = serde_json::from_str(&succeed(dir.path(), &["list", "models", "--json"])).unwrap();
    let gemma = json.as_array().unwrap().iter().find(|item| item["name"] == "google/gemma-3-4b-it").unwrap();
    assert_eq!(gemma["global_layers"], 5);
    assert_eq!(gemma["kv_bytes_a_token"], 5 * 4 * 2 * 256 * 2);
    let held = |tokens: u64| (5 * tokens + 29 * 1023) * 4 * 2 * 256 * 2;
    assert_eq!(gemma["cache_bytes"]["8192"], held(8192));
    assert_eq!(gemma["cache_bytes"]["131072"], held(131_072));
}

#[test]
fn the_published_tables_are_listed_with_what_they_need() {
    let dir = tempfile::tempdir().unwrap();
    let text = succeed(dir.path(), &["paper", "list"]);
    let json: Value = serde_json::from_str(&succeed(dir.path(), &["paper", "list", "--json"])).unwrap();
    let tables = kvsweep_results::published::tables().unwrap();
    assert_eq!(text.lines().count(), tables.len());
    for ((line, item), table) in text.lines().zip(json.as_array().unwrap()).zip(tables) {
        assert!(line.starts_with(&table.id) && line.contains(&table.title), "{line}");
        assert_eq!(line.contains("shown only"), table.not_runnable().is_some(), "{line}");
        assert_eq!(item["id"], table.id.as_str());
        let known = protocol::all().iter().any(|protocol| item["protocol"] == protocol.name.as_str());
        assert!(known || table.not_runnable().is_some(), "{item}");
    }
}

#[test]
fn doctor_says_what_is_missing_and_what_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let findings: Value = serde_json::from_str(&succeed(dir.path(), &["doctor", "--json"])).unwrap();
    let text = succeed(dir.path(), &["doctor"]);
    let find = |what: &str| {
        let all = findings.as_array().unwrap().iter();
        all.clone().find(|finding| finding["what"] == what).unwrap_or_else(|| panic!("{what}: {findings}"))
    };
    for (what, found) in [
        ("program", env!("CARGO_PKG_VERSION")),
        ("processors", "cores"),
        ("embedded model", "8 layers, 4096 positions"),
    ] {
        let finding = find(what);
        assert_eq!(finding["fine"], true, "{finding}");
        assert!(finding["found"].as_str().unwrap().contains(found), "{finding}");
    }
    // The hub's folder of a test is empty.
    for (what, remedy) in
        [("models", "kvsweep fetch model"), ("LongBench rows", "kvsweep fetch data longbench")]
    {
        let finding = find(what);
        assert_eq!(finding["fine"], false, "{finding}");
        assert!(finding["remedy"].as_str().unwrap().contains(remedy) && text.contains(remedy), "{finding}");
    }
    let missing = findings.as_array().unwrap().iter().filter(|finding| finding["fine"] == false).count();
    assert_eq!(text.lines().filter(|line| line.starts_with("miss")).count(), missing, "{text}");
}

#[test]
fn a_heatmap_shows_every_variant_of_a_needle_run() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    succeed(dir, &[NEEDLE, &["--out", "run"]].concat());
    succeed(dir, &["heatmap", "run", "-o", "map.svg"]);
    let map = std::fs::read_to_string(dir.join("map.svg")).unwrap();
    for shown in ["full", "snapkv", "64", "256", "embedded model tiny"] {
        assert!(map.contains(shown), "{shown}: {map}");
    }
    std::fs::remove_file(dir.join("run/heatmap.png")).unwrap();
    let (code, _, stderr) = run(dir, &["heatmap", "run"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(std::fs::read(dir.join("run/heatmap.png")).unwrap().starts_with(b"\x89PNG"));

    let rows = ["run", "longbench", "--datasets", "mini_people", "--limit", "1", "--methods", "full"];
    succeed(dir, &[&rows[..], &["--out", "rows"]].concat());
    let (code, _, stderr) = run(dir, &["heatmap", "rows"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("kvsweep run needle") && !dir.join("rows/heatmap.png").exists(), "{stderr}");
}
