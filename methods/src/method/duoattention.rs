//! DuoAttention: some KV heads keep everything, the others the first tokens and the most recent ones.
//!
//! Paper: Xiao et al., DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads, ICLR 2025
//! (arXiv:2410.10819).
//!
//! The paper and kvpress fix a share of streaming heads, and what that leaves of a cache depends on the prompt. Here a
//! budget comes first, as for every method, so that all stand on one axis: as many of the best heads stay whole as the
//! budget has room for, beside streaming heads of `sinks + recent` entries,
//!
//! ```text
//! whole = floor((budget - sinks - recent) * heads / (tokens - sinks - recent))
//! ```
//!
//! counted over all layers. What is left, less than one whole head, goes to the recent tokens of the streaming heads
//! (`stretch`). A budget of no more than `sinks + recent` makes every head a streaming one of the budget's size.
//!
//! Scores of heads: DuoAttention's own, `full_attention_heads.tsv` of a model (one number from 0 to 1 a KV head, trained),
//! or, for models without such a file, retrieval scores: those of the best query head of each group.
//!
//! Reference: `mit-han-lab/duo-attention:duo_attn/utils.py, scripts/longbench.sh` (64 sinks and 256 recent tokens) and
//! `NVIDIA/kvpress:kvpress/presses/duo_attention_press.py` (0.5.5; 128 and 256, the sizes it was trained with). Heads
//! with equal scores: the first stays whole; the reference draws.

use serde::{Deserialize, Serialize};

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::error::MethodError;
use crate::inputs::InputKind;
use crate::selection::{Granularity, LayerSelection};

/// What says which heads stay whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeadsBy {
    /// DuoAttention's published scores.
    FullAttention,
    /// Retrieval scores of query heads, the best of each group.
    Retrieval,
}

params! {
    /// Parameters of DuoAttention.
    DuoAttention {
        /// First tokens that a streaming head keeps.
        sinks: usize = 64,
        /// Last tokens that a streaming head keeps.
        recent: usize = 256,
        /// Streaming heads keep as many recent tokens more as the budget has left.
        stretch: bool = true,
        /// Scores that say which heads stay whole: `full-attention` (DuoAttention's file) or `retrieval`.
        heads: HeadsBy = HeadsBy::FullAttention,
    }
}

/// DuoAttention's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "duoattention",
    summary: "the best heads keep everything, the others the first and the most recent tokens",
    paper: "Xiao et al., DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads, ICLR 2025 (arXiv:2410.10819)",
    source: "mit-han-lab/duo-attention duo_attn/utils.py, scripts/longbench.sh (fe93c31) and NVIDIA/kvpress kvpress/presses/duo_attention_press.py (0.5.5)",
    deviations: "the budget says how many heads stay whole, and streaming heads take what is left of it; the reference is given a share of heads; needs one of the two scores, by its parameter `heads`",
    question: Question::Either,
    granularities: &[Granularity::KvHead],
    needs: &[InputKind::FullHeads, InputKind::RetrievalScores],
    parameters: DuoAttention::PARAMETERS,
    parse: parse::<DuoAttention>,
};

impl DuoAttention {
    fn input(&self) -> InputKind {
        match self.heads {
            HeadsBy::FullAttention => InputKind::FullHeads,
            HeadsBy::Retrieval => InputKind::RetrievalScores,
        }
    }

    /// One score a KV head, layer by layer.
    fn scores(&self, ctx: &Context<'_>) -> Result<Vec<f64>, MethodError> {
        let (scores, shared) = match self.heads {
            HeadsBy::FullAttention => (&ctx.inputs.full_heads, false),
            HeadsBy::Retrieval => (&ctx.inputs.retrieval, true),
        };
        let scores = scores.as_ref().ok_or_else(|| ctx.missing(self.input()))?;
        let group = |layer: usize| if shared { ctx.layer(layer).group_size() } else { 1 };
        let layers = ctx.shape.layers.len();
        let fits = |(layer, row): (usize, &Vec<f64>)| row.len() == ctx.heads(layer) * group(layer);
        if scores.len() != layers || !scores.iter().enumerate().all(fits) {
            return Err(MethodError::Mismatch {
                what: self.input().to_string(),
                expected: format!("{layers} layers x {} heads", ctx.heads(0) * group(0)),
                found: format!("{} layers x {} heads", scores.len(), scores.first().map_or(0, Vec::len)),
            });
        }
        let best = |heads: &[f64]| heads.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Ok(scores.iter().enumerate().flat_map(|(layer, row)| row.chunks(group(layer)).map(best)).collect())
    }

    /// How many of `heads` heads keep all of `tokens` tokens, and what the others keep at the front and at the end.
    fn split(&self, budget: usize, tokens: usize, heads: usize) -> (usize, [usize; 2]) {
        let least = self.sinks.saturating_add(self.recent);
        if budget <= least || tokens <= least {
            let sinks = self.sinks.min(budget / 2);
            return (0, [sinks, budget - sinks]);
        }
        let room = (budget - least).saturating_mul(heads);
        let whole = (room / (tokens - least)).min(heads);
        let left = room - whole * (tokens - least);
        let stretch = if self.stretch && whole < heads { left / (heads - whole) } else { 0 };
        (whole, [self.sinks, self.recent + stretch])
    }
}

impl Method for DuoAttention {
    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.recent == 0 {
            return Err(("recent", "a streaming head keeps at least its last token".into()));
        }
        Ok(())
    }

    fn does_without(&self, input: InputKind) -> bool {
        input != self.input()
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        let (layers, tokens) = (ctx.shape.layers.len(), ctx.shape.len);
        if ctx.budget >= tokens {
            return Ok(vec![LayerSelection::All; layers]);
        }
        let scores = self.scores(ctx)?;
        let (whole, [sinks, recent]) = self.split(ctx.budget, tokens, scores.len());
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let mut is_whole = vec![false; scores.len()];
        order.into_iter().take(whole).for_each(|head| is_whole[head] = true);
        let (all, tokens) = ((0..tokens as u32).collect::<Vec<_>>(), tokens as u32);
        let streaming: Vec<u32> = (0..sinks as u32).chain(tokens - recent as u32..tokens).collect();
        let mut is_whole = is_whole.into_iter();
        Ok((0..layers)
            .map(|layer| {
                let heads = is_whole.by_ref().take(ctx.heads(layer));
                LayerSelection::Heads(
                    heads.map(|whole| if whole { all.clone() } else { streaming.clone() }).collect(),
                )
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use crate::inputs::Inputs;
    use crate::selection::LayerSelection;
    use crate::testing::{counts, select, shape, variant};

    fn inputs() -> Inputs {
        Inputs {
            full_heads: Some(vec![vec![0.1, 1.0], vec![0.7, 0.7]]),
            retrieval: Some(vec![vec![0.0, 0.5, 0.1, 0.2], vec![0.9, 0.0, 0.0, 0.0]]),
            ..Inputs::default()
        }
    }

    #[test]
    fn a_budget_becomes_whole_heads_and_longer_streams() {
        let shape = shape(2, 4, 2, 8, 100);
        let params = ["sinks=2", "recent=8"];
        let kept = |extra: &[&str], budget| {
            let all = [&params[..], extra].concat();
            select(&variant("duoattention", &all, budget), &shape, &inputs()).unwrap()
        };
        // Four heads: 4 * (40 - 10) = 120 entries beyond the streams, 90 of them for one whole head, 10 for each other.
        assert_eq!(counts(&kept(&[], 40), 100), [[20, 100], [20, 20]]);
        assert_eq!(counts(&kept(&["stretch=false"], 40), 100), [[10, 100], [10, 10]]);
        // Equal scores: the first head of the two stays whole.
        assert_eq!(counts(&kept(&["stretch=false"], 55), 100), [[10, 100], [100, 10]]);
        assert_eq!(counts(&kept(&["heads=retrieval", "stretch=false"], 55), 100), [[100, 10], [100, 10]]);
        let LayerSelection::Heads(heads) = &kept(&["stretch=false"], 40).layers[1] else { panic!() };
        assert_eq!(heads[0], [0, 1, 92, 93, 94, 95, 96, 97, 98, 99]);
        // What is held is the budget, up to a token a head.
        for budget in 11..100 {
            let held: usize = counts(&kept(&[], budget), 100).iter().flatten().sum();
            assert!((4 * budget - 3..=4 * budget).contains(&held), "{budget}: {held}");
        }
        // No room for a whole head beside the streams.
        for (budget, first) in [(10, 2), (5, 2), (3, 1), (1, 0)] {
            let kept = kept(&[], budget);
            let LayerSelection::Heads(heads) = &kept.layers[0] else { panic!() };
            let expected: Vec<u32> = (0..first).chain(100 - (budget as u32 - first)..100).collect();
            assert_eq!(heads[1], expected, "{budget}");
        }
    }

    #[test]
    fn scores_of_another_model_are_refused() {
        let shape = shape(3, 4, 2, 8, 500);
        let error = select(&variant("duoattention", &[], 400), &shape, &inputs()).unwrap_err().to_string();
        assert_eq!(
            error,
            "full-attention head scores: expected 3 layers x 2 heads, found 2 layers x 2 heads"
        );
        let error =
            select(&variant("duoattention", &[], 400), &shape, &Inputs::default()).unwrap_err().to_string();
        assert_eq!(
            error,
            "method `duoattention` needs full-attention head scores for this model; name their published file \
             `MODEL_full_attention_heads.tsv` (mit-han-lab/duo-attention, attn_patterns)"
        );
    }
}
