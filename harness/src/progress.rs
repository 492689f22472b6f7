//! Progress for people, on stderr: one bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kvsweep_engine::decode::DecodeProgress;
use kvsweep_results::{ExampleKey, visible};

use crate::output;

/// Seconds between two lines where stderr is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// How far a sweep is: examples, tokens, rates, time left.
pub struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    done: u64,
    done_before: u64,
    prefill: Rate,
    decode: Rate,
    in_flight: usize,
    started: Instant,
    last_line: Instant,
}

#[derive(Default)]
struct Rate {
    tokens: u64,
    seconds: f64,
}

impl Rate {
    fn add(&mut self, tokens: usize, seconds: f64) {
        self.tokens += tokens as u64;
        self.seconds += seconds;
    }

    fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.tokens as f64 / self.seconds } else { 0.0 }
    }
}

impl Progress {
    /// A sweep of `total` examples, `done` of them recorded by earlier runs.
    pub fn new(total: u64, done: u64) -> Self {
        let bar = (std::io::stderr().is_terminal() && total > done).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} examples  {msg}") {
                bar.set_style(style);
            }
            bar.set_position(done);
            bar
        });
        let now = Instant::now();
        Self {
            bar,
            total,
            done,
            done_before: done,
            prefill: Rate::default(),
            decode: Rate::default(),
            in_flight: 0,
            started: now,
            last_line: now,
        }
    }

    /// An example's prefill begins.
    pub fn prefilling(&mut self, key: &ExampleKey, prompt_tokens: usize) {
        self.show(&format!("{} prefill {prompt_tokens}", visible(&key.dataset)));
    }

    /// An example's prefill ended.
    pub fn prefilled(&mut self, prompt_tokens: usize, seconds: f64) {
        self.prefill.add(prompt_tokens, seconds);
    }

    /// So many variants decode from here on.
    pub fn decoding(&mut self, variants: usize) {
        self.in_flight = variants;
        self.show(&format!("decode {variants} variants"));
    }

    /// They advanced by a token.
    pub fn step(&mut self, step: DecodeProgress) {
        if let Some(bar) = &self.bar
            && step.step.is_multiple_of(8)
        {
            bar.set_message(format!("{}  {} still decoding", self.summary(), step.active));
        }
    }

    /// They ended.
    pub fn decoded(&mut self, tokens: usize, seconds: f64) {
        self.decode.add(tokens, seconds);
    }

    /// An example is on disk.
    pub fn recorded(&mut self) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        }
        self.show("");
        if self.bar.is_none() && (self.last_line.elapsed() > LINE_EVERY || self.done == self.total) {
            self.last_line = Instant::now();
            output::note(&format!("{}/{} examples, {}", self.done, self.total, self.summary()));
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn show(&self, doing: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}  {doing}", self.summary()));
        }
    }

    fn summary(&self) -> String {
        format!(
            "prefill {:.0} tok/s, decode {:.0} tok/s in {} variants, {} left",
            self.prefill.per_second(),
            self.decode.per_second(),
            self.in_flight,
            self.remaining().map_or_else(|| "…".to_owned(), clock)
        )
    }

    fn remaining(&self) -> Option<Duration> {
        let done = (self.done - self.done_before) as f64;
        let left = (self.total - self.done) as f64;
        (done > 0.0).then(|| Duration::from_secs_f64(self.started.elapsed().as_secs_f64() / done * left))
    }
}

fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}
