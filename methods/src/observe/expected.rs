//! Attention that the next queries are expected to pay, by the moments of those of the prompt.
//!
//! Expected Attention (`kvpress/presses/expected_attention_press.py`): if queries before RoPE are normal with mean `m` and
//! covariance `C`, and `R` is the mean rotation of the positions to come, then the expectation of `exp(<q, k> / sqrt(d))`
//! is `exp(<R m, k> / sqrt(d) + k^T R C R^T k / 2d)`.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use super::{HeadsView, LayerTensors};
use crate::error::MethodError;
use crate::observation::{Observation, Observed};
use crate::shape::LayerShape;

/// Cosines and sines, `[positions][head_dim / 2]`: element `i` of a head is rotated with element `i + head_dim / 2`.
#[derive(Clone, Debug, PartialEq)]
pub struct Turns {
    /// Cosines.
    pub cos: Vec<f32>,
    /// Sines.
    pub sin: Vec<f32>,
}

/// How the queries of a prompt were rotated, and how those to come will be on average.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    prompt: Turns,
    future: BTreeMap<usize, Turns>,
}

impl Rotary {
    /// Takes what the observations of a prompt need from `tables`, which gives those of a range of positions; `None` if
    /// they need nothing.
    pub fn of(
        wanted: &[Observation],
        prompt_len: usize,
        tables: impl Fn(Range<usize>) -> Turns,
    ) -> Option<Self> {
        let mut future = BTreeMap::new();
        for &observation in wanted {
            if let Observation::ExpectedAttention { future: positions, .. } = observation {
                future.entry(positions).or_insert_with(|| {
                    mean(&tables(prompt_len..prompt_len.saturating_add(positions)), positions)
                });
            }
        }
        (!future.is_empty()).then(|| Self { prompt: tables(0..prompt_len), future })
    }

    /// Of every position of the prompt.
    #[must_use]
    pub fn prompt(&self) -> &Turns {
        &self.prompt
    }

    /// The mean of the next `positions`, as of one position, if it was asked for.
    #[must_use]
    pub fn future(&self, positions: usize) -> Option<&Turns> {
        self.future.get(&positions)
    }
}

/// The mean over `positions` rows.
fn mean(turns: &Turns, positions: usize) -> Turns {
    let half = turns.cos.len() / positions.max(1);
    let of = |table: &[f32]| -> Vec<f32> {
        let sum = |pair: usize| table[pair..].iter().step_by(half).copied().map(f64::from).sum::<f64>();
        (0..half).map(|pair| (sum(pair) / positions as f64) as f32).collect()
    };
    Turns { cos: of(&turns.cos), sin: of(&turns.sin) }
}

/// See [`Observation::ExpectedAttention`].
///
/// # Errors
/// Rotations that are not there, or of another shape.
pub(super) fn attention(
    shape: &LayerShape,
    tensors: &LayerTensors<'_>,
    sinks: usize,
    future: usize,
) -> Result<Observed, MethodError> {
    let LayerTensors { queries, keys, .. } = tensors;
    let (tokens, half) = (keys.tokens, shape.head_dim / 2);
    let rotary = tensors.rotary.and_then(|rotary| Some((&rotary.prompt, rotary.future(future)?)));
    let fits = |prompt: &Turns, next: &Turns| {
        let sizes = [&prompt.cos, &prompt.sin, &next.cos, &next.sin].map(Vec::len);
        sizes == [tokens * half, tokens * half, half, half]
    };
    let Some((prompt, next)) = rotary.filter(|(prompt, next)| fits(prompt, next) && shape.head_dim % 2 == 0)
    else {
        return Err(MethodError::Mismatch {
            what: "rotations to observe expected attention".into(),
            expected: format!("{tokens} positions x {half} pairs, and the mean of the next {future}"),
            found: "none of that shape".into(),
        });
    };
    let rows: Vec<Vec<f32>> = (0..shape.query_heads)
        .into_par_iter()
        .map(|head| {
            let kv_head = head / shape.group_size();
            if tokens <= sinks {
                return vec![0.0; tokens];
            }
            let moments = Moments::of(queries, head, prompt, sinks);
            let mut logits = moments.turned(next).logits(keys, kv_head, sinks);
            softmax(&mut logits);
            [vec![0.0; sinks], logits].concat()
        })
        .collect();
    let group = shape.group_size() as f32;
    let mut values = Vec::with_capacity(shape.kv_heads * tokens);
    for members in rows.chunks(shape.group_size()) {
        values.extend((0..tokens).map(|token| members.iter().map(|row| row[token]).sum::<f32>() / group));
    }
    Ok(Observed::Rows { rows: shape.kv_heads, columns: tokens, values })
}

/// Mean and covariance of a head's queries.
struct Moments {
    mean: Vec<f32>,
    /// `[head_dim][head_dim]`.
    covariance: Vec<f32>,
}

impl Moments {
    /// Of the queries behind the sinks, before RoPE.
    fn of(queries: &HeadsView<'_>, head: usize, turns: &Turns, sinks: usize) -> Self {
        /// Rows whose products are summed in f32.
        const ROWS: usize = 64;
        let (dim, half) = (queries.head_dim, queries.head_dim / 2);
        let count = (queries.tokens - sinks) as f64;
        let mut rows = vec![0f32; (queries.tokens - sinks) * dim];
        let mut sum = vec![0f64; dim];
        for (token, row) in (sinks..).zip(rows.chunks_exact_mut(dim)) {
            let turn = token * half..(token + 1) * half;
            turn_back(queries.row(head, token), &turns.cos[turn.clone()], &turns.sin[turn], row);
            sum.iter_mut().zip(&*row).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let mean: Vec<f32> = sum.iter().map(|sum| (sum / count) as f32).collect();
        let mut products = vec![0f64; dim * dim];
        let mut block = vec![0f32; dim * dim];
        let mut apart = vec![0f32; dim];
        for rows in rows.chunks(ROWS * dim) {
            block.fill(0.0);
            for row in rows.chunks_exact(dim) {
                apart.iter_mut().zip(row).zip(&mean).for_each(|((apart, x), mean)| *apart = x - mean);
                for (&x, sums) in apart.iter().zip(block.chunks_exact_mut(dim)) {
                    sums.iter_mut().zip(&apart).for_each(|(sum, y)| *sum += x * y);
                }
            }
            products.iter_mut().zip(&block).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        Self { mean, covariance: products.iter().map(|sum| (sum / count) as f32).collect() }
    }

    /// Rotated by one position's turn, the mean's `R m` and the covariance's `R C R^T`.
    fn turned(mut self, turn: &Turns) -> Self {
        let dim = self.mean.len();
        turn_forth(&mut self.mean, turn);
        let transpose = |matrix: &[f32]| -> Vec<f32> {
            (0..dim * dim).map(|i| matrix[i % dim * dim + i / dim]).collect()
        };
        self.covariance.chunks_exact_mut(dim).for_each(|row| turn_forth(row, turn));
        let mut turned = transpose(&self.covariance);
        turned.chunks_exact_mut(dim).for_each(|row| turn_forth(row, turn));
        Self { covariance: turned, ..self }
    }

    /// Logarithm of the expected weight of each key behind the sinks.
    fn logits(&self, keys: &HeadsView<'_>, kv_head: usize, sinks: usize) -> Vec<f32> {
        let dim = self.mean.len();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let mut product = vec![0f32; dim];
        (sinks..keys.tokens)
            .map(|token| {
                let key = keys.row(kv_head, token);
                product.fill(0.0);
                for (&x, row) in key.iter().zip(self.covariance.chunks_exact(dim)) {
                    product.iter_mut().zip(row).for_each(|(sum, c)| *sum += x * c);
                }
                let spread = dot(key, &product) / (2.0 * dim as f64);
                (dot(&self.mean, key) / (dim as f64).sqrt() + spread) as f32
            })
            .collect()
    }
}

/// Undoes the rotation of one row, and the factor that some tables hold.
fn turn_back(row: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let (low, high) = row.split_at(cos.len());
    let (out_low, out_high) = out.split_at_mut(cos.len());
    for pair in 0..cos.len() {
        let (c, s) = (cos[pair], sin[pair]);
        let factor = 1.0 / (c * c + s * s);
        out_low[pair] = (low[pair] * c + high[pair] * s) * factor;
        out_high[pair] = (high[pair] * c - low[pair] * s) * factor;
    }
}

/// Rotates one row.
fn turn_forth(row: &mut [f32], turn: &Turns) {
    let (low, high) = row.split_at_mut(turn.cos.len());
    for pair in 0..turn.cos.len() {
        let (c, s, x, y) = (turn.cos[pair], turn.sin[pair], low[pair], high[pair]);
        low[pair] = x * c - y * s;
        high[pair] = y * c + x * s;
    }
}

fn softmax(logits: &mut [f32]) {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter_mut().for_each(|x| *x = (*x - most).exp());
    let sum: f64 = logits.iter().copied().map(f64::from).sum();
    logits.iter_mut().for_each(|x| *x = (f64::from(*x) / sum) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::observe_layer;
    use crate::testing::{layer_shape, random, turns};

    /// The formula, literally, in f64: queries are given before RoPE.
    fn expected(
        [queries, keys]: [&[f32]; 2],
        [tokens, dim, sinks, future]: [usize; 4],
        table: &Turns,
    ) -> Vec<f64> {
        let half = dim / 2;
        let count = (tokens - sinks) as f64;
        let q = |token: usize, i: usize| f64::from(queries[token * dim + i]);
        let k = |token: usize, i: usize| f64::from(keys[token * dim + i]);
        let sum = |f: &dyn Fn(usize) -> f64| (sinks..tokens).map(f).sum::<f64>();
        let mean: Vec<f64> = (0..dim).map(|i| sum(&|t| q(t, i)) / count).collect();
        let covariance = |i: usize, j: usize| sum(&|t| (q(t, i) - mean[i]) * (q(t, j) - mean[j])) / count;
        // The mean rotation as a matrix.
        let of = |table: &[f32], pair: usize| {
            (0..future).map(|t| f64::from(table[t * half + pair])).sum::<f64>() / future as f64
        };
        let rotation = |i: usize, j: usize| match (i % half == j % half, i < half, j < half) {
            (false, ..) => 0.0,
            (true, true, false) => -of(&table.sin, i % half),
            (true, false, true) => of(&table.sin, i % half),
            (true, ..) => of(&table.cos, i % half),
        };
        let r: Vec<f64> = (0..dim * dim).map(|at| rotation(at / dim, at % dim)).collect();
        let c: Vec<f64> = (0..dim * dim).map(|at| covariance(at / dim, at % dim)).collect();
        let logit = |token: usize| {
            // R^T k
            let turned: Vec<f64> =
                (0..dim).map(|j| (0..dim).map(|i| r[i * dim + j] * k(token, i)).sum()).collect();
            let along: f64 = turned.iter().zip(&mean).map(|(x, m)| x * m).sum();
            let spread: f64 = (0..dim * dim).map(|at| turned[at / dim] * c[at] * turned[at % dim]).sum();
            along / (dim as f64).sqrt() + spread / (2.0 * dim as f64)
        };
        let weights: Vec<f64> = (sinks..tokens).map(|token| logit(token).exp()).collect();
        let all: f64 = weights.iter().sum();
        (0..sinks).map(|_| 0.0).chain(weights.iter().map(|weight| weight / all)).collect()
    }

    #[test]
    fn attention_follows_its_formula() {
        for (heads, kv_heads, dim, tokens, factor) in [(4, 2, 8, 200, 1.0), (2, 2, 6, 30, 1.3f32)] {
            let (sinks, future) = (3, 20);
            let shape = layer_shape(heads, kv_heads, dim);
            // Some tables hold a factor (YaRN).
            let table = |positions: Range<usize>| {
                let Turns { cos, sin } = turns(positions, dim);
                let by = |table: Vec<f32>| table.into_iter().map(|x| x * factor).collect();
                Turns { cos: by(cos), sin: by(sin) }
            };
            let wanted = [Observation::ExpectedAttention { sinks, future }];
            let rotary = Rotary::of(&wanted, tokens, table).unwrap();
            let before = random(heads * tokens * dim, 1, 1.5);
            let k = random(kv_heads * tokens * dim, 2, 1.5);
            let mut q = before.clone();
            let all = table(0..tokens);
            for (row, q) in q.chunks_exact_mut(dim).enumerate() {
                let part = |table: &[f32]| table[row % tokens * dim / 2..][..dim / 2].to_vec();
                turn_forth(q, &Turns { cos: part(&all.cos), sin: part(&all.sin) });
            }
            let qs = HeadsView::head_major(&q, [heads, tokens, dim]).unwrap();
            let ks = HeadsView::head_major(&k, [kv_heads, tokens, dim]).unwrap();
            let mut tensors = LayerTensors::new(qs, ks);
            assert!(observe_layer(&wanted, &shape, &tensors).is_err(), "without rotations");
            tensors.rotary = Some(&rotary);
            let seen = observe_layer(&wanted, &shape, &tensors).unwrap();
            let Observed::Rows { rows, columns, values } = &seen[&wanted[0]] else { panic!() };
            assert_eq!((*rows, *columns), (kv_heads, tokens));
            let next = table(tokens..tokens + future);
            let group = shape.group_size();
            for (kv_head, row) in values.chunks_exact(tokens).enumerate() {
                let keys = &k[kv_head * tokens * dim..][..tokens * dim];
                let of_head = |head: usize| {
                    let queries = &before[head * tokens * dim..][..tokens * dim];
                    expected([queries, keys], [tokens, dim, sinks, future], &next)
                };
                let members: Vec<Vec<f64>> = (kv_head * group..(kv_head + 1) * group).map(of_head).collect();
                for (token, &value) in row.iter().enumerate() {
                    let exact = members.iter().map(|row| row[token]).sum::<f64>() / group as f64;
                    assert!((f64::from(value) - exact).abs() <= 2e-5 * exact, "{token}: {value} {exact}");
                }
            }
        }
    }

    #[test]
    fn a_prompt_of_sinks_expects_nothing() {
        let wanted = [Observation::ExpectedAttention { sinks: 4, future: 2 }];
        let rotary = Rotary::of(&wanted, 4, |positions| turns(positions, 2)).unwrap();
        let rows = random(8, 3, 1.0);
        let view = HeadsView::head_major(&rows, [1, 4, 2]).unwrap();
        let tensors = LayerTensors { rotary: Some(&rotary), ..LayerTensors::new(view, view) };
        let seen = observe_layer(&wanted, &layer_shape(1, 1, 2), &tensors).unwrap();
        assert_eq!(seen[&wanted[0]], Observed::Rows { rows: 1, columns: 4, values: vec![0.0; 4] });
    }
}
