//! How long the rest of a sweep takes: the operations ahead, which are known of every prompt before the first one is read,
//! at the pace measured so far, and answers as long as those seen.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul};

use kvsweep_engine::memory::Planner;
use kvsweep_methods::observation::Observation;
use kvsweep_methods::spec::Variant;
use kvsweep_results::ExampleKey;

use crate::survey::{PromptLength, Survey};

/// Operations by what they are spent on: each has a pace of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Effort {
    /// Products with the weights: they grow with the tokens.
    weights: f64,
    /// Attention: in a prompt it grows with the square of the tokens.
    attention: f64,
}

impl Effort {
    fn total(self) -> f64 {
        self.weights + self.attention
    }
}

impl Add for Effort {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { weights: self.weights + other.weights, attention: self.attention + other.attention }
    }
}

impl AddAssign for Effort {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Mul<f64> for Effort {
    type Output = Self;
    fn mul(self, times: f64) -> Self {
        Self { weights: self.weights * times, attention: self.attention * times }
    }
}

impl Sum for Effort {
    fn sum<I: Iterator<Item = Self>>(efforts: I) -> Self {
        efforts.fold(Self::default(), Add::add)
    }
}

/// What reading and answering take under a model and a sweep's variants.
pub(crate) struct Efforts<'a> {
    planner: Planner<'a>,
    variants: Vec<Variant>,
    /// What a prompt is read again for.
    repeated: BTreeSet<Observation>,
    /// Examples whose variants decode side by side.
    examples: usize,
}

/// Reading the weights once for a step takes about as long as multiplying with them for so many sequences: on one core of
/// docs/performance.md a step of one sequence takes a seventh of a step of 31.
const READING_THE_WEIGHTS: f64 = 4.0;

impl<'a> Efforts<'a> {
    /// Of a model and variants, those of so many `examples` side by side.
    pub(crate) fn new<'v>(
        planner: Planner<'a>,
        variants: impl IntoIterator<Item = &'v Variant>,
        examples: usize,
    ) -> Self {
        let variants: Vec<Variant> = variants.into_iter().cloned().collect();
        let observations = variants.iter().flat_map(Variant::observations);
        let repeated = observations.filter(|one| one.repeats_the_prompt()).collect();
        Self { planner, variants, repeated, examples }
    }

    fn reading(&self, sizes: &PromptLength) -> Effort {
        if sizes.read_before {
            return Effort::default();
        }
        let once = self.planner.prefill(0).flops;
        let weights = (self.planner.decode_step(&[(0, 0)]).flops - once) * sizes.compressed as f64;
        let passes = self.repeated.iter().map(|&one| self.planner.replay(sizes.compressed, one).flops);
        let attention = self.planner.prefill(sizes.compressed).flops - once - weights;
        let first = Effort { weights: weights + once, attention };
        passes.map(|flops| Effort { weights, attention: flops - weights }).fold(first, Add::add)
    }

    /// Entries a head of the caches that decode. Variants that keep the whole prompt are computed once.
    fn caches(&self, sizes: &PromptLength) -> impl Iterator<Item = usize> {
        let entries = self.variants.iter().map(|variant| variant.entries(sizes.compressed));
        let (whole, parts): (Vec<usize>, Vec<usize>) =
            entries.partition(|&entries| entries == sizes.compressed);
        parts.into_iter().chain(whole.first().copied())
    }

    /// `steps` tokens of every variant, the first one in sight of `behind` tokens after the prompt, in a batch of so many
    /// caches.
    fn steps(&self, sizes: &PromptLength, behind: f64, steps: f64, batch: f64) -> Effort {
        let token = self.planner.decode_step(&[(0, 0)]).flops * (1.0 + READING_THE_WEIGHTS / batch.max(1.0));
        self.caches(sizes)
            .map(|entries| Effort {
                weights: token * steps,
                attention: self.planner.pair_flops() * (entries as f64 + behind + steps / 2.0) * steps,
            })
            .sum()
    }

    fn answering(&self, sizes: &PromptLength) -> Answering {
        let follow = sizes.follow as f64;
        let caches = self.caches(sizes).count() as f64;
        let batch = caches * self.examples as f64;
        Answering {
            follow: self.steps(sizes, 0.0, follow, batch),
            whole: self.steps(sizes, follow, sizes.new as f64, batch),
            new: sizes.new as f64,
            caches,
        }
    }
}

/// One example's answers.
#[derive(Clone, Copy, Debug)]
struct Answering {
    /// Reading what follows the prompt.
    follow: Effort,
    /// Answers of full length.
    whole: Effort,
    /// Tokens of such an answer.
    new: f64,
    /// How many caches decode.
    caches: f64,
}

/// Seconds an operation, fitted to what was measured.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    effort: Effort,
    seconds: f64,
    /// Sums over the measurements, each relative to its seconds: squares of both kinds, their product, and each alone.
    squares: (f64, f64),
    product: f64,
    sums: (f64, f64),
}

/// How strongly the two kinds are held to one pace while few lengths were measured, in measurements.
const HELD_TOGETHER: f64 = 0.05;

impl Pace {
    fn measured(&mut self, effort: Effort, seconds: f64) {
        if seconds <= 0.0 || effort.total() <= 0.0 {
            return;
        }
        let (weights, attention) = (effort.weights / seconds, effort.attention / seconds);
        self.effort += effort;
        self.seconds += seconds;
        self.squares.0 += weights * weights;
        self.squares.1 += attention * attention;
        self.product += weights * attention;
        self.sums.0 += weights;
        self.sums.1 += attention;
    }

    /// Seconds that `effort` takes; unknown before anything was measured.
    fn seconds(&self, effort: Effort) -> Option<f64> {
        if self.effort.total() <= 0.0 {
            return None;
        }
        // Least squares of the relative errors, with a penalty on two paces that differ.
        let even = self.seconds / self.effort.total();
        let held = HELD_TOGETHER / (even * even);
        let (ww, aa, wa) = (self.squares.0 + held, self.squares.1 + held, self.product - held);
        let determinant = ww * aa - wa * wa;
        let weights = (self.sums.0 * aa - self.sums.1 * wa) / determinant;
        let attention = (self.sums.1 * ww - self.sums.0 * wa) / determinant;
        let (weights, attention) =
            if weights > 0.0 && attention > 0.0 { (weights, attention) } else { (even, even) };
        let at = |effort: Effort| weights * effort.weights + attention * effort.attention;
        // What was measured took as long as it took.
        Some(at(effort) * self.seconds / at(self.effort))
    }
}

/// How much of their full length answers have.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    examples: f64,
    /// The sum of the examples' shares.
    shares: f64,
}

/// What is assumed of answers before any was seen; it counts as much as one example.
const ASSUMED_SHARE: f64 = 0.5;

impl Share {
    fn add(&mut self, share: f64) {
        self.examples += 1.0;
        self.shares += share;
    }

    /// The mean, to which `assumed` counts as one example more.
    fn mean(&self, assumed: f64) -> f64 {
        (self.shares + assumed) / (self.examples + 1.0)
    }
}

/// The batch that decodes now.
#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    caches: f64,
    whole: Effort,
    /// Tokens of all answers at full length.
    most: f64,
    /// The share of them that is there, and the seconds it took.
    done: f64,
    seconds: f64,
}

/// What is not read and not answered yet.
pub(crate) struct Remaining<'a> {
    efforts: Efforts<'a>,
    sizes: BTreeMap<ExampleKey, PromptLength>,
    unread: BTreeMap<ExampleKey, Effort>,
    unanswered: BTreeMap<ExampleKey, Answering>,
    reading: Pace,
    answering: Pace,
    shares: BTreeMap<String, Share>,
    batch: Batch,
    /// The whole time so far beside the time of reading and answering: choosing, grading and writing take some, too.
    overhead: f64,
}

impl<'a> Remaining<'a> {
    /// Everything that was surveyed.
    pub(crate) fn new(efforts: Efforts<'a>, survey: &Survey) -> Self {
        let of = |(key, sizes): &(ExampleKey, PromptLength)| (key.clone(), *sizes);
        let sizes: BTreeMap<_, _> = survey.prompts.iter().map(of).collect();
        Self {
            unread: sizes.iter().map(|(key, sizes)| (key.clone(), efforts.reading(sizes))).collect(),
            unanswered: sizes.iter().map(|(key, sizes)| (key.clone(), efforts.answering(sizes))).collect(),
            efforts,
            sizes,
            reading: Pace::default(),
            answering: Pace::default(),
            shares: BTreeMap::new(),
            batch: Batch::default(),
            overhead: 1.0,
        }
    }

    /// A prompt was read.
    pub(crate) fn read(&mut self, key: &ExampleKey, seconds: f64) {
        if let Some(effort) = self.unread.remove(key) {
            self.reading.measured(effort, seconds);
        }
    }

    /// These examples are answered from here on.
    pub(crate) fn begin<'k>(&mut self, keys: impl IntoIterator<Item = &'k ExampleKey>) {
        let keys: Vec<_> = keys.into_iter().collect();
        let answering = |key: &&ExampleKey| Some((self.sizes.get(*key)?, self.unanswered.get(*key)?));
        let known: Vec<_> = keys.iter().filter_map(answering).collect();
        let caches = known.iter().map(|(_, one)| one.caches).sum();
        let mut batch = Batch { caches, ..Batch::default() };
        for (sizes, one) in known {
            let follow = sizes.follow as f64;
            batch.whole += self.efforts.steps(sizes, 0.0, follow + one.new, caches);
            batch.most += one.new * one.caches;
        }
        self.batch = batch;
    }

    /// So many tokens of all their answers are there.
    pub(crate) fn advance(&mut self, tokens: usize, seconds: f64) {
        self.batch.done = (tokens as f64 / self.batch.most.max(1.0)).min(1.0);
        self.batch.seconds = seconds;
    }

    /// They are answered; each with the mean number of tokens that its variants have.
    pub(crate) fn answered<'k>(
        &mut self,
        answers: impl IntoIterator<Item = (&'k ExampleKey, f64)>,
        seconds: f64,
    ) {
        let mut effort = Effort::default();
        for (key, tokens) in answers {
            let Some((one, sizes)) = self.unanswered.remove(key).zip(self.sizes.get(key)) else { continue };
            effort += self.efforts.steps(sizes, 0.0, sizes.follow as f64 + tokens, self.batch.caches);
            self.shares.entry(key.dataset.clone()).or_default().add(tokens / one.new.max(1.0));
        }
        self.answering.measured(effort, seconds);
        self.batch = Batch::default();
    }

    /// What everything took so far.
    pub(crate) fn elapsed(&mut self, seconds: f64) {
        let known = self.reading.seconds + self.answering.seconds;
        if known > 0.0 {
            self.overhead = (seconds / known).max(1.0);
        }
    }

    /// Seconds that the rest takes; unknown before one prompt was read and some tokens of its answers are there.
    pub(crate) fn seconds(&self) -> Option<f64> {
        let unread: Effort = self.unread.values().copied().sum();
        let all: Share = self.shares.values().fold(Share::default(), |all, one| Share {
            examples: all.examples + one.examples,
            shares: all.shares + one.shares,
        });
        let pooled = all.mean(ASSUMED_SHARE);
        let expected = |(key, one): (&ExampleKey, &Answering)| {
            one.follow + one.whole * self.shares.get(&key.dataset).map_or(pooled, |own| own.mean(pooled))
        };
        let unanswered: Effort = self.unanswered.iter().map(expected).sum();
        let mut answering = self.answering;
        answering.measured(self.batch.whole * self.batch.done, self.batch.seconds);
        let nothing = |effort: Effort| (effort.total() <= 0.0).then_some(0.0);
        let reading = nothing(unread).or_else(|| self.reading.seconds(unread))?;
        let left = nothing(unanswered).or_else(|| answering.seconds(unanswered))?;
        Some(((reading + left) * self.overhead - self.batch.seconds).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use kvsweep_engine::model::known;
    use kvsweep_methods::spec::MethodSpec;

    use super::*;

    fn key(dataset: &str, row: usize) -> ExampleKey {
        ExampleKey { dataset: dataset.into(), example: format!("{dataset}#{row}") }
    }

    fn sizes(compressed: usize, new: usize) -> PromptLength {
        PromptLength { compressed, follow: 0, new, read_before: false }
    }

    /// A machine that reads at one pace and attends at another, and answers of a length that goes with the data set. Gives
    /// the estimate beside the truth after every example.
    fn simulate(lengths: &[usize]) -> Vec<(f64, f64)> {
        let config = known::config("meta-llama/Llama-3.1-8B-Instruct").unwrap().unwrap();
        let at = |name: &str, budget| MethodSpec::parse(name, &[], None).unwrap().at(budget).unwrap();
        let variants = [at("full", 0), at("snapkv", 128), at("snapkv", 512)];
        let efforts = || Efforts::new(Planner::new(&config, 4), &variants, 1);
        let machine = |effort: Effort| effort.weights * 1e-10 + effort.attention * 3e-10;
        let asked: Vec<(ExampleKey, PromptLength, f64)> = lengths
            .iter()
            .enumerate()
            .map(|(row, &length)| {
                // The first half answers in full, the second in a quarter of 128 tokens.
                let first = row < lengths.len() / 2;
                let (name, new, tokens) = if first { ("a", 64, 64.0) } else { ("b", 128, 32.0) };
                (key(name, row), sizes(length, new), tokens)
            })
            .collect();
        let survey = Survey {
            prompts: asked.iter().map(|(key, sizes, _)| (key.clone(), *sizes)).collect(),
            ..Survey::default()
        };
        let cost = |(_, sizes, tokens): &(ExampleKey, PromptLength, f64)| {
            let efforts = efforts();
            [machine(efforts.reading(sizes)), 2.0 * machine(efforts.steps(sizes, 0.0, *tokens, 3.0))]
        };
        let mut left: f64 = asked.iter().flat_map(cost).sum();
        let mut remaining = Remaining::new(efforts(), &survey);
        assert_eq!(remaining.seconds(), None);
        let mut seen = Vec::new();
        for one in &asked {
            let [reading, answering] = cost(one);
            remaining.read(&one.0, reading);
            remaining.begin([&one.0]);
            remaining.answered([(&one.0, one.2)], answering);
            left -= reading + answering;
            seen.push((remaining.seconds().unwrap(), left));
        }
        seen
    }

    #[test]
    fn the_time_left_is_near_the_truth_from_the_first_example_on() {
        // The first prompts are short, those to come long: a pace by tokens alone would be off by more than two.
        let lengths: Vec<usize> =
            (0..40).map(|row| if row < 4 { 1000 } else { 2000 + 350 * (row % 17) }).collect();
        let seen = simulate(&lengths);
        let error = |at: usize| (seen[at].0 / seen[at].1 - 1.0).abs();
        assert!(error(0) < 0.6, "{:?}", seen[0]);
        for at in 5..20 {
            assert!(error(at) < 0.35, "{at}: {}", error(at));
        }
        // Once answers of the second data set were seen.
        for at in 24..39 {
            assert!(error(at) < 0.08, "{at}: {}", error(at));
        }
        assert_eq!(seen[39].0, 0.0);
    }

    #[test]
    fn a_batch_in_hand_tells_its_pace_before_it_ends() {
        let config = known::config("meta-llama/Llama-3.1-8B-Instruct").unwrap().unwrap();
        let full = MethodSpec::parse("full", &[], None).unwrap().at(0).unwrap();
        let survey = Survey {
            prompts: vec![(key("a", 0), sizes(4000, 100)), (key("a", 1), sizes(4000, 100))],
            ..Survey::default()
        };
        let mut remaining = Remaining::new(Efforts::new(Planner::new(&config, 4), [&full], 1), &survey);
        remaining.read(&key("a", 0), 30.0);
        assert_eq!(remaining.seconds(), None, "no answer is there");
        remaining.begin([&key("a", 0)]);
        remaining.advance(25, 10.0);
        // Half of 100 tokens each: 20 s, 10 of them over, and the second prompt.
        let left = remaining.seconds().unwrap();
        assert!((left - (30.0 + 20.0 + 10.0)).abs() < 1e-6, "{left}");
        // A tenth of the time goes to other things.
        remaining.answered([(&key("a", 0), 50.0)], 20.0);
        remaining.elapsed(55.0);
        let left = remaining.seconds().unwrap();
        assert!((left - 55.0).abs() < 1.0, "{left}");
    }

    #[test]
    fn a_context_that_is_read_already_takes_no_time() {
        let config = known::config("meta-llama/Llama-3.1-8B-Instruct").unwrap().unwrap();
        let full = MethodSpec::parse("full", &[], None).unwrap().at(0).unwrap();
        let efforts = Efforts::new(Planner::new(&config, 4), [&full, &full], 1);
        let shared = PromptLength { compressed: 4000, follow: 20, new: 100, read_before: true };
        assert_eq!(efforts.reading(&shared), Effort::default());
        assert_eq!(shared.tokens(), 4020);
        // Two variants that keep everything are one.
        let one = Efforts::new(Planner::new(&config, 4), [&full], 1);
        assert_eq!(efforts.steps(&shared, 0.0, 10.0, 1.0), one.steps(&shared, 0.0, 10.0, 1.0));
        let read = efforts.reading(&PromptLength { read_before: false, ..shared });
        let planned = Planner::new(&config, 4).prefill(4000).flops;
        assert!((read.total() / planned - 1.0).abs() < 1e-12);
    }

    #[test]
    fn windows_and_second_passes_are_counted_as_a_dry_run_counts_them() {
        let config = known::config("google/gemma-3-1b-it").unwrap().unwrap();
        let planner = Planner::new(&config, 4);
        let at = |name: &str| MethodSpec::parse(name, &[], None).unwrap().at(128).unwrap();
        let reading = |name| Efforts::new(planner, [&at(name)], 1).reading(&sizes(8000, 100));
        let once = reading("snapkv");
        assert!((once.total() / planner.prefill(8000).flops - 1.0).abs() < 1e-12);
        // Four of 26 layers look at everything, the others at 512 tokens.
        let everything = planner.pair_flops() * 8000.0 * 8001.0 / 2.0;
        assert!((0.2..0.3).contains(&(once.attention / everything)), "{once:?}");
        let kvzip = at("kvzip").observations();
        let again: f64 = kvzip.iter().map(|&one| planner.replay(8000, one).flops).sum();
        assert!((reading("kvzip").total() / (once.total() + again) - 1.0).abs() < 1e-12);
    }
}
