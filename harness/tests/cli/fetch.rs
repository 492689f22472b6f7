//! `fetch` through the real program, from a loopback server that speaks the hub's protocol; afterwards all works offline.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::common::{kvsweep, outcome};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Where nothing listens.
const NOWHERE: &str = "http://127.0.0.1:9";

/// The files of one model and of LongBench, by their address.
struct Hub {
    files: BTreeMap<String, Vec<u8>>,
}

struct Server {
    endpoint: String,
    requests: Arc<AtomicUsize>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Hub {
    /// The model of a parity fixture as `test/model`, and an archive with one row of hotpotqa.
    fn new() -> Self {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/fixtures/parity/qwen2");
        let mut files = BTreeMap::new();
        for name in ["config.json", "generation_config.json", "model.safetensors"] {
            files
                .insert(format!("/test/model/resolve/main/{name}"), std::fs::read(model.join(name)).unwrap());
        }
        files.insert("/datasets/THUDM/LongBench/resolve/main/data.zip".to_owned(), archive());
        Self { files }
    }

    fn serve(self) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                // A client that closes early is no fault of the server.
                let _ = self.answer(stream.unwrap());
            }
        });
        Server { endpoint, requests }
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        let mut range = String::new();
        for line in lines {
            let line = line?;
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("range: bytes=") {
                range = value.to_owned();
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        let plain = |status: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
        };
        if path == "/api/models/test/model/revision/main" {
            let names = self.files.keys().filter_map(|path| path.strip_prefix("/test/model/resolve/main/"));
            let siblings: Vec<Value> = names.map(|name| json!({"rfilename": name})).collect();
            let info = json!({"sha": COMMIT, "siblings": siblings}).to_string();
            return stream.write_all(plain("200 OK", &info).as_bytes());
        }
        let Some(bytes) = self.files.get(path) else {
            return stream.write_all(plain("404 Not Found", "").as_bytes());
        };
        let etag = if path.ends_with(".json") {
            hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
        } else {
            hex(&Sha256::digest(bytes))
        };
        let (from, to) = range.split_once('-').unwrap_or(("0", ""));
        let from: usize = from.parse().unwrap_or(0);
        let to = to.parse().map_or(bytes.len(), |to: usize| to + 1);
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nETag: \"{etag}\"\r\nX-Linked-ETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\n\
             Content-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            to - 1,
            bytes.len(),
            to - from
        )?;
        stream.write_all(&bytes[from..to])
    }
}

fn archive() -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.start_file("data/hotpotqa.jsonl", zip::write::SimpleFileOptions::default()).unwrap();
    let row = json!({"input": "q", "context": "words ".repeat(200), "answers": ["a"], "length": 200,
        "dataset": "hotpotqa", "language": "en", "all_classes": null, "_id": "x"});
    writeln!(writer, "{row}").unwrap();
    writer.finish().unwrap().into_inner()
}

#[test]
fn what_is_fetched_once_works_offline() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    std::fs::write(dir.join("ids.json"), "[10,11,12,13,14,15]").unwrap();
    let at = |endpoint: &str, arguments: &[&str]| {
        outcome(kvsweep(dir).env("HF_ENDPOINT", endpoint).args(arguments))
    };
    let generate =
        ["generate", "--model", "test/model", "--ids", "ids.json", "--max-new", "3", "--ignore-eos"];
    let rows = [
        "run",
        "longbench",
        "--split",
        "full",
        "--datasets",
        "hotpotqa",
        "--methods",
        "full",
        "--limit",
        "1",
    ];

    // Before: the remedy, and nobody is asked without being told to.
    let hub = Hub::new();
    let files = hub.files.clone();
    let server = hub.serve();
    for (command, remedy) in
        [(&generate[..], "kvsweep fetch model test/model"), (&rows[..], "kvsweep fetch data longbench")]
    {
        let (code, _, stderr) = at(&server.endpoint, command);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains(remedy), "{stderr}");
    }
    assert_eq!(server.requests.load(Ordering::SeqCst), 0, "only `fetch` uses the network");

    let (code, stdout, stderr) = at(&server.endpoint, &["fetch", "model", "test/model"]);
    assert_eq!(code, 0, "{stderr}");
    for (path, bytes) in files.iter().filter(|(path, _)| path.starts_with("/test")) {
        let line = stdout.lines().find(|line| line.ends_with(path.rsplit('/').next().unwrap()));
        assert!(line.is_some_and(|line| line.starts_with(&hex(&Sha256::digest(bytes)))), "{path}: {stdout}");
    }
    let (code, stdout, stderr) = at(&server.endpoint, &["fetch", "data", "longbench"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with(&hex(&Sha256::digest(archive()))) && stdout.contains("data.zip"), "{stdout}");

    // After: as from a directory, and without a hub.
    let answer = |stdout: &str| -> Value {
        serde_json::from_str::<Value>(stdout).unwrap()["answers"][0]["ids"].clone()
    };
    let (code, stdout, stderr) = at(NOWHERE, &[&generate[..], &["--json"]].concat());
    assert_eq!(code, 0, "{stderr}");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/fixtures/parity/qwen2");
    let fixture = fixture.display().to_string();
    let mut local = generate;
    local[2] = &fixture;
    let (_, expected, _) = at(NOWHERE, &[&local[..], &["--json"]].concat());
    assert_eq!(answer(&stdout), answer(&expected));
    let (code, stdout, stderr) = at(NOWHERE, &rows);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("hotpotqa"), "{stdout}");
    let (code, stdout, stderr) = at(NOWHERE, &["fetch", "data", "longbench"]);
    assert_eq!(code, 0, "a whole copy is not fetched again: {stderr}");
    assert!(stdout.contains("data.zip"), "{stdout}");
    let (_, models, _) = at(NOWHERE, &["list", "models"]);
    assert!(models.contains("test/model"), "{models}");
}

#[test]
fn a_hub_that_does_not_answer_is_named() {
    let temporary = tempfile::tempdir().unwrap();
    for what in [["fetch", "model", "test/model"], ["fetch", "data", "longbench"]] {
        let (code, _, stderr) = outcome(kvsweep(temporary.path()).env("HF_ENDPOINT", NOWHERE).args(what));
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains(what[2]) && !stderr.contains("panicked"), "{stderr}");
    }
    let (code, _, stderr) = outcome(kvsweep(temporary.path()).args(["fetch", "data", "longbnch"]));
    assert!(code != 0 && stderr.contains("`longbench`"), "{code}: {stderr}");
}
