//! Random, a control: tokens drawn at random, and the recent ones. What a score must beat.
//!
//! Each head of each layer draws its own positions from ChaCha8, seeded by the parameter and the prompt's
//! length, so that a prompt gets the same draw whatever was run before it.

use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;

use super::{Context, Entry, Method, MethodState, Question, params, parse};
use crate::error::MethodError;
use crate::selection::{Granularity, LayerSelection};

params! {
    /// Parameters of the random control.
    Random {
        /// Last prompt tokens, always kept.
        window: usize = 8,
        /// Seed of the draw.
        seed: u64 = 0,
    }
}

/// The random control's line of the registry.
pub(crate) const ENTRY: Entry = Entry {
    name: "random",
    summary: "control: tokens drawn at random",
    paper: "none: a control",
    source: "none",
    deviations: "none",
    question: Question::Either,
    granularities: &[Granularity::KvHead, Granularity::QueryHead],
    needs: &[],
    parameters: Random::PARAMETERS,
    parse: parse::<Random>,
};

impl Method for Random {
    fn recent(&self) -> usize {
        self.window
    }

    fn select(&self, ctx: &Context<'_>, _state: &MethodState) -> Result<Vec<LayerSelection>, MethodError> {
        let prompt = ctx.shape.len;
        let past = prompt.saturating_sub(self.window);
        let n = ctx.budget.saturating_sub(self.window);
        if n >= past {
            return Ok(vec![LayerSelection::All; ctx.shape.layers.len()]);
        }
        let draw = |stream: usize| -> Vec<u32> {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ (prompt as u64).rotate_left(32));
            rng.set_stream(stream as u64);
            let mut kept: Vec<u32> = index::sample(&mut rng, past, n).into_iter().map(|i| i as u32).collect();
            kept.sort_unstable();
            kept.extend(past as u32..prompt as u32);
            kept
        };
        let mut streams = 0..;
        let mut layer =
            |layer| LayerSelection::Heads(streams.by_ref().take(ctx.heads(layer)).map(draw).collect());
        Ok((0..ctx.shape.layers.len()).map(&mut layer).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::Inputs;
    use crate::testing::{select, shape, variant};

    #[test]
    fn the_seed_decides() {
        let shape = shape(2, 2, 2, 1, 100);
        let kept = |seed: &str| select(&variant("random", &[seed], 30), &shape, &Inputs::default()).unwrap();
        assert_eq!(kept("seed=1"), kept("seed=1"));
        assert_ne!(kept("seed=1"), kept("seed=2"));
        let LayerSelection::Heads(heads) = &kept("seed=1").layers[0] else { panic!() };
        assert_ne!(heads[0], heads[1], "heads draw on their own");
    }
}
