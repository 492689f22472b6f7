//! Ctrl-C: the first asks what computes to stop, the second ends the process at once.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use kvsweep_engine::cancel::Cancel;

use crate::exit::Exit;

static SIGNAL: LazyLock<Cancel> = LazyLock::new(Cancel::default);
static LISTENING: AtomicBool = AtomicBool::new(false);

/// The request that Ctrl-C makes, for what computes to look at.
pub(crate) fn signal() -> Cancel {
    SIGNAL.clone()
}

/// Listens for Ctrl-C and SIGTERM from here on; a process that runs several sweeps may ask again.
///
/// # Errors
/// When the system refuses the handler.
pub(crate) fn listen() -> anyhow::Result<()> {
    if LISTENING.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    ctrlc::set_handler(|| {
        if requested() {
            end_at_once();
        }
        SIGNAL.request();
        crate::output::note("interrupted: stopping within seconds (again to stop at once)");
    })?;
    Ok(())
}

/// Whether a stop was asked for.
pub(crate) fn requested() -> bool {
    SIGNAL.requested()
}

/// Every finished example is on disk already: nothing is lost by ending here.
#[expect(clippy::exit, reason = "the second Ctrl-C ends the process wherever it is, with the promised code")]
fn end_at_once() -> ! {
    std::process::exit(Exit::Interrupted.code().into())
}
