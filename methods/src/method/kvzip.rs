//! KVzip: the entries that the model needs to repeat its prompt.
//!
//! Paper: Kim et al., KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction, NeurIPS 2025
//! (arXiv:2505.23416).
//!
//! ```text
//! behind the whole prompt, for each part of `chunk` tokens: read "Repeat the previous context exactly." and the part
//! score = largest attention that an entry of the part gets from any of these tokens and any query head of its group,
//!         softmax over the sinks, the part, and the tokens read
//! one ranking over all layers and heads; the sinks come first
//! ```
//!
//! The second pass does not depend on the budget: one serves them all. It repeats what is compressed: the context where
//! the question stays unseen, for which it was made; else the question, too.
//!
//! Reference: `NVIDIA/kvpress:kvpress/presses/kvzip_press.py` (0.5.5) and `snu-mllab/KVzip:attention/score.py,
//! model/wrapper.py` (5d84729). They differ in the sinks (4 tokens there, the template's head here, never evicted), the
//! part (2,048 and 2,000 tokens) and a space in the words that ask for later parts (kvpress's are read).

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::error::MethodError;
use crate::observation::Observation;
use crate::scoring::Scores;
use crate::selection::{Granularity, LayerSelection};
use crate::topk;

params! {
    /// Parameters of KVzip.
    KvZip {
        /// First tokens, kept, which every part sees beside itself; unset: those of the chat template before the prompt, or the BOS of a prompt without template.
        sinks: Option<usize> = None,
        /// Tokens that are repeated at once.
        chunk: usize = 2000,
        /// Heads compete inside their layer only, and every layer keeps as much.
        layerwise: bool = false,
    }
}

/// KVzip's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "kvzip",
    summary: "the tokens that the model looks at while it repeats the prompt; all heads and layers compete",
    paper: "Kim et al., KVzip: Query-Agnostic KV Cache Compression with Context Reconstruction, NeurIPS 2025 (arXiv:2505.23416)",
    source: "snu-mllab/KVzip attention/score.py, model/wrapper.py (5d84729) and NVIDIA/kvpress kvpress/presses/kvzip_press.py (0.5.5)",
    deviations: "the sinks count as part of the budget; the words that ask for later parts end without a space, as kvpress's; with the question seen it is repeated, too",
    question: Question::Unseen,
    granularities: &[Granularity::KvHead],
    needs: &[],
    parameters: KvZip::PARAMETERS,
    parse: parse::<KvZip>,
};

impl KvZip {
    fn observation(&self) -> Observation {
        Observation::Reconstruction { sinks: self.sinks, chunk: self.chunk }
    }

    /// One row a KV head of a layer.
    fn rows<'a>(&self, ctx: &Context<'a>, layer: usize) -> Result<Vec<&'a [f32]>, MethodError> {
        let (columns, values) = ctx.rows(layer, self.observation(), ctx.layer(layer).kv_heads)?;
        Ok(values.chunks(columns).collect())
    }
}

/// Positions of the `n` best entries of all rows together, row by row; among equals the first row's lowest win.
fn best(rows: &[&[f32]], n: usize) -> Vec<Vec<u32>> {
    if n == 0 {
        return vec![Vec::new(); rows.len()];
    }
    let keys: Vec<u32> = rows.iter().copied().flatten().copied().map(topk::key).collect();
    let above = |cut: u32| keys.iter().filter(|&&key| key > cut).count();
    let cut = topk::nth_highest(keys.clone(), n);
    let mut equals = n - above(cut);
    let mut keys = keys.into_iter();
    rows.iter()
        .map(|row| {
            let mut kept = Vec::new();
            for (position, key) in (0..).zip(keys.by_ref().take(row.len())) {
                if key > cut || (key == cut && equals > 0) {
                    equals -= usize::from(key == cut);
                    kept.push(position);
                }
            }
            kept
        })
        .collect()
}

impl Method for KvZip {
    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.chunk == 0 { Err(("chunk", "a part has at least one token".into())) } else { Ok(()) }
    }

    fn check_budget(&self, budget: usize) -> Result<(), String> {
        match self.sinks {
            Some(sinks) if budget <= sinks => {
                Err(format!("its {sinks} sinks are inside the budget and must be below it"))
            }
            _ => Ok(()),
        }
    }

    fn observations(&self) -> Vec<Observation> {
        vec![self.observation()]
    }

    fn scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Option<Scores>, MethodError> {
        let rows = self.rows(ctx, layer)?;
        Ok(Some(Scores { columns: ctx.shape.len, rows: rows.into_iter().map(<[f32]>::to_vec).collect() }))
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        let layers = 0..ctx.shape.layers.len();
        if ctx.budget >= ctx.shape.len {
            return Ok(vec![LayerSelection::All; layers.len()]);
        }
        if self.layerwise {
            let layer = |layer| {
                let rows = self.rows(ctx, layer)?;
                Ok(LayerSelection::Heads(best(&rows, ctx.budget * rows.len())))
            };
            return layers.map(layer).collect();
        }
        let mut rows = Vec::new();
        for layer in layers.clone() {
            rows.extend(self.rows(ctx, layer)?);
        }
        let mut kept = best(&rows, ctx.budget * rows.len()).into_iter();
        Ok(layers
            .map(|layer| LayerSelection::Heads(kept.by_ref().take(ctx.heads(layer)).collect()))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::Inputs;
    use crate::observation::{Observations, Observed, UNJUDGED};
    use crate::testing::{shape, variant};

    /// Two layers of two heads and six entries, two sinks before them.
    fn select(overrides: &[&str], budget: usize) -> Vec<LayerSelection> {
        let shape = shape(2, 2, 2, 4, 6);
        let variant = variant("kvzip", overrides, budget);
        let rows = [
            [UNJUDGED, UNJUDGED, 0.9, 0.8, 0.7, 0.6, UNJUDGED, UNJUDGED, 0.1, 0.1, 0.1, 0.2],
            [UNJUDGED, UNJUDGED, 0.1, 0.5, 0.1, 0.1, UNJUDGED, UNJUDGED, 0.1, 0.1, 0.4, 0.1],
        ];
        let observed = |values: &[f32; 12]| {
            let rows = Observed::Rows { rows: 2, columns: 6, values: values.to_vec() };
            [(variant.observations()[0], rows)].into()
        };
        let seen = Observations { layers: rows.iter().map(observed).collect() };
        variant.select(&shape, &seen, &Inputs::default(), &mut Default::default()).unwrap().layers
    }

    #[test]
    fn all_layers_and_heads_compete_and_sinks_come_first() {
        let heads = |kept: [&[u32]; 2]| LayerSelection::Heads(kept.map(<[u32]>::to_vec).to_vec());
        assert_eq!(select(&[], 3), [heads([&[0, 1, 2, 3, 4, 5], &[0, 1]]), heads([&[0, 1], &[0, 1]])]);
        assert_eq!(
            select(&["layerwise=true"], 3),
            [heads([&[0, 1, 2, 3], &[0, 1]]), heads([&[0, 1, 3], &[0, 1, 4]])]
        );
        // Sixteen entries: those from 0.2 on, and the first of those of 0.1.
        let total = |kept: &[LayerSelection]| -> usize {
            let heads = kept.iter().flat_map(|layer| match layer {
                LayerSelection::Heads(heads) => heads.clone(),
                LayerSelection::All => Vec::new(),
            });
            heads.map(|head| head.len()).sum()
        };
        let kept = select(&[], 4);
        assert_eq!(total(&kept), 16);
        assert_eq!(kept[0], heads([&[0, 1, 2, 3, 4, 5], &[0, 1, 2, 5]]));
        assert_eq!(kept[1], heads([&[0, 1, 3], &[0, 1, 4]]));
    }
}
