//! Which program made a number: version and commit.

/// The version with the commit it was built from.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("KVSWEEP_COMMIT"), ")");

/// The commit the program was built from, or `unknown` outside a checkout.
pub const COMMIT: &str = env!("KVSWEEP_COMMIT");
