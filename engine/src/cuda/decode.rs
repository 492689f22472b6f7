//! Variants of prompts: what they keep, and decoding them side by side.

use kvsweep_methods::selection::{Granularity, LayerSelection, Selection};

use super::{
    kernels::{Argmax, Gather, GatherItem, Merge, RaggedDecode, scale_log2},
    launcher::{Address, Launcher},
    lists::{List, ListLen, Lists},
    model::{CudaModel, Target, int},
    prompt::CudaPrompt,
};

/// What a variant keeps of its prompt, which must outlive it.
#[derive(Debug)]
pub struct KeptPrompt {
    /// Lists of each layer: one a KV head, or one a query head.
    layers: Vec<Vec<List>>,
    prompt_len: usize,
    /// Copies; none where everything is kept.
    memory: Address,
    /// Bytes of the copies.
    pub bytes: u64,
}

/// Sequences that decode side by side.
#[derive(Debug)]
pub struct CudaBatch {
    positions: Vec<usize>,
    prompt_lens: Vec<usize>,
    /// Tokens of each sequence that there is room for.
    room: usize,
    /// `[layers][sequences][kv_heads][room][head_dim]`.
    tails_k: Address,
    tails_v: Address,
    passes: Vec<Pass>,
    part_out: Address,
    part_sums: Address,
}

/// As many sequences as a step's products have rows.
#[derive(Debug)]
struct Pass {
    sequences: std::ops::Range<usize>,
    layers: Vec<Step>,
}

/// A layer's tables on the card.
#[derive(Clone, Copy, Debug)]
struct Step {
    items: Address,
    item_count: usize,
    parts: Address,
    first: Address,
}

/// What a step says of a sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Next {
    /// The token of the largest logit, the lowest among equals.
    pub token: u32,
    /// The first token whose logit is NaN or infinite.
    pub not_finite: Option<u32>,
    /// All logits.
    pub logits: Vec<f32>,
}

impl<L: Launcher> CudaModel<L> {
    /// Copies what a selection keeps of a prompt; a layer that keeps everything reads the prompt itself. The selection
    /// must fit the prompt.
    ///
    /// # Errors
    /// Of the device.
    pub fn keep(&mut self, prompt: &CudaPrompt, selection: &Selection) -> Result<KeptPrompt, L::Error> {
        let (len, entry) = (prompt.shape.len, self.entry_bytes());
        let (layers_of_model, kv_heads) = (self.layers(), self.dimensions.kv_heads);
        let group = self.dimensions.heads / kv_heads;
        let own = |kept: &LayerSelection| match kept {
            LayerSelection::Heads(heads) if !kept.keeps_everything(len) => Some(heads.clone()),
            _ => None,
        };
        let kept: Vec<Option<Vec<Vec<u32>>>> = selection.layers.iter().map(own).collect();
        let lists = || kept.iter().flatten().flatten();
        let total: usize = lists().map(Vec::len).sum();
        let bytes = 2 * total * entry;
        let [memory, positions] = if total == 0 {
            [Address::NONE; 2]
        } else {
            [self.card.allocate(bytes)?, self.card.store(&lists().flatten().copied().collect::<Vec<_>>())?]
        };
        let (mut items, mut at) = (Vec::new(), 0);
        let mut layers = Vec::with_capacity(layers_of_model);
        for (layer, heads) in kept.iter().enumerate() {
            let head = |prompt: Address, kv_head: usize| prompt.at((layer * kv_heads + kv_head) * len, entry);
            let Some(heads) = heads else {
                let all = |kv_head| List {
                    k: head(prompt.k, kv_head),
                    v: head(prompt.v, kv_head),
                    len: ListLen::Known(len),
                };
                layers.push((0..kv_heads).map(all).collect());
                continue;
            };
            let mut lists = Vec::with_capacity(heads.len());
            for (index, kept) in heads.iter().enumerate() {
                let kv_head = match selection.granularity {
                    Granularity::KvHead => index,
                    Granularity::QueryHead => index / group,
                };
                let [to_k, to_v] = [memory.at(at, entry), memory.at(total + at, entry)];
                items.push(GatherItem {
                    k: head(prompt.k, kv_head),
                    v: head(prompt.v, kv_head),
                    positions: positions.at(at, 4),
                    to_k,
                    to_v,
                    len: int(kept.len()),
                    reserved: 0,
                });
                lists.push(List { k: to_k, v: to_v, len: ListLen::Known(kept.len()) });
                at += kept.len();
            }
            layers.push(lists);
        }
        if total > 0 {
            let longest = lists().map(Vec::len).max().unwrap_or(0);
            let table = self.card.store(&items)?;
            let gather = Gather { items: table, count: int(items.len()), longest: int(longest) };
            self.card.launch(self.instance, &gather)?;
            self.card.release(table);
            self.card.release(positions);
        }
        Ok(KeptPrompt { layers, prompt_len: len, memory, bytes: bytes as u64 })
    }

    /// Gives a variant's memory back.
    pub fn release_kept(&mut self, kept: &KeptPrompt) {
        if kept.memory != Address::NONE {
            self.card.release(kept.memory);
        }
    }

    /// Puts sequences side by side, with room for `room` tokens each.
    ///
    /// # Errors
    /// Of the device.
    pub fn batch(&mut self, sequences: &[&KeptPrompt], room: usize) -> Result<CudaBatch, L::Error> {
        let (heads, kv_heads) = (self.dimensions.heads, self.dimensions.kv_heads);
        let (layers, dim, entry) = (self.layers(), self.instance.head_dim.get(), self.entry_bytes());
        let tails = layers * sequences.len() * kv_heads * room * entry;
        let [tails_k, tails_v] = [self.card.allocate(tails)?, self.card.allocate(tails)?];
        let (mut passes, mut most_parts) = (Vec::new(), 0);
        for first in (0..sequences.len()).step_by(self.limits.step_rows) {
            let of_pass = first..sequences.len().min(first + self.limits.step_rows);
            let mut steps = Vec::with_capacity(layers);
            for layer in 0..layers {
                let mut lists = Lists::new(of_pass.len() * heads, self.instance.head_dim);
                for sequence in of_pass.clone() {
                    let row = (sequence - first) * heads;
                    let own = &sequences[sequence].layers[layer];
                    let shared = heads / own.len();
                    for (index, &list) in own.iter().enumerate() {
                        lists.attend(row + index * shared..row + (index + 1) * shared, list);
                    }
                    let group = heads / kv_heads;
                    for kv_head in 0..kv_heads {
                        let tail = ((layer * sequences.len() + sequence) * kv_heads + kv_head) * room;
                        let (k, v) = (tails_k.at(tail, entry), tails_v.at(tail, entry));
                        let list = List { k, v, len: ListLen::At(sequence - first) };
                        lists.attend(row + kv_head * group..row + (kv_head + 1) * group, list);
                    }
                }
                let tables = lists.tables();
                most_parts = most_parts.max(tables.part_count);
                steps.push(Step {
                    item_count: tables.items.len(),
                    items: self.card.store(&tables.items)?,
                    parts: self.card.store(&tables.parts)?,
                    first: self.card.store(&tables.first)?,
                });
            }
            passes.push(Pass { sequences: of_pass, layers: steps });
        }
        let prompt_lens: Vec<usize> = sequences.iter().map(|kept| kept.prompt_len).collect();
        Ok(CudaBatch {
            positions: prompt_lens.clone(),
            prompt_lens,
            room,
            tails_k,
            tails_v,
            passes,
            part_out: self.card.allocate(most_parts * dim * 4)?,
            part_sums: self.card.allocate(most_parts * 8)?,
        })
    }

    /// Gives a batch's memory back.
    pub fn release_batch(&mut self, batch: &CudaBatch) {
        let steps = batch.passes.iter().flat_map(|pass| &pass.layers);
        let tables = steps.flat_map(|step| [step.items, step.parts, step.first]);
        for address in tables.chain([batch.tails_k, batch.tails_v, batch.part_out, batch.part_sums]) {
            self.card.release(address);
        }
    }

    /// Reads one token a sequence, of which there is room for; says what follows each.
    ///
    /// # Errors
    /// Of the device.
    pub fn step(&mut self, batch: &mut CudaBatch, tokens: &[u32]) -> Result<Vec<Next>, L::Error> {
        let (heads, kv_heads, vocab) =
            (self.dimensions.heads, self.dimensions.kv_heads, self.dimensions.vocab);
        let (work, entry) = (self.work, self.entry_bytes());
        let layer_rows = batch.positions.len() * kv_heads * batch.room;
        let mut all = Vec::with_capacity(tokens.len());
        for pass in &batch.passes {
            let of_pass = pass.sequences.clone();
            let rows = of_pass.len();
            let words =
                |word: &dyn Fn(usize) -> usize| of_pass.clone().map(|i| word(i) as u32).collect::<Vec<_>>();
            let tail = |i: usize| batch.positions[i] - batch.prompt_lens[i];
            self.card.write(work.positions, &words(&|i| batch.positions[i]))?;
            self.card.write(work.rows, &words(&|i| i * kv_heads * batch.room + tail(i)))?;
            self.card.write(work.lens, &words(&|i| tail(i) + 1))?;
            self.embed(&tokens[of_pass.clone()])?;
            let count = [rows, self.limits.step_rows];
            for (layer, step) in pass.layers.iter().enumerate() {
                let (k, v) = (
                    batch.tails_k.at(layer * layer_rows, entry),
                    batch.tails_v.at(layer * layer_rows, entry),
                );
                self.before_attention(layer, count, Target { k, v, head_rows: batch.room })?;
                let decode = RaggedDecode {
                    q: work.q,
                    items: step.items,
                    lens: work.lens,
                    part_out: batch.part_out,
                    part_sums: batch.part_sums,
                    scale_log2: scale_log2(self.instance.head_dim),
                    count: int(step.item_count),
                };
                self.card.launch(self.instance, &decode)?;
                let merge = Merge {
                    part_out: batch.part_out,
                    part_sums: batch.part_sums,
                    parts: step.parts,
                    first: step.first,
                    out: work.attended,
                    rows: int(rows * heads),
                };
                self.card.launch(self.instance, &merge)?;
                self.after_attention(layer, count)?;
            }
            self.logits(rows, 0, self.limits.step_rows)?;
            let argmax = Argmax { logits: work.logits, out: work.chosen, vocab: int(vocab), rows: int(rows) };
            self.card.launch(self.instance, &argmax)?;
            let chosen = self.card.read::<u32>(work.chosen, 2 * rows)?;
            let logits = self.card.read::<f32>(work.logits, rows * vocab)?;
            for (chosen, logits) in chosen.chunks_exact(2).zip(logits.chunks_exact(vocab)) {
                let not_finite = (chosen[1] as usize != vocab).then_some(chosen[1]);
                all.push(Next { token: chosen[0], not_finite, logits: logits.to_vec() });
            }
        }
        for position in &mut batch.positions {
            *position += 1;
        }
        Ok(all)
    }
}
