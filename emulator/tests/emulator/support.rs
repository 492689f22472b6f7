//! What all tests of kernels need: the compiled kernels, random numbers, comparisons.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use half::{bf16, f16};
use kvsweep_emulator::{Card as Emulated, Compiler, Fault, Program, Site};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cuda::launcher::{Address, Arguments, Element, HeadDim, Instance, Launcher, Precision, Product};

/// Says why a test does nothing; in CI that is a failure.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}");
    eprintln!("skipped: {why}");
}

pub fn kernel_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/kernels")
}

/// The sources of all kernels, in order.
pub fn kernel_sources() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(kernel_folder()).unwrap();
    let mut sources: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    sources.sort();
    sources
}

pub fn compiler() -> Option<Compiler> {
    let compiler = Compiler::find();
    if compiler.is_none() {
        skip("no g++ on this machine");
    }
    compiler
}

pub fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated")
}

/// All kernels; none where there is no compiler.
pub fn program() -> Option<&'static Program> {
    static PROGRAM: OnceLock<Option<Program>> = OnceLock::new();
    let compile = || {
        let compiler = compiler()?;
        Some(Program::compile(&compiler, &kernel_sources(), &kernel_folder(), &cache()).unwrap())
    };
    PROGRAM.get_or_init(compile).as_ref()
}

pub fn instance(element: Element, head_dim: usize) -> Instance {
    Instance { element, head_dim: HeadDim::new(head_dim).unwrap() }
}

pub fn instances() -> impl Iterator<Item = Instance> {
    [Element::Bf16, Element::F16]
        .into_iter()
        .flat_map(|element| HeadDim::ALL.map(|head_dim| Instance { element, head_dim }))
}

/// The emulated card behind the engine's trait. Products are made here, in f32.
pub struct TestCard<'p>(pub Emulated<'p>, BTreeMap<u64, Vec<f32>>);

impl<'p> TestCard<'p> {
    pub fn new(program: &'p Program, seed: u64, muted: Option<&Site>) -> Self {
        let mut card = Emulated::new(program, seed);
        if let Some(site) = muted {
            card.mute(site);
        }
        Self(card, BTreeMap::new())
    }

    pub fn constant<T: kvsweep_emulator::Plain>(&mut self, values: &[T]) -> Address {
        Address(self.0.constant(values))
    }

    pub fn output<T: kvsweep_emulator::Plain>(&mut self, len: usize) -> Address {
        Address(self.0.output::<T>(len))
    }

    pub fn values<T: kvsweep_emulator::Plain + Default>(
        &self,
        at: Address,
        len: usize,
    ) -> Result<Vec<T>, Fault> {
        self.0.read(at.0, len)
    }
}

impl Launcher for TestCard<'_> {
    type Error = Fault;

    fn allocate(&mut self, bytes: usize) -> Result<Address, Fault> {
        Ok(self.output::<u8>(bytes))
    }

    fn release(&mut self, address: Address) {
        self.0.release(address.0);
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), Fault> {
        assert!(self.0.write(to.0, bytes));
        Ok(())
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), Fault> {
        bytes.copy_from_slice(&self.values::<u8>(from, bytes.len())?);
        Ok(())
    }

    fn launch<A: Arguments>(&mut self, instance: Instance, arguments: &A) -> Result<(), Fault> {
        let geometry = arguments.geometry(instance);
        let grid = geometry.grid.map(|blocks| u32::try_from(blocks).unwrap());
        let threads = u32::try_from(geometry.threads).unwrap();
        self.0.launch(&geometry.symbol.to_string(), grid, threads, geometry.shared_bytes, arguments)
    }

    fn multiply(&mut self, element: Element, product: &Product) -> Result<(), Fault> {
        let Product { x, weight, out, rows, input, output, precision } = *product;
        let floats =
            |bits: Vec<u16>| bits.iter().map(|&bits| from_half(element, bits) as f32).collect::<Vec<_>>();
        let x = floats(self.values(x, rows * input)?);
        if !self.1.contains_key(&weight.0) {
            let read = floats(self.values(weight, output * input)?);
            self.1.insert(weight.0, read);
        }
        let weights = self.1.get(&weight.0).map(Vec::as_slice).unwrap_or_default();
        let mut products = vec![0f32; rows * output];
        for (x, products) in x.chunks_exact(input).zip(products.chunks_exact_mut(output)) {
            if x.iter().all(|&x| x == 0.0) {
                continue; // a row that no sequence has
            }
            for (weight, product) in weights.chunks_exact(input).zip(products) {
                let mut sums = [0f32; 8];
                for (x, w) in x.as_chunks::<8>().0.iter().zip(weight.as_chunks::<8>().0) {
                    for (sum, (x, w)) in sums.iter_mut().zip(x.iter().zip(w)) {
                        *sum += x * w;
                    }
                }
                *product = sums.iter().sum();
            }
        }
        let written = match precision {
            Precision::F32 => self.0.write(out.0, &products),
            Precision::Element => {
                let rounded: Vec<u16> = products.iter().map(|&x| to_half(element, x)).collect();
                self.0.write(out.0, &rounded)
            }
        };
        assert!(written, "a product beyond its output");
        Ok(())
    }
}

/// What a check of one random case says: the synchronisation that it came by, or what was wrong.
pub type Checked = Result<Vec<Site>, String>;

/// A random case of a kernel.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    pub program: &'a Program,
    pub instance: Instance,
    pub seed: u64,
    pub muted: Option<&'a Site>,
}

impl<'a> Case<'a> {
    pub fn card(&self) -> TestCard<'a> {
        TestCard::new(self.program, self.seed, self.muted)
    }

    pub fn random(&self) -> Random {
        Random::new(self.seed * 1000 + self.instance.head_dim.get() as u64)
    }
}

/// Runs a check on every instance and several seeds each.
pub fn check_all(check: fn(Case<'_>) -> Checked, seeds: std::ops::Range<u64>) {
    let Some(program) = program() else { return };
    for instance in instances() {
        for seed in seeds.clone() {
            let case = Case { program, instance, seed, muted: None };
            if let Err(wrong) = check(case) {
                panic!("{instance:?}, seed {seed}: {wrong}");
            }
        }
    }
}

/// How the scores of a case are spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mood {
    Ordinary,
    /// So far apart that a wrong maximum overflows.
    Wild,
    /// All far below zero.
    Low,
}

pub struct Random(ChaCha8Rng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    pub fn mood(&mut self) -> Mood {
        self.pick(&[Mood::Ordinary, Mood::Wild, Mood::Low])
    }

    /// Near a normal distribution.
    pub fn number(&mut self) -> f32 {
        let sum: f32 = (0..12).map(|_| self.0.random::<f32>()).sum();
        sum - 6.0
    }

    pub fn floats(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.number() * scale).collect()
    }

    pub fn halves(&mut self, element: Element, len: usize, scale: f32) -> Vec<u16> {
        (0..len).map(|_| to_half(element, self.number() * scale)).collect()
    }

    /// Heads of queries (`sign` 1) or keys (`sign` -1).
    pub fn heads(&mut self, instance: Instance, rows: usize, mood: Mood, sign: f32) -> Vec<u16> {
        let dim = instance.head_dim.get();
        let scale = if mood == Mood::Wild { 8.0 } else { 1.3 };
        let mut heads = self.halves(instance.element, rows * dim, scale);
        if mood == Mood::Low {
            for head in heads.chunks_exact_mut(dim) {
                head[0] = to_half(instance.element, 40.0 * sign);
            }
        }
        heads
    }
}

pub fn to_half(element: Element, x: f32) -> u16 {
    match element {
        Element::Bf16 => bf16::from_f32(x).to_bits(),
        Element::F16 => f16::from_f32(x).to_bits(),
    }
}

pub fn from_half(element: Element, bits: u16) -> f64 {
    match element {
        Element::Bf16 => bf16::from_bits(bits).to_f64(),
        Element::F16 => f16::from_bits(bits).to_f64(),
    }
}

pub fn wide(element: Element, bits: &[u16]) -> Vec<f64> {
    bits.iter().map(|&bits| from_half(element, bits)).collect()
}

/// The largest relative error of rounding once.
pub fn rounding(element: Element) -> f64 {
    match element {
        Element::Bf16 => 4e-3,
        Element::F16 => 5e-4,
    }
}

/// Compares by the norm of the difference. What is no number is never close.
pub fn close(
    what: &str,
    ours: impl IntoIterator<Item = f64>,
    theirs: &[f64],
    limit: f64,
) -> Result<(), String> {
    let (mut difference, mut norm, mut count) = (0.0, 0.0, 0);
    for (ours, theirs) in ours.into_iter().zip(theirs) {
        difference += (ours - theirs).powi(2);
        norm += theirs.powi(2);
        count += 1;
    }
    let error = difference.sqrt() / norm.sqrt().max(1e-3);
    if count == theirs.len() && error <= limit {
        return Ok(());
    }
    Err(format!("{what}: {count} of {} values, error {error:.2e} above {limit:.0e}", theirs.len()))
}

pub fn int(x: usize) -> i32 {
    i32::try_from(x).unwrap()
}
