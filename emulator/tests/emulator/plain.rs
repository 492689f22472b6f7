//! The forward pass in f64, as plainly as it can be said: what the model on the emulated card is compared with. It rounds
//! where the card stores, and nowhere else: with heads whose attention is near a tie, an exact pass would differ by more
//! than a bug does.

use kvsweep_methods::{
    observation::Observation,
    observation::Observations,
    observe::{HeadsView, LayerTensors, observe_layer, rows_needed},
    selection::{Granularity, LayerSelection, Selection},
    shape::{CacheShape, LayerShape, Reach},
};

use crate::cuda::launcher::Instance;
use crate::cuda::model::{Dimensions, LayerWeights, Weights};
use crate::support::{from_half, to_half, wide};

/// `[rows][columns]`.
type Matrix = Vec<Vec<f64>>;

struct Layer {
    input_norm: Vec<f64>,
    qkv: Vec<f64>,
    bias: Vec<f64>,
    qk_norms: Option<[Vec<f64>; 2]>,
    o: Vec<f64>,
    post_norm: Vec<f64>,
    gate_up: Vec<f64>,
    down: Vec<f64>,
}

pub struct PlainModel {
    instance: Instance,
    dimensions: Dimensions,
    embedding: Vec<f64>,
    layers: Vec<Layer>,
    norm: Vec<f64>,
    lm_head: Vec<f64>,
    cosines: Vec<f64>,
    sines: Vec<f64>,
}

/// Rotated keys, and values, of one head: an entry each.
#[derive(Clone, Default)]
pub struct Entries {
    keys: Matrix,
    values: Matrix,
}

pub struct PlainPrompt {
    pub shape: CacheShape,
    pub logits: Vec<f64>,
    pub observations: Observations,
    /// `[layers][kv_heads]`.
    cache: Vec<Vec<Entries>>,
}

/// What a sequence attends to.
pub struct PlainCache {
    /// `[layers]`, then a list a KV head or a query head.
    kept: Vec<Vec<Entries>>,
    /// `[layers][kv_heads]`.
    tails: Vec<Vec<Entries>>,
    position: usize,
}

fn multiply(x: &[f64], weight: &[f64]) -> Vec<f64> {
    weight.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

impl PlainModel {
    pub fn new(instance: Instance, dimensions: Dimensions, weights: &Weights<'_>) -> Self {
        let wide = |bits: &[u16]| wide(instance.element, bits);
        let floats = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect();
        let layer = |layer: &LayerWeights<'_>| Layer {
            input_norm: wide(layer.input_norm),
            qkv: wide(layer.qkv),
            bias: layer.qkv_bias.map(wide).unwrap_or_default(),
            qk_norms: layer.qk_norms.map(|norms| norms.map(wide)),
            o: wide(layer.o),
            post_norm: wide(layer.post_norm),
            gate_up: wide(layer.gate_up),
            down: wide(layer.down),
        };
        Self {
            instance,
            dimensions,
            embedding: wide(weights.embedding),
            layers: weights.layers.iter().map(layer).collect(),
            norm: wide(weights.norm),
            lm_head: wide(weights.lm_head.unwrap_or(weights.embedding)),
            cosines: floats(weights.cosines),
            sines: floats(weights.sines),
        }
    }

    /// As the card stores it.
    fn stored(&self, x: Vec<f64>) -> Vec<f64> {
        let element = self.instance.element;
        x.into_iter().map(|x| from_half(element, to_half(element, x as f32))).collect()
    }

    fn norm(&self, x: &[f64], weight: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let inverse = 1.0 / (mean + f64::from(self.dimensions.epsilon)).sqrt();
        x.iter().zip(weight).map(|(x, w)| x * inverse * w).collect()
    }

    fn embed(&self, token: u32) -> Vec<f64> {
        let hidden = self.dimensions.hidden;
        self.embedding[token as usize * hidden..][..hidden].to_vec()
    }

    /// Heads of queries, keys and values of one token, rotated.
    fn project(&self, layer: &Layer, hidden: &[f64], position: usize) -> [Matrix; 3] {
        let (dim, heads, kv_heads) =
            (self.instance.head_dim.get(), self.dimensions.heads, self.dimensions.kv_heads);
        let normed = self.stored(self.norm(hidden, &layer.input_norm));
        let mut projected = self.stored(multiply(&normed, &layer.qkv));
        add(&mut projected, &layer.bias);
        let mut all: Matrix = projected.chunks_exact(dim).map(<[f64]>::to_vec).collect();
        for (index, head) in all[..heads + kv_heads].iter_mut().enumerate() {
            if let Some([q, k]) = &layer.qk_norms {
                *head = self.norm(head, if index < heads { q } else { k });
            }
            for i in 0..dim / 2 {
                let at = position * dim / 2 + i;
                let (c, s, x, y) = (self.cosines[at], self.sines[at], head[i], head[i + dim / 2]);
                (head[i], head[i + dim / 2]) = (x * c - y * s, y * c + x * s);
            }
        }
        let mut all: Matrix = all.into_iter().map(|head| self.stored(head)).collect();
        let values = all.split_off(heads + kv_heads);
        let keys = all.split_off(heads);
        [all, keys, values]
    }

    fn attend(query: &[f64], seen: &[(&[f64], &[f64])]) -> Vec<f64> {
        let scale = (query.len() as f64).sqrt();
        let score = |key: &[f64]| query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() / scale;
        let scores: Vec<f64> = seen.iter().map(|(key, _)| score(key)).collect();
        let top = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut out = vec![0.0; query.len()];
        for (weight, (_, value)) in weights.iter().zip(seen) {
            out.iter_mut().zip(*value).for_each(|(out, value)| *out += weight / sum * value);
        }
        out
    }

    fn finish(&self, layer: &Layer, hidden: &mut [f64], attended: Vec<f64>) {
        add(hidden, &self.stored(multiply(&self.stored(attended), &layer.o)));
        let normed = self.stored(self.norm(hidden, &layer.post_norm));
        let gate_up = self.stored(multiply(&normed, &layer.gate_up));
        let (gate, up) = gate_up.split_at(self.dimensions.intermediate);
        let activated: Vec<f64> = gate.iter().zip(up).map(|(x, y)| x / (1.0 + (-x).exp()) * y).collect();
        add(hidden, &self.stored(multiply(&self.stored(activated), &layer.down)));
    }

    fn logits(&self, hidden: &[f64]) -> Vec<f64> {
        multiply(&self.stored(self.norm(hidden, &self.norm)), &self.lm_head)
    }

    pub fn shape(&self, len: usize) -> CacheShape {
        let Dimensions { heads, kv_heads, .. } = self.dimensions;
        let head_dim = self.instance.head_dim.get();
        let layer = LayerShape { query_heads: heads, kv_heads, head_dim, reach: Reach::All };
        CacheShape::uniform(self.layers.len(), layer, len)
    }

    pub fn read_prompt(&self, ids: &[u32], wanted: &[Observation]) -> PlainPrompt {
        let Dimensions { heads, kv_heads, .. } = self.dimensions;
        let (len, dim, group) = (ids.len(), self.instance.head_dim.get(), heads / kv_heads);
        let shape = self.shape(len);
        let mut hidden: Matrix = ids.iter().map(|&token| self.embed(token)).collect();
        let (mut cache, mut observations) = (Vec::new(), Observations::default());
        for layer in &self.layers {
            let projected: Vec<[Matrix; 3]> = hidden
                .iter()
                .enumerate()
                .map(|(position, hidden)| self.project(layer, hidden, position))
                .collect();
            let of_head = |which: usize, head: usize| -> Matrix {
                projected.iter().map(|token| token[which][head].clone()).collect()
            };
            let entries: Vec<Entries> = (0..kv_heads)
                .map(|head| Entries { keys: of_head(1, head), values: of_head(2, head) })
                .collect();
            if !wanted.is_empty() {
                let first = len - rows_needed(wanted, len);
                let flat = |matrix: &[Vec<f64>]| -> Vec<f32> {
                    matrix.iter().flatten().map(|&x| x as f32).collect()
                };
                let q: Vec<f32> = (0..heads).flat_map(|head| flat(&of_head(0, head)[first..])).collect();
                let k: Vec<f32> = entries.iter().flat_map(|entries| flat(&entries.keys)).collect();
                let v: Vec<f32> = entries.iter().flat_map(|entries| flat(&entries.values)).collect();
                let v = HeadsView::head_major(&v, [kv_heads, len, dim]).unwrap();
                let q = HeadsView::head_major(&q, [heads, len - first, dim]).unwrap();
                let k = HeadsView::head_major(&k, [kv_heads, len, dim]).unwrap();
                let tensors = LayerTensors { values: Some(v), ..LayerTensors::new(q, k) };
                observations.layers.push(observe_layer(wanted, &shape.layers[0], &tensors).unwrap());
            }
            for (position, hidden) in hidden.iter_mut().enumerate() {
                let attended: Vec<f64> = projected[position][0]
                    .iter()
                    .enumerate()
                    .flat_map(|(head, query)| {
                        let entries = &entries[head / group];
                        let seen: Vec<_> = (0..=position)
                            .map(|place| (entries.keys[place].as_slice(), entries.values[place].as_slice()))
                            .collect();
                        Self::attend(query, &seen)
                    })
                    .collect();
                self.finish(layer, hidden, attended);
            }
            cache.push(entries);
        }
        let logits = self.logits(&hidden[len - 1]);
        PlainPrompt { shape, logits, observations, cache }
    }

    pub fn keep(&self, prompt: &PlainPrompt, selection: &Selection) -> PlainCache {
        let kept = prompt.cache.iter().zip(&selection.layers).map(|(cache, kept)| match kept {
            LayerSelection::All => cache.clone(),
            LayerSelection::Heads(heads) => {
                let list = |(index, kept): (usize, &Vec<u32>)| {
                    let own = match selection.granularity {
                        Granularity::KvHead => &cache[index],
                        Granularity::QueryHead => {
                            &cache[index / (self.dimensions.heads / self.dimensions.kv_heads)]
                        }
                    };
                    let rows = |of: &Matrix| kept.iter().map(|&at| of[at as usize].clone()).collect();
                    Entries { keys: rows(&own.keys), values: rows(&own.values) }
                };
                heads.iter().enumerate().map(list).collect()
            }
        });
        PlainCache {
            kept: kept.collect(),
            tails: prompt.cache.iter().map(|heads| vec![Entries::default(); heads.len()]).collect(),
            position: prompt.shape.len,
        }
    }

    pub fn step(&self, cache: &mut PlainCache, token: u32) -> Vec<f64> {
        let (heads, kv_heads) = (self.dimensions.heads, self.dimensions.kv_heads);
        let mut hidden = self.embed(token);
        for (index, layer) in self.layers.iter().enumerate() {
            let [queries, keys, values] = self.project(layer, &hidden, cache.position);
            for (tail, (key, value)) in cache.tails[index].iter_mut().zip(keys.into_iter().zip(values)) {
                tail.keys.push(key);
                tail.values.push(value);
            }
            let attended: Vec<f64> = queries
                .iter()
                .enumerate()
                .flat_map(|(head, query)| {
                    let kept = &cache.kept[index][head * cache.kept[index].len() / heads];
                    let tail = &cache.tails[index][head * kv_heads / heads];
                    let keys = kept.keys.iter().chain(&tail.keys).map(Vec::as_slice);
                    let values = kept.values.iter().chain(&tail.values).map(Vec::as_slice);
                    Self::attend(query, &keys.zip(values).collect::<Vec<_>>())
                })
                .collect();
            self.finish(layer, &mut hidden, attended);
        }
        cache.position += 1;
        self.logits(&hidden)
    }
}
