//! Methods that look at more than one prefill of the whole prompt: a second pass, whole heads by a file.

use serde_json::Value;

use crate::common::{run, succeed};

const ROWS: [&str; 6] = ["run", "longbench", "--limit", "1", "--datasets", "mini_people,mini_count"];

/// The pass is paid once a prompt, whatever the budgets, and by nobody who does not want it.
#[test]
fn one_second_pass_serves_every_budget() {
    let dir = tempfile::tempdir().unwrap();
    let flops = |methods: &str, budgets: &str, what: &str| {
        let options = ["--methods", methods, "--budgets", budgets, "--dry-run", "--json"];
        let text = succeed(dir.path(), &[&ROWS[..], &options].concat());
        serde_json::from_str::<Value>(&text).unwrap()[what]["flops"].as_f64().unwrap()
    };
    let plain = flops("full,snapkv", "64,128", "prefill_shared");
    let once = flops("full,kvzip", "64", "prefill_shared");
    // Attention of a part is over the whole prompt, where the prefill's is over half of it on average.
    assert!((2.0..5.0).contains(&(once / plain)), "{once} {plain}");
    assert_eq!(flops("full,snapkv,kvzip", "64,128,256", "prefill_shared"), once);
    let other_parts = flops("kvzip,kvzip[chunk=500]", "64", "prefill_shared");
    assert!(other_parts > 1.3 * once, "another setting is a pass of its own");
    let [one, two] = ["64", "64,128"].map(|budgets| flops("kvzip", budgets, "prefill_unshared"));
    assert_eq!(two, 2.0 * one);
}

#[test]
fn a_prompt_is_repeated_and_its_budget_held() {
    let dir = tempfile::tempdir().unwrap();
    let records = |out: &str, methods: &str, view: &str| -> Vec<Value> {
        let options = ["--methods", methods, "--budgets", "64,256", "--question", view, "--out", out];
        succeed(dir.path(), &[&ROWS[..], &options].concat());
        let text = std::fs::read_to_string(dir.path().join(out).join("records.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let methods = "full,kvzip,duoattention[heads=retrieval+sinks=4+recent=24]";
    for view in ["seen", "unseen"] {
        let all = records(view, methods, view);
        assert_eq!(all.len(), 2);
        for variant in all.iter().flat_map(|record| record["variants"].as_array().unwrap()) {
            let Some(budget) = variant["variant"]["budget"].as_f64() else { continue };
            let held = variant["kept"]["entries_mean"].as_f64().unwrap();
            assert!((budget - 1.0..=budget).contains(&held), "{variant}");
        }
        // What others get does not change by the pass, nor what a budget gets by the others.
        let full = records(&format!("{view}-full"), "full", view);
        let predictions = |records: &[Value]| -> Vec<String> {
            records.iter().map(|record| record["variants"][0]["prediction"].to_string()).collect()
        };
        assert_eq!(predictions(&full), predictions(&all));
    }
    // Nothing was trained for the embedded model.
    let (code, _, stderr) = run(dir.path(), &[&ROWS[..], &["--methods", "duoattention"]].concat());
    assert_ne!(code, 0);
    assert!(
        stderr.contains("needs full-attention head scores") && stderr.contains("_full_attention_heads.tsv"),
        "{stderr}"
    );
}

/// The fourth row fills the model: that is said before the first three are read.
#[test]
fn a_prompt_without_room_to_repeat_it_is_refused_before_the_first_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let sweep = "run longbench --limit 4 --datasets mini_people --methods full,kvzip --budget 64 --out run";
    let (code, _, stderr) = run(dir.path(), &sweep.split(' ').collect::<Vec<_>>());
    assert!(
        code == 1 && stderr.contains("mini_people#3") && stderr.contains("repeat smaller parts"),
        "{stderr}"
    );
    let records = std::fs::read_to_string(dir.path().join("run/records.jsonl")).unwrap_or_default();
    assert_eq!(records, "", "nothing was computed");
}
