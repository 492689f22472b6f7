//! What a kill or damage left of `records.jsonl`, mended before the run is continued.

use std::collections::BTreeSet;
use std::path::Path;

use super::records::RecordProblem;
use super::{DAMAGED, RECORDS, read_if_present};
use crate::Result;
use crate::io::write_atomic;

/// Rewrites the records without the problem lines, after adding the damaged ones (not a torn end, which is the normal
/// trace of a kill) to `damaged.jsonl`. Returns the new length.
pub(super) fn repair(path: &Path, bytes: &[u8], problems: &[RecordProblem]) -> Result<u64> {
    let bad: BTreeSet<usize> = problems.iter().map(|problem| problem.line).collect();
    let (mut good, mut damaged) = (Vec::with_capacity(bytes.len()), Vec::new());
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if !bad.contains(&(index + 1)) {
            good.extend_from_slice(line);
        } else if line.ends_with(b"\n") {
            damaged.extend_from_slice(line);
        }
    }
    if damaged.is_empty() {
        // Only the end is torn: cutting it is enough, and cheaper than a rewrite.
        let file = fs_err::OpenOptions::new().write(true).open(path.join(RECORDS))?;
        file.set_len(good.len() as u64)?;
        file.sync_all()?;
    } else {
        let mut aside = read_if_present(&path.join(DAMAGED))?;
        // A kill between the two writes leaves the lines set aside, and in the records still.
        if !aside.ends_with(&damaged) {
            aside.extend_from_slice(&damaged);
            write_atomic(&path.join(DAMAGED), &aside)?;
        }
        write_atomic(&path.join(RECORDS), &good)?;
    }
    Ok(good.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{manifest, write_run};
    use crate::run::{Run, RunDir};

    /// A kill during the write of the last line leaves any prefix of it: whatever the prefix, continuing gives the
    /// undisturbed file.
    #[test]
    fn a_torn_last_line_at_every_byte() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = manifest();
        // A short line: the test syncs the disk once a byte.
        manifest.methods.truncate(1);
        let run = write_run(dir.path(), &manifest, |_, row, _| row as f64 / 4.0);
        let file = dir.path().join(RECORDS);
        let whole = std::fs::read(&file).unwrap();
        let last = run.examples.last().unwrap();
        let start = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        for cut in start..whole.len() {
            std::fs::write(&file, &whole[..cut]).unwrap();
            let torn = usize::from(cut > start);
            let read = Run::load(dir.path()).unwrap();
            assert_eq!((read.examples.len(), read.problems.len()), (5, torn), "cut at {cut}");
            let mut writer = RunDir::create_or_continue(dir.path(), &manifest).unwrap();
            assert_eq!(writer.repairs().len(), torn, "cut at {cut}");
            assert_eq!(std::fs::read(&file).unwrap(), whole[..start], "cut at {cut}");
            assert!(!writer.is_complete());
            writer.append(last, None).unwrap();
            assert_eq!(std::fs::read(&file).unwrap(), whole, "cut at {cut}");
        }
        assert!(!dir.path().join(DAMAGED).exists());
    }

    #[test]
    fn a_kill_while_repairing_lists_a_damaged_line_once() {
        let dir = tempfile::tempdir().unwrap();
        write_run(dir.path(), &manifest(), |_, _, _| 0.5);
        let file = dir.path().join(RECORDS);
        let damaged = std::fs::read_to_string(&file).unwrap().replacen("\"score\":0.5", "\"score\":0.6", 1);
        for _ in 0..2 {
            // The second time as a kill leaves it: set aside already, and in the records still.
            std::fs::write(&file, &damaged).unwrap();
            let run = RunDir::create_or_continue(dir.path(), &manifest()).unwrap();
            assert_eq!((run.repairs().len(), run.finished_keys().len()), (1, 5));
        }
        assert_eq!(std::fs::read_to_string(dir.path().join(DAMAGED)).unwrap().lines().count(), 1);
    }
}
