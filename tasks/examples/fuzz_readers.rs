//! Mutational fuzzing of everything that reads untrusted text: metrics, the Python literal parser, data
//! set files, prediction trees and result files. Deterministic: the same arguments give the same inputs.
//!
//! `cargo run --release -p kvsweep-tasks --example fuzz_readers -- [EXECUTIONS [SEED [CORPUS_DIR [TARGET]]]]`
//!
//! TARGET, a part of a name, leaves out the other targets. Every line of a file in `CORPUS_DIR` that is shorter than 1024 bytes is one more starting point. A panic, a broken
//! invariant (a score outside 0..1, segments that do not join to their text) or an input that takes longer than ten
//! seconds is a finding: it is printed, and the exit status is 1. A finding becomes a regression test beside the code
//! it broke.

#![expect(clippy::print_stdout, reason = "a tool's report")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use kvsweep_tasks::metrics::{self, jieba, reorder};
use kvsweep_tasks::needle::insert::insert_needle;
use kvsweep_tasks::python::literal;
use kvsweep_tasks::{datasets, layouts, read_rows};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Longest input in bytes. Readers of long files are tested by size elsewhere; here speed finds more.
const MAX_INPUT: usize = 1024;
const SLOW: Duration = Duration::from_secs(10);

/// Pieces that mean something to one of the readers: words between blanks, and single characters.
const WORDS: &str = r#"''' \n \u00e9 \ud800 \x4 \101 ... b' r" None True true null NaN -Infinity 1e999 -1 007 1_0 0x 9007199254740993
18446744073709551616 4294967295 // Paragraph 段落 北京 the <mask-0> id prediction answers all_classes context input _id"#;
const CHARACTERS: &str =
    "{}[](),:'\"\\#.%`a0９²的İΣ \n\r\t\0\u{1}\u{c}\u{1c}\u{85}\u{2028}\u{3000}\u{feff}\u{301}";

/// Starting points, one a shape of input. Pairs of prediction and answers are separated by U+0001.
const SEEDS: &[&str] = &[
    "The answer is Paragraph 12.\u{1}Paragraph 12\u{1}Paragraph 3",
    "段落3，清华大学（北京）3.5%。\u{1}段落3\u{1}清华大学",
    "```py\n\nreturn self.x  # y\nreturn x // 2\u{1}return self.x",
    "a b c. d e. f\u{1}a c b. f e d. ",
    "{'<mask-0>': 'Ana O\\'Brien', \"<mask-1>\": 'x' \"y\", }\u{1}{'<mask-0>': 'Ana', '<mask-1>': 'x'}",
    "[{'Q': 'Who?', 'A': \"it's \\u00e9\", 'S': ['a', None, -1.5e3, (1,), {2}], 'type': b'x'}]",
    r#"{"input":"Q?","context":"some text","answers":["a","b"],"length":5,"dataset":"qasper","language":"en","all_classes":null,"_id":"x"}"#,
    r#"{"input":"","context":"{context}","answers":[],"length":-1,"dataset":"trec","language":"en","all_classes":["A","B"],"_id":"y"}"#,
    r#"{"pred":"Paragraph 3","answers":["Paragraph 3"],"all_classes":null,"length":4000}"#,
    r#"{"prompt":"p","input":"i","context":"c","answers":["a"],"pred":"a","length":3,"dataset":"trec","language":"en","all_classes":["a"],"_id":"x"}"#,
    r#"{"model":"m","context_length":1000,"depth_percent":11.0,"version":1,"needle":"n","model_response":"eat a sandwich","score":7.5,"test_duration_seconds":1.0}"#,
    r#"{"qasper":{"0-4k":33.2,"4-8k":NaN,"8k+":1e2},"trec":-1,"avg":-Infinity}"#,
    r#"{"input":"long document","title":"t","qa_pairs":"[{'Q': 'q', 'A': 'a', 'S': ['s'], 'type': 'computation'}]","output":"none"}"#,
];

/// Layouts of predictions and the file of each that is fuzzed.
const TREES: [(&str, &str); 12] = [
    ("longbench", "trec.jsonl"),
    ("longbench-e", "qasper.jsonl"),
    ("compresskv", "lcc.jsonl"),
    ("kvcache-factory", "trec/SnapKV.json"),
    ("headkv", "qasper/ReasonKV.json"),
    ("adakv", "samsum.jsonl"),
    ("snapkv", "passage_retrieval_en.jsonl"),
    ("needle-gkamradt", "cell_results.json"),
    ("needle-kvcache-factory", "cell_results.json"),
    ("needle-headkv", "cells.jsonl"),
    ("needle-compresskv", "cell_results.json"),
    ("needle-compresskv", "cells.jsonl"),
];

type Run = Box<dyn Fn(&[u8], usize)>;

struct Target {
    name: &'static str,
    /// Parts of all executions.
    share: u64,
    /// Reads an input; the number picks one of the metrics, file names or data sets.
    run: Run,
}

fn target(name: &'static str, share: u64, run: impl Fn(&[u8], usize) + 'static) -> Target {
    Target { name, share, run: Box::new(run) }
}

fn targets(scratch: &Path) -> Vec<Target> {
    let mut all = vec![
        target("python literal", 22, |bytes, _| {
            let text = String::from_utf8_lossy(bytes);
            let value = literal::expression(&text);
            if let Ok(value) = &value {
                let _ = (value.get("<mask-0>"), value.as_str(), value.items());
            }
            if let Ok(literal) = literal::parse(&text) {
                assert_eq!(Ok(literal), value, "a literal is an expression");
            }
        }),
        target("jieba", 2, |bytes, _| {
            let text = String::from_utf8_lossy(bytes);
            assert_eq!(jieba::cut(&text).concat(), text, "segments must join to the text");
        }),
        target("metrics", 16, |bytes, choice| {
            let text = String::from_utf8_lossy(bytes);
            let mut parts = text.split('\u{1}');
            let prediction = parts.next().unwrap_or_default();
            let answers: Vec<String> = parts.map(str::to_owned).collect();
            if let Some(metric) = metrics::all().get(choice % (metrics::all().len() + 3)) {
                if let Ok(score) = metric.score(prediction, &answers, &answers) {
                    assert!((0.0..=1.0 + 1e-12).contains(&score), "{} gives {score}", metric.id());
                }
                return;
            }
            let _ = metrics::by_id(prediction);
            metrics::babilong::compare_answers(prediction, &text, &text, &answers);
            let order: Vec<char> = prediction.chars().take(50).collect();
            let _ = reorder::deviations(&order, &order.iter().rev().copied().collect::<Vec<_>>());
        }),
        target("needle insertion", 5, |bytes, choice| {
            let ids: Vec<u32> = bytes.iter().map(|&b| u32::from(b)).collect();
            let (needle, context) = ids.split_at(ids.len().min(5));
            let (depth, length, buffer) = ((choice % 241) as f64 / 2.0, choice / 7 % 600, choice / 11 % 300);
            let out = insert_needle(context, needle, &[13, 46], depth, length, buffer);
            assert!(
                out.len() <= ids.len()
                    && (needle.is_empty() || out.windows(needle.len()).any(|w| w == needle))
            );
        }),
    ];
    let result = scratch.join("result.json");
    all.push(target("result files", 5, move |bytes, _| {
        let _ = layouts::official::parse_with_nan(&String::from_utf8_lossy(bytes));
        if fs_err::write(&result, bytes).is_ok() {
            let _ = layouts::official::result_file(&result);
        }
    }));
    // One prediction file a layout, in a folder of its own.
    let trees: Vec<(&'static str, PathBuf, PathBuf)> = TREES
        .iter()
        .map(|(layout, file)| {
            let dir = scratch.join(layout);
            (*layout, dir.clone(), dir.join(file))
        })
        .collect();
    for (_, _, file) in &trees {
        let _ = file.parent().map(fs_err::create_dir_all);
    }
    all.push(target("prediction trees", 15, move |bytes, choice| {
        let Some((layout, dir, file)) = trees.get(choice % trees.len()) else { return };
        if fs_err::write(file, bytes).is_ok() {
            let _ = layouts::score(dir, layout, None);
        }
    }));
    for (name, share, file, packs) in [
        ("rows: jsonl", 12, "rows.jsonl", false),
        ("rows: gz", 4, "rows.jsonl.gz", true),
        ("rows: zst", 2, "rows.jsonl.zst", true),
        ("rows: zip", 2, "data.zip", true),
    ] {
        let path = scratch.join(file);
        all.push(target(name, share, move |bytes, choice| {
            let Some(info) = datasets::all().get(choice % datasets::all().len()) else { return };
            // Half the inputs of a compressed reader are damaged containers, half are sound ones with damaged rows.
            let packed = packs && bytes.len() % 2 == 0;
            let content = if packed { pack(&path, info.name, bytes) } else { bytes.to_vec() };
            if fs_err::write(&path, content).is_ok() {
                let _ = read_rows(&path, info.name);
            }
        }));
    }
    all
}

/// The bytes as a gzip or zstd file, or as a data set's member of a zip; every third container is damaged in one place.
fn pack(path: &Path, dataset: &str, bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut packed = if path.extension().is_some_and(|end| end == "gz") {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let _ = encoder.write_all(bytes);
        encoder.finish().unwrap_or_default()
    } else if path.extension().is_some_and(|end| end == "zst") {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    } else {
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let _ = archive.start_file(format!("data/{dataset}.jsonl"), zip::write::SimpleFileOptions::default());
        let _ = archive.write_all(bytes);
        archive.finish().map(std::io::Cursor::into_inner).unwrap_or_default()
    };
    if bytes.len().is_multiple_of(3) {
        let place = bytes.iter().map(|&b| usize::from(b)).sum::<usize>() % packed.len().max(1);
        if let Some(byte) = packed.get_mut(place) {
            *byte = byte.wrapping_add(1);
        }
    }
    packed
}

/// A word or a character, as likely.
fn token(rng: &mut ChaCha8Rng) -> String {
    let (words, characters) = (WORDS.split_whitespace(), CHARACTERS.chars());
    let word = words.clone().nth(rng.random_range(0..words.count())).unwrap_or_default();
    let character = characters.clone().nth(rng.random_range(0..characters.count())).unwrap_or_default();
    if rng.random_range(0..2) == 0 { word.to_owned() } else { character.to_string() }
}

/// One to eight random edits of a starting point.
fn mutate(rng: &mut ChaCha8Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let pick =
        |rng: &mut ChaCha8Rng| seeds.get(rng.random_range(0..seeds.len())).cloned().unwrap_or_default();
    let mut input = pick(rng);
    for _ in 0..rng.random_range(1..=8) {
        let at = rng.random_range(0..=input.len());
        let end = (at + rng.random_range(0..=16)).min(input.len());
        match rng.random_range(0..8) {
            0 => {
                input.drain(at..end);
            }
            1 => {
                let token = token(rng);
                let times = if rng.random_range(0..20) == 0 { rng.random_range(1..300) } else { 1 };
                input.splice(at..at, token.repeat(times).into_bytes());
            }
            2 => {
                let token = token(rng);
                input.splice(at..end, token.bytes());
            }
            3 => {
                let copy: Vec<u8> = input.get(at..end).unwrap_or_default().to_vec();
                let to = rng.random_range(0..=input.len());
                input.splice(to..to, copy);
            }
            4 => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << rng.random_range(0..8);
                }
            }
            5 => {
                let other = pick(rng);
                let from = rng.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(other.get(from..).unwrap_or_default());
            }
            6 => input.truncate(at),
            _ => {
                let c = char::from_u32(rng.random_range(0..0x1_1000)).unwrap_or('\u{ffff}');
                input.splice(at..at, c.to_string().into_bytes());
            }
        }
        input.truncate(MAX_INPUT);
    }
    input
}

fn corpus(dir: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs_err::read_dir(dir)? {
        files.push(entry?.path());
    }
    files.sort();
    let mut seeds = Vec::new();
    for file in files.iter().filter(|path| path.is_file()) {
        let bytes = fs_err::read(file)?;
        seeds.extend(
            bytes.split(|&b| b == b'\n').filter(|l| !l.is_empty() && l.len() < MAX_INPUT).map(<[u8]>::to_vec),
        );
    }
    Ok(seeds)
}

fn built_in_seeds() -> Vec<Vec<u8>> {
    SEEDS.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let executions: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let seed: u64 = args.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut seeds = built_in_seeds();
    if let Some(dir) = args.next() {
        match corpus(Path::new(&dir)) {
            Ok(more) => seeds.extend(more),
            Err(error) => {
                println!("cannot read the corpus: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    // The readers take paths; a memory file system keeps them fast.
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let scratch = base.join(format!("kvsweep-fuzz-{}", std::process::id()));
    if let Err(error) = fs_err::create_dir_all(&scratch) {
        println!("{error}");
        return ExitCode::FAILURE;
    }
    let only = args.next().unwrap_or_default();
    let targets: Vec<Target> = targets(&scratch).into_iter().filter(|t| t.name.contains(&only)).collect();
    let findings = fuzz(&targets, executions, seed, &seeds);
    let _ = fs_err::remove_dir_all(&scratch);
    if findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the targets in turn until `executions` calls are made; gives the number of findings.
fn fuzz(targets: &[Target], executions: u64, seed: u64, seeds: &[Vec<u8>]) -> u64 {
    let shares: u64 = targets.iter().map(|target| target.share).sum();
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let (mut findings, mut total) = (0, 0);
    for (index, Target { name, share, run }) in targets.iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(1000).wrapping_add(index as u64));
        let share = (executions * share).div_ceil(shares);
        total += share;
        let (start, mut slowest) = (Instant::now(), Duration::ZERO);
        for _ in 0..share {
            let input = mutate(&mut rng, seeds);
            let choice = rng.random_range(0..1 << 30);
            let began = Instant::now();
            let result = catch_unwind(AssertUnwindSafe(|| run(&input, choice)));
            let took = began.elapsed();
            slowest = slowest.max(took);
            let problem = match result {
                Err(payload) => payload
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                    .or(Some("a panic".to_owned())),
                Ok(()) => (took > SLOW).then(|| format!("took {took:?}")),
            };
            if let Some(problem) = problem {
                findings += 1;
                println!("FINDING in {name}: {problem}\n  input: {:?}", String::from_utf8_lossy(&input));
            }
        }
        let rate = share as f64 / start.elapsed().as_secs_f64();
        println!("{name}: {share} executions, {rate:.0} a second, slowest {slowest:?}");
    }
    std::panic::set_hook(default_hook);
    println!("{total} executions, {findings} findings");
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_run_finds_nothing_and_a_broken_reader_is_found() {
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(fuzz(&targets(scratch.path()), 5000, 0, &built_in_seeds()), 0);
        let broken = target("broken", 1, |bytes, _| assert!(!bytes.contains(&0), "a null byte"));
        assert!(fuzz(&[broken], 2000, 0, &built_in_seeds()) > 0);
    }

    #[test]
    fn the_same_seed_gives_the_same_inputs() {
        let inputs = |seed| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            (0..100).map(|_| mutate(&mut rng, &built_in_seeds())).collect::<Vec<_>>()
        };
        assert!(inputs(1) == inputs(1) && inputs(1) != inputs(2));
    }
}
