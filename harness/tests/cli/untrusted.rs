//! Text and names of models, rows and runs that someone else made: shown, never obeyed.

use std::path::Path;

use crate::common::{run, succeed};

const ROW: &str = r#"{"input":"q","context":"c","answers":["a"],"length":1,"dataset":"qasper","language":"en","all_classes":null,"_id":"1"}"#;

/// What a terminal would obey: a colour, a title, C1's CSI, an override of the reading order, a carriage return.
const HOSTILE: &str = "\u{1b}[31mred\u{1b}]0;title\u{7}\u{9b}2J\u{202e}over\rline";

/// The same as JSON spells it.
fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[test]
fn no_control_character_of_data_reaches_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let hostile = json(&format!("x {HOSTILE}"));
    let row = ROW.replace("\"q\"", &hostile).replace("\"c\"", &hostile).replace("\"a\"", &hostile);
    std::fs::create_dir(dir.path().join("rows")).unwrap();
    std::fs::write(dir.path().join("rows/qasper.jsonl"), format!("{row}\n")).unwrap();
    let sweep = [
        "run",
        "longbench",
        "--split",
        "full",
        "--data",
        "rows",
        "--datasets",
        "qasper",
        "--methods",
        "full",
    ];
    // `run` looks at every output for characters that must not be there.
    succeed(dir.path(), &[&sweep[..], &["--out", "run"]].concat());
    let (code, stdout, stderr) = run(dir.path(), &["explain", "run", "qasper", "--data", "rows"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(r"x \u{1b}[31mred\u{1b}]0;title\u{7}\u{9b}2J\u{202e}over\rline"), "{stdout}");
    assert!(stdout.lines().count() > 5, "line ends stay: {stdout}");
    assert!(stderr.contains(r"answers: x \u{1b}[31m"), "{stderr}");
    let exact = succeed(dir.path(), &["explain", "run", "qasper", "--data", "rows", "--json"]);
    let exact: serde_json::Value = serde_json::from_str(&exact).unwrap();
    assert!(exact["prompt"].as_str().unwrap().contains(HOSTILE), "JSON keeps the exact prompt: {exact}");

    // Errors and notes: a model's configuration, a record, a --config file, a calibration, predictions.
    let put = |name: &str, text: String| {
        std::fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        std::fs::write(dir.path().join(name), text).unwrap();
    };
    put("m/config.json", format!(r#"{{"architectures":[{hostile}],"model_type":{hostile}}}"#));
    put("m/model.safetensors", "x".to_owned());
    put("sweep.toml", format!("suite = {hostile}\n").replace("\\u009b", "\\u009b"));
    put("option.toml", format!("{hostile} = 1\n"));
    put("value.toml", format!("budget = {hostile}\n"));
    put("ids.json", format!("[{hostile}]"));
    put("cal.json", format!(r#"{{"format_version":1,"kind":{hostile}}}"#));
    put(
        "pred/qasper.jsonl",
        format!(r#"{{"pred":"a","answers":["a"],"all_classes":null,"length":{hostile}}}"#),
    );
    let records = dir.path().join("run/records.jsonl");
    let record = std::fs::read_to_string(&records).unwrap();
    put("damaged/manifest.json", std::fs::read_to_string(dir.path().join("run/manifest.json")).unwrap());
    let foreign = record.replacen("\"dataset\":\"qasper\"", &format!("\"dataset\":{hostile}"), 1);
    put("damaged/records.jsonl", record + &foreign);
    for (arguments, expected) in [
        (&["generate", "--model", "m", "--prompt", "x"][..], 1),
        (&["run", "--config", "sweep.toml"], 2),
        (&["run", "longbench", "--config", "option.toml"], 2),
        (&["run", "longbench", "--config", "value.toml"], 2),
        (&["generate", "--ids", "ids.json"], 1),
        (&["run", "longbench", "--calibration", "cal.json"], 1),
        (&["score", "pred", "--layout", "longbench"], 1),
        (&["table", "damaged"], 1),
        (&["explain", "run", HOSTILE], 1),
        (&["run", HOSTILE], 2),
    ] {
        let (code, stdout, stderr) = run(dir.path(), arguments);
        assert_eq!(code, expected, "{arguments:?}\n{stdout}{stderr}");
        assert!(
            stderr.contains(r"\u{9b}2J\u{202e}")
                || ["damaged", "qasper.jsonl"].iter().any(|name| stderr.contains(name)),
            "{arguments:?} quotes nothing: {stderr}"
        );
    }
}

#[test]
fn an_export_stays_in_its_folder_and_is_whole_or_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let sweep = ["run", "longbench", "--datasets", "mini_people", "--limit", "1", "--budget", "64"];
    succeed(dir.path(), &[&sweep[..], &["--methods", "snapkv,snapkv[kernel=5]", "--out", "a"]].concat());
    succeed(dir.path(), &[&sweep[..], &["--methods", "snapkv[kernel=3]", "--out", "b"]].concat());
    let export = |run: &str, out: &str| {
        crate::common::run(dir.path(), &["export", run, "--layout", "longbench", "-o", out])
    };

    // Two parameter sets of one method have a folder each; the same export again changes nothing.
    let (code, files, stderr) = export("a", "out");
    assert_eq!((code, files.lines().count()), (0, 2), "{files}{stderr}");
    assert_eq!(export("a", "out").0, 0);
    // Another run's predictions are refused before anything is written.
    succeed(dir.path(), &[&sweep[..], &["--methods", "snapkv", "--seed", "1", "--out", "c"]].concat());
    assert_eq!(export("b", "one").0, 0);
    let before = tree(&at("one"));
    let (code, _, stderr) = export("c", "one");
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("nothing was written; export into another folder"), "{stderr}");
    assert_eq!(tree(&at("one")), before);

    // A manifest cannot name a way out.
    let mut hostile = kvsweep_results::Run::load(&at("b")).unwrap();
    hostile.manifest.methods[0].spec = hostile.manifest.methods[0].spec.replace("snapkv", "../../escaped");
    let mut made = kvsweep_results::RunDir::create_or_continue(&at("hostile"), &hostile.manifest).unwrap();
    for record in &mut hostile.examples {
        record.variants[0].variant = hostile.manifest.variants().remove(0);
        made.append(record, None).unwrap();
    }
    drop(made);
    std::fs::create_dir_all(at("deep/er")).unwrap();
    let (code, files, stderr) = export("hostile", "deep/er/out");
    assert_eq!(code, 0, "{stderr}");
    assert!(files.lines().all(|file| file.starts_with("deep/er/out/") && !file.contains("/../")), "{files}");
    assert!(tree(&at("deep")).iter().all(|file| file.starts_with("er/out/")), "{:?}", tree(&at("deep")));
    let (code, _, stderr) = export("hostile", "-");
    assert_eq!(code, 2, "{stderr}");
}

/// The files of a folder, by their paths in it.
fn tree(folder: &Path) -> Vec<String> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path.strip_prefix(folder).unwrap().display().to_string());
            }
        }
    }
    files.sort();
    files
}
