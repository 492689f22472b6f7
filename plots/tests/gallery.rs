//! Every kind of picture from invented data shows its words and its colours, in the same bytes every time. Saved as PNG
//! and SVG: into the folder that `KVSWEEP_GALLERY` names, to be looked at, else into a temporary one.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use kvsweep_plots::curve::{self, Curves, Line, Panel, Point, XAxis};
use kvsweep_plots::head::{HeadMap, Kind};
use kvsweep_plots::history::{Average, HistoryCurves, HistoryPanel};
use kvsweep_plots::retention::Retention;
use kvsweep_plots::{Picture, head, heatmap, history, retention};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Saves a picture both ways, and checks that both are deterministic, that every text is there, and that it is drawn in
/// so many colours at least.
fn save(name: &str, texts: &[&str], colours: usize, draw: impl Fn() -> Picture) {
    let temporary = tempfile::tempdir().unwrap();
    let folder = std::env::var_os("KVSWEEP_GALLERY").map_or(temporary.path().to_owned(), PathBuf::from);
    let picture = draw();
    for extension in ["png", "svg"] {
        let path = folder.join(format!("{name}.{extension}"));
        std::fs::write(&path, picture.encode(&path).unwrap()).unwrap();
    }
    let svg = picture.svg().unwrap();
    assert_eq!(svg, draw().svg().unwrap());
    assert!(!svg.contains("NaN"), "{name}");
    for text in texts {
        // plotters writes a text between line ends.
        assert!(svg.lines().any(|line| line == *text), "{name}: no text `{text}`");
    }
    let png = picture.png().unwrap();
    assert_eq!(png, draw().png().unwrap(), "{name}");
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size()];
    reader.next_frame(&mut pixels).unwrap();
    let in_png: BTreeSet<&[u8]> = pixels.chunks_exact(reader.info().bytes_per_pixel()).collect();
    let in_svg: BTreeSet<&str> = svg.split('"').filter(|value| value.starts_with('#')).collect();
    let fewest = in_png.len().min(in_svg.len());
    assert!(fewest >= colours, "{name}: {fewest} colours");
}

fn needle(title: &str, strength: f64, lengths: usize, depths: usize) -> heatmap::Heatmap {
    let score = |row: usize, column: usize| {
        let (depth, length) = (row as f64 / (depths - 1) as f64, column as f64 / lengths as f64);
        let dip = (1.0 - strength) * length * 1.6 * (1.0 - (depth - 0.45).abs());
        let noise = ((row * 37 + column * 91) % 13) as f64 / 13.0 * 0.12;
        Some(100.0 * (1.0 - dip - noise * (1.0 - strength) * 3.0).clamp(0.0, 1.0))
    };
    heatmap::Heatmap {
        title: title.to_owned(),
        subtitle: "embedded model tiny · kvsweep-1 v1 · cpu f32 · mini split · a check of the pipeline"
            .to_owned(),
        lengths: (1..=lengths).map(|i| i * 512).collect(),
        rows: heatmap::Rows::Depths((0..depths).map(|i| (i * 100) as f64 / (depths - 1) as f64).collect()),
        values: (0..depths).map(|r| (0..lengths).map(|c| score(r, c)).collect()).collect(),
        range: (0.0, 100.0),
    }
}

#[test]
fn needle_heatmaps() {
    save("heatmap", &["snapkv, budget 128  ·  average 72.8", "4096", "90%", "Score"], 100, || {
        let mut map = needle("snapkv, budget 128", 0.6, 8, 11);
        map.values[3][7] = None;
        heatmap::draw(&map).unwrap()
    });
    save("heatmap-fine", &["streamingllm, budget 64  ·  average 37.0", "20480", "95%"], 200, || {
        heatmap::draw(&needle("streamingllm, budget 64", 0.1, 40, 21)).unwrap()
    });
    save("heatmap-small", &["h2o, budget 64  ·  average 68.1", "1536", "50%"], 50, || {
        heatmap::draw(&needle("h2o, budget 64", 0.4, 3, 3)).unwrap()
    });
    save("heatmap-grid", &["compresskv", "budget 512", "whatever the budget", "97.9"], 200, || {
        let budgets = [64, 128, 256, 512];
        let methods = ["full", "streamingllm", "snapkv", "pyramidkv", "compresskv"];
        let rows = methods.iter().enumerate().map(|(index, method)| heatmap::GridRow {
            label: (*method).to_owned(),
            maps: budgets
                .iter()
                .enumerate()
                .take(if index == 0 { 1 } else { 4 })
                .map(|(b, _)| {
                    let strength = if index == 0 { 0.97 } else { 0.2 * index as f64 + 0.07 * b as f64 };
                    Some(needle(method, strength.min(1.0), 8, 11))
                })
                .collect(),
        });
        heatmap::grid(&heatmap::Grid {
            title: "Needle in a haystack".to_owned(),
            subtitle: "tiny · protocol kvcache-factory · 88 cells a map".to_owned(),
            columns: budgets.iter().map(|b| format!("budget {b}")).collect(),
            rows: rows.collect(),
        })
        .unwrap()
    });
}

const METHODS: [&str; 9] =
    ["full", "streamingllm", "h2o", "snapkv", "pyramidkv", "headkv", "compresskv", "adakv", "cake"];

/// Nine methods that approach the full cache as the budget grows.
fn panel(title: &str, top: f64, x: XAxis) -> Panel {
    let line = |(index, method): (usize, &&str)| {
        let reference = *method == "full";
        let points = (0..6).take(if reference { 1 } else { 6 }).map(|step| {
            let loss = top * (0.62 - 0.06 * index as f64) * 0.6f64.powi(step);
            let y =
                if reference { top } else { top - loss + ((index * 7 + step as usize * 3) % 5) as f64 * 0.3 };
            let budget = 64.0 * 2f64.powi(step);
            let x = match x {
                XAxis::Bytes if reference => 8.0e6,
                XAxis::Bytes => budget * if index % 2 == 0 { 2048.0 } else { 512.0 },
                _ => budget,
            };
            Point { x, y, interval: Some((y - top * 0.05, y + top * 0.05)), flagged: false }
        });
        Line { label: (*method).to_owned(), points: points.collect(), reference }
    };
    Panel { title: title.to_owned(), lines: METHODS.iter().enumerate().map(line).collect() }
}

#[test]
fn curves() {
    let save_curves = |name: &str, titles: &[&str], x: XAxis| {
        save(name, &[titles, &METHODS].concat(), 30, || {
            let panels = titles.iter().enumerate().map(|(i, t)| panel(t, 42.0 - 3.0 * i as f64, x)).collect();
            curve::draw(&Curves {
                title: if x == XAxis::Bytes { "Score against bytes held" } else { "Score against budget" }
                    .to_owned(),
                subtitle: "tiny · mini · protocol snapkv-2024 · 95 % intervals, 20 examples a data set"
                    .to_owned(),
                x,
                y_label: "Score".to_owned(),
                same_scale: false,
                names: Vec::new(),
                panels,
            })
            .unwrap()
        });
    };
    save_curves("curve-one", &["Average"], XAxis::Budget);
    save_curves("curve-two", &["Single-document QA", "Multi-document QA"], XAxis::Budget);
    save_curves(
        "curve-many",
        &["narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique", "gov_report"],
        XAxis::Budget,
    );
    save_curves("curve-bytes", &["Average"], XAxis::Bytes);
}

#[test]
fn head_maps() {
    let noise = |a: usize, b: usize| ((a * 7919 + b * 104_729 + a * b * 31) % 101) as f64 / 101.0;
    let importance = |layers: usize, heads: usize| {
        let value =
            |l: usize, h: usize| noise(l, h).powi(9) * (1.0 - (l as f64 / layers as f64 - 0.55).abs());
        (0..layers).map(|l| (0..heads).map(|h| value(l, h)).collect()).collect()
    };
    let strongest = "Strongest: layer 18 head 15 (0.90), layer 19 head 11 (0.87), layer 16 head 3 (0.87)";
    save("head-importance", &["Retrieval heads", strongest, "31"], 100, || {
        head::draw(&HeadMap {
            title: "Retrieval heads".to_owned(),
            subtitle: "32 layers x 32 heads · invented".to_owned(),
            kind: Kind::Importance,
            values: importance(32, 32),
            heads: "Query head".to_owned(),
            group: 4,
        })
        .unwrap()
    });
    let grouped = "Query head →  groups of 2 share a KV head";
    save("head-importance-tiny", &["Semantic heads", grouped, "0.60"], 50, || {
        head::draw(&HeadMap {
            title: "Semantic heads".to_owned(),
            subtitle: String::new(),
            kind: Kind::Importance,
            values: importance(4, 8),
            heads: "Query head".to_owned(),
            group: 2,
        })
        .unwrap()
    });
    save("head-capacity", &["budget 128", "KV head →", "203", "185.8"], 50, || {
        let value = |l: usize, h: usize| {
            (128.0 + 100.0 * (0.5 - l as f64 / 8.0) + 60.0 * (noise(l, h) - 0.5)).round()
        };
        head::draw(&HeadMap {
            title: "headkv, budget 128: capacity of each KV head".to_owned(),
            subtitle: "tiny · mean over 20 prompts".to_owned(),
            kind: Kind::Capacity { budget: 128.0 },
            values: (0..8).map(|l| (0..4).map(|h| value(l, h)).collect()).collect(),
            heads: "KV head".to_owned(),
            group: 1,
        })
        .unwrap()
    });
    save("layer-capacity", &["Capacity by layer, budget 128", "Layer →", "pyramidkv", "cake"], 10, || {
        let line = |label: &str, slope: f64| Line {
            label: label.to_owned(),
            points: (0..32)
                .map(|l| Point {
                    x: l as f64,
                    y: 128.0 + slope * (15.5 - l as f64),
                    interval: None,
                    flagged: false,
                })
                .collect(),
            reference: false,
        };
        curve::draw(&Curves {
            title: "Capacity by layer, budget 128".to_owned(),
            subtitle: String::new(),
            x: XAxis::Layer,
            y_label: "Entries".to_owned(),
            same_scale: false,
            names: Vec::new(),
            panels: vec![Panel {
                title: String::new(),
                lines: vec![line("snapkv", 0.0), line("pyramidkv", 7.0), line("cake", 3.0)],
            }],
        })
        .unwrap()
    });
}

#[test]
fn retention_maps() {
    let kept = |layers: usize, heads: usize| {
        let share = |d: usize, l: usize, h: usize| {
            let near_end = d as f64 / 10.0;
            let head = ((l * 31 + h * 17) % 11) as f64 / 11.0;
            Some((head * 1.2 * (0.35 + 0.65 * near_end) - 0.1 * (5.0 - d as f64).abs() / 5.0).clamp(0.0, 1.0))
        };
        (0..11).map(|d| (0..layers).map(|l| (0..heads).map(|h| share(d, l, h)).collect()).collect()).collect()
    };
    for (name, layers, heads) in [("retention", 8, 4), ("retention-large", 32, 32)] {
        save(name, &["snapkv, budget 128: what is kept of the needle", "Answer right", "100%"], 100, || {
            retention::draw(&Retention {
                title: "snapkv, budget 128: what is kept of the needle".to_owned(),
                subtitle: "tiny · context 4096 · invented".to_owned(),
                depths: (0..11).map(|d| f64::from(d) * 10.0).collect(),
                kept: kept(layers, heads),
                right: (0..11)
                    .map(|d| {
                        Some(if d > 6 {
                            1.0
                        } else if d > 3 {
                            0.5
                        } else {
                            0.0
                        })
                    })
                    .collect(),
            })
            .unwrap()
        });
    }
}

#[test]
fn history_curve() {
    save("history", &["Average score over commits", "Commit →", "snapkv", "76bd9d0"], 10, || {
        let marks = |top: f64, fall: usize| {
            (0..12).map(move |i| {
                let y = top + f64::from((i * 7 % 5) as u8) * 0.2 - if i >= fall { 4.0 } else { 0.0 };
                (i != 2).then_some(Average { y, interval: Some((y - 1.2, y + 1.2)), loss: i == fall })
            })
        };
        history::draw(&HistoryCurves {
            title: "Average score over commits".to_owned(),
            subtitle: "mini suite · tiny · budget 128".to_owned(),
            y_label: "Average score".to_owned(),
            commits: (0..12).map(|i| format!("{:08x}", 0x1f3a_77c1_u32.wrapping_mul(i * i + 3))).collect(),
            panels: vec![HistoryPanel {
                title: String::new(),
                lines: vec![
                    ("full".to_owned(), marks(44.0, 99).collect()),
                    ("snapkv".to_owned(), marks(39.0, 8).collect()),
                    ("pyramidkv".to_owned(), marks(37.0, 99).collect()),
                ],
            }],
        })
        .unwrap()
    });
}
