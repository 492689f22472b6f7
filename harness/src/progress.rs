//! Progress for people, on stderr: one bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kvsweep_engine::decode::DecodeProgress;
use kvsweep_results::{ExampleKey, visible};

use crate::output;
use crate::remaining::Remaining;

/// Seconds between two lines where stderr is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// How far a sweep is: examples, tokens, rates, time left.
pub(crate) struct Progress<'a> {
    bar: Option<ProgressBar>,
    total: u64,
    done: u64,
    prefill: Rate,
    decode: Rate,
    remaining: Remaining<'a>,
    begun: Instant,
    batch: Batch,
    last_line: Instant,
}

/// Tokens and the time they took.
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

/// The batch that decodes.
struct Batch {
    variants: usize,
    begun: Instant,
    /// Tokens of the groups behind, and of the one that decodes.
    before: usize,
    tokens: usize,
}

impl<'a> Progress<'a> {
    /// A sweep of `total` examples, `done` of them recorded by earlier runs.
    pub(crate) fn new(total: u64, done: u64, remaining: Remaining<'a>) -> Self {
        let bar = (std::io::stderr().is_terminal() && total > done).then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} examples  {msg}") {
                bar.set_style(style);
            }
            bar.set_position(done);
            bar
        });
        let now = Instant::now();
        let batch = Batch { variants: 0, begun: now, before: 0, tokens: 0 };
        let (prefill, decode) = Default::default();
        Self { bar, total, done, prefill, decode, remaining, begun: now, batch, last_line: now }
    }

    /// An example's prefill begins.
    pub(crate) fn prefilling(&mut self, key: &ExampleKey, prompt_tokens: usize) {
        self.show(&format!("{} prefill {prompt_tokens}", visible(&key.dataset)));
    }

    /// An example's prefill ended.
    pub(crate) fn prefilled(&mut self, key: &ExampleKey, prompt_tokens: usize, seconds: f64) {
        self.prefill.add(prompt_tokens, seconds);
        self.remaining.read(key, seconds);
        self.line();
    }

    /// The variants of some examples decode from here on.
    pub(crate) fn decoding<'k>(&mut self, keys: impl IntoIterator<Item = &'k ExampleKey>) {
        self.batch = Batch { variants: 0, begun: Instant::now(), before: 0, tokens: 0 };
        self.remaining.begin(keys);
    }

    /// So many of them side by side.
    pub(crate) fn decoding_group(&mut self, variants: usize) {
        self.batch.before += self.batch.tokens;
        self.batch.tokens = 0;
        self.batch.variants = variants;
        self.show(&format!("decode {variants} variants"));
    }

    /// They advanced by a token.
    pub(crate) fn step(&mut self, step: DecodeProgress) {
        let batch = &mut self.batch;
        batch.tokens = step.tokens;
        // The time before the first step is that of the forks.
        if step.step == 0 {
            return;
        }
        self.remaining.advance(batch.before + batch.tokens, batch.begun.elapsed().as_secs_f64());
        if step.step.is_multiple_of(8) {
            self.show(&format!("{} still decoding", step.active));
        }
        self.line();
    }

    /// All variants of some examples ended: the mean number of tokens of each example's answers, and of all together.
    pub(crate) fn decoded<'k>(
        &mut self,
        answers: impl IntoIterator<Item = (&'k ExampleKey, f64)>,
        tokens: usize,
        seconds: f64,
    ) {
        self.decode.add(tokens, seconds);
        self.remaining.answered(answers, seconds);
    }

    /// An example is on disk.
    pub(crate) fn recorded(&mut self) {
        self.done += 1;
        self.remaining.elapsed(self.begun.elapsed().as_secs_f64());
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        }
        self.show("");
        self.line();
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

    /// A line where there is no bar, now and then and at the end.
    fn line(&mut self) {
        if self.bar.is_none() && (self.last_line.elapsed() > LINE_EVERY || self.done == self.total) {
            self.last_line = Instant::now();
            output::note(&format!("{}/{} examples, {}", self.done, self.total, self.summary()));
        }
    }

    fn summary(&self) -> String {
        let left = self.remaining.seconds().and_then(|left| Duration::try_from_secs_f64(left).ok());
        format!(
            "prefill {:.0} tok/s, decode {:.0} tok/s in {} variants, {} left",
            self.prefill.per_second(),
            self.decode.per_second(),
            self.batch.variants,
            left.map_or_else(|| "…".to_owned(), clock)
        )
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
