//! How fast a sweep is: one prompt, one prefill, 37 variants (the full cache, and six methods at six budgets) in one
//! batch, against the full cache alone; and what memory it takes against the planner's figure.
//!
//! `cargo run --release -p kvsweep-engine --example sweep_speed -- prompt=2048 threads=2 repeats=5 [model=DIR]`
//!
//! Without `model` the weights are random (6.5 M parameters: hidden 256, 8 layers, 8/2 heads). docs/performance.md
//! says how to read the figures.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs,
    io::Write,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use kvsweep_engine::{
    Cpu, CpuPrompt,
    decode::{DecodeRule, Decoded},
    memory::Planner,
    model::random::{llama_config, random_weights},
    prefill::PrefillOptions,
    session::Session,
    source,
};
use kvsweep_methods::{
    Granularity, Inputs, LayerSelection, MethodSpec, MethodState, Observation, Selection, Variant,
};
use rayon::prelude::*;

type Prefill = kvsweep_engine::prefill::Prefill<CpuPrompt>;
type Sequence = kvsweep_engine::decode::Sequence<CpuPrompt>;
type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Tokens that every variant generates.
const NEW_TOKENS: usize = 32;
/// The sweep; methods that need no calibration.
const METHODS: [&str; 6] = ["streamingllm", "snapkv", "pyramidkv", "adakv", "cake", "tova"];
const BUDGETS: [usize; 6] = [64, 128, 256, 512, 1024, 2048];

/// On one thread, the processor time of this thread where Linux tells it: other load on the machine disturbs it less
/// than it disturbs the wall clock, which is what counts otherwise.
fn now() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    let wall = || START.get_or_init(Instant::now).elapsed();
    if rayon::current_num_threads() > 1 {
        return wall();
    }
    let stat = fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = stat.and_then(|stat| stat.split(' ').next()?.parse().ok());
    nanoseconds.map_or_else(wall, Duration::from_nanos)
}

/// The shortest of `repeats` runs in milliseconds, and the result of the last.
fn shortest<T>(repeats: usize, mut run: impl FnMut() -> Result<T>) -> Result<(f64, T)> {
    let mut timed = || {
        let start = now();
        let result = run()?;
        Ok::<_, Box<dyn Error + Send + Sync>>(((now() - start).as_secs_f64() * 1e3, result))
    };
    let (mut best, mut last) = timed()?;
    for _ in 1..repeats {
        let (time, result) = timed()?;
        (best, last) = (best.min(time), result);
    }
    Ok((best, last))
}

/// A figure of this process from Linux, in MB.
fn memory(field: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) * 1024.0 / 1e6
}

/// One prompt and what is run on it.
struct Bench {
    model: Session<Cpu>,
    ids: Vec<u32>,
    variants: Vec<Variant>,
    repeats: usize,
}

impl Bench {
    fn prefill(&self, wanted: &BTreeSet<Observation>) -> Result<Arc<Prefill>> {
        Ok(Arc::new(self.model.prefill(&self.ids, wanted, PrefillOptions::default())?))
    }

    fn sequence(&self, prefill: &Arc<Prefill>, selection: Selection) -> Sequence {
        Sequence {
            prefill: Arc::clone(prefill),
            selection: Arc::new(selection),
            follow: Arc::default(),
            renumbered: false,
            again: None,
            rule: DecodeRule { max_new: NEW_TOKENS, ignore_stops: true, ..DecodeRule::default() },
            keep_logits: false,
            masked_heads: None,
        }
    }

    fn full(&self, prefill: &Arc<Prefill>) -> Sequence {
        let layers = vec![LayerSelection::All; prefill.shape().layers.len()];
        self.sequence(prefill, Selection { granularity: Granularity::KvHead, layers })
    }

    fn select(&self, prefill: &Arc<Prefill>, variants: &[Variant]) -> Result<Vec<Sequence>> {
        let select = |variant: &Variant| -> Result<Sequence> {
            let (inputs, mut state) = (Inputs::default(), MethodState::default());
            let selection = variant.select(prefill.shape(), prefill.observations(), &inputs, &mut state)?;
            Ok(self.sequence(prefill, selection))
        };
        variants.par_iter().map(select).collect()
    }

    fn decode(&self, sequences: &[Sequence]) -> Result<Vec<Decoded>> {
        Ok(self.model.decode(sequences, &mut |_| ())?)
    }

    fn run(&self) -> Result<String> {
        let prompt = self.ids.len();
        let threads = rayon::current_num_threads();
        let wanted: BTreeSet<_> = self.variants.iter().flat_map(Variant::observations).collect();
        let snapkv: Vec<_> =
            self.variants.iter().filter(|variant| variant.spec().label() == "snapkv").cloned().collect();

        let (read, plain) = shortest(self.repeats, || self.prefill(&BTreeSet::new()))?;
        let full = [self.full(&plain)];
        let (alone, _) = shortest(self.repeats, || self.decode(&full))?;
        let (observe, prefill) = shortest(self.repeats, || self.prefill(&wanted))?;
        let heavy = BTreeSet::from([Observation::AccumulatedSum { recent: 8 }]);
        let (accumulate, _) = shortest(self.repeats, || self.prefill(&heavy))?;
        let (select, mut sequences) = shortest(self.repeats, || self.select(&prefill, &self.variants))?;
        sequences.push(self.full(&prefill));
        let (together, decoded) = shortest(self.repeats, || self.decode(&sequences))?;
        let (six, _) = shortest(self.repeats, || {
            let prefill = self.prefill(&snapkv.iter().flat_map(Variant::observations).collect())?;
            self.decode(&self.select(&prefill, &snapkv)?)
        })?;

        let rate = |sequences: usize, time: f64| ((NEW_TOKENS - 1) * sequences) as f64 / time * 1e3;
        let (one_rate, all_rate) = (rate(1, alone), rate(sequences.len(), together));
        let planner = Planner::on_cpu(&self.model.config);
        // A variant that keeps everything reads the shared prompt; equal ones are held once, or less.
        let shared = planner.kv_bytes(prompt);
        let held: u64 = decoded.iter().map(|one| one.held.bytes).filter(|&bytes| bytes < shared).sum();
        let planned = planner.weight_bytes()
            + 2 * shared
            + held
            + sequences.len() as u64 * planner.kv_bytes(NEW_TOKENS)
            + planner.activation_bytes(prompt, threads, &BTreeSet::new());
        let work = planner.prefill(prompt);
        Ok(format!(
            "{prompt} prompt tokens, {threads} threads, shortest of {}\n\
             prefill                        {read:9.1} ms  {:8.1} GFLOP/s\n\
             prefill, everything observed   {observe:9.1} ms  {:+8.1} %\n\
             prefill, attention summed      {accumulate:9.1} ms  {:+8.1} %\n\
             select, {} variants            {select:9.1} ms\n\
             decode, full cache alone       {alone:9.1} ms  {one_rate:8.0} tokens/s\n\
             decode, {} variants            {together:9.1} ms  {all_rate:8.0} tokens/s\n\
             all variants / one, tokens/s   {:9.2} x\n\
             whole sweep                    {:9.1} ms\n\
             whole sweep / full cache alone {:9.2} x\n\
             SnapKV at six budgets          {six:9.1} ms\n\
             peak resident memory           {:9.1} MB, planned {:.1} MB\n",
            self.repeats,
            work.flops / read / 1e6,
            (observe / read - 1.0) * 100.0,
            (accumulate / read - 1.0) * 100.0,
            self.variants.len(),
            sequences.len(),
            all_rate / one_rate,
            observe + select + together,
            (observe + select + together) / (read + alone),
            memory("VmHWM"),
            planned as f64 / 1e6,
        ))
    }
}

fn main() -> Result<()> {
    let options: BTreeMap<String, String> = std::env::args()
        .skip(1)
        .filter_map(|arg| arg.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())))
        .collect();
    let number = |key: &str, default: usize| match options.get(key) {
        Some(text) => text.parse::<usize>(),
        None => Ok(default),
    };
    let model = match options.get("model") {
        Some(dir) => Session::<Cpu>::load(&source::from_dir(dir.as_ref())?)?,
        None => {
            let config = llama_config([2048, 256, 768, 8, 8, 2]);
            let weights = random_weights(&config, 1)?;
            Session::<Cpu>::from_weights("random", config, &weights)?
        }
    };
    let vocab = model.config.vocab_size as u32;
    let prompt = number("prompt", 2048)?;
    let mut variants = Vec::new();
    for method in METHODS {
        let spec = MethodSpec::parse(method, &[], Some(Granularity::KvHead))?;
        for budget in BUDGETS.into_iter().filter(|&budget| budget <= prompt) {
            variants.push(spec.at(budget)?);
        }
    }
    let ids = (0..prompt as u32).map(|i| (i * 7919 + i / 13) % vocab).collect();
    let bench = Bench { model, ids, variants, repeats: number("repeats", 5)? };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(number("threads", 2)?).build()?;
    let report = pool.install(|| bench.run())?;
    std::io::stdout().write_all(report.as_bytes())?;
    Ok(())
}
