//! Sweeps in parts under Slurm: the script, and a real slurmctld with two nodes.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{kvsweep, outcome, run, succeed};

const SWEEP: &[&str] = &[
    "needle",
    "--lengths",
    "512,1024",
    "--depths",
    "0,10,20,30,40,50,60,70,80,90,100",
    "--methods",
    "full,snapkv",
    "--budget",
    "64",
];

/// Two nodes on the loopback; they end with it.
struct Cluster {
    script: Child,
    conf: String,
}

impl Cluster {
    /// `None`, with a word about it, where Slurm is not installed or may not be started.
    fn start() -> Option<Self> {
        let here =
            |program: &str| Command::new("which").arg(program).output().is_ok_and(|out| out.status.success());
        let root = Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout == b"0\n");
        if !(root && ["slurmctld", "slurmd", "sbatch", "munged"].into_iter().all(here)) {
            assert!(
                std::env::var_os("KVSWEEP_REQUIRE_SLURM").is_none(),
                "Slurm must be here, and this must be root"
            );
            println!("skipped: no Slurm to start");
            return None;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/slurm_on_loopback.sh");
        let mut script = Command::new(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let conf = line.trim().strip_prefix("SLURM_CONF=").expect("the cluster came up").to_owned();
        Some(Self { script, conf })
    }

    fn ask(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).env("SLURM_CONF", &self.conf).output().unwrap();
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits for something that the cluster or its jobs do.
    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let started = Instant::now();
        while !done() {
            let patience = Duration::from_secs(300);
            assert!(started.elapsed() < patience, "{what}: {}", self.ask("squeue", &["--all"]));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

/// Records by their keys, without timings and the checksum over them.
fn records(runs: &[String], dir: &Path) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for run in runs {
        let text = std::fs::read_to_string(dir.join(run).join("records.jsonl")).unwrap_or_default();
        for line in text.lines() {
            let mut record: Value = serde_json::from_str(line).unwrap();
            record["timings"] = Value::Null;
            record["checksum"] = Value::Null;
            all.push((record["key"].to_string(), record.to_string()));
        }
    }
    all.sort();
    all
}

#[test]
fn a_real_slurm_gives_the_records_of_one_undisturbed_run() {
    let Some(cluster) = Cluster::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    succeed(dir.path(), &[&["run"][..], SWEEP, &["--out", "whole"]].concat());

    let own =
        ["--tasks", "4", "--out", "parts", "--partition", "lab", "--sbatch=--comment=of a test", "--submit"];
    let (code, stdout, stderr) = outcome(
        kvsweep(dir.path()).env("SLURM_CONF", &cluster.conf).args([&["slurm"][..], SWEEP, &own].concat()),
    );
    assert_eq!(code, 0, "{stdout}{stderr}");
    let parts = stdout.strip_prefix("parts: job ").and_then(|rest| rest.split(',').next()).unwrap();

    // One task is stopped in the middle and queued again, one node takes no more.
    let lines = |part: u32| {
        let file = dir.path().join(format!("parts/part-{part}-of-4/records.jsonl"));
        std::fs::read_to_string(file).map_or(0, |text| text.lines().count())
    };
    cluster.wait("the first records", || lines(1) > 0);
    cluster.ask("scontrol", &["requeue", &format!("{parts}_1")]);
    cluster.ask("scontrol", &["update", "nodename=n2", "state=drain", "reason=test"]);
    cluster.wait("all jobs", || cluster.ask("squeue", &["--noheader"]).trim().is_empty());

    let job = cluster.ask("scontrol", &["show", "job", &format!("{parts}_1")]);
    assert!(job.contains("Restarts=1") && job.contains("JobState=COMPLETED"), "{job}");
    assert!(job.contains("Comment=of a test"), "{job}");
    let runs: Vec<String> = (1..=4).map(|part| format!("parts/part-{part}-of-4")).collect();
    let merged = records(&runs, dir.path());
    assert_eq!(merged.len(), 22);
    assert_eq!(merged, records(&["whole".to_owned()], dir.path()));

    let status: Value = serde_json::from_str(&succeed(dir.path(), &["status", "parts", "--json"])).unwrap();
    let states: Vec<&Value> = status["parts"].as_array().unwrap().iter().map(|part| &part["state"]).collect();
    assert_eq!(states, ["finished"; 4]);
    let together = std::fs::read_to_string(dir.path().join("parts/table.txt")).unwrap();
    assert!(together.contains("snapkv") && !together.contains("missing"), "{together}");
    assert!(dir.path().join("parts/report.html").is_file());
    let compared = succeed(dir.path(), &["compare", "whole", &runs.join(","), "--gate"]);
    assert!(compared.contains("0 of 44 answers differ in text"), "{compared}");
}

#[test]
fn the_script_is_written_for_a_person_and_refuses_what_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    let own = ["--tasks", "3", "--out", "a b", "--time", "1:00:00", "--sbatch=--account=lab"];
    succeed(dir.path(), &[&["slurm"][..], SWEEP, &own].concat());
    let path = dir.path().join("a b/kvsweep.sh");
    let script = std::fs::read_to_string(&path).unwrap();
    for line in [
        "#SBATCH --time=1:00:00",
        "#SBATCH --account=lab",
        "out='a b'",
        "exec \"$kvsweep\" run needle --lengths 512,1024 --depths 0,10,20,30,40,50,60,70,80,90,100 --methods full,snapkv --budget 64 \\",
    ] {
        assert!(script.lines().any(|found| found.trim() == line), "{line}\n{script}");
    }
    let checked = Command::new("bash").arg("-n").arg(&path).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    assert!(!dir.path().join("runs").exists(), "nothing is computed");

    let status =
        succeed(dir.path(), &[&["run"][..], SWEEP, &["--shard", "2/3", "--out", "a b/part-2-of-3"]].concat());
    assert!(status.contains("snapkv"));
    let status = succeed(dir.path(), &["status", "a b"]);
    assert!(status.contains("1 of 3 finished") && status.contains("not started"), "{status}");

    for (options, what) in [
        (&["--out", "x", "--shard", "1/2"][..], "--shard does not go with"),
        (&["--out", "x", "--dry-run"], "--dry-run does not go with"),
        (&[], "--out DIR"),
        (&["--out", "x", "--tasks", "0"], "--tasks"),
        (&["--out", "x", "--gpus-per-task", "1"], "do not go together"),
        (&["--out", "x", "--device", "cuda", "--gpus-per-task", "2"], "one GPU"),
        (&["--out", "x", "--sbatch", "account=lab"], "no option of sbatch"),
        (&["--out", "x", "--sbatch", "--a\nrm -rf"], "no option of sbatch"),
        (&["--out", "x", "--methods", "snapvk"], "snapkv"),
        (&["--out", "x", "-o", "-", "--submit"], "-o -"),
    ] {
        let (code, _, stderr) = run(dir.path(), &[&["slurm"][..], SWEEP.split_at(5).0, options].concat());
        assert!(code == 2 && stderr.contains(what), "{options:?}: {code} {stderr}");
        assert!(!dir.path().join("x").exists(), "{options:?}");
    }
    let (code, _, stderr) = run(dir.path(), &["status", "runs"]);
    assert!(code == 1 && stderr.contains("runs"), "{stderr}");
}
