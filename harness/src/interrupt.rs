//! Ctrl-C: the first asks the runner to stop after the examples in hand, the second ends the process at once.

use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);
static LISTENING: AtomicBool = AtomicBool::new(false);

/// Listens for Ctrl-C and SIGTERM from here on; a process that runs several sweeps may ask again.
///
/// # Errors
/// When the system refuses the handler.
pub fn listen() -> anyhow::Result<()> {
    if LISTENING.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    ctrlc::set_handler(|| {
        if REQUESTED.swap(true, Ordering::SeqCst) {
            // Every finished example is on disk already: nothing is lost by ending here.
            std::process::abort();
        }
        crate::output::note("interrupted: finishing the examples in hand (again to stop at once)");
    })?;
    Ok(())
}

/// Whether a stop was asked for.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}
