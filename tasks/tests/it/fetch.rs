//! Fetching through the real hub client from a local server that speaks the hub's layout.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kvsweep_tasks::fetch::{FetchOptions, fetch, source};
use kvsweep_tasks::{find_dataset, read_rows};
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[derive(Default)]
struct Hub {
    file: Vec<u8>,
    /// The announced SHA-256, if not the file's own.
    announced: Option<String>,
    /// So many downloads break off in the middle.
    drops: AtomicUsize,
    /// Answers a range with the whole file.
    ignores_ranges: bool,
    /// Redirects without saying where to.
    lost: bool,
}

struct Server {
    options: FetchOptions,
    requests: Arc<Mutex<Vec<String>>>,
    cache: tempfile::TempDir,
}

impl Hub {
    fn serve(self) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, base) = (Arc::clone(&requests), endpoint.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that closes early is no fault of the server.
                let _ = self.answer(stream.unwrap(), &base, &log);
            }
        });
        let cache = tempfile::tempdir().unwrap();
        let options = FetchOptions {
            cache: Some(cache.path().to_path_buf()),
            endpoint: Some(endpoint),
            retries: 0,
            ..FetchOptions::default()
        };
        Server { options, requests, cache }
    }

    fn answer(&self, mut stream: TcpStream, base: &str, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
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
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        log.lock().unwrap().push(format!("{path} {range}"));
        let etag = self.announced.clone().unwrap_or_else(|| sha256(&self.file));
        // The repository redirects to where large files are stored, which knows nothing of commits.
        if path == "/datasets/THUDM/LongBench/resolve/main/data.zip" {
            let place = if self.lost { String::new() } else { format!("Location: {base}/storage/x\r\n") };
            return write!(
                stream,
                "HTTP/1.1 302 Found\r\n{place}X-Repo-Commit: {COMMIT}\r\nX-Linked-ETag: \"{etag}\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        if path != "/storage/x" {
            return write!(
                stream,
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        let (from, to) = range.split_once('-').unwrap_or(("0", ""));
        let is_probe = to == "0";
        let from: usize = if self.ignores_ranges && !is_probe { 0 } else { from.parse().unwrap() };
        let to = if is_probe { 1 } else { self.file.len() };
        if from >= self.file.len() {
            return write!(
                stream,
                "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nETag: \"other\"\r\nContent-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            to - 1,
            self.file.len(),
            to - from
        )?;
        let breaks = !is_probe
            && self
                .drops
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .is_ok();
        stream.write_all(&self.file[from..if breaks { from + (to - from) / 2 } else { to }])
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn archive() -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    writer.start_file("data/hotpotqa.jsonl", stored).unwrap();
    let context = "words ".repeat(20_000);
    let row = serde_json::json!({"input": "q", "context": context, "answers": ["a"], "length": 7, "dataset": "hotpotqa",
        "language": "en", "all_classes": null, "_id": "x"});
    writeln!(writer, "{row}").unwrap();
    writer.finish().unwrap().into_inner()
}

#[test]
fn fetches_through_redirects_and_then_works_offline() {
    let server = Hub { file: archive(), ..Hub::default() }.serve();
    let mut told = Vec::new();
    let fetched = fetch("longbench", &server.options, &mut |done, total| told.push((done, total))).unwrap();
    let bytes = archive().len() as u64;
    assert_eq!(told.last(), Some(&(bytes, bytes)));
    assert!(!fetched.was_there && fetched.sha256 == sha256(&archive()));
    assert_eq!(source("hotpotqa").unwrap().local(&server.options), Some(fetched.path.clone()));
    let found = find_dataset(&fetched.path, "hotpotqa").unwrap();
    assert_eq!(read_rows(&found, "hotpotqa").unwrap().examples.len(), 1);
    let folder = fetched.path.parent().unwrap();
    assert_eq!(find_dataset(folder, "hotpotqa").unwrap(), fetched.path);
    let asked = server.requests.lock().unwrap().len();
    assert!(fetch("longbench-e", &server.options, &mut |_, _| ()).unwrap().was_there);
    assert_eq!(server.requests.lock().unwrap().len(), asked, "the second time the network is not used");
    // A copy that has been damaged since is fetched anew.
    fs_err::write(fs_err::canonicalize(&fetched.path).unwrap(), "damaged").unwrap();
    assert_eq!(fetch("longbench", &server.options, &mut |_, _| ()).unwrap().sha256, fetched.sha256);
}

#[test]
fn a_dropped_download_goes_on_where_it_stopped() {
    let server = Hub { file: archive(), drops: AtomicUsize::new(1), ..Hub::default() }.serve();
    let error = fetch("longbench", &server.options, &mut |_, _| ()).unwrap_err().to_string();
    assert!(error.contains("what has arrived is kept"), "{error}");
    assert_eq!(source("longbench").unwrap().local(&server.options), None);
    fetch("longbench", &server.options, &mut |_, _| ()).unwrap();
    let last = server.requests.lock().unwrap().last().cloned().unwrap();
    let from: usize = last.split(' ').nth(1).unwrap().trim_end_matches('-').parse().unwrap();
    assert_eq!(from, archive().len() / 2, "{last}");

    let server = Hub { file: archive(), drops: AtomicUsize::new(2), ..Hub::default() }.serve();
    let retrying = FetchOptions { retries: 3, ..server.options.clone() };
    assert_eq!(fetch("longbench", &retrying, &mut |_, _| ()).unwrap().sha256, sha256(&archive()));
}

#[test]
fn a_server_that_ignores_ranges_cannot_mix_two_copies() {
    let hub = Hub { file: archive(), drops: AtomicUsize::new(1), ignores_ranges: true, ..Hub::default() };
    let server = hub.serve();
    assert!(fetch("longbench", &server.options, &mut |_, _| ()).is_err());
    assert_eq!(fetch("longbench", &server.options, &mut |_, _| ()).unwrap().sha256, sha256(&archive()));
}

#[test]
fn wrong_hashes_and_malformed_answers_leave_nothing_behind() {
    let server = Hub { file: archive(), announced: Some(sha256(b"other")), ..Hub::default() }.serve();
    let error = fetch("longbench", &server.options, &mut |_, _| ()).unwrap_err().to_string();
    assert!(error.contains(&sha256(b"other")) && error.contains(&sha256(&archive())), "{error}");
    assert_eq!(source("longbench").unwrap().local(&server.options), None);
    for announced in ["../../../../evil", "0123"] {
        let server = Hub { file: archive(), announced: Some(announced.into()), ..Hub::default() }.serve();
        let error = fetch("longbench", &server.options, &mut |_, _| ()).unwrap_err().to_string();
        assert!(error.contains("announces no SHA-256"), "{error}");
        assert_eq!(fs_err::read_dir(server.cache.path()).unwrap().count(), 0);
    }
    let server = Hub { file: archive(), lost: true, ..Hub::default() }.serve();
    assert!(fetch("longbench", &server.options, &mut |_, _| ()).is_err());
    let error = fetch("loogle", &server.options, &mut |_, _| ()).unwrap_err().to_string();
    assert!(error.contains("404") && error.contains("loogle"), "{error}");
}
