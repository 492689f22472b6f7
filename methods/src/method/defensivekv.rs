//! DefensiveKV: a token counts by the largest attention that any row and query head gave it, and never below the mean.
//!
//! Paper: Feng et al., Taming the Fragility of KV Cache Eviction in LLM Inference, ICLR 2026 (arXiv:2510.13334).
//!
//! ```text
//! m = max over the window's rows and the group of pooled attention, at least its mean over positions
//! s = m * n / (sum of n over KV heads), n = |W_o v|_1, mean over the group
//! the best by mean attention, until they hold `mass` of it, score as high as the layer's best s; so does the window
//! heads of a layer compete: keep its best KV heads * B
//! ```
//!
//! Reference: `FFY0/DefensiveKV:kvpress/presses/efficient_defensivekv_press.py` (9251b95); kvpress has none. Its slips are kept:
//! what it takes for the window's own share of attention, and subtracts from `mass`, is that of the last `window` positions
//! *before* the window; and a head's first stage ends at `floor(P * B / S) - window` tokens of the `P` before the window.
//! Deviation: that number is never below zero, where a negative one counts from the end there.

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::budget::adakv;
use crate::error::MethodError;
use crate::group::{self, GroupReduce};
use crate::observation::Observation;
use crate::scoring::{self, Scores};
use crate::selection::{Granularity, LayerSelection};
use crate::topk;

params! {
    /// Parameters of DefensiveKV.
    DefensiveKv {
        /// Last prompt tokens: they vote, and are always kept.
        window: usize = 32,
        /// Pooling size, odd; the mean.
        kernel: usize = 5,
        /// Share of the attention whose tokens are kept before norms weigh.
        mass: f64 = 0.9,
    }
}

/// DefensiveKV's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "defensivekv",
    summary: "the tokens that any of the last tokens attends to most, times how much of the value reaches the output; heads compete",
    paper: "Feng et al., Taming the Fragility of KV Cache Eviction in LLM Inference, ICLR 2026 (arXiv:2510.13334)",
    source: "FFY0/DefensiveKV kvpress/presses/efficient_defensivekv_press.py (9251b95)",
    deviations: "none but that a first stage without room chooses nothing, where a negative number of tokens counts from the end in the reference",
    question: Question::Unseen,
    granularities: &[Granularity::KvHead],
    needs: &[],
    parameters: DefensiveKv::PARAMETERS,
    parse: parse::<DefensiveKv>,
};

impl DefensiveKv {
    /// One row a KV head, of the tokens before the window.
    pub(super) fn layer_scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Scores, MethodError> {
        let sizes = ctx.layer(layer);
        let grouped = |observation, reduce| -> Result<(usize, Vec<Vec<f32>>), MethodError> {
            let (columns, values) = ctx.rows(layer, observation, sizes.query_heads)?;
            let of_group = |rows: &[f32]| group::reduce(rows.chunks(columns), reduce);
            Ok((columns, values.chunks(sizes.group_size() * columns).map(of_group).collect()))
        };
        let most = Observation::WindowMax { window: self.window, kernel: self.kernel };
        let (columns, mut rows) = grouped(most, GroupReduce::Max)?;
        let (_, mut attention) = grouped(Observation::WindowSum { window: self.window }, GroupReduce::Mean)?;
        attention.iter_mut().flatten().for_each(|sum| *sum /= self.window as f32);
        let norms = scoring::output_norms(ctx, layer)?;
        for row in &mut rows {
            let mean = (row.iter().copied().map(f64::from).sum::<f64>() / columns as f64) as f32;
            row.iter_mut().for_each(|score| *score = score.max(mean));
        }
        for position in 0..columns {
            let all: f32 = norms.iter().map(|norms| norms[position]).sum();
            for (row, norms) in rows.iter_mut().zip(&norms) {
                row[position] *= if all > 0.0 { norms[position] / all } else { 0.0 };
            }
        }
        let last = columns.saturating_sub(self.window);
        let near: f64 = attention.iter().flat_map(|row| &row[last..]).copied().map(f64::from).sum();
        let mass = self.mass - near / attention.len() as f64;
        let room = (columns as u128 * ctx.budget as u128 / ctx.shape.len as u128) as usize;
        let room = room.saturating_sub(self.window);
        let best = scoring::best(&rows);
        for (row, attention) in rows.iter_mut().zip(&attention) {
            let sure = holding(attention, mass).min(room);
            topk::top(attention, sure).into_iter().for_each(|position| row[position as usize] = best);
        }
        Ok(Scores { columns, rows })
    }

    pub(super) fn observed(&self) -> Vec<Observation> {
        vec![
            Observation::WindowSum { window: self.window },
            Observation::WindowMax { window: self.window, kernel: self.kernel },
            Observation::OutputNorm,
        ]
    }
}

/// How many of the highest values stay below `mass` of the sum when they are added up.
fn holding(row: &[f32], mass: f64) -> usize {
    let mut sorted: Vec<f64> = row.iter().copied().map(f64::from).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let all: f64 = sorted.iter().sum();
    let mut held = 0.0;
    sorted
        .iter()
        .position(|value| {
            held += value;
            held >= mass * all
        })
        .unwrap_or(0)
}

impl Method for DefensiveKv {
    fn check(&self) -> Result<(), (&'static str, String)> {
        scoring::check_share("mass", self.mass)?;
        scoring::check_window(self.window)?;
        scoring::check_kernel(self.kernel)
    }

    fn recent(&self) -> usize {
        self.window
    }

    fn observations(&self) -> Vec<Observation> {
        self.observed()
    }

    fn scores(&self, ctx: &Context<'_>, layer: usize) -> Result<Option<Scores>, MethodError> {
        self.layer_scores(ctx, layer).map(Some)
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        let past = ctx.budget.saturating_sub(self.window);
        scoring::cut_by_head(ctx, |layer| {
            let scores = self.layer_scores(ctx, layer)?;
            let kept = adakv::competition(&scores.rows, past.saturating_mul(scores.rows.len()), 0);
            Ok((scores, kept))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::Inputs;
    use crate::observation::Observed;
    use crate::testing::{counts, observe, select, shape, variant};

    #[test]
    fn the_first_stage_ends_below_its_mass() {
        assert_eq!(holding(&[0.1, 0.5, 0.2, 0.2], 0.9), 3);
        assert_eq!(holding(&[0.1, 0.5, 0.2, 0.2], 0.6), 1);
        assert_eq!(holding(&[0.1, 0.5, 0.2, 0.2], -0.1), 0);
        assert_eq!(holding(&[], 0.9), 0);
    }

    #[test]
    fn heads_share_the_budget() {
        let shape = shape(2, 4, 4, 8, 200);
        let kept = select(&variant("defensivekv", &["window=4"], 48), &shape, &Inputs::default()).unwrap();
        for heads in counts(&kept, 200) {
            assert_eq!(heads.iter().sum::<usize>(), 4 * 48, "{heads:?}");
            assert!(heads.iter().any(|&n| n != 48), "heads differ: {heads:?}");
        }
    }

    /// One row that looks at a token once keeps it, though the mean of the rows forgets it.
    #[test]
    fn a_single_row_is_enough() {
        let shape = shape(1, 2, 1, 4, 60);
        let variant = variant("defensivekv", &["window=4", "kernel=1"], 8);
        let mut observations = observe(&variant, &shape, 1);
        let mut rows = |observation, of: &dyn Fn(usize) -> f32, columns: usize| {
            let values = (0..2 * columns).map(|i| of(i % columns)).collect();
            let rows = Observed::Rows { rows: 2, columns, values };
            observations.layers[0].insert(observation, rows);
        };
        rows(Observation::WindowSum { window: 4 }, &|i| if (20..27).contains(&i) { 0.2 } else { 0.05 }, 56);
        rows(Observation::WindowMax { window: 4, kernel: 1 }, &|i| if i == 3 { 0.9 } else { 0.05 }, 56);
        rows(Observation::OutputNorm, &|_| 1.0, 60);
        let kept =
            variant.select(&shape, &observations, &Inputs::default(), &mut Default::default()).unwrap();
        let LayerSelection::Heads(heads) = &kept.layers[0] else { panic!() };
        assert!(heads[0].contains(&3), "{heads:?}");
    }
}
