//! Keys and values as tensors: of a prompt, and of one variant, whose heads are padded to the longest.

use std::sync::Arc;

use candle_core::Tensor;
use kvsweep_methods::{
    selection::{LayerSelection, Selection},
    shape::{CacheShape, Reach},
};

use crate::{
    cache::{Held, first_seen},
    error::Result,
};

/// Heads of unequal length, padded to the longest.
#[derive(Clone, Debug)]
pub(super) struct Padded {
    /// `[heads, longest, head_dim]`.
    pub(super) keys: Tensor,
    pub(super) values: Tensor,
    /// `[heads, 1, longest]`: 0 where there is an entry, else `-inf`.
    pub(super) mask: Option<Tensor>,
    /// Where each head's entries stand, in a layer that looks through a window; nobody asks elsewhere.
    positions: Vec<Vec<u32>>,
}

impl Padded {
    /// Heads of one length.
    pub(super) fn of(keys: &Tensor, values: &Tensor) -> Self {
        Self { keys: keys.clone(), values: values.clone(), mask: None, positions: Vec::new() }
    }
}

#[derive(Debug)]
pub(super) enum KeptTensors {
    Shared,
    Own(Padded),
}

/// A prompt's keys and values as tensors.
#[derive(Debug)]
pub struct CandlePrompt {
    pub(super) shape: CacheShape,
    /// Of each layer, `[kv_heads, seen, head_dim]`: the positions [that it still looks at](kvsweep_methods::LayerShape::seen).
    pub(super) layers: Vec<(Tensor, Tensor)>,
}

/// The cache of one variant as tensors.
#[derive(Debug)]
pub struct CandleCache {
    pub(super) prompt: Arc<CandlePrompt>,
    pub(super) layers: Vec<KeptTensors>,
    /// Keys and values of the tokens read since the last cut, `[kv_heads, tokens, head_dim]`, once there are any.
    pub(super) tails: Vec<Option<(Tensor, Tensor)>>,
    pub(super) held: Held,
    /// Position of the next token.
    pub(super) position: usize,
    /// Queries of the tokens read last, of each layer, `[query_heads, tokens, head_dim]`, once there are any.
    pub(super) queries: Vec<Option<Tensor>>,
    /// Tokens whose queries are remembered.
    pub(super) votes: usize,
}

impl CandleCache {
    /// Gathers what `selection` keeps, and remembers the queries of the last `votes` tokens that are read. The selection
    /// was checked.
    pub(super) fn new(prompt: &Arc<CandlePrompt>, selection: &Selection, votes: usize) -> Result<Self> {
        let shape = &prompt.shape;
        let (mut layers, mut held) = (Vec::new(), Held::default());
        for ((kept, (keys, values)), sizes) in selection.layers.iter().zip(&prompt.layers).zip(&*shape.layers)
        {
            let seen = sizes.seen(shape.len);
            match kept {
                LayerSelection::Heads(heads) if !kept.keeps_everything(seen.len()) => {
                    let mut padded = gather(keys, values, &shifted(heads, seen.start))?;
                    if sizes.reach != Reach::All {
                        padded.positions.clone_from(heads);
                    }
                    held.bytes += bytes(&padded.keys) + bytes(&padded.values);
                    held.layers.push(heads.iter().map(Vec::len).collect());
                    layers.push(KeptTensors::Own(padded));
                }
                _ => {
                    held.bytes += bytes(keys) + bytes(values);
                    held.layers.push(vec![seen.len(); sizes.kv_heads]);
                    layers.push(KeptTensors::Shared);
                }
            }
        }
        let (tails, queries) = (vec![None; shape.layers.len()], vec![None; shape.layers.len()]);
        Ok(Self { prompt: Arc::clone(prompt), layers, tails, held, position: shape.len, queries, votes })
    }

    /// See [`Backend::evict`](crate::backend::Backend::evict).
    pub(super) fn evict(&mut self, selection: &Selection) -> Result<()> {
        let (mut held, mut layers) = (Held::default(), Vec::with_capacity(self.layers.len()));
        for (index, (chosen, sizes)) in selection.layers.iter().zip(&*self.prompt.shape.layers).enumerate() {
            let (keys, values) = self.all(index, sizes.kv_heads)?;
            let (owners, behind) = (keys.dim(0)?, self.behind());
            let lens = &self.held.layers[index];
            let longest = keys.dim(1)? - behind;
            // Entries behind a head's own stand behind the longest head's.
            let group = selection.granularity.heads(sizes) / owners;
            let place = |head: usize, entry: u32| {
                let len = lens[head / group];
                if (entry as usize) < len { entry } else { entry + (longest - len) as u32 }
            };
            let (mut heads, mut positions) = (Vec::new(), Vec::new());
            for head in 0..selection.granularity.heads(sizes) {
                let mut kept: Vec<u32> = match chosen {
                    LayerSelection::All => (0..(lens[head / group] + behind) as u32).collect(),
                    LayerSelection::Heads(heads) => heads[head].clone(),
                };
                if sizes.reach != Reach::All {
                    // What the next token does not look at is gone for good.
                    let at = self.positions(index, head / group);
                    let first = first_seen(sizes.reach, self.position);
                    kept.retain(|&entry| at[entry as usize] as usize >= first);
                    positions.push(kept.iter().map(|&entry| at[entry as usize]).collect());
                }
                heads.push(kept.into_iter().map(|entry| place(head, entry)).collect::<Vec<_>>());
            }
            let padded = Padded { positions, ..gather(&keys, &values, &heads)? };
            held.bytes += bytes(&padded.keys) + bytes(&padded.values);
            held.layers.push(heads.iter().map(Vec::len).collect());
            layers.push(KeptTensors::Own(padded));
        }
        self.layers = layers;
        self.tails.fill(None);
        self.held = held;
        Ok(())
    }

    /// Where the entries of a stored head stand, those read since the last cut included, in a layer that looks through a
    /// window.
    fn positions(&self, layer: usize, owner: usize) -> Vec<u32> {
        let tail = (self.position - self.behind()) as u32..self.position as u32;
        let mut positions = self.kept_positions(layer, owner);
        positions.extend(tail);
        positions
    }

    fn kept_positions(&self, layer: usize, owner: usize) -> Vec<u32> {
        match &self.layers[layer] {
            KeptTensors::Own(padded) => padded.positions[owner].clone(),
            KeptTensors::Shared => {
                let shape = &self.prompt.shape;
                let seen = shape.layers[layer].seen(shape.len);
                (seen.start as u32..seen.end as u32).collect()
            }
        }
    }

    /// What a query at `position` looks at of the kept entries of a layer with a window: 0, else `-inf`,
    /// `[owners, 1, longest]`.
    pub(super) fn window_mask(&self, layer: usize, reach: Reach, position: usize) -> Result<Tensor> {
        let keys = match &self.layers[layer] {
            KeptTensors::Own(padded) => &padded.keys,
            KeptTensors::Shared => &self.prompt.layers[layer].0,
        };
        let (owners, longest) = (keys.dim(0)?, keys.dim(1)?);
        let first = first_seen(reach, position);
        let mut mask = Vec::with_capacity(owners * longest);
        for owner in 0..owners {
            let positions = self.kept_positions(layer, owner);
            let seen = |&at: &u32| if at as usize >= first { 0.0 } else { f32::NEG_INFINITY };
            mask.extend(positions.iter().map(seen));
            mask.resize((owner + 1) * longest, f32::NEG_INFINITY);
        }
        Ok(Tensor::from_vec(mask, (owners, 1, longest), keys.device())?)
    }

    /// Attention rows over every entry of the prompt and what was read since: those that a window has left behind weigh
    /// nothing. `weights` is `[query_heads, stored]`.
    pub(super) fn whole_rows(&self, layer: usize, reach: Reach, weights: &Tensor) -> Result<Tensor> {
        let Reach::Window(_) = reach else { return Ok(weights.clone()) };
        let shape = &self.prompt.shape;
        Ok(weights.pad_with_zeros(1, shape.layers[layer].seen(shape.len).start, 0)?)
    }

    /// Remembers the queries of a token of one layer.
    pub(super) fn remember(&mut self, layer: usize, queries: &Tensor) -> Result<()> {
        if self.votes == 0 {
            return Ok(());
        }
        let all = match &self.queries[layer] {
            Some(earlier) => Tensor::cat(&[earlier, queries], 1)?,
            None => queries.clone(),
        };
        let tokens = all.dim(1)?;
        let last = tokens.min(self.votes);
        self.queries[layer] = Some(all.narrow(1, tokens - last, last)?.contiguous()?);
        Ok(())
    }

    /// Keys and values of one layer, `[owners, entries, head_dim]`: what is kept, padded to the longest head, and behind
    /// it what was read since.
    pub(super) fn all(&self, layer: usize, kv_heads: usize) -> Result<(Tensor, Tensor)> {
        let (keys, values) = match &self.layers[layer] {
            KeptTensors::Shared => self.prompt.layers[layer].clone(),
            KeptTensors::Own(padded) => (padded.keys.clone(), padded.values.clone()),
        };
        let Some((tail_keys, tail_values)) = &self.tails[layer] else { return Ok((keys, values)) };
        let owners = keys.dim(0)?;
        let group = owners / kv_heads;
        let readers: Vec<u32> = (0..owners).map(|owner| (owner / group) as u32).collect();
        let readers = Tensor::from_vec(readers, owners, keys.device())?;
        Ok((
            Tensor::cat(&[keys, tail_keys.index_select(&readers, 0)?], 1)?,
            Tensor::cat(&[values, tail_values.index_select(&readers, 0)?], 1)?,
        ))
    }

    /// Tokens read since the last cut.
    pub(super) fn behind(&self) -> usize {
        self.tails.first().and_then(Option::as_ref).map_or(0, |(keys, _)| keys.dims()[1])
    }

    /// Appends a token to a layer's tail, and returns the tail.
    pub(super) fn push(&mut self, layer: usize, key: &Tensor, value: &Tensor) -> Result<(Tensor, Tensor)> {
        let tail = match &self.tails[layer] {
            Some((keys, values)) => (Tensor::cat(&[keys, key], 1)?, Tensor::cat(&[values, value], 1)?),
            None => (key.clone(), value.clone()),
        };
        self.tails[layer] = Some(tail.clone());
        Ok(tail)
    }
}

/// Positions as entries of what is stored from `start` on.
fn shifted(heads: &[Vec<u32>], start: usize) -> Vec<Vec<u32>> {
    heads.iter().map(|kept| kept.iter().map(|position| position - start as u32).collect()).collect()
}

/// Bytes that a tensor's elements take.
fn bytes(tensor: &Tensor) -> u64 {
    (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64
}

/// Gathers the kept entries of each head; several may read one owner's.
fn gather(keys: &Tensor, values: &Tensor, heads: &[Vec<u32>]) -> Result<Padded> {
    let group = heads.len() / keys.dim(0)?;
    // Never empty: not every device makes tensors without elements.
    let longest = heads.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let device = keys.device();
    let mut mask = Vec::with_capacity(heads.len() * longest);
    let (mut kept_keys, mut kept_values) = (Vec::new(), Vec::new());
    for (head, kept) in heads.iter().enumerate() {
        let owner = head / group;
        // Padding repeats position 0, which the mask hides.
        let mut positions = kept.clone();
        positions.resize(longest, 0);
        let positions = Tensor::from_vec(positions, longest, device)?;
        kept_keys.push(keys.get(owner)?.index_select(&positions, 0)?);
        kept_values.push(values.get(owner)?.index_select(&positions, 0)?);
        mask.extend((0..longest).map(|i| if i < kept.len() { 0.0 } else { f32::NEG_INFINITY }));
    }
    Ok(Padded {
        keys: Tensor::stack(&kept_keys, 0)?,
        values: Tensor::stack(&kept_values, 0)?,
        mask: Some(Tensor::from_vec(mask, (heads.len(), 1, longest), device)?),
        positions: Vec::new(),
    })
}
