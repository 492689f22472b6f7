//! The program as a whole: its command line, its run directories, its place in the workspace.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failing step fails its test, and a skipped test says so"
)]

mod architecture;
mod bad_input;
mod commands;
mod common;
mod identity;
mod parity;
mod provenance;
mod resume;
