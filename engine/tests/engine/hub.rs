//! Fetching from a hub: a loopback server that speaks the hub's protocol, then offline.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

use kvsweep_engine::{
    Cpu,
    session::Session,
    source::{Hub, fetch, from_dir, resolve_hub},
};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::support::fixture;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// One repository, `test/model`, served until the process ends.
struct Server {
    endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
}

struct Repository {
    files: BTreeMap<String, Vec<u8>>,
    /// Requests without this token are refused.
    token: Option<&'static str>,
    /// Announce the hash of other bytes for this file.
    lie_about: Option<&'static str>,
}

impl Repository {
    fn of(model: &str) -> Self {
        let entries = fs::read_dir(fixture("parity").join(model)).unwrap().map(|entry| entry.unwrap().path());
        let file =
            |path: &Path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap());
        Self { files: entries.map(|path| file(&path)).collect(), token: None, lie_about: None }
    }

    fn serve(self) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that closes early is no fault of the server.
                let _ = self.answer(stream.unwrap(), &log);
            }
        });
        Server { endpoint, requests }
    }

    fn answer(&self, stream: TcpStream, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            reader.by_ref().read_line(&mut line)?;
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
        let header = |name: &str| {
            let found = lines.iter().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}: ")));
            found.map(|line| line[name.len() + 2..].to_owned())
        };
        log.lock().unwrap().push(path.clone());
        let mut stream = stream;
        let plain = |status: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
        };
        if self.token.is_some_and(|token| header("authorization") != Some(format!("Bearer {token}"))) {
            return stream.write_all(plain("401 Unauthorized", "").as_bytes());
        }
        if path == "/api/models/test/model/revision/main" {
            let siblings: Vec<_> =
                self.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
            let info = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
            return stream.write_all(plain("200 OK", &info).as_bytes());
        }
        let Some((name, bytes)) =
            path.strip_prefix("/test/model/resolve/main/").and_then(|name| self.files.get_key_value(name))
        else {
            return stream.write_all(plain("404 Not Found", "").as_bytes());
        };
        let announced: &[u8] = if self.lie_about == Some(name) { b"other bytes" } else { bytes };
        let etag = if name.ends_with(".safetensors") {
            format!("{:x}", Sha256::digest(announced))
        } else {
            let git = Sha1::new_with_prefix(format!("blob {}\0", announced.len())).chain_update(announced);
            format!("{:x}", git.finalize())
        };
        let range = header("range").unwrap_or_default();
        let (from, to) = range.trim_start_matches("bytes=").split_once('-').unwrap_or(("0", ""));
        let from: usize = from.parse().unwrap_or(0);
        let to = to.parse().map_or(bytes.len(), |to: usize| to + 1);
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\n\
             Content-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            to - 1,
            bytes.len(),
            to - from
        )?;
        stream.write_all(&bytes[from..to])
    }
}

fn hub(server: &Server, cache: &Path, token: Option<&str>) -> Hub {
    Hub { cache: cache.join("hub"), endpoint: server.endpoint.clone(), token: token.map(str::to_owned) }
}

#[test]
fn fetches_once_then_works_offline() {
    let mut repository = Repository::of("mistral");
    repository.files.insert("pytorch_model.bin".into(), b"pickle".to_vec());
    repository.files.insert("README.md".into(), b"text".to_vec());
    repository.token = Some("secret");
    let server = repository.serve();
    let cache = tempfile::tempdir().unwrap();
    let online = hub(&server, cache.path(), Some("secret"));

    let message = resolve_hub("test/model", &online).unwrap_err().to_string();
    assert!(message.contains("download it with `kvsweep fetch model test/model`"), "{message}");
    assert!(server.requests.lock().unwrap().is_empty(), "only fetch uses the network");

    let message =
        fetch("test/model", &hub(&server, cache.path(), None), &mut |_, _, _| ()).unwrap_err().to_string();
    assert!(message.contains("401") && message.contains("set HF_TOKEN"), "{message}");

    let mut progress = BTreeMap::new();
    let fetched = fetch("test/model", &online, &mut |file, done, total| {
        progress.insert(file.to_owned(), (done, total));
    })
    .unwrap();
    let names: Vec<_> = fetched.iter().map(|file| file.name.as_str()).collect();
    let expected = [
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
    ];
    assert_eq!(names, expected);
    for file in &fetched {
        assert_eq!(progress[&file.name], (file.bytes, file.bytes));
        let original = fs::read(fixture("parity/mistral").join(&file.name)).unwrap();
        assert_eq!(file.sha256, format!("{:x}", Sha256::digest(original)));
    }
    let asked = server.requests.lock().unwrap().len();
    assert!(
        !server.requests.lock().unwrap().iter().any(|path| path.ends_with(".bin") || path.ends_with(".md"))
    );

    // Again: only the list of files is asked for. Offline: nothing is.
    assert_eq!(fetch("test/model", &online, &mut |_, _, _| ()).unwrap(), fetched);
    assert_eq!(server.requests.lock().unwrap().len(), asked + 1);
    let offline = Hub { endpoint: "http://127.0.0.1:9".into(), ..online };
    let model = Session::<Cpu>::load(&resolve_hub("test/model", &offline).unwrap()).unwrap();
    let original = from_dir(&fixture("parity/mistral")).unwrap();
    let original = Session::<Cpu>::load(&original).unwrap();
    assert_eq!((model.name.as_str(), &model.weights_sha256), ("test/model", &original.weights_sha256));

    // A shard that went missing is named, with the remedy.
    fs::remove_file(&fetched[4].path).unwrap();
    let message = resolve_hub("test/model", &offline).unwrap_err().to_string();
    assert!(
        message.contains("`model-00002-of-00003.safetensors` of hub model `test/model` is not in"),
        "{message}"
    );
    let message = fetch("test/model", &offline, &mut |_, _, _| ()).unwrap_err().to_string();
    assert!(message.contains("cannot fetch `list of files` of hub model `test/model`"), "{message}");
}

/// Every file below a directory.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn wrong_bytes_are_refused() {
    for lie in ["model.safetensors", "config.json"] {
        let mut repository = Repository::of("qwen3");
        repository.lie_about = Some(lie);
        let server = repository.serve();
        let cache = tempfile::tempdir().unwrap();
        let error = fetch("test/model", &hub(&server, cache.path(), None), &mut |_, _, _| ()).unwrap_err();
        assert!(error.to_string().contains("delete it if it is still there"), "{lie}: {error}");
        let cached = walk(&cache.path().join("hub"));
        assert!(!cached.iter().any(|path| path.file_name().unwrap() == lie), "{cached:?}");
    }
}

#[test]
fn pickles_are_not_downloaded() {
    let mut repository = Repository::of("qwen3");
    let pickle = repository.files.remove("model.safetensors").unwrap();
    repository.files.insert("pytorch_model.bin".into(), pickle);
    let server = repository.serve();
    let cache = tempfile::tempdir().unwrap();
    let error = fetch("test/model", &hub(&server, cache.path(), None), &mut |_, _, _| ()).unwrap_err();
    assert!(error.to_string().starts_with("`test/model/pytorch_model.bin` is a PyTorch pickle"), "{error}");
    assert!(!server.requests.lock().unwrap().iter().any(|path| path.ends_with(".bin")));
}

#[test]
fn an_unknown_repository_is_named() {
    let server = Repository::of("qwen3").serve();
    let cache = tempfile::tempdir().unwrap();
    let error = fetch("test/other", &hub(&server, cache.path(), None), &mut |_, _, _| ()).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("test/other") && message.contains("404") && message.contains("check the id"),
        "{message}"
    );
}
