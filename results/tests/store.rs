//! The run store from outside: a real process killed at random moments, and files of every schema that stay readable.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kvsweep_results::{
    Bootstrap, Budget, CacheSize, ExampleInfo, ExampleKey, ExampleRecord, Finish, KeptPositions, LayerKept,
    Manifest, Merged, MethodInfo, ModelInfo, Needle, ProgramInfo, ProtocolInfo, Run, RunDataset, RunDir,
    SCHEMA, ScoreTable, SelectionDigest, TableLayout, Timings, VariantKept, VariantRecord, VariantTiming,
};
use rand::{Rng, SeedableRng};

/// Set for the child process: the run directory it fills.
const CHILD: &str = "KVSWEEP_TEST_WRITER";
const EXAMPLES: u64 = 60;

fn dataset(examples: u64) -> RunDataset {
    RunDataset { name: "qasper".into(), sha256: "d".into(), examples, total: examples }
}

fn manifest() -> Manifest {
    let method = |spec: &str, budgeted| MethodInfo {
        spec: spec.into(),
        params: [("window".to_owned(), "8".to_owned())].into_iter().filter(|_| budgeted).collect(),
        granularity: "kv-head".into(),
        budgeted,
    };
    Manifest {
        schema: SCHEMA,
        program: ProgramInfo { version: "0.1.0".into(), commit: "abc".into() },
        model: ModelInfo {
            name: "tiny".into(),
            weights_sha256: "w".into(),
            tokenizer_sha256: "t".into(),
            files: BTreeMap::from([("config.json".to_owned(), "c".to_owned())]),
            embedded: true,
        },
        suite: "longbench".into(),
        split: "mini".into(),
        protocol: ProtocolInfo { name: "kvsweep-1".into(), version: "1".into(), sha256: "p".into() },
        datasets: vec![dataset(EXAMPLES)],
        methods: vec![method("full", false), method("snapkv", true)],
        budgets: [64, 128].map(Budget::Entries).to_vec(),
        device: "cpu".into(),
        dtype: "f32".into(),
        limit: None,
        shard: None,
        seed: 42,
        settings: Default::default(),
    }
}

fn record(manifest: &Manifest, row: u64, seconds: f64) -> (ExampleRecord, KeptPositions) {
    let layers = vec![LayerKept::All, LayerKept::Heads(vec![vec![0, 1, 5, row as u32 + 6], vec![2]])];
    let variants: Vec<_> = manifest.variants();
    let kept = KeptPositions {
        variants: variants
            .iter()
            .map(|variant| VariantKept { variant: variant.to_string(), layers: layers.clone() })
            .collect(),
    };
    let record = ExampleRecord {
        schema: SCHEMA,
        key: ExampleKey { dataset: "qasper".into(), example: format!("qasper-{row}") },
        info: ExampleInfo {
            row,
            language: "en".into(),
            length: Some(4321),
            bucket: Some("4-8k".into()),
            context: None,
            answers: vec!["yes".into(), "段落".into()],
            all_classes: Vec::new(),
            prompt_sha256: "p".into(),
            prompt_tail: "Question: why?\nAnswer:".into(),
            prompt_tokens: 500,
            compressed_tokens: None,
            truncated_tokens: 3,
            needle: Some(Needle { length: 512, depth: 11.0, start: Some(50), end: Some(60) }),
        },
        skipped: None,
        timings: Some(Timings {
            prefill_s: seconds,
            variants: vec![VariantTiming { select_s: seconds, decode_s: seconds }; variants.len()],
        }),
        variants: variants
            .into_iter()
            .enumerate()
            .map(|(place, variant)| VariantRecord {
                prediction: format!("answer {row} \u{202e}<script>\n").into(),
                prediction_sha256: "a".into(),
                new_tokens: 5,
                finish: Finish::Stop,
                metric: "qa-f1".into(),
                score: (row as f64 + place as f64) / 100.0,
                other_scores: BTreeMap::from([("rouge-l", 0.1 + 0.2)]).into(),
                kept: CacheSize {
                    entries_mean: 63.5,
                    entries_max: 70,
                    entries_nominal: 64.0,
                    bytes: 65_024,
                    last_only: false,
                },
                selection: Some(SelectionDigest::of(&layers)),
                retention: Some(vec![vec![1.0, 0.1], vec![0.0, 1.0 / 3.0]]),
                variant,
            })
            .collect(),
    };
    (record, kept)
}

/// Does the work that is left in the run directory.
fn fill(path: &Path, pause: Duration) -> Result<(), kvsweep_results::ResultsError> {
    let manifest = manifest();
    let mut run = RunDir::create_or_continue(path, &manifest)?;
    for row in 0..EXAMPLES {
        // Timings differ in every process, as real ones do.
        let seconds = f64::from(std::process::id() % 1000) / 1000.0;
        let (record, kept) = record(&manifest, row, seconds);
        if !run.finished_keys().contains(&record.key) {
            std::thread::sleep(pause);
            run.append(&record, Some(&kept))?;
        }
    }
    Ok(())
}

/// Not a test of its own: the process that [`killed_at_random_moments`] starts and kills.
#[test]
fn child_writer() {
    if let Some(path) = std::env::var_os(CHILD) {
        fill(Path::new(&path), Duration::from_millis(1)).unwrap();
    }
}

/// All files of a directory with their bytes; records without their timings.
fn contents(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            all.extend(contents(&path).into_iter().map(|(inner, text)| (name.join(inner), text)));
        } else {
            let mut text = std::fs::read_to_string(&path).unwrap();
            if name.ends_with("records.jsonl") {
                // The checksum is over the timings, too.
                let strip = |line: &str| line.split(",\"timings\":").next().unwrap().to_owned() + "\n";
                text = text.lines().map(strip).collect();
            }
            all.insert(name, text);
        }
    }
    all
}

#[test]
fn killed_at_random_moments() {
    let dir = tempfile::tempdir().unwrap();
    let undisturbed = dir.path().join("undisturbed");
    fill(&undisturbed, Duration::ZERO).unwrap();
    let disturbed = dir.path().join("disturbed");
    let finished = |path: &Path| Run::load(path).map_or(0, |run| run.examples.len());
    let (mut kills, mut before) = (0, 0);
    // Moments from 1 ms (before the manifest) upward; small primes spread them over the writes.
    for moment in 0..400_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_writer"])
            .env(CHILD, &disturbed)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(900 + (moment * 7919) % 23_000));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        if !status.success() {
            kills += 1;
        }
        let now = finished(&disturbed);
        assert!(now >= before, "a finished example was lost: {before} became {now}");
        before = now;
        if kills >= 20 && now == EXAMPLES as usize {
            break;
        }
    }
    assert!(kills >= 20, "only {kills} processes were killed in work");
    fill(&disturbed, Duration::ZERO).unwrap();
    assert!(Run::load(&disturbed).unwrap().is_complete());
    let (mut disturbed, undisturbed) = (contents(&disturbed), contents(&undisturbed));
    // Examples are finished in order, so even the order of the lines is the same.
    disturbed.retain(|path, _| !path.to_string_lossy().ends_with(".part"));
    assert_eq!(disturbed, undisturbed);
}

/// A run of every schema is read by every later version, and written back byte for byte by the version of its own.
#[test]
fn every_schema_stays_readable() {
    // The configuration's hash names histories: it must not move.
    for (schema, configuration) in [(1, "8c4e759a680838c8"), (2, "1c0d3a86e8205b9b")] {
        reads_back(schema, configuration);
    }
}

fn reads_back(schema: u32, configuration: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/run-v{schema}"));
    let run = Run::load(&path).unwrap();
    assert_eq!(run.problems, []);
    let mut expected = manifest();
    expected.schema = schema;
    expected.datasets = vec![dataset(3)];
    if schema == 1 {
        expected.model.files.clear();
        expected.protocol.sha256.clear();
    }
    assert_eq!(run.manifest, expected);
    assert!(run.is_complete());
    for (row, have) in run.examples.iter().enumerate() {
        let (mut record, kept) = record(&expected, row as u64, 0.25);
        record.schema = schema;
        assert_eq!(*have, record);
        assert_eq!(run.kept(&have.key).unwrap(), Some(kept));
    }
    if schema == SCHEMA {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path());
        for name in ["manifest.json", "records.jsonl"] {
            let text = |folder: &Path| std::fs::read_to_string(folder.join(name)).unwrap();
            assert_eq!(text(dir.path()), text(&path));
        }
    }
    assert_eq!(run.manifest.configuration(), configuration);
    let layout = TableLayout {
        title: "LongBench".into(),
        columns: vec![kvsweep_results::Column {
            title: "qasper".into(),
            dataset: "qasper".into(),
            bucket: None,
            percent: |scores| 100.0 * scores.iter().sum::<f64>() / scores.len() as f64,
        }],
        categories: Vec::new(),
        average: kvsweep_results::Mean {
            title: "Average".into(),
            parts: vec![("qasper".into(), 1.0)],
            percent: |parts| parts.iter().map(|(weight, percent)| weight * percent).sum(),
        },
        counts_removed: false,
    };
    let merged = Merged::of(&[run], false).unwrap();
    let table = ScoreTable::new(&merged, &layout, &Bootstrap::default()).unwrap();
    assert_eq!(table.rows[0].cells[0].unwrap().score, 1.0);
}

/// Whatever is overwritten, cut or doubled in the files, a run is read in part or refused; nothing panics, and continuing
/// never loses a whole line.
#[test]
fn damage_anywhere_is_reported() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/run-v2");
    let dir = tempfile::tempdir().unwrap();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    for name in ["records.jsonl", "manifest.json"] {
        let whole = std::fs::read(fixture.join(name)).unwrap();
        let manifest = std::fs::read(fixture.join("manifest.json")).unwrap();
        let mut refused = 0;
        for _ in 0..1500 {
            let mut bytes = whole.clone();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..bytes.len());
                match random.random_range(0..4) {
                    0 => bytes[at] = random.random(),
                    1 => bytes.truncate(at.max(1)),
                    2 => bytes.insert(at, b"\n{}[]\",:0-"[random.random_range(0..10)]),
                    _ => {
                        let end = (at + random.random_range(1..200)).min(bytes.len());
                        let piece = bytes[at..end].to_vec();
                        bytes.splice(at..at, piece);
                    }
                }
            }
            std::fs::write(dir.path().join("manifest.json"), &manifest).unwrap();
            std::fs::write(dir.path().join(name), &bytes).unwrap();
            match Run::load(dir.path()) {
                Ok(run) => assert!(run.examples.len() <= 3),
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains(name), "{error}");
                }
            }
        }
        assert!(refused < 1500);
    }
}

/// Writes the fixture anew when `KVSWEEP_WRITE_FIXTURE` names a directory; a new schema gets a directory of its own.
#[test]
fn write_fixture() {
    if let Some(path) = std::env::var_os("KVSWEEP_WRITE_FIXTURE") {
        write(Path::new(&path));
    }
}

fn write(path: &Path) {
    let manifest = Manifest { datasets: vec![dataset(3)], ..manifest() };
    let mut run = RunDir::create_or_continue(path, &manifest).unwrap();
    for row in 0..3 {
        let (record, kept) = record(&manifest, row, 0.25);
        run.append(&record, Some(&kept)).unwrap();
    }
}
