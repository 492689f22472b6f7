//! A second pass over a prompt, behind the whole of it: the model repeats it part by part, and what it looks at
//! meanwhile is what a method may keep ([`Observation::Reconstruction`]).

use std::ops::Range;

use kvsweep_methods::observation::{Observation, Observed, UNJUDGED};

use crate::{
    backend::Backend,
    cancel::Cancel,
    error::{EngineError, Result},
    model::config::ModelConfig,
    prefill::Prefill,
};

/// Tokens of the part before that a later part's request ends with.
const HINT: usize = 8;

/// What asks a model to repeat its prompt, in tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepeatRequest {
    /// Tokens at the front of the prompt that are not repeated: the head of the chat template.
    pub head: usize,
    /// Asks for the prompt from its beginning.
    pub whole: Vec<u32>,
    /// Asks for a later part; the last tokens of the part before it follow.
    pub part: Vec<u32>,
    /// Ends either: the tail of the chat template.
    pub tail: Vec<u32>,
}

impl RepeatRequest {
    /// Each part of a prompt, and what is read to repeat it.
    fn parts(&self, ids: &[u32], chunk: usize) -> Vec<(Range<usize>, Vec<u32>)> {
        let starts = (self.head..ids.len()).step_by(chunk.max(1));
        starts
            .map(|start| {
                let part = start..(start + chunk.max(1)).min(ids.len());
                let request = match start == self.head {
                    true => self.whole.clone(),
                    false => [&self.part, &ids[start - HINT.min(chunk)..start]].concat(),
                };
                let tokens = [&request, &self.tail, &ids[part.clone()]].concat();
                (part, tokens)
            })
            .collect()
    }
}

/// The entries of a prompt that rows of a second pass see beside the tokens of that pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// First entries.
    pub sinks: usize,
    /// The part that is repeated, behind them.
    pub part: Range<usize>,
}

/// Makes one second pass, for [`Observation::Reconstruction`].
///
/// # Errors
/// No request, a prompt without room behind it, a failing device, or an interruption.
pub(crate) fn observe<B: Backend>(
    backend: &B,
    config: &ModelConfig,
    prefill: &mut Prefill<B::Prompt>,
    wanted: Observation,
    request: Option<&RepeatRequest>,
    cancel: &Cancel,
) -> Result<()> {
    let Observation::Reconstruction { sinks, chunk } = wanted else { return Ok(()) };
    let request = request.ok_or(EngineError::NoRepeatRequest)?;
    let shape = prefill.shape();
    let sinks = sinks.unwrap_or(request.head).min(shape.len);
    let parts = request.parts(&prefill.ids, chunk);
    let repeat = parts.iter().map(|(_, tokens)| tokens.len()).max().unwrap_or(0);
    if shape.len + repeat > config.max_positions {
        return Err(EngineError::RepeatTooLong { prompt: shape.len, repeat, limit: config.max_positions });
    }
    if shape.seen().start > 0 {
        return Err(EngineError::RepeatBeyondWindow { prompt: shape.len, window: shape.seen().len() + 1 });
    }
    let contested = shape.contested();
    let mut most = vec![Vec::new(); shape.layers.len()];
    for &layer in &contested {
        most[layer] = vec![0.0; shape.layers[layer].kv_heads * shape.len];
    }
    for (part, tokens) in parts {
        let seen = Replayed { sinks: sinks.min(part.start), part };
        backend.replay(&prefill.prompt, &tokens, &seen, &mut most, cancel)?;
    }
    let (len, layers) = (shape.len, shape.layers.clone());
    prefill.observations.layers.resize_with(layers.len(), Default::default);
    for layer in contested {
        let (observed, sizes) = (&mut prefill.observations.layers[layer], layers[layer]);
        let mut values = std::mem::take(&mut most[layer]);
        values.chunks_mut(len).for_each(|row| row[..sinks].fill(UNJUDGED));
        observed.insert(wanted, Observed::Rows { rows: sizes.kv_heads, columns: len, values });
    }
    Ok(())
}
