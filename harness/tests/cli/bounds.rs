//! Bounded in time and memory: what does not fit is said, before it is tried.

use std::path::Path;
use std::time::Duration;

use crate::common::{kvsweep, run, succeed};

/// The records of a run, timings left out.
fn records(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("records.jsonl")).unwrap_or_default();
    text.lines()
        .map(|line| {
            let mut record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["timings"] = serde_json::Value::Null;
            record["checksum"] = serde_json::Value::Null;
            record
        })
        .collect()
}

#[cfg(unix)]
fn interrupt(child: &std::process::Child) {
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Starts a sweep whose first example takes seconds, and waits until it is at work.
#[cfg(unix)]
fn long_sweep(dir: &Path) -> std::process::Child {
    let budgets: Vec<String> = (64..164).map(|budget: u32| budget.to_string()).collect();
    let child = kvsweep(dir)
        .args(["run", "longbench", "--datasets", "mini_minutes", "--limit", "2", "--out", "long"])
        .args(["--methods", "snapkv,streamingllm,pyramidkv,adakv,cake,h2o", "--budgets", &budgets.join(",")])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while !dir.join("long/records.jsonl").exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(500));
    child
}

#[cfg(unix)]
#[test]
fn an_interrupt_does_not_wait_for_the_example_in_hand() {
    let dir = tempfile::tempdir().unwrap();
    let child = long_sweep(dir.path());
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("run the same command again to continue"), "{stderr}");
    assert_eq!(records(&dir.path().join("long")), [] as [serde_json::Value; 0]);
}

#[cfg(unix)]
#[test]
fn every_further_interrupt_ends_at_once_with_130() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = long_sweep(dir.path());
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        // It may have ended since: then there is nobody to tell.
        let _ = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(status.code(), Some(130));
}

#[test]
fn memory_that_does_not_suffice_is_told_and_what_suffices_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let sweep = ["run", "longbench", "--datasets", "mini_people,mini_gates", "--limit", "2"];
    let variants = ["--methods", "full,snapkv,h2o", "--budgets", "64,128,256", "--out"];
    let at = |out: &'static str, memory: &[&str]| [&sweep[..], &variants, &[out], memory].concat().join(" ");
    let start = |line: &str| run(dir.path(), &line.split(' ').collect::<Vec<_>>());
    // Every refusal names what would do for its prompt; a later one may be longer.
    let (mut memory, mut refused) = ("0.00001".to_owned(), 0);
    loop {
        let (code, _, stderr) = start(&at("tight", &["--memory", &memory]));
        if code == 0 {
            break;
        }
        assert!(
            stderr.contains("tokens with one variant needs") && stderr.contains("may be taken"),
            "{stderr}"
        );
        memory = stderr.split("`--memory ").nth(1).unwrap().split('`').next().unwrap().to_owned();
        refused += 1;
        assert!(refused <= 4, "one refusal a prompt at most");
    }
    assert!(refused > 0);
    assert_eq!(start(&at("wide", &["--memory", "4"])).0, 0);
    let (tight, wide) = (records(&dir.path().join("tight")), records(&dir.path().join("wide")));
    assert_eq!(wide.len(), 4);
    assert_eq!(tight, wide);
}

#[test]
fn more_generated_rows_than_can_be_held_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for suite in ["longbench", "needle"] {
        for limit in ["10001", "1000000000", "18446744073709551615"] {
            let (code, _, stderr) = run(dir.path(), &["run", suite, "--limit", limit, "--dry-run"]);
            assert_eq!(code, 2, "{suite} {limit}: {stderr}");
            assert!(stderr.contains("has at most 10000"), "{stderr}");
        }
    }
}

/// Two runs without a method and a data set in common: no row has an average.
#[test]
fn a_report_without_any_average_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let one = |data: &str, methods: &[&str], out: &str| {
        let sweep = ["run", "longbench", "--limit", "1", "--datasets", data, "--out", out, "--methods"];
        succeed(dir.path(), &[&sweep, methods].concat());
    };
    one("mini_people", &["full"], "a");
    one("mini_count", &["snapkv", "--budget", "64"], "b");
    let page = dir.path().join("page.html");
    succeed(dir.path(), &["report", "a", "b", "-o", page.to_str().unwrap()]);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("no row has an average and bytes, so that curve is not drawn"));
    assert!(page.len() < 10_000_000);
}

/// The embedded model's files as a Mistral with a sliding window.
fn with_window(dir: &Path, name: &str, window: usize) {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/assets/tiny");
    let folder = dir.join(name);
    std::fs::create_dir(&folder).unwrap();
    for file in std::fs::read_dir(tiny).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    let path = folder.join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["architectures"] = serde_json::json!(["MistralForCausalLM"]);
    config["model_type"] = "mistral".into();
    config["sliding_window"] = window.into();
    std::fs::write(path, config.to_string()).unwrap();
}

/// Prompts longer than the window are read whole. A model of such layers alone is cut inside its windows, and no cache holds
/// more than that.
#[test]
fn prompts_may_outgrow_the_sliding_window() {
    let dir = tempfile::tempdir().unwrap();
    with_window(dir.path(), "window", 300);
    let sweep = ["run", "longbench", "--model", "window", "--split", "mini", "--datasets", "mini_people"];
    let rest = ["--limit", "2", "--methods", "full,snapkv", "--budget", "64", "--out", "out"];
    let (code, _, stderr) = run(dir.path(), &[&sweep[..], &rest].concat());
    assert_eq!(code, 0, "{stderr}");
    assert!(!stderr.contains("window"), "{stderr}");
    let records = records(&dir.path().join("out"));
    assert_eq!(records.len(), 2);
    for record in &records {
        assert_eq!(record["info"]["truncated_tokens"], 0);
        assert!(record["info"]["prompt_tokens"].as_u64() > Some(300), "{record}");
        let kept = |variant: usize| &record["variants"][variant]["kept"];
        assert_eq!(kept(0)["entries_mean"], 299.0, "the next token sees itself and these");
        assert_eq!(kept(1)["entries_mean"], 64.0);
        assert!(kept(0)["bytes"].as_u64() > kept(1)["bytes"].as_u64());
    }
}

/// A run of 49 variants, its four examples recorded again and again under other names.
#[cfg(target_os = "linux")]
fn large_run(dir: &Path, examples: u64) -> std::path::PathBuf {
    use kvsweep_results::{Run, RunDir};
    let of_four = dir.join("four");
    if !of_four.exists() {
        let methods = "full,streamingllm,snapkv,pyramidkv,adakv,headkv-r,headkv-r2,compresskv,cake,h2o,random,knorm,tova";
        let sweep = ["run", "longbench", "--datasets", "mini_gates", "--limit", "4", "--out", "four"];
        succeed(dir, &[&sweep[..], &["--methods", methods, "--budgets", "64,128,256,512"]].concat());
    }
    let four = Run::load(&of_four).unwrap();
    assert_eq!(four.manifest.variants().len(), 49);
    let mut manifest = four.manifest.clone();
    (manifest.datasets[0].examples, manifest.datasets[0].total) = (examples, examples);
    manifest.limit = Some(examples);
    let out = dir.join(examples.to_string());
    let mut run = RunDir::create_or_continue(&out, &manifest).unwrap();
    for (row, record) in (0..examples).zip(four.examples.iter().cycle()) {
        let mut record = record.clone();
        record.info.row = row;
        record.key.example = format!("mini_gates-{row}");
        run.append(&record, None).unwrap();
    }
    out
}

/// Runs a command; gives its largest resident memory in bytes and its processor time in seconds.
#[cfg(target_os = "linux")]
fn measured(dir: &Path, arguments: &[&str]) -> (u64, f64) {
    let mut child = kvsweep(dir)
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let (mut peak, mut ticks) = (0, 0);
    let status = loop {
        let of =
            |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap_or_default();
        let high = of("status")
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok());
        peak = high.map_or(peak, |kib| kib * 1024);
        let stat = of("stat");
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
        // Of proc(5): utime and stime are fields 14 and 15, the state in front here is field 3.
        let times = fields.get(11..13).unwrap_or(&[]);
        ticks = times.iter().filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>().max(ticks);
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(status.success(), "{arguments:?}");
    (peak, ticks as f64 / 100.0)
}

/// Time and memory grow with the number of examples and no faster. The test looks at small runs; `KVSWEEP_EXAMPLES=10000`
/// makes it look at that one (docs/performance.md has the figures).
#[cfg(target_os = "linux")]
#[test]
fn tables_comparisons_and_pages_of_long_runs_stay_small() {
    let dir = tempfile::tempdir().unwrap();
    let examples = std::env::var("KVSWEEP_EXAMPLES").map_or(400, |text| text.parse::<u64>().unwrap());
    let (half, whole) = (large_run(dir.path(), examples / 2), large_run(dir.path(), examples));
    let copy = |run: &Path| {
        let other = run.with_extension("other");
        std::fs::create_dir(&other).unwrap();
        for file in ["manifest.json", "records.jsonl"] {
            std::fs::copy(run.join(file), other.join(file)).unwrap();
        }
        other
    };
    for command in ["table", "compare", "report"] {
        let [(memory_of_half, time_of_half), (memory, time)] = [&half, &whole].map(|run| {
            let run_path = run.to_str().unwrap();
            match command {
                "compare" => {
                    let other = copy(run);
                    measured(dir.path(), &[command, run_path, other.to_str().unwrap()])
                }
                "report" => measured(dir.path(), &[command, run_path, "-o", "page.html"]),
                _ => measured(dir.path(), &[command, run_path]),
            }
        });
        println!("{command} of {examples} examples: {} MiB, {time:.1} s", memory >> 20);
        let an_example = memory.saturating_sub(memory_of_half) / (examples / 2);
        println!("{command}: {an_example} bytes an example");
        // 10,000 of them have to fit 1 GiB.
        assert!(an_example < 100_000, "{command}: {an_example} bytes an example");
        assert!(time < 2.5 * time_of_half + 0.5, "{command}: {time_of_half} s, then {time} s");
    }
}
