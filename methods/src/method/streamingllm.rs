//! StreamingLLM: the first tokens ("attention sinks") and the most recent ones.
//!
//! Paper: Xiao et al., Efficient Streaming Language Models with Attention Sinks, ICLR 2024
//! (arXiv:2309.17453). Section 2.2 of the specification:
//!
//! ```text
//! if S < B: keep all;  else: keep the first n_sink and the last B - n_sink positions
//! ```
//!
//! Reference: `FFY0/AdaKV:adaptive_snapkv/monkeypatch/snapkv_utils.py:684-706` (efe4e2ee).
//! Deviations: none from that file; kept keys keep their original rotation, as in every benchmark of it.

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::error::MethodError;
use crate::selection::{Granularity, LayerSelection};

params! {
    /// Parameters of StreamingLLM.
    StreamingLlm {
        /// First tokens kept; the rest of the budget goes to the last tokens.
        sinks: usize = 4,
        /// If set, this many last tokens are kept and the rest of the budget goes to the first ones,
        /// whatever `sinks` says.
        recent: Option<usize> = None,
    }
}

/// StreamingLLM's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "streamingllm",
    summary: "the first tokens and the most recent ones",
    paper: "Xiao et al., Efficient Streaming Language Models with Attention Sinks, ICLR 2024 (arXiv:2309.17453)",
    source: "FFY0/AdaKV adaptive_snapkv/monkeypatch/snapkv_utils.py:684-706 (efe4e2ee)",
    deviations: "none",
    question: Question::Either,
    granularities: &[Granularity::KvHead, Granularity::QueryHead],
    needs: &[],
    parameters: StreamingLlm::PARAMETERS,
    parse: parse::<StreamingLlm>,
};

impl Method for StreamingLlm {
    fn check_budget(&self, budget: usize) -> Result<(), String> {
        let (name, taken) = match self.recent {
            Some(recent) => ("recent", recent),
            None => ("sinks", self.sinks),
        };
        if taken < budget {
            return Ok(());
        }
        Err(format!("`{name}` = {taken} tokens are inside the budget and must be below it"))
    }

    fn chooses_again(&self) -> bool {
        true
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        let (prompt, budget) = (ctx.shape.len, ctx.budget);
        if prompt <= budget {
            return Ok(vec![LayerSelection::All; ctx.shape.layers.len()]);
        }
        let first = self.recent.map_or(self.sinks, |recent| budget.saturating_sub(recent)).min(budget);
        let last = prompt - (budget - first);
        let kept: Vec<u32> = (0..first as u32).chain(last as u32..prompt as u32).collect();
        let layer = |layer: usize| LayerSelection::Heads(vec![kept.clone(); ctx.heads(layer)]);
        Ok((0..ctx.shape.layers.len()).map(layer).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::Inputs;
    use crate::spec::MethodSpec;
    use crate::testing::{select, shape, variant};

    #[test]
    fn sinks_and_recent_tokens() {
        let shape = shape(1, 2, 1, 4, 12);
        let kept = |overrides: &[&str]| {
            let selection =
                select(&variant("streamingllm", overrides, 6), &shape, &Inputs::default()).unwrap();
            selection.layers[0].clone()
        };
        assert_eq!(kept(&[]), LayerSelection::Heads(vec![vec![0, 1, 2, 3, 10, 11]]));
        assert_eq!(kept(&["recent=5"]), LayerSelection::Heads(vec![vec![0, 7, 8, 9, 10, 11]]));
        assert_eq!(kept(&["sinks=0"]), LayerSelection::Heads(vec![vec![6, 7, 8, 9, 10, 11]]));
        let error = MethodSpec::parse("streamingllm", &[], None).unwrap().at(4).unwrap_err().to_string();
        assert!(error.ends_with("`sinks` = 4 tokens are inside the budget and must be below it"), "{error}");
    }
}
