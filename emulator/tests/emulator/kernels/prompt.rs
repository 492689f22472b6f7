//! A random prompt, or its last chunk, and its attention in f64.

use crate::cuda::{
    kernels::{NO_WINDOW, scale_log2},
    launcher::{Address, Instance},
};
use crate::support::{Case, Mood, Random, TestCard, from_half, int, wide};

/// Rows `start..len` of a prompt attend to all of it.
pub struct Prompt {
    pub instance: Instance,
    pub mood: Mood,
    pub group: usize,
    pub kv_heads: usize,
    pub start: usize,
    pub len: usize,
    pub window: i32,
    pub capacity: usize,
    pub q: Vec<u16>,
    pub k: Vec<u16>,
    pub v: Vec<u16>,
    /// `[heads][rows][len]`.
    pub weights: Vec<f64>,
    /// `[heads][rows]`, in units of log2.
    pub log_sums: Vec<f64>,
}

/// Lengths at the edges of tiles, short ones, and any.
fn length(random: &mut Random, most: usize) -> usize {
    match random.below(4) {
        0 => 1 + random.below(20),
        1 => (64 * (1 + random.below(4)) + random.below(3) - 1).min(most),
        _ => 1 + random.below(most),
    }
}

impl Prompt {
    pub fn random(case: &Case<'_>) -> Self {
        let mut random = case.random();
        let group = random.pick(&[1, 2, 3, 4, 8, 16]);
        let kv_heads = if group <= 2 { 1 + random.below(2) } else { 1 };
        let mut len = length(&mut random, (600 / (group * kv_heads)).clamp(70, 280));
        // Windows so short that a row sees nothing of its block's first tile, and any.
        let window = match random.below(4) {
            0 => {
                len = len.max(100);
                int(1 + random.below(16))
            }
            1 => int(1 + random.below(len + 10)),
            _ => NO_WINDOW,
        };
        let start = if random.below(2) == 0 { 0 } else { random.below(len) };
        Self::new(case.instance, &mut random, [group, kv_heads, start, len], window)
    }

    pub fn new(
        instance: Instance,
        random: &mut Random,
        [group, kv_heads, start, len]: [usize; 4],
        window: i32,
    ) -> Self {
        let (mood, dim) = (random.mood(), instance.head_dim.get());
        let capacity = len + random.below(3);
        let (heads, rows) = (group * kv_heads, len - start);
        let q = random.heads(instance, rows * heads, mood, 1.0);
        let mut k = random.heads(instance, kv_heads * capacity, mood, -1.0);
        let mut v = random.halves(instance.element, kv_heads * capacity * dim, 1.0);
        for cache in [&mut k, &mut v] {
            for head in cache.chunks_exact_mut(capacity * dim) {
                head[len * dim..].fill(0x7fff); // NaN: nobody may read what is not there yet
            }
        }
        let mut prompt = Self {
            instance,
            mood,
            group,
            kv_heads,
            start,
            len,
            window,
            capacity,
            q,
            k,
            v,
            weights: vec![0.0; heads * rows * len],
            log_sums: vec![0.0; heads * rows],
        };
        prompt.attend();
        prompt
    }

    pub fn heads(&self) -> usize {
        self.group * self.kv_heads
    }

    pub fn rows(&self) -> usize {
        self.len - self.start
    }

    pub fn dim(&self) -> usize {
        self.instance.head_dim.get()
    }

    /// The positions that a row sees.
    fn seen(&self, row: usize) -> std::ops::Range<usize> {
        let position = self.start + row;
        (position + 1).saturating_sub(usize::try_from(self.window).unwrap())..position + 1
    }

    fn attend(&mut self) {
        let (dim, rows, heads) = (self.dim(), self.rows(), self.heads());
        let (q, k) = (wide(self.instance.element, &self.q), wide(self.instance.element, &self.k));
        for head in 0..heads {
            for row in 0..rows {
                let query = &q[(row * heads + head) * dim..][..dim];
                let at = head * rows + row;
                let seen = self.seen(row);
                let weights = &mut self.weights[at * self.len..][..self.len];
                let mut top = f64::MIN;
                for place in seen.clone() {
                    let key = &k[(head / self.group * self.capacity + place) * dim..][..dim];
                    let score: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                    weights[place] = score / (dim as f64).sqrt();
                    top = top.max(weights[place]);
                }
                let weights = &mut weights[seen];
                weights.iter_mut().for_each(|w| *w = (*w - top).exp());
                let sum: f64 = weights.iter().sum();
                weights.iter_mut().for_each(|w| *w /= sum);
                self.log_sums[at] = (top + sum.ln()) / std::f64::consts::LN_2;
            }
        }
    }

    /// The attention output, `[rows][heads][dim]`.
    pub fn out(&self) -> Vec<f64> {
        let (dim, rows, heads) = (self.dim(), self.rows(), self.heads());
        let mut out = vec![0.0; rows * heads * dim];
        for head in 0..heads {
            for row in 0..rows {
                let out = &mut out[(row * heads + head) * dim..][..dim];
                for place in self.seen(row) {
                    let weight = self.weights[(head * rows + row) * self.len + place];
                    let value = &self.v[(head / self.group * self.capacity + place) * dim..][..dim];
                    for (out, &value) in out.iter_mut().zip(value) {
                        *out += weight * from_half(self.instance.element, value);
                    }
                }
            }
        }
        out
    }

    /// Queries, keys, and the log-sums as prefill leaves them.
    pub fn upload(&self, card: &mut TestCard<'_>) -> [Address; 3] {
        let log_sums: Vec<f32> = self.log_sums.iter().map(|&x| x as f32).collect();
        [card.constant(&self.q), card.constant(&self.k), card.constant(&log_sums)]
    }

    pub fn scale(&self) -> f32 {
        scale_log2(self.instance.head_dim)
    }

    /// Room for the error of sums of weights: scores that are far apart lose digits in f32.
    pub fn sum_limit(&self) -> f64 {
        if self.mood == Mood::Ordinary { 5e-6 } else { 5e-4 }
    }
}
