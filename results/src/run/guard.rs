//! What keeps a run directory from being written to: another process, files that are not ours, links.

use std::fs::TryLockError;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use super::{LOCK, MANIFEST};
use crate::Result;
use crate::error::ResultsError;
use crate::text::visible;

/// What the names of pictures begin with while they are written.
const PICTURE_PART: &str = ".kvsweep-";

/// Refuses a directory that holds other files than `ours` and ones in work.
pub(super) fn refuse_files_but(path: &Path, ours: &[&str]) -> Result<()> {
    for entry in fs_err::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !ours.contains(&name.as_str()) && !is_part(&name) {
            let why = format!("it holds `{}` and no {MANIFEST}", visible(&name));
            return Err(ResultsError::NotARun { path: path.to_owned(), why });
        }
    }
    Ok(())
}

/// Refuses a directory with links in it: they would lead what is written to files elsewhere.
pub(super) fn refuse_links(path: &Path) -> Result<()> {
    for entry in fs_err::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_symlink() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let why = format!("`{}` in it is a link, which is not followed for writing", visible(&name));
            return Err(ResultsError::NotARun { path: path.to_owned(), why });
        }
    }
    Ok(())
}

/// Whether a file of that name is one that a killed process was writing.
fn is_part(name: &str) -> bool {
    name.ends_with(".part") || name.starts_with(PICTURE_PART)
}

/// Removes what killed processes were writing, in the run directory and in its folders. The lock is held.
pub(super) fn remove_leftovers(path: &Path) -> Result<()> {
    for entry in fs_err::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_leftovers(&entry.path())?;
        } else if is_part(&entry.file_name().to_string_lossy()) {
            fs_err::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Takes the directory's lock and writes this process's number into it, for the message another one gets.
pub(super) fn take_lock(path: &Path) -> Result<fs_err::File> {
    let file = path.join(LOCK);
    let mut lock =
        fs_err::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&file)?;
    match lock.file().try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = fs_err::read_to_string(&file).unwrap_or_default();
            let holder =
                holder.trim().parse::<u32>().map_or_else(|_| "unknown".to_owned(), |pid| pid.to_string());
            return Err(ResultsError::Locked { path: path.to_owned(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    lock.set_len(0)?;
    lock.seek(SeekFrom::Start(0))?;
    writeln!(lock, "{}", std::process::id())?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{manifest, write_run};
    use crate::run::{DAMAGED, KEPT, RECORDS, Run, RunDir};

    #[test]
    fn a_foreign_directory_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "precious").unwrap();
        let error = RunDir::create_or_continue(dir.path(), &manifest()).unwrap_err().to_string();
        assert!(error.contains("thesis.tex"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = Run::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("no manifest.json"), "{error}");
        let error = Run::load(&dir.path().join("absent")).unwrap_err().to_string();
        assert!(error.contains("does not exist"), "{error}");
    }

    #[test]
    fn one_writer_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunDir::create_or_continue(dir.path(), &manifest()).unwrap();
        let error = RunDir::create_or_continue(dir.path(), &manifest()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        RunDir::create_or_continue(dir.path(), &manifest()).unwrap();
        assert_eq!(std::fs::read(dir.path().join(LOCK)).unwrap(), b"");
    }

    #[test]
    fn the_lock_is_asked_before_the_files_are_judged() {
        let dir = tempfile::tempdir().unwrap();
        let holder = RunDir::create_or_continue(dir.path(), &manifest()).unwrap();
        // What another process sees of one that has the lock and writes: a manifest that is there one moment later.
        std::fs::remove_file(dir.path().join(MANIFEST)).unwrap();
        let error = RunDir::create_or_continue(dir.path(), &manifest()).unwrap_err();
        assert!(matches!(error, ResultsError::Locked { .. }), "{error}");
        drop(holder);
        // Without a writer, records without a manifest are nothing that can be continued.
        let error = RunDir::create_or_continue(dir.path(), &manifest()).unwrap_err().to_string();
        assert!(error.contains("`records.jsonl` and no manifest.json"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed_for_writing() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let path = dir.path().join("run");
        for name in [LOCK, RECORDS, DAMAGED, "manifest.json.part", KEPT] {
            drop(RunDir::create_or_continue(&path, &manifest()).unwrap());
            let _ = std::fs::remove_file(path.join(name));
            std::os::unix::fs::symlink(&victim, path.join(name)).unwrap();
            let error = RunDir::create_or_continue(&path, &manifest()).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}` in it is a link")), "{error}");
            assert_eq!(std::fs::read(&victim).unwrap(), b"precious", "{name}");
            std::fs::remove_file(path.join(name)).unwrap();
        }
    }

    #[test]
    fn what_killed_processes_were_writing_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        write_run(dir.path(), &manifest(), |_, _, _| 0.5);
        std::fs::create_dir(dir.path().join("heatmaps")).unwrap();
        for name in [".kvsweep-a1B2c3", "heatmaps/.kvsweep-a1B2c3", "kept/x.kept.part", "records.jsonl.part"]
        {
            std::fs::write(dir.path().join(name), "half").unwrap();
        }
        std::fs::write(dir.path().join("heatmap.png"), "whole").unwrap();
        drop(RunDir::create_or_continue(dir.path(), &manifest()).unwrap());
        let names = |folder: &str| -> Vec<String> {
            let entries = std::fs::read_dir(dir.path().join(folder)).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        assert!(names("").contains(&"heatmap.png".to_owned()));
        let all = [names(""), names("heatmaps"), names("kept")].concat();
        assert!(!all.iter().any(|name| is_part(name)), "{all:?}");
    }
}
