//! The report in a real browser: it sorts, filters, opens examples by mouse and keyboard, shows hostile text
//! as text, and logs no error. Drives chromedriver over loopback; skipped where no browser is installed,
//! unless `KVSWEEP_REQUIRE_BROWSER=1`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use kvsweep_plots::heatmap::{self, Heatmap, Rows};
use kvsweep_plots::report::{
    Answer, Emphasis, Example, Fact, Figure, FigureGroup, Provenance, ReportData, Table, TableCell,
    TableHead, Tokens, render,
};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const HOSTILE: &str = "</script></textarea><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u{202e}live\u{2028}";

/// A report with every section.
fn sample() -> ReportData {
    let methods = ["full", "streamingllm", "snapkv", "pyramidkv", "headkv", "compresskv"];
    let sets = ["narrativeqa", "qasper", "hotpotqa", "gov_report", "trec", "lcc"];
    let mut variants = vec!["full".to_owned()];
    for method in &methods[1..] {
        variants.extend([64, 128, 256, 512].map(|b| format!("{method} · {b}")));
    }
    let score = |variant: usize, set: usize| 20.0 + ((variant * 13 + set * 29) % 41) as f64 * 0.77;
    let mut columns = vec![TableHead { title: "Method".into(), ..TableHead::default() }];
    columns.push(TableHead { title: "Budget".into(), numeric: true, summary: false });
    for set in sets {
        columns.push(TableHead { title: set.into(), numeric: true, summary: false });
    }
    columns.push(TableHead { title: "Average".into(), numeric: true, summary: true });
    let rows = variants.iter().enumerate().map(|(index, variant)| {
        let (method, budget) = variant.split_once(" · ").unwrap_or((variant, ""));
        let budget = budget.parse::<f64>().map_or(TableCell::text("all"), |b| TableCell::number(b, budget));
        let mut row = vec![TableCell::text(method), budget];
        let scores: Vec<f64> = (0..sets.len()).map(|set| score(index, set)).collect();
        for &value in scores.iter().chain([&(scores.iter().sum::<f64>() / scores.len() as f64)]) {
            let mark = if value > 48.0 {
                Emphasis::Best
            } else if value > 46.0 {
                Emphasis::Second
            } else {
                Emphasis::None
            };
            let note = format!("{:.1} to {:.1}", value - 3.2, value + 3.1);
            row.push(TableCell { note, mark, ..TableCell::number(value, format!("{value:.2}")) });
        }
        row
    });
    let scores = Table {
        title: "Scores, percent".into(),
        notes: vec![
            "Best compressed score of a budget bold, second underlined; 95 % intervals as small print."
                .into(),
        ],
        columns,
        rows: rows.collect(),
    };
    let paper = Table {
        title: "SnapKV, table 1".into(),
        notes: vec![],
        columns: ["Row", "Theirs", "Ours", "Verdict"]
            .map(|t| TableHead { title: t.into(), numeric: t == "Theirs" || t == "Ours", summary: false })
            .to_vec(),
        rows: [
            ("full", Emphasis::Reproduced, "reproduced"),
            ("snapkv 1024", Emphasis::Close, "close"),
            ("h2o 1024", Emphasis::Off, "off"),
        ]
        .map(|(row, mark, text)| {
            vec![
                TableCell::text(row),
                TableCell::number(33.2, "33.2"),
                TableCell::number(33.9, "33.9"),
                TableCell { mark, ..TableCell::text(text) },
            ]
        })
        .to_vec(),
    };
    let map = |title: &str, weak: f64| Heatmap {
        title: title.into(),
        subtitle: String::new(),
        lengths: (1..=8).map(|i| i * 512).collect(),
        rows: Rows::Depths((0..11).map(|i| f64::from(i) * 10.0).collect()),
        values: (0..11)
            .map(|d| {
                (0..8)
                    .map(|l| Some((100.0 - weak * f64::from(l * (5 - (d - 5_i32).abs()))).max(0.0)))
                    .collect()
            })
            .collect(),
        range: (0.0, 100.0),
    };
    let figure = |title: &str, weak| Figure {
        caption: title.into(),
        picture: heatmap::draw(&map(title, weak)).unwrap(),
    };
    let text = "The lighthouse keeper wrote down every ship that passed the cape. One evening, between two storms, a \
        schooner with red sails lay to and sent a boat ashore. The best thing to do in the harbour town is to sit on \
        the mole and eat a fresh herring. Question: what is the best thing to do in the harbour town? Answer:";
    let pieces: Vec<String> = text.split_inclusive(' ').map(str::to_owned).collect();
    let examples = (0..24).map(|index| {
        let set = index % sets.len();
        Example {
            dataset: sets[set].into(),
            name: format!("row {}", index / sets.len()),
            key: format!("{}#{index}", sets[set]),
            about: "1,204 tokens, 96 of them cut from the middle".into(),
            tail: String::new(),
            tokens: Some(Tokens { head: 18, gap: 1100, pieces: pieces.clone() }),
            answers: vec!["sit on the mole and eat a fresh herring".into()],
            results: (0..variants.len())
                .map(|variant| Answer {
                    variant,
                    prediction: match (index, variant) {
                        (0, 1) => HOSTILE.into(),
                        (0, 2) => "a".repeat(1 << 20).into(),
                        (0, 3) => "".into(),
                        (1, 1) => "吃一条新鲜的鲱鱼。".into(),
                        _ => "sit on the mole and eat a fresh herring".into(),
                    },
                    cut: None,
                    score: if index == 5 { 100.0 } else { score(variant, set) },
                    entries: 64.0 + variant as f64,
                    kept: Some(
                        (0..pieces.len())
                            .map(|p| {
                                if variant == 0 {
                                    '9'
                                } else {
                                    char::from(b'0' + ((p * variant * 7) % 10) as u8)
                                }
                            })
                            .collect(),
                    ),
                    strip: Some(
                        (0..64)
                            .map(|p| {
                                if !(2..=50).contains(&p) {
                                    '9'
                                } else {
                                    char::from(b'0' + (p * variant % 4) as u8)
                                }
                            })
                            .collect(),
                    ),
                })
                .collect(),
        }
    });
    let fact = |label: &str, value: &str, note: &str| Fact {
        label: label.into(),
        value: value.into(),
        note: note.into(),
    };
    ReportData {
        title: "LongBench, six methods, four budgets".into(),
        subtitle: "tiny · longbench-official v1 · mini split · cpu f32".into(),
        generator: "kvsweep 0.1.0, commit 0123456".into(),
        notices: vec!["Embedded tiny model: a check of the pipeline, not of any real model.".into()],
        summary: vec![
            fact("Examples", "24", "6 data sets"),
            fact("Predictions", "504", "21 variants of one prefill each"),
            fact("Full cache", "39.20", "37.1 to 41.4"),
            fact("Best at budget 64", "compresskv", "36.02, −3.18 to the full cache"),
        ],
        tables: vec![scores],
        figures: vec![FigureGroup {
            title: "Needle in a haystack".into(),
            intro: "Score by context length and depth of the needle.".into(),
            figures: vec![figure("snapkv, budget 64", 2.4), figure("snapkv, budget 128", 1.1)],
        }],
        papers: vec![paper],
        examples: examples.collect(),
        variants: variants.clone(),
        provenance: vec![
            Provenance {
                title: "Model".into(),
                facts: vec![
                    fact("Name", "tiny", ""),
                    fact("Weights", &"0123456789abcdef".repeat(4), "sha256"),
                ],
                remarks: vec![],
            },
            Provenance {
                title: "Protocol".into(),
                facts: vec![fact("Name", "longbench-official", "version 1")],
                remarks: vec!["Few-shot and code tasks take no chat template.".into()],
            },
        ],
    }
}

/// A chromedriver process with one session; both end when it is dropped.
struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _profile: tempfile::TempDir,
}

fn program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    names.iter().find_map(|name| std::env::split_paths(&path).map(|p| p.join(name)).find(|p| p.is_file()))
}

impl Browser {
    /// Starts a browser; none (with a message) where none is installed.
    fn start(size: (u32, u32)) -> Option<Self> {
        let found = program(&["chromedriver"]).zip(program(&[
            "chromium",
            "chromium-browser",
            "google-chrome",
            "google-chrome-stable",
        ]));
        let Some((driver, chromium)) = found else {
            let required = std::env::var("KVSWEEP_REQUIRE_BROWSER").is_ok_and(|v| v == "1");
            assert!(!required, "chromium and chromedriver are required and not installed");
            println!("skipped: chromium and chromedriver not installed");
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        let mut driver = Command::new(driver)
            .args(["--port=0", "--allowed-ips=127.0.0.1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.by_ref().find_map(|line| {
            let line = line.ok()?;
            line.split("started successfully on port ").nth(1)?.trim_end_matches('.').parse().ok()
        });
        let port = port.unwrap();
        // Keep reading, so that it never blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let mut browser = Self { driver, port, session: String::new(), _profile: profile };
        let arguments = [
            "--headless".to_owned(),
            "--no-sandbox".into(),
            "--disable-gpu".into(),
            "--disable-quic".into(),
            "--disable-dev-shm-usage".into(),
            "--no-first-run".into(),
            "--disable-background-networking".into(),
            "--disable-component-update".into(),
            "--disable-sync".into(),
            format!("--window-size={},{}", size.0, size.1),
            format!("--user-data-dir={}", browser._profile.path().display()),
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "binary": chromium, "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let session = browser.request("POST", "/session", &capabilities);
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        Some(browser)
    }

    /// One HTTP request to the driver; returns the response's `value`.
    fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.port,
            body.len()
        )
        .unwrap();
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut answer = vec![0; length];
        reader.read_exact(&mut answer).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert!(answer["value"]["error"].is_null(), "{path}: {}", answer["value"]);
        answer["value"].clone()
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.request("POST", &format!("/session/{}{path}", self.session), body)
    }

    fn open(&self, page: &Path) {
        self.post("/url", &json!({ "url": format!("file://{}", page.display()) }));
    }

    /// The value of a script's `return`.
    fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    fn text(&self, script: &str) -> String {
        self.run(script).as_str().unwrap_or_default().to_owned()
    }

    /// Presses keys where the focus is.
    fn press(&self, keys: &[&str]) {
        let actions: Vec<Value> = keys
            .iter()
            .flat_map(|key| {
                [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })]
            })
            .collect();
        self.post("/actions", &json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] }));
    }

    /// Clicks the first element that a CSS selector finds, as a mouse does.
    fn click(&self, selector: &str) {
        let element = self.post("/element", &json!({ "using": "css selector", "value": selector }));
        let id = element.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
        self.post(&format!("/element/{id}/click"), &json!({}));
    }

    fn console(&self) -> Vec<String> {
        let log = self.post("/se/log", &json!({ "type": "browser" }));
        log.as_array().unwrap().iter().map(Value::to_string).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser too, also after a failed assertion.
        if !self.session.is_empty() {
            let end = || self.request("DELETE", &format!("/session/{}", self.session), &Value::Null);
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(end));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The sample page in a file: in `KVSWEEP_GALLERY` to be looked at, else in a temporary folder.
fn page(folder: &Path) -> PathBuf {
    let folder = std::env::var_os("KVSWEEP_GALLERY").map_or(folder.to_owned(), PathBuf::from);
    let path = folder.join("report.html");
    std::fs::write(&path, render(&sample()).unwrap()).unwrap();
    path
}

#[test]
fn the_report_works_in_a_browser() {
    let folder = tempfile::tempdir().unwrap();
    let path = page(folder.path());
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size < 5_000_000, "{size} bytes");
    let Some(browser) = Browser::start((1280, 900)) else { return };
    browser.open(&path);

    // Sorting: by a number, both ways, with cells that have none last.
    let column = |place: u32| {
        format!(
            "return [...document.querySelectorAll('#scores tbody tr')].filter(r => !r.hidden).map(r => r.cells[{place}].firstElementChild.textContent)"
        )
    };
    let names = browser.run(&column(0));
    assert_eq!(names[0], "full");
    browser.click("#scores thead th:last-child button");
    let values = |v: &Value| -> Vec<f64> {
        v.as_array().unwrap().iter().filter_map(|t| t.as_str().unwrap().parse().ok()).collect()
    };
    let down = values(&browser.run(&column(8)));
    assert!(down.len() == 21 && down.windows(2).all(|w| w[0] >= w[1]), "{down:?}");
    assert_eq!(
        browser.text("return document.querySelector('#scores thead th:last-child').ariaSort"),
        "descending"
    );
    browser.click("#scores thead th:last-child button");
    let up = values(&browser.run(&column(8)));
    assert!(up.windows(2).all(|w| w[0] <= w[1]), "{up:?}");
    browser.run("document.querySelectorAll('#scores thead button')[1].focus()");
    browser.press(&["\u{e007}"]);
    let budgets = browser.run(&column(1));
    assert_eq!(
        (budgets[0].as_str(), budgets[20].as_str()),
        (Some("512"), Some("all")),
        "by keyboard: {budgets}"
    );

    // Filtering: a number is a whole word.
    browser.run("document.querySelector('#scores input[type=search]').focus()");
    browser.press(&["s", "n", "a", "p", " ", "6", "4"]);
    assert_eq!(browser.run(&column(0)), json!(["snapkv"]));
    assert_eq!(browser.text("return document.querySelector('#scores output').textContent"), "1 of 21 rows");

    // The example browser: open by keyboard, step, filter, highlight.
    let title = "const h = document.querySelector('.detail h3'); return h ? h.textContent : ''";
    browser.run("document.querySelector('.list button').focus()");
    browser.press(&["\u{e007}"]);
    assert_eq!(browser.text(title), "narrativeqa · row 0");
    browser.press(&["\u{e015}", "\u{e007}"]);
    assert_eq!(browser.text(title), "qasper · row 0");
    let shaded = "return [...document.querySelectorAll('.tok')].filter(t => t.style.background).length";
    assert!(browser.run(shaded).as_u64().unwrap() > 40, "kept tokens are shaded");
    let caption = "return document.querySelector('.detail h4').textContent";
    assert_eq!(browser.text(caption), "Prompt; shaded: what streamingllm · 64 kept");
    browser.click(".results tbody tr:nth-child(7) button");
    assert_eq!(browser.text(caption), "Prompt; shaded: what snapkv · 128 kept");
    let shown = "return document.querySelector('.pick output').textContent";
    browser.run("const s = document.querySelector('.pick select'); s.value = 'qasper'; s.dispatchEvent(new Event('change'))");
    assert_eq!(browser.text(shown), "4 of 24 examples");
    browser.run("const s = document.querySelector('.pick select'); s.value = ''; s.dispatchEvent(new Event('change'))");
    browser.click(".pick input[type=checkbox]");
    assert_eq!(browser.text(shown), "23 of 24 examples");

    // Hostile answers are text, long ones are cut and say so, marks are written out.
    browser.click(".list li:first-child button");
    let said = |row: u32| {
        browser.text(&format!(
            "return document.querySelector('.results tbody tr:nth-child({row}) .said').textContent"
        ))
    };
    let expected = HOSTILE.replace('\u{202e}', "U+202E").replace('\u{2028}', "U+2028");
    assert_eq!(said(2), expected);
    assert!(said(3).len() < 3_000 && said(3).ends_with("the whole answer has 1,048,576 characters"));
    assert_eq!(said(4), "nothing");
    assert_eq!(browser.run("return document.querySelectorAll('img, textarea').length"), 0);
    assert_eq!(browser.run("return document.scripts.length"), 2);
    assert_eq!(browser.text("return document.title"), "LongBench, six methods, four budgets");

    // Injected script cannot run: the content policy allows only the page's own.
    assert_eq!(browser.console(), Vec::<String>::new());
    browser.run("const s = document.createElement('script'); s.textContent = 'document.title = 1'; document.body.append(s)");
    assert_eq!(browser.text("return document.title"), "LongBench, six methods, four budgets");
}

#[test]
fn a_narrow_window_does_not_scroll_sideways() {
    let folder = tempfile::tempdir().unwrap();
    let Some(browser) = Browser::start((500, 800)) else { return };
    browser.open(&page(folder.path()));
    browser.post("/window/rect", &json!({ "width": 400, "height": 800 }));
    browser.click(".list li:nth-child(2) button");
    let overflow =
        browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth");
    assert_eq!(overflow, 0);
    // The head stays at the top, each of its cells above its own column, and only the first column stays at the left.
    let strayed = "const table = document.querySelector('#scores table');
        const lefts = row => [...row.cells].map(cell => Math.round(cell.getBoundingClientRect().left));
        const [head, body] = [lefts(table.tHead.rows[0]), lefts(table.tBodies[0].rows[0])];
        return head.filter((left, place) => left !== body[place]).length";
    assert_eq!(browser.run(strayed), 0);
    browser.run("document.querySelector('#scores .scroll').scrollTo(120, 300)");
    assert_eq!(browser.run(strayed), 0, "scrolled");
    if let Some(folder) = std::env::var_os("KVSWEEP_GALLERY") {
        browser.run("document.querySelector('#scores').scrollIntoView()");
        let picture =
            browser.request("GET", &format!("/session/{}/screenshot", browser.session), &Value::Null);
        std::fs::write(Path::new(&folder).join("narrow.png.base64"), picture.as_str().unwrap()).unwrap();
    }
    assert_eq!(browser.console(), Vec::<String>::new());
}
