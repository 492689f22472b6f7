//! The program as a whole: its command line, its run directories, its place in the workspace.

mod architecture;
mod bad_input;
mod commands;
mod common;
mod parity;
mod resume;
