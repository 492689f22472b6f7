//! Which program made a number: version and commit.

use sha2::{Digest, Sha256};

/// The version with the commit it was built from.
pub(crate) const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("KVSWEEP_COMMIT"), ")");

/// The commit that the program was built from; `unknown` outside a checkout. Of a changed tree the program itself is
/// part of the name: two changes on top of one commit are two programs, and must not continue each other's runs.
pub(crate) fn commit() -> String {
    let commit = env!("KVSWEEP_COMMIT");
    if !commit.ends_with("-dirty") {
        return commit.to_owned();
    }
    let program = std::env::current_exe().and_then(std::fs::read).unwrap_or_default();
    format!("{commit}-{:.8}", crate::kept::hex(&Sha256::digest(program)))
}
