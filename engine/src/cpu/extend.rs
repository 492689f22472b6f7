//! Reading tokens into the caches of many sequences at once: the projections run over all tokens together, attention per
//! token and KV head.

use rayon::prelude::*;

use super::{
    attention::{self, KeptEntries, WeightLayout},
    cache::{CpuCache, KeptLayer, LayerStore},
    model::Cpu,
    sized,
};
use crate::{
    backend::{Extend, Tap},
    cache::first_seen,
    cancel::Cancel,
    error::{Result, Stage},
    finite::check_rows,
    math::relative_error,
    model::rope_tables::LayerTables,
};
use kvsweep_methods::{selection::Granularity, shape::Reach};

/// One token of a call.
#[derive(Clone, Copy)]
struct Token {
    /// Its sequence.
    row: usize,
    /// Entries of the tail that it sees, its own included.
    tail: usize,
    position: usize,
}

/// Sees one layer's cache and rows of projections, their queries scaled, while a single sequence reads tokens.
pub(super) type Watch<'a> = &'a mut dyn FnMut(usize, &CpuCache, &[f32]);

/// Appends one token to a layer's tail; `kv` is `[key | value]` of all KV heads.
fn push_entry(tail: &mut LayerStore, kv: &[f32], head_dim: usize) {
    let (keys, values) = kv.split_at(tail.len() * head_dim);
    let entries = keys.chunks_exact(head_dim).zip(values.chunks_exact(head_dim));
    for (store, (key, value)) in tail.iter_mut().zip(entries) {
        store.push(key, value);
    }
}

impl Cpu {
    /// Attention of one token in one KV head, over what is kept and the first `tail` tokens behind it.
    fn attend(
        &self,
        cache: &CpuCache,
        [layer, head]: [usize; 2],
        Token { tail, position, .. }: Token,
        queries: &[f32],
        out: &mut [f32],
        weights: &mut Vec<f32>,
    ) -> WeightLayout {
        let group = self.config.query_heads / self.config.kv_heads;
        let (kept, copies, shared) = cache.kept(layer);
        let (reach, dim) = (self.config.reach(layer), self.config.head_dim);
        let unseen = |head: usize| cache.unseen(layer, reach, head, position);
        let own: Vec<_>;
        let kept = match kept {
            KeptLayer::Shared => KeptEntries::Shared(shared[head].entries().after(unseen(head), dim)),
            KeptLayer::Own(Granularity::KvHead, first) => {
                KeptEntries::Shared(copies.entries(first + head).after(unseen(head), dim))
            }
            KeptLayer::Own(Granularity::QueryHead, first) => {
                let heads = head * group..(head + 1) * group;
                own = heads.map(|head| copies.entries(first + head).after(unseen(head), dim)).collect();
                KeptEntries::PerQuery(&own)
            }
        };
        let unseen = first_seen(reach, position).saturating_sub(position + 1 - tail);
        let tail = cache.tails[layer][head].first(tail).after(unseen, dim);
        attention::decode(self.simd, queries, kept, tail, out, weights, dim)
    }

    /// Attention of a single sequence, for a calibration's eyes.
    fn attend_tapped(
        &self,
        index: usize,
        cache: &CpuCache,
        row: &[f32],
        out: &mut [f32],
        tap: &mut Tap<'_, CpuCache>,
    ) {
        let config = &self.config;
        let (dim, group) = (config.head_dim, config.query_heads / config.kv_heads);
        // A shadow's own position stands still.
        let position = cache.position;
        let query_width = config.query_heads * dim;
        let heads = |out: &mut [f32], cache: &CpuCache, seen: &mut Vec<f32>| {
            let mut weights = Vec::new();
            let token = Token { row: 0, tail: cache.tails[index][0].len, position };
            for (head, out) in out.chunks_exact_mut(group * dim).enumerate() {
                let queries = &row[head * group * dim..][..group * dim];
                let layout = self.attend(cache, [index, head], token, queries, out, &mut weights);
                // Entries that a window has left behind weigh nothing.
                let unseen = match config.reach(index) {
                    Reach::All => [0, 0],
                    Reach::Window(_) => [
                        cache.prompt_len().saturating_sub(layout.kept),
                        token.tail.saturating_sub(layout.tail),
                    ],
                };
                for row in weights.chunks_exact(layout.stride) {
                    seen.resize(seen.len() + unseen[0], 0.0);
                    seen.extend_from_slice(&row[..layout.kept]);
                    seen.resize(seen.len() + unseen[1], 0.0);
                    seen.extend_from_slice(&row[layout.tail_at..][..layout.tail]);
                }
            }
        };
        let mut seen = Vec::new();
        heads(out, cache, &mut seen);
        if let Some(rows) = &mut tap.rows {
            rows(index, &seen);
        }
        if let Some((shadow, errors)) = &mut tap.shadow {
            push_entry(&mut shadow.tails[index], &row[query_width..], dim);
            let mut both = out.to_vec();
            both.resize(2 * query_width, 0.0);
            heads(&mut both[query_width..], shadow, &mut Vec::new());
            let o = &self.layers[index].o;
            let mut projected = vec![0.0; 2 * o.output()];
            o.multiply(self.simd, &both, query_width, &mut projected, false);
            let (full, part) = projected.split_at(o.output());
            errors[index] += relative_error(full, part);
        }
    }

    /// See [`Backend::extend`](crate::backend::Backend::extend).
    pub(super) fn read_on(
        &self,
        rows: &mut [Extend<'_, CpuCache>],
        mut tap: Option<&mut Tap<'_, CpuCache>>,
        mut watch: Option<Watch<'_>>,
        cancel: &Cancel,
    ) -> Result<Vec<f32>> {
        let config = &self.config;
        let (simd, dim, width) = (self.simd, config.head_dim, config.hidden_size);
        let (group, query_width) = (config.query_heads / config.kv_heads, config.query_heads * dim);
        // One a token: its row, its place among the tokens behind the prompt, and its position.
        let mut tokens = Vec::new();
        let mut ropes = Vec::with_capacity(rows.len());
        for (index, row) in rows.iter().enumerate() {
            let (first, behind) = (row.cache.position, row.cache.behind());
            ropes.push(LayerTables::new(config, first..first + row.tokens.len()));
            tokens.extend((0..row.tokens.len()).map(|i| Token {
                row: index,
                tail: behind + i + 1,
                position: first + i,
            }));
        }
        let batch = tokens.len();
        let mut hidden = vec![0.0; batch * width];
        let ids = rows.iter().flat_map(|row| row.tokens);
        for (&id, hidden) in ids.zip(hidden.chunks_exact_mut(width)) {
            self.embed(id, hidden);
        }
        let check = |layer: usize, rows: &[f32]| {
            let mut rows = tokens.iter().zip(rows.chunks_exact(rows.len() / batch));
            rows.try_for_each(|(token, row)| check_rows(Stage::Layer(layer), token.position, row, row.len()))
        };
        let mut normed = vec![0.0; batch * width];
        let mut attended = vec![0.0; batch * query_width];
        let (mut wide, mut added) = (Vec::new(), Vec::new());
        for (index, layer) in self.layers.iter().enumerate() {
            cancel.check()?;
            simd.rms_norm(&hidden, &layer.input_norm, self.eps(), &mut normed);
            let projected = sized(&mut wide, batch * layer.qkv.output());
            layer.qkv.multiply_spread(simd, &normed, width, projected, false);
            check(index, projected)?;
            let mut values = projected.chunks_exact_mut(layer.qkv.output());
            for (row, rope) in rows.iter_mut().zip(&ropes) {
                let rope = rope.of(config.reach(index));
                let angles = rope.cos.chunks_exact(dim / 2).zip(rope.sin.chunks_exact(dim / 2));
                for ((cos, sin), values) in angles.zip(&mut values) {
                    self.rotate(layer, values, cos, sin);
                    push_entry(&mut row.cache.tails[index], &values[query_width..], dim);
                    row.cache.remember(index, &values[..query_width]);
                    simd.scale(&mut values[..query_width], attention::query_scale(dim));
                    for &(_, head) in row.masked.iter().flat_map(|set| set.range((index, 0)..(index + 1, 0)))
                    {
                        values[head * dim..][..dim].fill(0.0);
                    }
                }
            }
            if let (Some(watch), [row]) = (watch.as_deref_mut(), &*rows) {
                watch(index, row.cache, projected);
            }
            if let (Some(tap), [row]) = (tap.as_deref_mut(), &*rows) {
                self.attend_tapped(index, row.cache, projected, &mut attended, tap);
            } else {
                let rows = &*rows;
                attended.par_chunks_mut(group * dim).with_max_len(1).enumerate().for_each_init(
                    Vec::new,
                    |weights, (task, out)| {
                        let (at, head) = (task / config.kv_heads, task % config.kv_heads);
                        let queries =
                            &projected[at * layer.qkv.output() + head * group * dim..][..group * dim];
                        let token = tokens[at];
                        self.attend(rows[token.row].cache, [index, head], token, queries, out, weights);
                    },
                );
            }
            self.add(&mut hidden, layer.attention_norm.as_deref(), &mut added, |out, accumulate| {
                layer.o.multiply_spread(simd, &attended, query_width, out, accumulate);
            });
            simd.rms_norm(&hidden, &layer.post_norm, self.eps(), &mut normed);
            let gate_up = sized(&mut wide, batch * layer.gate_up.output());
            layer.gate_up.multiply_spread(simd, &normed, width, gate_up, false);
            self.activate(gate_up);
            self.add(&mut hidden, layer.mlp_norm.as_deref(), &mut added, |out, accumulate| {
                layer.down.multiply_spread(simd, gate_up, layer.gate_up.output(), out, accumulate);
            });
            check(index, &hidden)?;
        }
        for row in rows.iter_mut() {
            row.cache.position += row.tokens.len();
        }
        let mut last = Vec::with_capacity(rows.len() * width);
        let mut positions = Vec::with_capacity(rows.len());
        let behind = tokens.iter().skip(1).map(|token| Some(token.row)).chain([None]);
        for ((token, behind), hidden) in tokens.iter().zip(behind).zip(hidden.chunks_exact(width)) {
            if behind != Some(token.row) {
                last.extend_from_slice(hidden);
                positions.push(token.position);
            }
        }
        self.logits(positions.into_iter(), &last)
    }
}
