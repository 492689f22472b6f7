//! A calibration that is disturbed: continued under the same settings and files only, by one process at a time.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{kvsweep, run, succeed, tiny_in};

const LAYERS: &[&str] = &["calibrate", "layers", "--model", "m", "--limit", "1", "-o", "layers.json"];

/// Starts the pass and leaves it alive once two parts are on disk.
fn begun(dir: &Path) -> std::process::Child {
    let child = kvsweep(dir).args(LAYERS).stderr(std::process::Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    let lines =
        || std::fs::read_to_string(dir.join("layers.json.parts")).map_or(0, |text| text.lines().count());
    while lines() < 3 {
        assert!(started.elapsed() < Duration::from_secs(120), "no part after two minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn layer_errors_continue_after_a_kill_under_the_same_files_only() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    tiny_in(&dir.join("m"));
    succeed(dir, LAYERS);
    let undisturbed = std::fs::read_to_string(dir.join("layers.json")).unwrap();
    assert!(!dir.join("layers.json.parts").exists(), "a finished pass leaves nothing behind");
    std::fs::remove_file(dir.join("layers.json")).unwrap();

    let mut child = begun(dir);
    let (code, _, stderr) = run(dir, LAYERS);
    assert!(child.try_wait().unwrap().is_none(), "the first process ended before the second");
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("layers.json.parts` is in use"), "{stderr}");
    child.kill().unwrap();
    child.wait().unwrap();
    let parts = std::fs::read_to_string(dir.join("layers.json.parts")).unwrap();

    // The same files: the same result, and what was measured is not measured again.
    let (code, _, stderr) = run(dir, LAYERS);
    assert_eq!((code, stderr.contains("starting anew")), (0, false), "{stderr}");
    assert_eq!(std::fs::read_to_string(dir.join("layers.json")).unwrap(), undisturbed);

    // Another configuration under the same weights is another model.
    std::fs::write(dir.join("layers.json.parts"), parts).unwrap();
    let config = std::fs::read_to_string(dir.join("m/config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["rms_norm_eps"] = 1e-3.into();
    std::fs::write(dir.join("m/config.json"), config.to_string()).unwrap();
    let (code, _, stderr) = run(dir, LAYERS);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("an unfinished pass with another config.json: starting anew"), "{stderr}");
    assert_ne!(std::fs::read_to_string(dir.join("layers.json")).unwrap(), undisturbed);
}

#[test]
fn a_pass_over_nothing_overwrites_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path();
    std::fs::write(dir.join("layers.json"), "mine").unwrap();
    let heads = ["calibrate", "heads", "--kind", "semantic"];
    for (arguments, expected) in [
        (&["calibrate", "layers", "--limit", "0"][..], "--limit 0 selects nothing"),
        (&["calibrate", "layers", "--limit", "1000000000"], "10000"),
        (&["calibrate", "layers", "--kind", "semantic"], "calibrate heads"),
        (&[&heads[..], &["--limit", "1"]].concat(), "calibrate layers"),
        (&[&heads[..], &["--depths", "0"]].concat(), "--depths 0"),
        (&[&heads[..], &["--depths", "200"]].concat(), "--depths 200"),
        (&[&heads[..], &["--lengths", "9000000:200..300"]].concat(), "only 101"),
        (&[&heads[..], &["--map", "-", "-o", "-"]].concat(), "both write to stdout"),
    ] {
        let arguments = if arguments.contains(&"-o") {
            arguments.to_vec()
        } else {
            [arguments, &["-o", "layers.json"]].concat()
        };
        let (code, _, stderr) = run(dir, &arguments);
        assert_eq!(code, 2, "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
    assert_eq!(std::fs::read_to_string(dir.join("layers.json")).unwrap(), "mine");
    let calibration =
        succeed(dir, &[&heads[..], &["--lengths", "1:256..256", "--depths", "1", "-o", "-"]].concat());
    let calibration: serde_json::Value = serde_json::from_str(&calibration).unwrap();
    assert_eq!(calibration["params"]["passed"], 1);
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 2, "the file and the emptied folder of the pass");
}
