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
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    done: u64,
    prefill: Phase,
    decode: Phase,
    in_flight: usize,
    last_line: Instant,
}

/// Prefill or decode: what was done, and what is expected.
struct Phase {
    tokens: u64,
    seconds: f64,
    /// Prompt tokens of the examples behind and ahead, as expected before any was rendered.
    behind: u64,
    ahead: u64,
}

impl Phase {
    fn new(ahead: u64) -> Self {
        Self { tokens: 0, seconds: 0.0, behind: 0, ahead }
    }

    fn add(&mut self, expected: u64, tokens: usize, seconds: f64) {
        self.tokens += tokens as u64;
        self.seconds += seconds;
        self.behind += expected;
        self.ahead = self.ahead.saturating_sub(expected);
    }

    fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.tokens as f64 / self.seconds } else { 0.0 }
    }

    /// Seconds that what is ahead takes, at the pace so far; unknown before anything was done.
    fn left(&self) -> Option<f64> {
        (self.behind > 0).then(|| self.seconds / self.behind as f64 * self.ahead as f64)
    }
}

impl Progress {
    /// A sweep of `total` examples, `done` of them recorded by earlier runs; the others are expected to have `ahead`
    /// prompt tokens.
    pub(crate) fn new(total: u64, done: u64, ahead: u64) -> Self {
        let bar = (std::io::stderr().is_terminal() && total > done).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} examples  {msg}") {
                bar.set_style(style);
            }
            bar.set_position(done);
            bar
        });
        Self {
            bar,
            total,
            done,
            prefill: Phase::new(ahead),
            decode: Phase::new(ahead),
            in_flight: 0,
            last_line: Instant::now(),
        }
    }

    /// An example's prefill begins.
    pub(crate) fn prefilling(&mut self, key: &ExampleKey, prompt_tokens: usize) {
        self.show(&format!("{} prefill {prompt_tokens}", visible(&key.dataset)));
    }

    /// An example's prefill ended; its prompt was expected to have `expected` tokens.
    pub(crate) fn prefilled(&mut self, expected: u64, prompt_tokens: usize, seconds: f64) {
        self.prefill.add(expected, prompt_tokens, seconds);
    }

    /// So many variants decode from here on.
    pub(crate) fn decoding(&mut self, variants: usize) {
        self.in_flight = variants;
        self.show(&format!("decode {variants} variants"));
    }

    /// They advanced by a token.
    pub(crate) fn step(&mut self, step: DecodeProgress) {
        if let Some(bar) = &self.bar
            && step.step.is_multiple_of(8)
        {
            bar.set_message(format!("{}  {} still decoding", self.summary(), step.active));
        }
    }

    /// All variants of some examples ended; their prompts were expected to have `expected` tokens.
    pub(crate) fn decoded(&mut self, expected: u64, tokens: usize, seconds: f64) {
        self.decode.add(expected, tokens, seconds);
    }

    /// An example is on disk.
    pub(crate) fn recorded(&mut self) {
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
    pub(crate) fn finish(self) {
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
        Duration::try_from_secs_f64(self.prefill.left()? + self.decode.left()?).ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds_left(progress: &Progress) -> Option<f64> {
        progress.remaining().map(|left| left.as_secs_f64())
    }

    /// Ten examples that all decode in one batch: the first record is written when all the work is done.
    #[test]
    fn nothing_is_left_when_the_only_batch_is_decoded() {
        let mut progress = Progress::new(10, 0, 1000);
        assert_eq!(seconds_left(&progress), None);
        for _ in 0..10 {
            progress.prefilled(100, 120, 2.0);
        }
        assert_eq!(seconds_left(&progress), None, "no answer was decoded yet");
        progress.decoded(1000, 640, 64.0);
        progress.recorded();
        assert_eq!(seconds_left(&progress), Some(0.0));
    }

    #[test]
    fn long_prompts_ahead_count_by_their_length() {
        // Continued: five of eight examples are recorded, and of three one is four times as long.
        let mut progress = Progress::new(8, 5, 600);
        progress.prefilled(100, 90, 1.0);
        progress.decoded(100, 30, 3.0);
        progress.recorded();
        assert_eq!(seconds_left(&progress), Some(5.0 + 15.0));
        // One is read and waits for its answer.
        progress.prefilled(400, 380, 4.0);
        assert_eq!(seconds_left(&progress), Some(1.0 + 15.0));
    }
}
