//! The command line `kvsweep`.

fn main() {}
