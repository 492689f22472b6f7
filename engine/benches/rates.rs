//! Each kernel on each instruction set of this machine, as a share of the multiply-add peak and the memory bandwidth that
//! one core reaches in the same run. Names of sets as arguments measure only those.

#![expect(clippy::print_stdout, clippy::expect_used, reason = "a bench prints, and has nobody to report to")]

use kvsweep_engine::rates::{Limits, Rate, measure};
use kvsweep_methods::instructions::InstructionSet;

fn main() {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let sets: Vec<_> = InstructionSet::available()
        .into_iter()
        .filter(|set| {
            named.iter().all(|name| name.starts_with('-')) || named.iter().any(|name| name == set.name())
        })
        .collect();
    let mut last = None;
    measure(&sets, |set, limits, kernel, rate| {
        if last.replace(set) != Some(set) {
            heading(set, limits);
        }
        row(limits, kernel, rate);
    })
    .expect("one thread");
}

fn heading(set: InstructionSet, limits: &Limits) {
    println!("\n**{}**, one core: {:.1} GFLOP/s, {:.1} GB/s\n", set.name(), limits.gflops, limits.gbytes);
    println!("| kernel | rate | of the peak | of the bandwidth |\n| --- | ---: | ---: | ---: |");
}

fn row(limits: &Limits, kernel: &str, rate: Rate) {
    let share = |part: f64, whole: f64| format!("{:.0} %", 100.0 * part / whole);
    let (rate, of_peak, of_bandwidth) = match rate {
        Rate::Product { gflops, gbytes } => {
            (format!("{gflops:.1} GFLOP/s"), share(gflops, limits.gflops), share(gbytes, limits.gbytes))
        }
        Rate::Attention { gflops } => {
            (format!("{gflops:.1} GFLOP/s"), share(gflops, limits.gflops), String::new())
        }
        Rate::Elements(rate) => (format!("{rate:.2} elements/ns"), String::new(), String::new()),
    };
    println!("| {kernel} | {rate} | {of_peak} | {of_bandwidth} |");
}
