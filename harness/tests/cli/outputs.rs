//! Where outputs go: through links, into pipes, to stdout. Never tried on a device.

use std::path::Path;

use crate::common::{kvsweep, run, succeed};

fn sweep(dir: &Path) {
    let sweep = ["run", "longbench", "--datasets", "mini_people", "--limit", "1", "--budget", "64"];
    succeed(dir, &[&sweep[..], &["--methods", "full,snapkv", "--out", "run"]].concat());
}

#[cfg(unix)]
#[test]
fn an_output_is_written_through_links_and_into_pipes() {
    let dir = tempfile::tempdir().unwrap();
    sweep(dir.path());
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("target.html"), "x").unwrap();
    std::os::unix::fs::symlink("target.html", at("link.html")).unwrap();
    succeed(dir.path(), &["report", "run", "-o", "link.html"]);
    assert!(std::fs::symlink_metadata(at("link.html")).unwrap().is_symlink());
    let page = std::fs::read(at("target.html")).unwrap();
    assert!(page.starts_with(b"<!doctype html>"), "{}", page.len());

    let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
    assert!(made.success());
    let child = kvsweep(dir.path()).args(["report", "run", "-o", "pipe"]).spawn().unwrap();
    let read = std::fs::read(at("pipe")).unwrap();
    assert!(child.wait_with_output().unwrap().status.success());
    assert!(
        read == page
            && std::os::unix::fs::FileTypeExt::is_fifo(&std::fs::metadata(at("pipe")).unwrap().file_type())
    );

    // `-` is stdout, and so is its other name; the log that it is redirected to keeps what it had.
    let (code, stdout, stderr) = run(dir.path(), &["report", "run", "-o", "-"]);
    assert_eq!((code, stdout.as_bytes() == page), (0, true), "{stderr}");
    std::fs::write(at("log"), "before\n").unwrap();
    let log = std::fs::OpenOptions::new().append(true).open(at("log")).unwrap();
    let done = kvsweep(dir.path()).args(["report", "run", "-o", "/dev/stdout"]).stdout(log).status().unwrap();
    assert!(done.success());
    assert_eq!(std::fs::read(at("log")).unwrap(), [b"before\n".as_slice(), &page].concat());
    assert!(!at("-").exists());
}

#[test]
fn pictures_and_tensors_go_to_stdout_alone() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = |arguments: &[&str]| {
        let output = kvsweep(dir.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let needle =
        ["run", "needle", "--lengths", "512", "--depths", "50", "--methods", "full", "--out", "needle"];
    succeed(dir.path(), &needle);
    assert!(bytes(&["heatmap", "needle", "-o", "-"]).starts_with(b"\x89PNG"));
    let logits = ["generate", "--prompt", "x", "--max-new", "1", "--logits", "-"];
    let tensors = bytes(&logits);
    assert!(safetensors::SafeTensors::deserialize(&tensors).unwrap().tensor("prompt").is_ok());
    let (code, _, stderr) = run(dir.path(), &[&logits[..], &["--json"]].concat());
    assert_eq!(code, 2, "{stderr}");
    assert!(!dir.path().join("-").exists());
}
