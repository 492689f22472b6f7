//! `kvsweep verify methods|metrics`: this build against golden vectors.

use serde::Serialize;

use crate::cli::{VerifyArgs, VerifyWhat};
use crate::exit::{Exit, usage};
use crate::output;

/// What both kinds of report say.
#[derive(Serialize)]
struct Report {
    passed: usize,
    failed: usize,
    failures: Vec<String>,
    skipped: Vec<String>,
}

/// Runs the command; exits 4 on a mismatch.
pub(crate) fn run(args: &VerifyArgs) -> anyhow::Result<Exit> {
    if !args.golden.is_dir() {
        return Err(usage(format!(
            "`{}` is no directory; --golden names a folder of golden vectors",
            args.golden.display()
        )));
    }
    let report = match args.what {
        VerifyWhat::Methods => {
            let report = kvsweep_golden::methods::check(&args.golden)?;
            Report {
                passed: report.passed,
                failed: report.failed,
                failures: report.failures.iter().map(|f| format!("{}: {}", f.case, f.problem)).collect(),
                skipped: Vec::new(),
            }
        }
        VerifyWhat::Metrics => {
            let report = kvsweep_golden::metrics::check(&args.golden)?;
            Report {
                passed: report.passed,
                failed: report.failed.len(),
                failures: report
                    .failed
                    .iter()
                    .map(|f| format!("{} {}: expected {}, got {}", f.file, f.id, f.expected, f.got))
                    .collect(),
                skipped: report.skipped.into_iter().map(|(file, why)| format!("{file}: {why}")).collect(),
            }
        }
    };
    if args.json {
        output::json(&report)?;
    } else {
        for failure in &report.failures {
            output::line(failure)?;
        }
        for file in &report.skipped {
            output::note(&format!("not checked: {file}"));
        }
        output::line(&format!("{} passed, {} failed", report.passed, report.failed))?;
    }
    Ok(if report.failed == 0 && report.passed > 0 { Exit::Done } else { Exit::Mismatch })
}
