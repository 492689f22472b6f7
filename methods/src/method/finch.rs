//! FINCH: the question votes; what is kept closes ranks, and the answer goes on right behind it.
//!
//! Paper: Corallo and Papotti, FINCH: Prompt-guided Key-Value Cache Compression for Large Language Models, TACL 2024
//! (arXiv:2408.00167).
//!
//! ```text
//! s = mean over the question's rows of attention times the number of positions before the row, mean over the group
//! keep the question and the best entries before it; turn their keys to the positions 0, 1, …; decode behind them
//! ```
//!
//! Later rows share their attention among more positions: the factor makes them equal. The question must be seen, and told
//! from its context; `window` says how long it is where no protocol does. The selection counts the prompt's positions, as
//! every other; only the cache is renumbered.
//!
//! Reference: `NVIDIA/kvpress:kvpress/presses/finch_press.py` and `key_rerotation_press.py` (0.5.5). Deviations: compressed
//! once, not chunk by chunk as in the paper (kvpress's default, too); the end of the chat template counts as the question's.

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::error::MethodError;
use crate::observation::{Observation, Observed};
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};

params! {
    /// Parameters of FINCH.
    Finch {
        /// Last prompt tokens, which vote and are kept; unset: the question's.
        window: Option<usize> = None,
        /// Kept keys get contiguous positions, and the answer goes on behind them.
        renumber: bool = true,
    }
}

/// FINCH's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "finch",
    summary: "the tokens that the question attends to most; what is kept closes ranks",
    paper: "Corallo and Papotti, FINCH: Prompt-guided Key-Value Cache Compression for Large Language Models, TACL 2024 (arXiv:2408.00167)",
    source: "NVIDIA/kvpress kvpress/presses/finch_press.py, key_rerotation_press.py (0.5.5)",
    deviations: "once after the prefill, as kvpress does it; the paper compresses chunk by chunk while it reads; the end of the chat template votes, too",
    question: Question::Seen,
    granularities: &[Granularity::KvHead],
    needs: &[],
    parameters: Finch::PARAMETERS,
    parse: parse::<Finch>,
};

impl Finch {
    fn observation(&self) -> Observation {
        Observation::QuestionSum { window: self.window }
    }

    /// One row a KV head, over what stands before the question.
    fn layer_scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Scores, MethodError> {
        let sizes = ctx.layer(layer);
        let observed = ctx.observed(layer, self.observation())?;
        let (columns, values) = match observed {
            Observed::Rows { rows, columns, values }
                if *rows == sizes.query_heads
                    && *columns < ctx.shape.len
                    && values.len() == rows * columns =>
            {
                (*columns, values)
            }
            other => {
                return Err(MethodError::Mismatch {
                    what: format!("{:?} of layer {layer}", self.observation()),
                    expected: format!("{} heads x fewer than {} positions", sizes.query_heads, ctx.shape.len),
                    found: other.describe(),
                });
            }
        };
        // What is observed is a sum over the question.
        let votes = ((ctx.shape.len - columns) * sizes.group_size()) as f32;
        let group = |head: usize| {
            let mut sum = vec![0.0; columns];
            for row in values.chunks(columns.max(1)).skip(head * sizes.group_size()).take(sizes.group_size())
            {
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x / votes);
            }
            sum
        };
        Ok(Scores { columns, rows: (0..sizes.kv_heads).map(group).collect() })
    }
}

impl Method for Finch {
    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.window == Some(0) {
            return Err(("window", "the question has at least one token".into()));
        }
        Ok(())
    }

    fn check_budget(&self, budget: usize) -> Result<(), String> {
        match self.window {
            Some(window) if budget <= window => {
                Err(format!("its window of {window} tokens is inside the budget and must be below it"))
            }
            _ => Ok(()),
        }
    }

    fn recent(&self) -> usize {
        self.window.unwrap_or(0)
    }

    fn observations(&self) -> Vec<Observation> {
        vec![self.observation()]
    }

    fn renumbers(&self) -> bool {
        self.renumber
    }

    fn scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Option<Scores>, MethodError> {
        self.layer_scores(ctx, layer).map(Some)
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        let len = ctx.shape.len;
        (0..ctx.shape.layers.len())
            .map(|layer| {
                if ctx.budget >= len {
                    return Ok(LayerSelection::All);
                }
                let scores = self.layer_scores(ctx, layer)?;
                let question = len - scores.columns;
                if ctx.budget < question {
                    // Not even the question fits: its last tokens.
                    let last: Vec<u32> = (len - ctx.budget..len).map(|position| position as u32).collect();
                    return Ok(LayerSelection::Heads(vec![last; ctx.heads(layer)]));
                }
                let past = vec![ctx.budget - question; scores.rows.len()];
                Ok(scoring::cut(ctx, layer, &scores, &past))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::inputs::Inputs;
    use crate::observation::{Observation, Observations, Observed};
    use crate::selection::LayerSelection;
    use crate::testing::{shape, variant};

    fn select(budget: usize) -> LayerSelection {
        let shape = shape(1, 4, 2, 4, 8);
        let values = vec![
            1.0, 0.0, 0.0, 4.0, 0.0, // two query heads of the first KV head
            0.0, 3.0, 0.0, 0.0, 0.0, //
            0.0, 0.0, 1.0, 0.0, 1.0, // and of the second
            2.0, 0.0, 0.0, 0.0, 3.0,
        ];
        let rows = Observed::Rows { rows: 4, columns: 5, values };
        let seen = Observations { layers: vec![[(Observation::QuestionSum { window: None }, rows)].into()] };
        let variant = variant("finch", &[], budget);
        variant.select(&shape, &seen, &Inputs::default(), &mut Default::default()).unwrap().layers.remove(0)
    }

    #[test]
    fn the_question_is_kept_and_votes() {
        assert_eq!(select(5), LayerSelection::Heads(vec![vec![1, 3, 5, 6, 7], vec![0, 4, 5, 6, 7]]));
        assert_eq!(select(3), LayerSelection::Heads(vec![vec![5, 6, 7]; 2]));
        assert_eq!(select(2), LayerSelection::Heads(vec![vec![6, 7]; 2]), "a question beyond the budget");
        assert_eq!(select(8), LayerSelection::All);
    }
}
