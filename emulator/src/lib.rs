//! CUDA kernels on the CPU, for tests: the very sources that nvcc compiles, compiled as C++, every thread a fiber.
//!
//! What runs is checked by the compiler's own instrumentation. Each of these ends a launch as a [`Fault`] that names
//! the kernel's file and line, whatever the schedule and the values: a race between threads, warps or blocks; a read
//! of what nobody wrote; an access out of bounds, or not aligned; touching the target of an asynchronous copy under
//! way; threads at different barriers, lanes at different warp instructions, deadlock; a write to what is read-only;
//! an index beyond a local array, and overflow of an `int`. How it works, and what it cannot see: `docs/kernels.md`.
//!
//! Nothing here is compiled by a build of the program: the C++ is compiled when a test asks for it
//! ([`Program::compile`]).

#![warn(unreachable_pub)]

mod card;
mod compiler;
mod counters;
mod program;

pub use card::{Card, Fault, Plain, Site};
pub use compiler::{CompileError, Compiler};
pub use counters::Counters;
pub use program::Program;
