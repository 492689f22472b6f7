//! The program as a whole: its command line, its run directories, its place in the workspace.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failing step fails its test, and a skipped test says so"
)]

mod architecture;
mod bad_input;
mod baseline;
mod bounds;
mod calibrate;
mod commands;
mod common;
mod dependencies;
mod documents;
mod fetch;
mod hints;
mod identity;
mod invariants;
mod inventory;
mod limits;
mod manifests;
mod outputs;
mod parity;
mod passes;
mod provenance;
mod question;
mod ratios;
mod resume;
mod ruler;
mod second_pass;
mod slurm;
mod stops;
mod survey;
mod terminal;
mod untrusted;
