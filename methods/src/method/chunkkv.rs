//! ChunkKV: SnapKV's scores, but whole chunks of neighbouring tokens are kept or lost.
//!
//! Paper: Liu et al., ChunkKV: Semantic-Preserving KV Cache Compression for Efficient Long-Context LLM Inference, 2025
//! (arXiv:2502.00299).
//!
//! ```text
//! s = pool(mean over the window of attention), mean over the group; the window scores 1 above the best token
//! chunk score = mean over its tokens of the sum over KV heads; the same chunks for every head of a layer
//! keep the best chunks that fit the budget
//! ```
//!
//! Reference: `NVIDIA/kvpress:kvpress/presses/chunkkv_press.py` (0.5.5), which rounds the number of chunks instead.
//! Deviation: window 32 by default, as the other methods that vote; `chunkkv@kvpress` has 64.

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::error::MethodError;
use crate::group::{GroupLayout, GroupOrder, GroupReduce};
use crate::observation::Observation;
use crate::pooling::Pooling;
use crate::scoring::{self, Scores, Scoring};
use crate::selection::{Granularity, LayerSelection};

params! {
    /// Parameters of ChunkKV.
    ChunkKv {
        /// Last prompt tokens: they vote, and score above every other.
        window: usize = 32,
        /// Pooling size, odd.
        kernel: usize = 5,
        /// `avgpool` or `maxpool`.
        pooling: Pooling = Pooling::Avg,
        /// Tokens of a chunk.
        chunk: usize = 20,
    }
}

/// ChunkKV's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "chunkkv",
    summary: "SnapKV's scores, whole chunks of tokens are kept",
    paper: "Liu et al., ChunkKV: Semantic-Preserving KV Cache Compression for Efficient Long-Context LLM Inference, 2025 (arXiv:2502.00299)",
    source: "NVIDIA/kvpress kvpress/presses/chunkkv_press.py (0.5.5)",
    deviations: "window 32 instead of 64; keeps the chunks that fit the budget, where the reference rounds their number",
    question: Question::Seen,
    granularities: &[Granularity::KvHead],
    needs: &[],
    parameters: ChunkKv::PARAMETERS,
    parse: parse::<ChunkKv>,
};

impl ChunkKv {
    fn scoring(&self) -> Scoring {
        Scoring {
            window: self.window,
            kernel: self.kernel,
            pooling: self.pooling,
            layout: GroupLayout::Contiguous,
            reduce: GroupReduce::Mean,
            order: GroupOrder::AfterPooling,
        }
    }

    /// One row: each token's score, summed over KV heads, the window's included.
    fn layer_scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Scores, MethodError> {
        let Scores { columns, rows } = self.scoring().means(ctx, layer)?;
        let best = scoring::best(&rows);
        let mut sum = vec![0.0; columns];
        for row in &rows {
            sum.iter_mut().zip(row).for_each(|(sum, score)| *sum += score);
        }
        sum.resize(ctx.shape.len, (best + 1.0) * rows.len() as f32);
        Ok(Scores { columns: ctx.shape.len, rows: vec![sum] })
    }

    /// Positions of the best chunks that fit the budget, ascending.
    fn chunks(&self, scores: &[f32], budget: usize) -> Vec<u32> {
        let mut chunks: Vec<(usize, f64)> = scores
            .chunks(self.chunk)
            .map(|chunk| chunk.iter().map(|&score| f64::from(score)).sum::<f64>() / chunk.len() as f64)
            .enumerate()
            .collect();
        chunks.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut kept = Vec::with_capacity(budget);
        for (index, _) in chunks {
            let first = index * self.chunk;
            let last = (first + self.chunk).min(scores.len());
            if kept.len() + (last - first) > budget {
                break;
            }
            kept.extend(first as u32..last as u32);
        }
        kept.sort_unstable();
        kept
    }
}

impl Method for ChunkKv {
    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.chunk == 0 {
            return Err(("chunk", "a chunk has at least one token".into()));
        }
        self.scoring().check()
    }

    fn check_budget(&self, budget: usize) -> Result<(), String> {
        let least = self.window.saturating_add(self.chunk).saturating_sub(1);
        if budget > least {
            return Ok(());
        }
        Err(format!(
            "the chunks that hold its window of {} tokens have up to {least} tokens, inside the budget, and must be below it",
            self.window
        ))
    }

    fn observations(&self) -> Vec<Observation> {
        self.scoring().observations()
    }

    fn scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Option<Scores>, MethodError> {
        self.layer_scores(ctx, layer).map(Some)
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        let whole = ctx.shape.len <= ctx.budget.max(self.window);
        (0..ctx.shape.layers.len())
            .map(|layer| {
                if whole {
                    return Ok(LayerSelection::All);
                }
                let scores = self.layer_scores(ctx, layer)?;
                let kept = scores.rows.iter().map(|row| self.chunks(row, ctx.budget)).next();
                Ok(LayerSelection::Heads(vec![kept.unwrap_or_default(); ctx.heads(layer)]))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_chunks_are_kept_while_they_fit() {
        let method = ChunkKv { chunk: 4, ..ChunkKv::default() };
        let mut scores = vec![0.0; 18];
        scores[5] = 4.0;
        scores[13] = 8.0;
        scores[16..].fill(1.5);
        // The last chunk has two tokens; a third whole one does not fit behind ten.
        assert_eq!(method.chunks(&scores, 10), [4, 5, 6, 7, 12, 13, 14, 15, 16, 17][..].to_vec());
        assert_eq!(method.chunks(&scores, 13).len(), 10);
        assert_eq!(method.chunks(&scores, 14).len(), 14);
    }
}
