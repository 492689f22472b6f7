//! How fast each kernel is on each instruction set of this machine, beside what one core can do: its multiply-add peak
//! on that set and its memory bandwidth, measured in the same run.
//!
//! Everything runs on one thread. Times are the shortest of many runs, in this thread's processor time where the system
//! tells it: other load on the machine disturbs that least.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use half::{bf16, f16};
use kvsweep_methods::{
    instructions::InstructionSet,
    observation::Observation,
    observe::{HeadsView, LayerObserver},
    shape::{LayerShape, Reach},
};
use rayon::ThreadPoolBuilder;

use super::{
    attention::{self, Causal, CausalScratch, Entries, KeptEntries},
    buffer::Buffer,
    matrix::PackedMatrix,
    prefill::BLOCK,
    simd::Simd,
    stored::Stored,
};
use crate::error::{EngineError, Result};

/// What one core can do with one instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Independent multiply-adds in registers, GFLOP/s.
    pub gflops: f64,
    /// Reading memory beyond every cache, from its start to its end, GB/s.
    pub gbytes: f64,
}

/// What a kernel reached.
#[derive(Clone, Copy, Debug)]
pub enum Rate {
    /// GFLOP/s, a multiply-add counted as two, and GB/s of the right-hand side, read once. The right-hand side is
    /// larger than the caches.
    Product {
        /// GFLOP/s.
        gflops: f64,
        /// GB/s.
        gbytes: f64,
    },
    /// GFLOP/s of the two products that attention consists of, exponentials included in the time.
    Attention {
        /// GFLOP/s.
        gflops: f64,
    },
    /// Elements a nanosecond.
    Elements(f64),
}

/// How long each kernel is repeated.
const PATIENCE: Duration = Duration::from_millis(300);
/// Input and output elements of the measured projections: 64 MiB of f32 weights.
const SIDE: usize = 4096;
/// Floats that are read to measure the memory: no power of two, or its streams would share a cache's sets.
const MEMORY: usize = 30_000_128;
/// Tokens of the measured prompt.
const PROMPT: usize = 2048;
/// Elements of an element-wise loop: in the first-level cache.
const ROW: usize = 4096;

/// The processor time of this thread; elsewhere than on Unix, the wall clock.
fn now() -> Duration {
    #[cfg(unix)]
    {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
    #[cfg(not(unix))]
    {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }
}

/// The shortest run, in nanoseconds.
fn shortest(mut run: impl FnMut()) -> f64 {
    let patience = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while runs < 5 || (patience.elapsed() < PATIENCE && runs < 10_000) {
        let start = now();
        run();
        best = best.min((now() - start).as_nanos() as f64);
        runs += 1;
    }
    best
}

/// Numbers between -1 and 1.
fn noise(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Measures every kernel on each of the sets, on one thread. `seen` gets each result as it comes: the set, its limits,
/// the kernel's name, and what it reached.
///
/// # Errors
/// If no thread can be started.
pub fn measure(
    sets: &[InstructionSet],
    mut seen: impl FnMut(InstructionSet, &Limits, &str, Rate) + Send,
) -> Result<()> {
    let pool = ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .map_err(|error| EngineError::Threads { reason: error.to_string() })?;
    pool.install(|| {
        let bench = Bench::new();
        for &set in sets {
            let limits = bench.limits(Simd::of(set));
            bench.measure(set, &mut |kernel, rate| seen(set, &limits, kernel, rate));
        }
    });
    Ok(())
}

/// The inputs.
struct Bench {
    x: Vec<f32>,
    weights: [(&'static str, f64, PackedMatrix); 3],
}

impl Bench {
    fn new() -> Self {
        let wide = noise(SIDE * SIDE);
        let f16: Vec<_> = wide.iter().map(|&x| f16::from_f32(x)).collect();
        let bf16: Vec<_> = wide.iter().map(|&x| bf16::from_f32(x)).collect();
        let pack = |stored: Stored<'_>| PackedMatrix::new(SIDE, &[(stored, None)]);
        let weights = [
            ("f32", 4.0, pack(Stored::F32(&wide))),
            ("f16", 2.0, pack(Stored::F16(&f16))),
            ("bf16", 2.0, pack(Stored::Bf16(&bf16))),
        ];
        Self { x: noise(BLOCK * SIDE), weights }
    }

    fn limits(&self, simd: Simd) -> Limits {
        let mut flops = 0;
        let time = shortest(|| flops = simd.multiply_adds(200_000));
        let mut memory = Buffer::zeros(MEMORY);
        memory.fill(1.0);
        let read = shortest(|| simd.read(&memory));
        Limits { gflops: flops as f64 / time, gbytes: (memory.len() * size_of::<f32>()) as f64 / read }
    }

    fn measure(&self, set: InstructionSet, seen: &mut dyn FnMut(&str, Rate)) {
        let simd = Simd::of(set);
        self.products(simd, seen);
        for head_dim in [32, 64, 128] {
            prefill_attention(simd, head_dim, seen);
        }
        decode_attention(simd, seen);
        elements(simd, seen);
        observation(set, seen);
    }

    fn products(&self, simd: Simd, seen: &mut dyn FnMut(&str, Rate)) {
        for (dtype, bytes, weights) in &self.weights {
            let mut out = vec![0.0; BLOCK * SIDE];
            let flops = |rows: usize| (2 * rows * SIDE * SIDE) as f64;
            let rate = |rows: usize, time: f64| Rate::Product {
                gflops: flops(rows) / time,
                gbytes: (SIDE * SIDE) as f64 * bytes / time,
            };
            let time = shortest(|| weights.multiply(simd, &self.x, SIDE, &mut out, false));
            seen(&format!("prefill projection, {dtype}, {BLOCK} rows"), rate(BLOCK, time));
            for rows in [1, 4, 13, 37] {
                let x = &self.x[..rows * SIDE];
                let time = shortest(|| weights.multiply_spread(simd, x, SIDE, &mut out, false));
                let plural = if rows == 1 { "" } else { "s" };
                seen(&format!("decode projection, {dtype}, {rows} row{plural}"), rate(rows, time));
            }
        }
    }
}

/// Causal attention of one KV head and its group of four query heads, as a prefill's blocks run it.
fn prefill_attention(simd: Simd, head_dim: usize, seen: &mut dyn FnMut(&str, Rate)) {
    let group = 4;
    let (keys, values) = (noise(PROMPT * head_dim), noise(PROMPT * head_dim));
    let scale = attention::query_scale(head_dim);
    let queries: Vec<f32> = noise(PROMPT * group * head_dim).iter().map(|x| 4.0 * x * scale).collect();
    let head = Entries::new(&keys, &values, PROMPT);
    let mut out = vec![0.0; BLOCK * group * head_dim];
    let mut scratch = CausalScratch::default();
    let time = shortest(|| {
        for (block, queries) in queries.chunks(BLOCK * group * head_dim).enumerate() {
            let causal = Causal { first: block * BLOCK, group, head_dim, reach: Reach::All };
            causal.attend(simd, queries, head, Some(&mut out), None, &mut scratch);
        }
    });
    let pairs = PROMPT * (PROMPT + 1) / 2;
    let gflops = (4 * group * head_dim * pairs) as f64 / time;
    seen(&format!("causal attention, head size {head_dim}"), Rate::Attention { gflops });
}

/// One decode step of one KV head and its group over a cache of one prompt.
fn decode_attention(simd: Simd, seen: &mut dyn FnMut(&str, Rate)) {
    let (group, head_dim) = (4, 64);
    let (keys, values) = (noise(PROMPT * head_dim), noise(PROMPT * head_dim));
    let queries = noise(group * head_dim);
    let kept = KeptEntries::Shared(Entries::new(&keys, &values, PROMPT));
    let tail = Entries::default();
    let mut out = vec![0.0; group * head_dim];
    let mut weights = Vec::new();
    let time = shortest(|| {
        attention::decode(simd, &queries, kept, tail, &mut out, &mut weights, head_dim);
    });
    let gflops = (4 * group * head_dim * PROMPT) as f64 / time;
    seen("decode attention, 4 rows, head size 64", Rate::Attention { gflops });
}

/// The element-wise loops, in the first-level cache.
fn elements(simd: Simd, seen: &mut dyn FnMut(&str, Rate)) {
    let (x, weight) = (noise(ROW), noise(ROW));
    let mut buffer = x.clone();
    let mut run = |name: &str, work: &mut dyn FnMut(&mut [f32])| {
        let time = shortest(|| {
            buffer.copy_from_slice(&x);
            work(black_box(&mut buffer));
        });
        seen(name, Rate::Elements(ROW as f64 / time));
    };
    run("maximum", &mut |row| {
        black_box(simd.max(row));
    });
    run("exponentials and their sum", &mut |row| {
        black_box(simd.exp2_sum(row, 1.0));
    });
    let mut out = vec![0.0; ROW];
    run("RMS norm", &mut |row| simd.rms_norm(row, &weight, 1e-5, &mut out));
    run("SiLU times up", &mut |row| simd.silu_mul(row, &weight));
    run("rotation, head size 64", &mut |row| simd.rotate(row, &weight[..32], &weight[32..64]));
    let mut sums = vec![0.0; ROW / 32];
    run("received attention, 32 rows", &mut |row| {
        simd.add_rows(row, ROW / 32, &weight[..32], 1, &mut sums);
    });
}

/// What the methods see of a window of 32 positions, in one KV head and its group.
fn observation(set: InstructionSet, seen: &mut dyn FnMut(&str, Rate)) {
    let shape = LayerShape { query_heads: 4, kv_heads: 1, head_dim: 64, reach: Reach::All };
    let window = 32;
    let (queries, keys) = (noise(window * 4 * 64), noise(PROMPT * 64));
    let views = HeadsView::token_major(&queries, [4, window, 64])
        .and_then(|queries| Ok((queries, HeadsView::token_major(&keys, [1, PROMPT, 64])?)));
    let Ok((queries, keys)) = views else { return };
    for (name, wanted) in [
        ("observed window of 32, sums", Observation::WindowSum { window }),
        ("observed window of 32, moments", Observation::WindowMoments { window }),
    ] {
        let time = shortest(|| {
            let observer = LayerObserver::new(&[wanted], &shape, PROMPT).map(|observer| observer.on(set));
            if let Ok(mut observer) = observer {
                let _ = black_box(observer.feed(&queries, PROMPT - window, &keys));
            }
        });
        seen(name, Rate::Elements((window * 4 * PROMPT) as f64 / time));
    }
}
